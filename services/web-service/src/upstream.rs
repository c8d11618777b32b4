//! Calls to services on behalf of users: with the user's token, or with the API key where tokens are not accepted yet.
//!
//! The API key identifies no user, so it is used only for a user whose token is valid by our own policy: if a service
//! refuses that token, it does not accept tokens yet, rather than refusing the user.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use gaia_auth::{Authenticator, Credential, Introspected, Reason};
use gaia_runtime::client_ip::name_known_client;
use gaia_runtime::{AnswerBody, CallError, Caller};
use http::header::AUTHORIZATION;
use http::uri::Scheme;
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use tokio::time::timeout;

use crate::sessions::accepted::{AcceptedCredential, LastAccepted};
use crate::sessions::session::Session;
use crate::sign_in::by_gateway;

/// One service that is called for users.
pub(crate) struct Upstream {
    name: &'static str,
    base: Uri,
    by_key: Caller,
    authenticator: Arc<Authenticator>,
    accepted: LastAccepted,
    /// Whether the service's rate limits use the browser's address.
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
    /// The call timed out.
    #[error("no response within the time limit")]
    Timeout,
    /// The service can only be called with the API key, and there is none.
    #[error("the service is called over plain HTTP, which requires an API key (GAIA_API_KEY_FILE)")]
    NoKey,
    /// The user's token is invalid by our own policy too, so the API key is not used.
    #[error("this service rejects the user's token too: {}", .0.as_str())]
    TokenRefused(Reason),
    /// The policy does not grant users the scope required for the call.
    #[error("the policy of this service does not grant users the scope {0} (userTokens.scopes)")]
    ScopeMissing(&'static str),
    /// The user's token cannot be verified at present.
    #[error("the user's token cannot be verified at present: {}", .0.as_str())]
    CannotTell(Reason),
    /// The token contains characters that are not permitted in a header.
    #[error("the user's token has characters that are not permitted in a header")]
    NotText,
}

impl Upstream {
    /// Creates the service `name` at `base`, which has no path. `by_key` has the API key, and `authenticator` verifies
    /// tokens.
    pub(crate) fn new(name: &'static str, base: Uri, by_key: Caller, authenticator: Arc<Authenticator>) -> Self {
        Self { name, base, by_key, authenticator, accepted: LastAccepted::default(), names_browsers: false }
    }

    /// Sets whether the browser's address is sent to the service.
    pub(crate) fn names_browsers(self, names_browsers: bool) -> Self {
        Self { names_browsers, ..self }
    }

    /// Returns the credential accepted in this session's last call.
    #[must_use]
    pub(crate) fn accepted(&self, session: &Session) -> AcceptedCredential {
        self.accepted.of(session)
    }

    /// Returns the URL of a path of this service.
    pub(crate) fn uri(&self, path: &str) -> String {
        format!("{}{path}", self.base.to_string().trim_end_matches('/'))
    }

    /// Calls with the user's token, and if that gets a 401 although it is valid, with the API key. The accepted
    /// credential is an extension of the response.
    ///
    /// # Errors
    /// [`UpstreamError`] without a response within `patience`, or without a usable credential.
    pub(crate) async fn call(
        &self,
        request: Request<Bytes>,
        session: &Session,
        scope: &'static str,
        patience: Duration,
    ) -> Result<Response<AnswerBody>, UpstreamError> {
        let request = self.prepared(request, session);
        // Tokens are not sent over plain HTTP.
        let refused = if self.is_plain() {
            None
        } else {
            let answer = self.by_token(request.clone().map(Body::from), session, patience).await?;
            if answer.status() != StatusCode::UNAUTHORIZED {
                return Ok(self.took(AcceptedCredential::Token, session, answer));
            }
            Some(answer)
        };
        self.accepted.note(session, AcceptedCredential::Unknown);
        if !self.by_key.uses_api_key() {
            return refused.ok_or(UpstreamError::NoKey);
        }
        let answer = self.in_place_of_token(request.map(Body::from), session, scope, patience).await?;
        let is_taken = answer.status() != StatusCode::UNAUTHORIZED;
        Ok(if is_taken { self.took(AcceptedCredential::ApiKey, session, answer) } else { answer })
    }

    /// Calls with a streamed body, which can be sent only once: with the API key if this session's last call was
    /// accepted with it, otherwise with the user's token. Other credentials are tried only after a call without a body.
    ///
    /// # Errors
    /// [`UpstreamError`] without a response, or without a usable credential.
    pub(crate) async fn call_streaming(
        &self,
        request: Request<Body>,
        session: &Session,
        scope: &'static str,
    ) -> Result<Response<AnswerBody>, UpstreamError> {
        let request = self.prepared(request, session);
        let is_by_key = self.by_key.uses_api_key() && self.accepted(session) == AcceptedCredential::ApiKey;
        let answer = if is_by_key || self.is_plain() {
            self.in_place_of_token(request, session, scope, UPLOAD_PATIENCE).await?
        } else {
            self.by_token(request, session, UPLOAD_PATIENCE).await?
        };
        if answer.status() == StatusCode::UNAUTHORIZED {
            self.accepted.note(session, AcceptedCredential::Unknown);
        }
        Ok(answer)
    }

    /// Adds the request ID, the user and the browser's address. The called service charges queries to the issuer to them.
    fn prepared<B>(&self, mut request: Request<B>, session: &Session) -> Request<B> {
        by_gateway::name_request(request.headers_mut());
        by_gateway::name_browser(request.headers_mut(), self.names_browsers);
        name_known_client(request.headers_mut(), session.client().known.as_deref());
        request
    }

    fn is_plain(&self) -> bool {
        self.base.scheme() == Some(&Scheme::HTTP)
    }

    fn took<B>(&self, accepted: AcceptedCredential, session: &Session, mut answer: Response<B>) -> Response<B> {
        self.accepted.note(session, accepted);
        answer.extensions_mut().insert(accepted);
        answer
    }

    /// Calls with the API key for a user whose token is valid and has the scope.
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

    /// Checks the user's token by the policy of this service: issued by a user-token issuer, valid, not revoked, and
    /// with the scope. The API key has its own scopes, so the called service cannot check those of the user.
    async fn check_user(&self, session: &Session, scope: &'static str) -> Result<(), UpstreamError> {
        match self.authenticator.introspect_token(&session.access_token, None, session.client()).await {
            Ok(Introspected { kind: Credential::UserToken, is_anonymous: false, scopes, .. }) => {
                if scopes.allow(scope) { Ok(()) } else { Err(UpstreamError::ScopeMissing(scope)) }
            }
            Ok(Introspected { is_anonymous: true, .. }) => Err(UpstreamError::TokenRefused(Reason::AnonymousUser)),
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
