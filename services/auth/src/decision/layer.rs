//! The tower layer that authenticates and authorizes requests of one route.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, Request, Response, header};
use tower::{Layer, Service};

use crate::decision::access::Access;
use crate::decision::authenticator::{Authenticator, Passed, Refused};
use crate::issuers::Answer;
use crate::principal::Connection;

/// Protects one route by an [`Authenticator`]. The inner service finds the [`Principal`](crate::Principal) in the
/// request's extensions.
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

/// The service created by [`AuthLayer`].
#[derive(Debug, Clone)]
pub struct AuthService<S> {
    inner: S,
    layer: AuthLayer,
}

type Answering<R, E> = Pin<Box<dyn Future<Output = Result<Response<R>, E>> + Send>>;

impl<S, B, R> Service<Request<B>> for AuthService<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Send + 'static,
    R: From<String> + Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Answering<R, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let connection = connection_of(&request);
        let AuthLayer { authenticator, access, .. } = &self.layer;
        match authenticator.ahead(*access, request.headers(), &connection) {
            None => self.layer.decide(&mut self.inner, request, None),
            Some(ahead) => {
                // Readiness belongs to the polled instance, so that one is called and a clone replaces it.
                let clone = self.inner.clone();
                let mut inner = std::mem::replace(&mut self.inner, clone);
                let layer = self.layer.clone();
                Box::pin(async move {
                    let answer = ahead.await;
                    layer.decide(&mut inner, request, answer.as_ref()).await
                })
            }
        }
    }
}

impl AuthLayer {
    fn decide<S, B, R>(&self, inner: &mut S, mut request: Request<B>, answer: Option<&Answer>) -> Answering<R, S::Error>
    where
        S: Service<Request<B>, Response = Response<R>>,
        S::Future: Send + 'static,
        S::Error: Send + 'static,
        R: From<String> + Send + 'static,
    {
        let connection = connection_of(&request);
        match self.authenticator.check_after(self.route, self.access, request.headers(), &connection, answer) {
            Ok(Passed { principal, notice }) => {
                if let Some(principal) = principal {
                    request.extensions_mut().insert(principal);
                }
                if self.access == Access::Public
                    && let Some(peer) = &connection.peer
                    && self.authenticator.check_peer(peer, self.authenticator.now()).is_err()
                {
                    // The peer has not been checked since the handshake, so it is removed: the handler may extract it.
                    request.extensions_mut().insert(Arc::new(Connection { peer: None, ..(*connection).clone() }));
                }
                let answer = inner.call(request);
                match notice {
                    None => Box::pin(answer),
                    Some(notice) => Box::pin(async move { answer.await.map(|response| with(response, &notice)) }),
                }
            }
            Err(refused) => {
                let Refused { refusal, notice } = *refused;
                Box::pin(std::future::ready(Ok(with(refusal.response(), &notice.unwrap_or_default()))))
            }
        }
    }
}

/// Returns the connection of a request; a default one without a peer if no listener set it.
pub(crate) fn connection_of<B>(request: &Request<B>) -> Arc<Connection> {
    request.extensions().get::<Arc<Connection>>().cloned().unwrap_or_default()
}

/// Adds the deprecation headers to those of the response, which may have links of its own (RFC 8288, section 3).
fn with<R>(mut response: Response<R>, notice: &HeaderMap) -> Response<R> {
    for (name, value) in notice {
        if name == header::LINK {
            response.headers_mut().append(name, value.clone());
        } else {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

#[cfg(test)]
mod tests;
