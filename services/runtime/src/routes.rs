//! Routes that say what they demand.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::MethodRouter;
use gaia_auth::{Access, AuthLayer, Authenticator, problem};
use http::StatusCode;

/// The routes of a service. There is no way to add one without its [`Access`], and a service is made of nothing else.
#[derive(Debug)]
pub struct Routes {
    router: Router,
    authenticator: Arc<Authenticator>,
}

impl Routes {
    pub(crate) fn new(authenticator: Arc<Authenticator>) -> Self {
        Self { router: Router::new(), authenticator }
    }

    /// Adds the handlers of one path pattern. The same path may be added again for other methods, with other demands.
    ///
    /// # Panics
    /// If a method of that path was added before: the router fails to start.
    #[must_use]
    pub fn route(mut self, path: &'static str, access: Access, handlers: MethodRouter) -> Self {
        let layer = AuthLayer::new(Arc::clone(&self.authenticator), path, access);
        self.router = self.router.route(path, handlers.route_layer(layer));
        self
    }

    /// The whole, with plain answers where there is nothing.
    pub(crate) fn into_router(self) -> Router {
        self.router.fallback(nothing_here).method_not_allowed_fallback(not_that_way)
    }
}

async fn nothing_here(_: Request) -> Response {
    problem(StatusCode::NOT_FOUND, "There is nothing here.")
}

async fn not_that_way(_: Request) -> Response {
    problem(StatusCode::METHOD_NOT_ALLOWED, "That cannot be done here.")
}
