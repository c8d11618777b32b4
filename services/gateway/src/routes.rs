//! What is passed on, and to whom. What is not listed here is not there.

use axum::routing::{delete, get, post, put};
use gaia_auth::Access;
use gaia_runtime::Routes;

use crate::forward::{Upstream, for_anybody, for_principal};

/// The services behind.
#[derive(Debug, Clone)]
pub(crate) struct Upstreams {
    pub(crate) assets: Option<Upstream>,
    pub(crate) chat: Option<Upstream>,
    pub(crate) auth: Upstream,
}

/// The allowlist, of the edge and of the mesh. Each scope is asked for here as the service behind does: what it would refuse costs it nothing.
pub(crate) fn allowed(mut routes: Routes, upstreams: Upstreams) -> Routes {
    let (read, write) = (Access::Scopes(&["assets:read"]), Access::Scopes(&["assets:write"]));
    if let Some(assets) = upstreams.assets {
        routes = routes
            .route("/assets", read, get(for_principal).with_state(assets.clone()))
            .route(ASSET, read, get(for_principal).with_state(assets.clone()))
            .route(ASSET, write, put(for_principal).with_state(assets.clone()))
            .route(ASSET, write, delete(for_principal).with_state(assets));
    }
    if let Some(chat) = upstreams.chat {
        routes = routes.route("/chat", Access::Scopes(&["chat:write"]), post(for_principal).with_state(chat));
    }
    for path in [SIGN_IN, "/auth/refresh", "/auth/logout"] {
        routes = routes.route(path, Access::Public, post(for_anybody).with_state(upstreams.auth.clone()));
    }
    routes.route("/auth/methods", Access::Public, get(for_anybody).with_state(upstreams.auth))
}

/// The one route of auth-service that takes passwords.
pub(crate) const SIGN_IN: &str = "/auth/login";
const ASSET: &str = "/assets/{*path}";
