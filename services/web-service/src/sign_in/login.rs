//! Client of auth-service for sign-in, session refresh and sign-out.

use std::time::Duration;

use axum::body::{Body, Bytes};
use gaia_auth::REQUEST_ID_HEADER;
use gaia_runtime::client_ip::{name_client, name_known_client};
use gaia_runtime::rate::retry_after_of;
use gaia_runtime::{AnswerBody, CallError, Caller, random};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::sessions::session::Session;
use crate::sign_in::by_gateway;
use crate::sign_in::refusal::Refusal;
use crate::site::Client;

/// Signs users in through auth-service, with this service's identity.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    caller: Caller,
    by_key: Caller,
    auth_url: Uri,
    /// Service name of the called service, for tokens.
    target: &'static str,
}

/// Reason why there is no session. It never contains data of the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LoginError {
    /// Unknown user, wrong password, or invalid or expired code.
    #[error("invalid user credentials")]
    InvalidCredentials,
    /// The issuer has ended the session.
    #[error("the session has ended")]
    SessionEnded,
    /// Too many attempts.
    #[error("too many attempts")]
    RateLimited {
        /// Seconds until the next attempt is permitted, if known.
        retry_after: Option<u64>,
    },
    /// auth-service or the issuer does not respond; the state of the session is unknown.
    #[error("sign-in is temporarily unavailable")]
    Unavailable,
    /// A retry does not help.
    #[error("sign-in refused: {}", .0.as_str())]
    Refused(Refusal),
}

impl LoginError {
    /// Returns the metric label.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::InvalidCredentials => "invalid_credentials",
            Self::SessionEnded => "session_ended",
            Self::RateLimited { .. } => "rate_limited",
            Self::Unavailable => "login_unavailable",
            Self::Refused(refusal) => refusal.as_str(),
        }
    }

    /// Returns true if a retry gets the same result.
    #[must_use]
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::SessionEnded | Self::Refused(_))
    }
}

/// Credentials for a new session.
#[derive(Clone, Copy)]
pub(crate) enum Proof<'a> {
    /// The user's own.
    Password {
        /// The email address.
        email: &'a str,
        /// The password.
        password: &'a str,
    },
    /// The code from the issuer's redirect (RFC 7636).
    Code {
        /// The code.
        auth_code: &'a str,
        /// The PKCE verifier.
        code_verifier: &'a str,
    },
}

/// The sign-in methods that the issuer offers, as auth-service lists them.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Offered {
    /// Enabled providers, by the issuer's names.
    pub(crate) providers: Vec<String>,
}

/// GoTrue's session.
#[derive(Deserialize)]
struct Answer {
    access_token: String,
    refresh_token: String,
    expires_in: i64,
    expires_at: Option<i64>,
    user: User,
}

#[derive(Deserialize)]
struct User {
    id: String,
    email: Option<String>,
}

impl Login {
    /// Creates a client of auth-service at `auth_url`. It uses the tokens of `caller`, and where they are not accepted
    /// yet, the API key of `by_key`.
    #[must_use]
    pub(crate) fn new(caller: Caller, by_key: Caller, auth_url: Uri) -> Self {
        Self { caller, by_key, auth_url, target: AUTH_SERVICE }
    }

    /// Returns a client that calls through another service, which forwards the requests.
    #[must_use]
    pub(crate) fn by_way_of(self, target: &'static str) -> Self {
        Self { target, ..self }
    }

    /// Creates a session with the issuer.
    ///
    /// # Errors
    /// [`LoginError`].
    pub(crate) async fn sign_in(
        &self,
        proof: Proof<'_>,
        issuer: &str,
        (client, known): (Client, Option<&str>),
        now: Timestamp,
    ) -> Result<Session, LoginError> {
        let id = random::<16>().ok_or(LoginError::Unavailable)?;
        let body = match proof {
            Proof::Password { email, password } => json!({ "email": email, "password": password }),
            Proof::Code { auth_code, code_verifier } => {
                json!({ "auth_code": auth_code, "code_verifier": code_verifier })
            }
        };
        let answer = read(&self.ask("/auth/login", &body, client, known).await?)?;
        Ok(session(answer, issuer, (now, format!("{:032x}", u128::from_be_bytes(id))), now))
    }

