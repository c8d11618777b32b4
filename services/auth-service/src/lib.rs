//! Gaia's auth-service: service tokens for mTLS peers, and the keys they are verified with.
//!
//! `POST /internal/service-token` needs the client certificate and nothing else, whatever the mode: a service must be
//! able to get its first token. `GET /.well-known/jwks.json` is public.

mod api;
pub mod config;
pub mod files;
pub mod grants;
pub mod issuer;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::Arc;

use gaia_api::Clock;
use gaia_runtime::{Routes, Runtime, StartError};
use prometheus_client::metrics::family::Family;

pub use config::Config;

use crate::api::Issuing;
use crate::files::IssuerFiles;

/// A started auth-service, with its addresses.
#[derive(Debug)]
pub struct AuthService {
    /// The runtime it is served by.
    pub runtime: Runtime,
    routes: Routes,
}

impl AuthService {
    /// Takes what is mounted and binds the addresses.
    ///
    /// # Errors
    /// [`StartError`] if an address cannot be had.
    pub async fn start(config: Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let files = Arc::new(IssuerFiles::default());
        let issued = Family::default();
        let counter = issued.clone();
        let service_files = Arc::clone(&files);
        let runtime = Runtime::start(config.runtime, Arc::clone(&clock), service_files, |registry| {
            registry.register("gaia_token_issued", "Requests for tokens", counter);
        })
        .await?;
        let issuing = Issuing { files, generations: runtime.generations(), clock, issued };
        let routes = api::routes(runtime.routes(), issuing);
        Ok(Self { runtime, routes })
    }

    /// Serves until `stop` ends.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        self.runtime.serve(self.routes, stop).await;
    }
}
