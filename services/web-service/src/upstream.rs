//! Calls to the services behind the pages: with the user's token, or with the API key where that is not taken yet.
//!
//! The key speaks for nobody in particular, so it is used only for a user whose token is good by our own policy: what a
//! service refuses them for is then that it takes no tokens yet, and not that they were shut out.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use gaia_auth::{Authenticator, Credential, Examined, Reason};
use gaia_runtime::{AnswerBody, CallError, Caller};
use http::header::AUTHORIZATION;
use http::uri::Scheme;
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use tokio::time::timeout;

use crate::by_gateway;
use crate::session::Session;
use crate::taken::{LastTaken, Taken};

/// One service that is called for users.
pub(crate) struct Upstream {
    name: &'static str,
    base: Uri,
    by_key: Caller,
    authenticator: Arc<Authenticator>,
    taken: LastTaken,
    /// Whether it limits by the address of the browser.
    names_browsers: bool,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("base", &self.base).finish_non_exhaustive()
    }
}

/// Reason why there is no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// The call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// It took too long.
    #[error("there was no answer in time")]
    Timeout,
    /// It can be called with the API key only, and there is none.
    #[error("it is reached by plain HTTP, with the API key only, and there is none (GAIA_API_KEY_FILE)")]
    NoKey,
    /// The user's token is not good by our own policy either: the API key is not for them.
    #[error("the user's token is not good here either: {}", .0.as_str())]
    TokenRefused(Reason),
    /// The policy does not grant users the scope that the call needs.
    #[error("users may not do this by the policy of this service (userTokens.scopes): scope {0}")]
    ScopeMissing(&'static str),
    /// Whether the user's token is good cannot be told for now.
    #[error("whether the user's token is good cannot be told: {}", .0.as_str())]
    CannotTell(Reason),
    /// The token cannot be sent: it holds what no header may hold.
    #[error("the user's token is no text for a header")]
    NotText,
}

impl Upstream {
    /// The service of this name at `base`, which has no path; `by_key` has the API key, and `authenticator` validates tokens.
    pub(crate) fn new(name: &'static str, base: Uri, by_key: Caller, authenticator: Arc<Authenticator>) -> Self {
        Self { name, base, by_key, authenticator, taken: LastTaken::default(), names_browsers: false }
    }

    /// Tells the service the address of the browser.
    pub(crate) fn names_browsers(self, names_browsers: bool) -> Self {
        Self { names_browsers, ..self }
    }

    /// What it took this session's last call with.
    #[must_use]
    pub(crate) fn taken(&self, session: &Session) -> Taken {
        self.taken.of(session)
    }

    /// The address of a path of this service.
    pub(crate) fn uri(&self, path: &str) -> String {
        format!("{}{path}", self.base.to_string().trim_end_matches('/'))
    }

    /// Calls with the user's token, and where that gets a 401 although it is good, with the API key. What was taken is an
    /// extension of the answer.
    ///
    /// # Errors
    /// [`UpstreamError`] without an answer within `patience`, or without a credential for one.
    pub(crate) async fn call(
        &self,
        request: Request<Bytes>,
        session: &Session,
        scope: &'static str,
        patience: Duration,
    ) -> Result<Response<AnswerBody>, UpstreamError> {
        let request = self.prepared(request);
        // Who listens on plain HTTP is to hear no token, and takes none.
        let refused = if self.is_plain() {
            None
        } else {
            let answer = self.by_token(request.clone().map(Body::from), session, patience).await?;
            if answer.status() != StatusCode::UNAUTHORIZED {
                return Ok(self.took(Taken::Token, session, answer));
            }
            Some(answer)
        };
        self.taken.note(session, Taken::Unknown);
        if !self.by_key.uses_api_key() {
            return refused.ok_or(UpstreamError::NoKey);
        }
        let answer = self.in_place_of_token(request.map(Body::from), session, scope, patience).await?;
        let is_taken = answer.status() != StatusCode::UNAUTHORIZED;
        Ok(if is_taken { self.took(Taken::ApiKey, session, answer) } else { answer })
    }

