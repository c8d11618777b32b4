//! Gaia's auth-service: tokens for mTLS peers, the keys they are verified with, and the login.
//!
//! `POST /internal/service-token` and `POST /internal/token-exchange` need the client certificate and nothing else,
//! whatever the mode: a service must be able to get its first token. `POST /internal/validate` needs a scope, the login
//! (`POST /auth/login`, `/auth/refresh`, `/auth/logout`, `GET /auth/methods`) a service that asks. `GET /.well-known/jwks.json` is public.

mod api;
pub mod config;
pub mod denial;
pub mod exchange;
pub mod files;
mod form;
pub mod grants;
pub mod issuer;
mod login;
mod signing;
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
use crate::login::Login;
use crate::signing::Signing;

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
    /// [`StartError`] if an address or a thread cannot be had.
    pub async fn start(config: Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let files = Arc::new(IssuerFiles::default());
        let dir = config.runtime.dir.clone();
        let forwards_address = config.login_forwards_address;
        let issued = Family::default();
        let logins = Family::default();
        let (counter, login_counter) = (issued.clone(), logins.clone());
        let service_files = Arc::clone(&files);
        let runtime = Runtime::start(config.runtime, Arc::clone(&clock), service_files, |registry| {
            registry.register("gaia_token_issued", "Requests for tokens", counter);
            registry.register("gaia_login_requests", "Requests to sign in, refresh and sign out", login_counter);
        })
        .await?;
        let settings = login::Settings { dir, forwards_address };
        let login = Login::new(runtime.generations(), runtime.authenticator(), settings, Arc::clone(&files), logins);
        let issuing = Issuing {
            files,
            generations: runtime.generations(),
            authenticator: runtime.authenticator(),
            clock,
            issued,
            signing: Signing::start().map_err(|error| StartError::Thread("sign", error))?,
            limits: Arc::default(),
        };
        let routes = login::routes(api::routes(runtime.routes(), &issuing), &login);
        Ok(Self { runtime, routes })
    }

    /// Serves until `stop` ends.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        self.runtime.serve(self.routes, stop).await;
    }
}
