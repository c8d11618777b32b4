//! Gaia's web-service: web pages for sign-in, chat, files, account details and sign-out.
//!
//! A user's session is held with the issuer of user tokens through auth-service; it is stored only in the user's
//! browser, encrypted. Other services are called with the user's token, or with the API key where tokens are not
//! accepted yet.

pub mod config;
pub mod origin;
mod pages;
mod sessions;
mod sign_in;
mod site;
#[cfg(test)]
mod tests;
mod upstream;

pub use sessions::seal;

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{DefaultBodyLimit, State};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{MethodRouter, get, post};
use gaia_api::Clock;
use gaia_auth::Access;
use gaia_runtime::{CallsConfig, Edge, Recent, Routes, Runtime};
use http::{HeaderMap, Uri};

pub use config::Config;

use crate::pages::user_error::UserError;
use crate::pages::{chat, files, me, statics};
use crate::sessions::refresh::Refreshes;
use crate::sessions::seal::SealingKeys;
use crate::sessions::session_keys::{SESSION_KEYS, SessionKeys};
use crate::sign_in::audit::Audit;
use crate::sign_in::by_gateway::GATEWAY;
use crate::sign_in::login::Login;
use crate::sign_in::methods::Methods;
use crate::site::{Clients, Counts, Person, Site, Visitor, dress, meet, wants_page};
use crate::upstream::Upstream;

/// Reason why the service did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The session keys are unreadable or invalid.
    #[error("cannot load the session keys in {file} (GAIA_SESSION_KEYS_FILE): {reason}")]
    SessionKeys {
        /// The file.
        file: PathBuf,
        /// The cause.
        reason: String,
    },
    /// The runtime did not start.
    #[error(transparent)]
    Runtime(#[from] gaia_runtime::StartError),
}

/// Runs web-service as a process, configured by its flags and environment.
#[must_use]
pub fn main() -> ExitCode {
    gaia_runtime::main(WebService::start, WebService::serve)
}

/// A started web-service with bound listeners.
#[derive(Debug)]
pub struct WebService {
    /// The runtime that serves it.
    pub runtime: Runtime,
    /// The ingress listener.
    pub edge: Edge,
    routes: Routes,
    edge_routes: Routes,
}

impl WebService {
    /// Reads the session keys, loads the credential directory and binds the listeners.
    ///
    /// # Errors
    /// [`StartError`] if there are no valid keys, or an address cannot be bound.
    pub async fn start(config: Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let Config { mut runtime, edge, calls, .. } = config;
        let keys = session_keys(&config.session_keys_file)?;
        let mounted = Arc::new(SessionKeys::new(keys));
        // The file is reloaded together with the credential directory, and an invalid one is rejected.
        runtime.overrides.insert(SESSION_KEYS, config.session_keys_file);
        let (counts, service_files) = (Counts::default(), Arc::clone(&mounted));
        let counters = counts.clone();
        let runtime = Runtime::start(runtime, Arc::clone(&clock), service_files, |registry| {
            registry.register("gaia_web_sign_ins", "Sign-in attempts", counters.sign_ins);
            registry.register("gaia_web_session_refreshes", "Session refreshes", counters.refreshes);
        })
        .await?;
        let has_own_tls = edge.edge_tls_dir.is_some();
        let edge = runtime.edge(&edge, USUAL_PORT).await?.with_trusted_proxies(&config.trusted_proxies);
        let by_key = runtime.caller(&calls);
        let caller = runtime.caller(&CallsConfig { api_key_file: None, ..calls.clone() });
        let gateway = config.gateway_url;
        let has_own = config.upstream_asset_service.is_some() || config.upstream_chat_service.is_some();
        let upstream = |name: &'static str, own: Option<Uri>| {
            // If service URLs are set, they decide which pages exist.
            let base = if has_own && own.is_none() { None } else { gateway.clone().or(own) }?;
            let name = if gateway.is_some() { GATEWAY } else { name };
            let upstream = Upstream::new(name, base, by_key.clone(), runtime.authenticator());
            Some(upstream.names_browsers(gateway.is_some()))
        };
        let (assets, chat) = (
            upstream("asset-service", config.upstream_asset_service),
            upstream("chat-service", config.upstream_chat_service),
        );
        let login = match &gateway {
            Some(gateway) => Login::new(caller, by_key.clone(), gateway.clone()).by_way_of(GATEWAY),
            None => {
                let auth_url = config.upstream_auth_service.unwrap_or_else(|| runtime.auth_url(&calls));
                Login::new(caller, by_key.clone(), auth_url)
            }
        };
        let site = Arc::new(Site {
            login,
            clients: Clients { trusted: config.trusted_proxies, has_own_tls },
            generations: runtime.generations(),
            refreshes: Refreshes::default(),
            signed_out: Recent::new(MAX_SIGNED_OUT),
            methods: Methods::default(),
            audit: Audit::default(),
            clock,
            public_url: config.public_url,
            providers: config.sign_in_providers,
            assets,
            chat,
            counts,
            mounted,
            by_key,
        });
        let (routes, edge_routes) = (runtime.routes(), edge_routes(runtime.routes(), &site));
        Ok(Self { runtime, edge, routes, edge_routes })
    }

    /// Serves until `stop` resolves.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        self.runtime.serve_with_edge(self.routes, self.edge, self.edge_routes, stop).await;
    }
}