    /// Calls with a body that is sent as it comes, and so only once: with the API key if this session's last call was
    /// taken with that, else with the user's token. What is not taken is not tried in another way before a call was.
    ///
    /// # Errors
    /// [`UpstreamError`] without an answer, or without a credential for one.
    pub(crate) async fn call_streaming(
        &self,
        request: Request<Body>,
        session: &Session,
        scope: &'static str,
    ) -> Result<Response<AnswerBody>, UpstreamError> {
        let request = self.prepared(request);
        let is_by_key = self.by_key.uses_api_key() && self.taken(session) == Taken::ApiKey;
        let answer = if is_by_key || self.is_plain() {
            self.in_place_of_token(request, session, scope, UPLOAD_PATIENCE).await?
        } else {
            self.by_token(request, session, UPLOAD_PATIENCE).await?
        };
        if answer.status() == StatusCode::UNAUTHORIZED {
            self.taken.note(session, Taken::Unknown);
        }
        Ok(answer)
    }

    fn prepared<B>(&self, mut request: Request<B>) -> Request<B> {
        if self.names_browsers {
            by_gateway::name_browser(request.headers_mut());
        }
        request
    }

    fn is_plain(&self) -> bool {
        self.base.scheme() == Some(&Scheme::HTTP)
    }

    fn took<B>(&self, taken: Taken, session: &Session, mut answer: Response<B>) -> Response<B> {
        self.taken.note(session, taken);
        answer.extensions_mut().insert(taken);
        answer
    }

    /// Calls with the API key for a user whose token is valid and may do this.
    async fn in_place_of_token(
        &self,
        request: Request<Body>,
        session: &Session,
        scope: &'static str,
        patience: Duration,
    ) -> Result<Response<AnswerBody>, UpstreamError> {
        within(patience, self.check_user(session, scope)).await??;
        let answer = within(patience, self.by_key.call_by_key(self.name, request)).await?;
        Ok(answer.ok_or(UpstreamError::NoKey)??)
    }

    /// Checks the user's token by the policy of this service: it is of an issuer of users, valid, not revoked, and users
    /// have the scope. The key has scopes of its own, so the service behind cannot check those of the user.
    async fn check_user(&self, session: &Session, scope: &'static str) -> Result<(), UpstreamError> {
        match self.authenticator.examine_token(&session.access_token, None, None).await {
            Ok(Examined { kind: Credential::UserToken, is_anonymous: false, scopes, .. }) => {
                if scopes.allow(scope) {
                    Ok(())
                } else {
                    Err(UpstreamError::ScopeMissing(scope))
                }
            }
            Ok(Examined { is_anonymous: true, .. }) => Err(UpstreamError::TokenRefused(Reason::AnonymousUser)),
            Ok(_) => Err(UpstreamError::TokenRefused(Reason::KindNotAccepted)),
            Err(refusal) if refusal.reason.status() == StatusCode::SERVICE_UNAVAILABLE => {
                Err(UpstreamError::CannotTell(refusal.reason))
            }
            Err(refusal) => Err(UpstreamError::TokenRefused(refusal.reason)),
        }
    }

    async fn by_token(
        &self,
        mut request: Request<Body>,
        session: &Session,
        patience: Duration,
    ) -> Result<Response<AnswerBody>, UpstreamError> {
        let value = HeaderValue::try_from(format!("Bearer {}", session.access_token));
        let mut value = value.map_err(|_| UpstreamError::NotText)?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
        Ok(within(patience, self.by_key.call_as_is(self.name, request)).await??)
    }
}

async fn within<T>(patience: Duration, answer: impl Future<Output = T>) -> Result<T, UpstreamError> {
    timeout(patience, answer).await.map_err(|_| UpstreamError::Timeout)
}

const UPLOAD_PATIENCE: Duration = Duration::from_secs(15 * 60);
