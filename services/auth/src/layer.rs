//! The tower layer: in front of each route, one decision.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwapOption;
use gaia_api::Clock;
use gaia_api::mount::AuthMode;
use http::{HeaderMap, Request, Response};
use tower::{Layer, Service};

use crate::principal::{Connection, Credential, Principal, Transport};
use crate::rules::{Rules, Verdict};
use crate::{Reason, Refusal, Trace};

/// What a route demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing: credentials are not looked at.
    Public,
    /// An mTLS peer, whatever the mode.
    Peer,
    /// A principal with all of these scopes; none listed: any principal.
    Scopes(&'static [&'static str]),
}

/// Told of every decision, for metrics.
pub trait Observer: Send + Sync + 'static {
    /// One decision was made.
    fn decided(&self, decision: &Decision<'_>);
}

/// One decision, with labels that are bounded.
#[derive(Debug, Clone, Copy)]
pub struct Decision<'a> {
    /// The route's path pattern.
    pub route: &'static str,
    /// How the request came in.
    pub transport: Transport,
    /// The mode it was decided under; none before a policy was loaded.
    pub mode: Option<AuthMode>,
    /// The credential that decided.
    pub credential: Credential,
    /// Why it was refused; none: it was not.
    pub refused: Option<Reason>,
    /// The id of a recognised API key.
    pub key_id: Option<&'a str>,
    /// Why a stricter mode would have refused it.
    pub would_deny: Option<Reason>,
}

/// Decides by the newest [`Rules`], and tells its observer and the log.
pub struct Authenticator {
    rules: ArcSwapOption<Rules>,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn Observer>,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator").field("is_loaded", &self.rules.load().is_some()).finish_non_exhaustive()
    }
}

impl Authenticator {
    /// One without rules yet: everything but public routes gets a 503.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, observer: Arc<dyn Observer>) -> Self {
        Self { rules: ArcSwapOption::empty(), clock, observer }
    }

    /// Decides by `rules` from now on.
    pub fn replace(&self, rules: Arc<Rules>) {
        self.rules.store(Some(rules));
    }

    /// Whether a request comes from a valid peer or carries a valid credential. Not counted: it opens nothing.
    #[must_use]
    pub fn recognises(&self, headers: &HeaderMap, connection: &Connection) -> bool {
        let Some(rules) = self.rules.load_full() else { return false };
        let now = self.clock.now();
        rules.authenticate_peer(connection, now).is_ok() || rules.authenticate(headers, connection, now).result.is_ok()
    }

    /// Decides over one request.
    ///
    /// # Errors
    /// The [`Refusal`] to answer with.
    pub fn check(
        &self,
        route: &'static str,
        access: Access,
        headers: &HeaderMap,
        connection: &Connection,
    ) -> Result<Option<Principal>, Refusal> {
        let rules = self.rules.load_full();
        let verdict = match (access, &rules) {
            (Access::Public, _) => return Ok(None),
            (_, None) => verdict(Credential::None, Err(Reason::PolicyNotLoaded.into())),
            (Access::Peer, Some(rules)) => {
                verdict(Credential::Peer, rules.authenticate_peer(connection, self.clock.now()))
            }
            (Access::Scopes(needed), Some(rules)) => {
                with_scopes(rules.authenticate(headers, connection, self.clock.now()), needed)
            }
        };
        self.tell(route, rules.as_deref(), connection, &verdict);
        verdict.result.map(Some)
    }

    fn tell(&self, route: &'static str, rules: Option<&Rules>, connection: &Connection, verdict: &Verdict) {
        self.observer.decided(&Decision {
            route,
            transport: connection.transport,
            mode: rules.map(|rules| rules.policy().mode),
            credential: verdict.credential,
            refused: verdict.result.as_ref().err().map(|refusal| refusal.reason),
            key_id: verdict.key_id.as_deref(),
            would_deny: verdict.would_deny,
        });
        if let Err(Refusal { reason, trace }) = &verdict.result {
            let peer = connection.peer.as_ref();
            tracing::info!(
                route,
                reason = reason.as_str(),
                credential = verdict.credential.as_str(),
                transport = connection.transport.as_str(),
                peer = peer.map(|peer| peer.spiffe_id.as_str()),
                kid = trace.kid.as_deref(),
                jti = trace.jti.as_deref(),
                sub = trace.sub.as_deref(),
                key_id = trace.key_id.as_deref(),
                "request refused"
            );
        }
    }
}

fn verdict(credential: Credential, result: Result<Principal, Refusal>) -> Verdict {
    Verdict { credential, result, key_id: None, would_deny: None, trace: Trace::default() }
}

fn with_scopes(mut verdict: Verdict, needed: &[&str]) -> Verdict {
    let trace = verdict.trace.clone();
    verdict.result = verdict.result.and_then(|principal| {
        if needed.iter().all(|scope| principal.scopes.allow(scope)) {
            Ok(principal)
        } else {
            Err(Refusal { reason: Reason::ScopeMissing, trace })
        }
    });
    verdict
}

/// Puts one route behind an [`Authenticator`]. The inner service finds the [`Principal`] in the request's extensions.
#[derive(Debug, Clone)]
pub struct AuthLayer {
    authenticator: Arc<Authenticator>,
    access: Access,
    route: &'static str,
}

impl AuthLayer {
    /// `route` is the path pattern, for metrics and logs.
    #[must_use]
    pub fn new(authenticator: Arc<Authenticator>, route: &'static str, access: Access) -> Self {
        Self { authenticator, access, route }
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = AuthService<S>;
    fn layer(&self, inner: S) -> AuthService<S> {
        AuthService { inner, layer: self.clone() }
    }
}

/// The service [`AuthLayer`] makes.
#[derive(Debug, Clone)]
pub struct AuthService<S> {
    inner: S,
    layer: AuthLayer,
}

impl<S, B, R> Service<Request<B>> for AuthService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: From<String> + Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let unknown = Connection::default();
        let connection = request.extensions().get::<Arc<Connection>>().map_or(&unknown, AsRef::as_ref);
        let AuthLayer { authenticator, access, route } = &self.layer;
        match authenticator.check(route, *access, request.headers(), connection) {
            Ok(principal) => {
                if let Some(principal) = principal {
                    request.extensions_mut().insert(principal);
                }
                Box::pin(self.inner.call(request))
            }
            Err(refusal) => Box::pin(std::future::ready(Ok(refusal.response()))),
        }
    }
}

/// The principal as an extractor. A handler that asks for one on a public route answers 500: its route and its needs
/// disagree.
impl<S: Sync> axum_core::extract::FromRequestParts<S> for Principal {
    type Rejection = axum_core::response::Response;

    async fn from_request_parts(parts: &mut http::request::Parts, _: &S) -> Result<Self, Self::Rejection> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            tracing::error!("a handler needs a principal, but its route is public");
            crate::problem(http::StatusCode::INTERNAL_SERVER_ERROR, "This service is not set up correctly.")
        })
    }
}

#[cfg(test)]
mod tests;
