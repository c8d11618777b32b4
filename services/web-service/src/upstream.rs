//! Calls to the services behind the pages: with the user's token, or with the API key where that is not taken yet.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use gaia_runtime::{AnswerBody, CallError, Caller, Generation};
use http::header::AUTHORIZATION;
use http::uri::Scheme;
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::session::Session;

/// One service that is called for users.
pub(crate) struct Upstream {
    base: Uri,
    generations: watch::Receiver<Option<Arc<Generation>>>,
    by_key: Caller,
    taken: AtomicU8,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("base", &self.base).field("taken", &self.taken()).finish_non_exhaustive()
    }
}

/// What a service took the last call with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It was not called yet.
    #[default]
    Unknown,
    /// The user's token.
    Token,
    /// The API key.
    ApiKey,
}

/// Why there is no answer.
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
    /// The token cannot be sent: it holds what no header may hold.
    #[error("the user's token is no text for a header")]
    NotText,
}

impl Upstream {
    /// The service at `base`, which has no path; `by_key` has the API key.
    pub(crate) fn new(base: Uri, generations: watch::Receiver<Option<Arc<Generation>>>, by_key: Caller) -> Self {
        Self { base, generations, by_key, taken: AtomicU8::new(UNKNOWN) }
    }

    /// What it took the last call with.
    #[must_use]
    pub(crate) fn taken(&self) -> Taken {
        match self.taken.load(Ordering::Relaxed) {
            TOKEN => Taken::Token,
            API_KEY => Taken::ApiKey,
            _ => Taken::Unknown,
        }
    }

    /// The address of a path of this service.
    pub(crate) fn uri(&self, path: &str) -> String {
        format!("{}{path}", self.base.to_string().trim_end_matches('/'))
    }

    /// Calls with the user's token, and where that gets a 401, with the API key. What was taken is an extension of the
    /// answer.
    ///
    /// # Errors
    /// [`UpstreamError`] without an answer within `patience`.
    pub(crate) async fn call(
        &self,
        request: Request<Bytes>,
        session: &Session,
        patience: Duration,
    ) -> Result<Response<AnswerBody>, UpstreamError> {
        // Who listens on plain HTTP is to hear no token, and takes none.
        let refused = if self.base.scheme() == Some(&Scheme::HTTP) {
            None
        } else {
            let answer = self.by_token(request.clone().map(Body::from), session, patience).await?;
            if answer.status() != StatusCode::UNAUTHORIZED {
                return Ok(self.took(Taken::Token, answer));
            }
            Some(answer)
        };
        let answer = within(patience, self.by_key.call_by_key(request.map(Body::from))).await?;
        match (answer, refused) {
            (Some(answer), _) => {
                let answer = answer?;
                let is_taken = answer.status() != StatusCode::UNAUTHORIZED;
                Ok(if is_taken { self.took(Taken::ApiKey, answer) } else { answer })
            }
            (None, Some(refused)) => Ok(refused),
            (None, None) => Err(UpstreamError::NoKey),
        }
    }

    /// Calls with a body that is sent as it comes, and so only once: with what the last call was taken with. If it is not
    /// taken any more, the answer is a 401, and the next call is with the other.
    ///
    /// # Errors
    /// [`UpstreamError`] without an answer.
    pub(crate) async fn call_streaming(
        &self,
        request: Request<Body>,
        session: &Session,
    ) -> Result<Response<AnswerBody>, UpstreamError> {
        let is_by_key = self.by_key.uses_api_key() && self.taken() == Taken::ApiKey;
        let (answer, other) = if is_by_key || self.base.scheme() == Some(&Scheme::HTTP) {
            let answer = within(UPLOAD_PATIENCE, self.by_key.call_by_key(request)).await?;
            (answer.ok_or(UpstreamError::NoKey)??, TOKEN)
        } else {
            (self.by_token(request, session, UPLOAD_PATIENCE).await?, API_KEY)
        };
        if answer.status() == StatusCode::UNAUTHORIZED {
            self.taken.store(other, Ordering::Relaxed);
        }
        Ok(answer)
    }

    fn took<B>(&self, taken: Taken, mut answer: Response<B>) -> Response<B> {
        self.taken.store(if taken == Taken::ApiKey { API_KEY } else { TOKEN }, Ordering::Relaxed);
        answer.extensions_mut().insert(taken);
        answer
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
        let generation = self.generations.borrow().clone().ok_or(CallError::NotReady)?;
        Ok(within(patience, generation.client().request(request)).await??)
    }
}

async fn within<T>(patience: Duration, answer: impl Future<Output = T>) -> Result<T, UpstreamError> {
    timeout(patience, answer).await.map_err(|_| UpstreamError::Timeout)
}

const UNKNOWN: u8 = 0;
const TOKEN: u8 = 1;
const API_KEY: u8 = 2;
const UPLOAD_PATIENCE: Duration = Duration::from_secs(15 * 60);