    /// Refreshes a session.
    ///
    /// # Errors
    /// [`LoginError`]; only [`LoginError::SessionEnded`] is definitive.
    pub(crate) async fn refresh(&self, old: &Session, client: Client, now: Timestamp) -> Result<Session, LoginError> {
        let body = json!({ "refresh_token": old.refresh_token });
        let answer = read(&self.ask("/auth/refresh", &body, client, Some(&name(old))).await?)?;
        if answer.user.id != old.sub {
            tracing::error!(issuer = old.issuer, "the refresh returned a session of another user");
            return Err(LoginError::SessionEnded);
        }
        Ok(session(answer, &old.issuer, (old.since, old.id.clone()), now))
    }

    /// Ends a session with the issuer.
    ///
    /// # Errors
    /// [`LoginError`].
    pub(crate) async fn sign_out(&self, session: &Session, client: Client) -> Result<(), LoginError> {
        let body = json!({ "access_token": session.access_token, "scope": "local" });
        self.ask("/auth/logout", &body, client, Some(&name(session))).await.map(drop)
    }

    /// Returns the sign-in methods that the issuer offers.
    ///
    /// # Errors
    /// [`LoginError`].
    pub(crate) async fn methods(&self, client: Client) -> Result<Offered, LoginError> {
        let request = self.request(Method::GET, "/auth/methods", Bytes::new(), client, None)?;
        let body = self.within("/auth/methods", request).await?;
        serde_json::from_slice(&body).map_err(|_| LoginError::Unavailable)
    }

    /// Sends a request for a client; `known` is its ID if this service has authenticated it.
    async fn ask(&self, path: &str, body: &Value, client: Client, known: Option<&str>) -> Result<Bytes, LoginError> {
        let request = self.request(Method::POST, path, Bytes::from(body.to_string()), client, known)?;
        self.within(path, request).await
    }

    async fn within(&self, path: &str, request: Request<Bytes>) -> Result<Bytes, LoginError> {
        let asking = self.send(path, request);
        match timeout(TIMEOUT, asking).await {
            Ok(answer) => answer,
            Err(_) => {
                tracing::warn!(path, "auth-service did not respond in time");
                Err(LoginError::Unavailable)
            }
        }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        client: Client,
        known: Option<&str>,
    ) -> Result<Request<Bytes>, LoginError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.auth_url.to_string().trim_end_matches('/')))
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .body(body)
            .map_err(|_| LoginError::Unavailable)?;
        // Rate limits use this address: without it all users are counted together.
        name_client(request.headers_mut(), client.address);
        if self.target != AUTH_SERVICE {
            by_gateway::name(request.headers_mut(), client.address);
        }
        name_known_client(request.headers_mut(), known);
        if let Some(id) = client.request_id().and_then(|id| HeaderValue::try_from(id).ok()) {
            request.headers_mut().insert(REQUEST_ID_HEADER, id);
        }
        Ok(request)
    }

    async fn send(&self, path: &str, request: Request<Bytes>) -> Result<Bytes, LoginError> {
        let failed = |error: CallError| {
            tracing::warn!(path, %error, "failed to call auth-service");
            LoginError::Unavailable
        };
        let answer = self.caller.call(self.target, request.clone()).await.map_err(failed)?;
        let mut answer = whole(path, answer).await?;
        // Responses about the user have a code. A 401 without one refuses this service: tokens may not be accepted yet.
        if answer.status == StatusCode::UNAUTHORIZED
            && answer.code().is_empty()
            && let Some(by_key) = self.by_key.call_by_key(self.target, request.map(Body::from)).await
        {
            answer = whole(path, by_key.map_err(failed)?).await?;
        }
        if answer.status.is_success() { Ok(answer.body) } else { Err(refusal(path, &answer)) }
    }
}

/// A response of auth-service.
struct Said {
    status: StatusCode,
    retry_after: Option<u64>,
    body: Bytes,
}

impl Said {
    /// Returns its `code`; empty if there is none.
    fn code(&self) -> String {
        #[derive(Deserialize)]
        struct Problem {
            code: String,
        }
        serde_json::from_slice::<Problem>(&self.body).map(|problem| problem.code).unwrap_or_default()
    }
}

async fn whole(path: &str, answer: Response<AnswerBody>) -> Result<Said, LoginError> {
    let (parts, body) = answer.into_parts();
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(|error| {
        tracing::warn!(path, error, "the response of auth-service was interrupted");
        LoginError::Unavailable
    })?;
    Ok(Said { status: parts.status, retry_after: retry_after_of(&parts.headers), body: body.to_bytes() })
}