fn session_keys(file: &PathBuf) -> Result<SealingKeys, StartError> {
    let failed = |reason: String| StartError::SessionKeys { file: file.clone(), reason };
    let text = std::fs::read(file).map(zeroize::Zeroizing::new).map_err(|error| failed(error.to_string()))?;
    SealingKeys::parse(&text).map_err(|error| failed(error.to_string()))
}

/// All pages are public routes: each page reads the session cookie itself.
fn edge_routes(routes: Routes, site: &Arc<Site>) -> Routes {
    let page = |handlers: MethodRouter<Arc<Site>>| {
        handlers.fallback(not_that_way).layer(from_fn_with_state(Arc::clone(site), meet)).with_state(Arc::clone(site))
    };
    let plain = |handlers: MethodRouter<Arc<Site>>| {
        handlers.fallback(not_that_way).layer(from_fn_with_state(Arc::clone(site), dress)).with_state(Arc::clone(site))
    };
    let chat_limit = || DefaultBodyLimit::max(chat::MAX_REQUEST_BYTES);
    let form_limit = || DefaultBodyLimit::max(MAX_FORM_BYTES);
    let no_limit = DefaultBodyLimit::disable;
    routes
        .route("/", Access::Public, page(get(home)))
        .route("/sign-in", Access::Public, page(get(sign_in::show).post(sign_in::submit).layer(form_limit())))
        .route("/sign-out", Access::Public, page(post(sign_in::out)))
        .route("/auth/start/{provider}", Access::Public, page(get(sign_in::start)))
        .route("/auth/callback", Access::Public, page(get(sign_in::callback)))
        .route("/chat", Access::Public, page(get(chat::show).post(chat::submit).layer(chat_limit())))
        .route("/chat/stream", Access::Public, page(post(chat::stream).layer(chat_limit())))
        // asset-service limits the size of uploads.
        .route("/files", Access::Public, page(get(files::show).post(files::submit).layer(no_limit())))
        .route(
            "/files/{*path}",
            Access::Public,
            page(get(files::download).put(files::put).post(files::delete).layer(no_limit())),
        )
        .route("/me", Access::Public, page(get(me::show)))
        .route("/static/{name}", Access::Public, plain(get(statics::serve)))
        .route("/{*rest}", Access::Public, page(get(nothing_here)))
}

/// Redirects to the first page with content.
async fn home(State(site): State<Arc<Site>>, _: Person) -> Response {
    let place = match (&site.chat, &site.assets) {
        (Some(_), _) => "/chat",
        (None, Some(_)) => "/files",
        (None, None) => "/me",
    };
    Redirect::to(place).into_response()
}

async fn nothing_here(
    State(site): State<Arc<Site>>,
    Extension(visitor): Extension<Visitor>,
    headers: HeaderMap,
) -> Response {
    UserError::PageNotFound.response(&site, visitor.session(), wants_page(&headers))
}

async fn not_that_way(State(site): State<Arc<Site>>, headers: HeaderMap) -> Response {
    UserError::MethodNotAllowed.response(&site, None, wants_page(&headers))
}

const USUAL_PORT: u16 = 8080;
const MAX_FORM_BYTES: usize = 16 * 1024;
/// Number of signed-out sessions to remember; an entry has 32 bytes.
const MAX_SIGNED_OUT: usize = 16_384;
