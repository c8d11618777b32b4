//! The allowlist of forwarded routes. Other paths get a 404.

use axum::routing::{delete, get, post, put};
use gaia_auth::Access;
use gaia_runtime::Routes;

use crate::forward::{Upstream, forward_authenticated, forward_public};

/// The configured upstreams.
#[derive(Debug, Clone)]
pub(crate) struct Upstreams {
    pub(crate) assets: Option<Upstream>,
    pub(crate) chat: Option<Upstream>,
    pub(crate) auth: Upstream,
}

/// Adds the allowlist for the ingress and mesh listeners. Scopes are checked here as in the upstream, so that refused
/// requests do not reach it.
pub(crate) fn allowed(mut routes: Routes, upstreams: Upstreams) -> Routes {
    let (read, write) = (Access::Scopes(&["assets:read"]), Access::Scopes(&["assets:write"]));
    if let Some(assets) = upstreams.assets {
        routes = routes
            .route("/assets", read, get(forward_authenticated).with_state(assets.clone()))
            .route(ASSET, read, get(forward_authenticated).with_state(assets.clone()))
            .route(ASSET, write, put(forward_authenticated).with_state(assets.clone()))
            .route(ASSET, write, delete(forward_authenticated).with_state(assets));
    }
    if let Some(chat) = upstreams.chat {
        routes = routes.route("/chat", Access::Scopes(&["chat:write"]), post(forward_authenticated).with_state(chat));
    }
    for path in [SIGN_IN, "/auth/refresh", "/auth/logout"] {
        routes = routes.route(path, Access::Public, post(forward_public).with_state(upstreams.auth.clone()));
    }
    routes.route("/auth/methods", Access::Public, get(forward_public).with_state(upstreams.auth))
}

/// The route of auth-service that accepts passwords.
pub(crate) const SIGN_IN: &str = "/auth/login";
const ASSET: &str = "/assets/{*path}";