/// Maps a response of auth-service by its `code`. Unknown errors cannot be fixed by the user, and say nothing about
/// their session.
fn refusal(path: &str, said: &Said) -> LoginError {
    match (said.status, said.code().as_str()) {
        (StatusCode::UNAUTHORIZED, "invalid_credentials") => LoginError::InvalidCredentials,
        (StatusCode::UNAUTHORIZED, "session_ended") => LoginError::SessionEnded,
        (StatusCode::TOO_MANY_REQUESTS, _) => LoginError::RateLimited { retry_after: said.retry_after },
        (StatusCode::FORBIDDEN | StatusCode::NOT_IMPLEMENTED, code) if Refusal::of(code).is_some() => {
            Refusal::of(code).map_or(LoginError::Unavailable, LoginError::Refused)
        }
        (status, code) => {
            tracing::warn!(path, %status, code, "auth-service returned an error");
            LoginError::Unavailable
        }
    }
}

/// The parser's message is discarded, because it could contain a token.
fn read(body: &[u8]) -> Result<Answer, LoginError> {
    serde_json::from_slice(body).map_err(|_| {
        tracing::error!("the response of auth-service is not a session");
        LoginError::Unavailable
    })
}

/// Returns the ID by which auth-service counts the requests of a session. It grants no access.
fn name(session: &Session) -> String {
    session.key().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn session(answer: Answer, issuer: &str, (since, id): (Timestamp, String), now: Timestamp) -> Session {
    let at_most = now + SignedDuration::from_secs(answer.expires_in.clamp(0, MAX_LIFE_SECONDS));
    // Clocks may differ, so the earlier expiry is used.
    let named = answer.expires_at.and_then(|at| Timestamp::from_second(at).ok());
    Session {
        access_token: answer.access_token,
        refresh_token: answer.refresh_token,
        expires: named.map_or(at_most, |named| named.min(at_most)),
        obtained: Some(now),
        issuer: issuer.to_owned(),
        sub: answer.user.id,
        email: answer.user.email.filter(|email| !email.is_empty()),
        since,
        id,
    }
}

const AUTH_SERVICE: &str = "auth-service";
const TIMEOUT: Duration = Duration::from_secs(15);
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// More than the validity of any token.
const MAX_LIFE_SECONDS: i64 = 7 * 24 * 3600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_auth_service_names_ends_a_session() {
        let said = |status: u16, body: &'static str| {
            let status = StatusCode::from_u16(status).unwrap();
            refusal("/", &Said { status, retry_after: None, body: Bytes::from_static(body.as_bytes()) })
        };
        assert_eq!(said(401, r#"{"code":"session_ended"}"#), LoginError::SessionEnded);
        assert_eq!(said(401, r#"{"code":"invalid_credentials"}"#), LoginError::InvalidCredentials);
        assert_eq!(said(429, "{}"), LoginError::RateLimited { retry_after: None });
        assert_eq!(said(403, r#"{"code":"session_too_large"}"#), LoginError::Refused(Refusal::SessionTooLarge));
        assert_eq!(said(501, r#"{"code":"login_off"}"#), LoginError::Refused(Refusal::Off));
        for (status, body) in [
            (401, ""),
            (401, r#"{"code":"something_new"}"#),
            (500, r#"{"code":"session_ended"}"#),
            (503, r#"{"code":"login_unavailable"}"#),
            (403, "{}"),
            (403, r#"{"code":"not_a_service"}"#),
            (503, r#"{"code":"session_too_large"}"#),
        ] {
            assert_eq!(said(status, body), LoginError::Unavailable, "{status} {body}");
        }
    }

    #[test]
    fn a_token_ends_when_the_stricter_of_both_statements_says() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let expires = |expires_in, expires_at: Option<i64>| {
            let text = json!({
                "access_token": "a", "refresh_token": "r", "expires_in": expires_in, "expires_at": expires_at,
                "user": { "id": "u", "email": "" },
            });
            let answer = read(text.to_string().as_bytes()).unwrap();
            let session = session(answer, "supabase", (now, String::new()), now);
            assert_eq!(session.email, None);
            session.expires.duration_since(now).as_secs()
        };
        assert_eq!(expires(3600, None), 3600);
        assert_eq!(expires(3600, Some(now.as_second() + 3000)), 3000);
        assert_eq!(expires(3600, Some(now.as_second() + 9000)), 3600);
        assert_eq!(expires(-5, None), 0);
        assert!(read(b"{}").is_err());
    }
}
