//! Gaia's gateway: the ingress for users and external programs.
//!
//! Clients authenticate with a user token or an API key, or sign in. Requests on the allowlist are forwarded over
//! mutual TLS with a delegated token, which auth-service issues in exchange for the client's credential. Credentials of
//! clients are never forwarded to an upstream.

mod body;
pub mod config;
mod forward;
mod front;
pub mod headers;
mod metrics;
pub mod path;
mod refusals;
mod routes;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use gaia_api::{Clock, Span};
use gaia_runtime::{Edge, Routes, Runtime, Shares, StartError, part_of_limit, random};
use http::Uri;

pub use config::Config;
pub use path::check_path;

use crate::forward::{ForwardContext, UNIT_BYTES, Upstream};
use crate::front::{Front, RequestIds};
use crate::metrics::Metrics;
use crate::refusals::Refusals;
use crate::routes::Upstreams;

/// Runs gateway as a process, configured by its flags and environment.
#[must_use]
pub fn main() -> ExitCode {
    gaia_runtime::main(Gateway::start, Gateway::serve)
}

/// A started gateway with bound listeners.
#[derive(Debug)]
pub struct Gateway {
    /// The runtime that serves it.
    pub runtime: Runtime,
    edge: Edge,
    routes: Routes,
    edge_routes: Routes,
}

impl Gateway {
    /// Loads the mounted files and binds the listeners.
    ///
    /// # Errors
    /// [`StartError`] if a file is unusable or an address cannot be bound.
    pub async fn start(config: Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let metrics = Metrics::default();
        let registered = metrics.clone();
        let runtime =
            Runtime::start(config.runtime, Arc::clone(&clock), Arc::new(()), |registry| registered.register(registry));
        let runtime = runtime.await?;
        let edge = runtime.edge(&config.edge, USUAL_PORT).await?.with_trusted_proxies(&config.trusted_proxies);
        if config.edge.edge_tls_dir.is_none() && config.trusted_proxies.is_empty() {
            tracing::warn!(
                "the ingress listener uses plain HTTP and no proxy is trusted (GAIA_TRUSTED_PROXIES): behind an ingress, all \
                 clients count as one address"
            );
        }
        let refusals = Arc::new(Refusals::new(metrics.clone(), Arc::clone(&clock)));
        let context = Arc::new(ForwardContext {
            caller: runtime.caller(&config.calls),
            clock,
            per_account: config.account_rate.limit(),
            per_sign_in: config.sign_in_rate.limit(),
            per_refresh: config.refresh_rate.limit(),
            metrics,
            refusals: Arc::clone(&refusals),
            authenticator: runtime.authenticator(),
        });
        let upstream = |name: &'static str, url: Uri, timeout: Span, most: u64, units: usize| Upstream {
            context: Arc::clone(&context),
            name,
            url,
            timeout: timeout.value(),
            max_body_bytes: most.min(config.max_body_bytes),
            in_progress: Shares::new(units),
        };
        let auth_url = config.upstream_auth_service.unwrap_or_else(|| runtime.auth_url(&config.calls));
        let timeout = |own: Option<Span>| own.unwrap_or_else(|| config.upstream_timeout.clone());
        let (for_assets, for_auth) = (timeout(config.upstream_asset_timeout), timeout(config.upstream_auth_timeout));
        let for_chat = config.upstream_chat_timeout;
        // A service with the same memory limit lets one source use half of an eighth of it for bodies and responses. Of its other
        // answers, most have less than a unit.
        let assets_units = part_of_limit(16, 4 * MIB..=MAX_UNITS * UNIT_BYTES) / UNIT_BYTES * 7 / 8;
        let upstreams = Upstreams {
            assets: config
                .upstream_asset_service
                .map(|url| upstream("asset-service", url, for_assets, u64::MAX, assets_units)),
            chat: config
                .upstream_chat_service
                .map(|url| upstream("chat-service", url, for_chat, MAX_CHAT_BYTES, MAX_UNITS)),
            auth: upstream("auth-service", auth_url, for_auth, MAX_SIGN_IN_BYTES, MAX_UNITS),
        };
        // auth-service does not exchange expired credentials, so this service allows no clock skew either.
        runtime.authenticator().end_exactly();
        let front = Arc::new(Front {
            ids: RequestIds::new(u64::from_be_bytes(random().ok_or(StartError::Entropy)?)),
            trusted_proxies: config.trusted_proxies,
            authenticator: runtime.authenticator(),
            per_ip: config.ip_rate.limit(),
            refusals,
        });
        let cors = front::cors(config.cors_origins, config.cors_headers, config.cors_credentials);
        let edge_routes = routes::allowed(runtime.routes(), upstreams.clone());
        let (edge_front, mesh_front) = (Arc::clone(&front), front);
        let edge_routes = edge_routes.behind(move |routes| front::before(routes, edge_front, cors));
        let routes = routes::allowed(runtime.routes(), upstreams);
        let routes = routes.behind(move |routes| front::before(routes, mesh_front, None));
        Ok(Self { runtime, edge, routes, edge_routes })
    }

    /// Returns the address of the ingress listener.
    ///
    /// # Errors
    /// If the operating system cannot report it.
    pub fn edge_address(&self) -> std::io::Result<SocketAddr> {
        self.edge.address()
    }

    /// Serves until `stop` resolves.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        self.runtime.serve_with_edge(self.routes, self.edge, self.edge_routes, stop).await;
    }
}

const USUAL_PORT: u16 = 8666;
/// Requests in progress at one upstream: as many streams as the connections to it have.
const MAX_UNITS: usize = 2048;
const MIB: usize = 1024 * 1024;
const MAX_CHAT_BYTES: u64 = 1024 * 1024;
const MAX_SIGN_IN_BYTES: u64 = 16 * 1024;
