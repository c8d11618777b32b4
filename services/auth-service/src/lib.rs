//! Gaia's auth-service: tokens for mTLS peers, the keys that verify them, and user sign-in.
//!
//! `POST /internal/service-token` and `POST /internal/token-exchange` require only the client certificate, in every
//! mode, because a service must be able to get its first token. `POST /internal/validate` requires a scope, and sign-in
//! (`POST /auth/login`, `/auth/refresh`, `/auth/logout`, `GET /auth/methods`) a calling service. `GET
//! /.well-known/jwks.json` is public.

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
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::available_parallelism;

use gaia_api::Clock;
use gaia_runtime::{Routes, Runtime, StartError};
use prometheus_client::metrics::family::Family;

pub use config::Config;

use crate::api::Issuing;
use crate::files::IssuerFiles;
use crate::login::Login;
use crate::signing::Signing;

/// Runs auth-service as a process, configured by its flags and environment.
#[must_use]
pub fn main() -> ExitCode {
    // Signing has a thread on each processor and takes ten times as long as the rest of a request. More threads for
    // serving would only cause context switches.
    let serving = available_parallelism().map_or(1, |all| all.get().div_ceil(2));
    gaia_runtime::main_on_threads(serving, AuthService::start, AuthService::serve)
}

/// A started auth-service with bound listeners.
#[derive(Debug)]
pub struct AuthService {
    /// The runtime that serves it.
    pub runtime: Runtime,
    routes: Routes,
}

impl AuthService {
    /// Loads the credential directory and binds the listeners.
    ///
    /// # Errors
    /// [`StartError`] if an address cannot be bound or a thread cannot be started.
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
            refusals: Arc::default(),
        };
        let routes = login::routes(api::routes(runtime.routes(), &issuing), &login);
        Ok(Self { runtime, routes })
    }

    /// Serves until `stop` resolves.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        self.runtime.serve(self.routes, stop).await;
    }
}
