//! Routes with access requirements.

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::MethodRouter;
use gaia_auth::{Access, AuthLayer, Authenticator, parse_scope, problem};
use http::StatusCode;

/// The routes of a service. A route cannot be added without its [`Access`], and a service serves nothing else.
pub struct Routes {
    router: Router,
    authenticator: Arc<Authenticator>,
    front: Option<Front>,
}

type Front = Box<dyn FnOnce(Router) -> Router + Send>;

impl std::fmt::Debug for Routes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Routes").field("router", &self.router).finish_non_exhaustive()
    }
}

impl Routes {
    pub(crate) fn new(authenticator: Arc<Authenticator>) -> Self {
        Self { router: Router::new(), authenticator, front: None }
    }

    /// Adds the handlers of one path pattern. The same path may be added again for other methods with other
    /// requirements.
    ///
    /// # Panics
    /// If a method of that path was added before, or a scope of its access is not a valid scope token: the router fails
    /// to start.
    #[must_use]
    pub fn route(mut self, path: &'static str, access: Access, handlers: MethodRouter) -> Self {
        for scope in access.scopes() {
            let is_one = parse_scope(scope).is_some_and(|scopes| scopes.len() == 1);
            assert!(is_one, "route {path} requires {scope:?}, which is not a valid scope");
        }
        let layer = AuthLayer::new(Arc::clone(&self.authenticator), path, access);
        self.router = self.router.route(path, handlers.route_layer(layer));
        self
    }

    /// Adds middleware in front of routing and authentication: `front` wraps the router. Routes that the runtime adds
    /// are behind it too.
    #[must_use]
    pub fn behind(self, front: impl FnOnce(Router) -> Router + Send + 'static) -> Self {
        Self { front: Some(Box::new(front)), ..self }
    }

    /// Returns the router, with plain responses for unknown paths and methods.
    pub(crate) fn into_router(self) -> Router {
        let (missing, other_method) = (Arc::clone(&self.authenticator), self.authenticator);
        let router = self
            .router
            .fallback(move |request| noted(Arc::clone(&missing), request, nothing_here))
            .method_not_allowed_fallback(move |request| noted(Arc::clone(&other_method), request, not_that_way));
        match self.front {
            // As a fallback, the routes are matched after `front` has seen the unchanged path.
            Some(front) => front(Router::new().fallback_service(router)),
            None => router,
        }
    }
}

/// Adds uniform responses for unknown paths and methods.
pub(crate) fn with_plain_answers(router: Router) -> Router {
    router.fallback(nothing_here).method_not_allowed_fallback(not_that_way)
}

/// Responds to a request without a route and records its credentials, because an API key sent there is still in use.
async fn noted<F>(authenticator: Arc<Authenticator>, request: Request, answer: impl FnOnce(Request) -> F) -> Response
where
    F: Future<Output = Response>,
{
    authenticator.note_unmatched(&request);
    answer(request).await
}

pub(crate) async fn nothing_here(_: Request) -> Response {
    problem(StatusCode::NOT_FOUND, "The requested path does not exist.")
}

async fn not_that_way(_: Request) -> Response {
    problem(StatusCode::METHOD_NOT_ALLOWED, "This path does not support the method of the request.")
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use gaia_api::SystemClock;

    use super::*;

    fn routes() -> Routes {
        let nobody = crate::observability::metrics::Metrics::new(Arc::new(SystemClock), |_| ());
        Routes::new(Arc::new(Authenticator::new(Arc::new(SystemClock), Arc::new(nobody))))
    }

    #[test]
    #[should_panic(expected = "not a valid scope")]
    fn a_route_that_nobody_could_ever_call_does_not_start() {
        let _ = routes().route("/a", Access::Scopes(&["assets:read assets:write"]), get(async || "a"));
    }

    #[test]
    #[should_panic(expected = "Overlapping method route")]
    fn a_route_with_two_policies_does_not_start() {
        let public = routes().route("/a", Access::Public, get(async || "a"));
        let _ = public.route("/a", Access::Peer, get(async || "b"));
    }
}
