//! The login server, asked over HTTP, and what its answers mean.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use gaia_api::mount::UserTokenIssuer;
use gaia_api::names;
use gaia_runtime::fetch::{self, Fetched};
use gaia_runtime::issuer_key;
use gaia_runtime::rate::retry_after_of;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::failure::LoginFailure;
use super::request::{Logout, Refresh, SignIn};

/// A session as GoTrue gives it, without what else may be in its answer. There is no `Debug` for it.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Session {
    pub(super) access_token: String,
    token_type: String,
    expires_in: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<i64>,
    pub(super) refresh_token: String,
    pub(super) user: Value,
}

/// The project that users sign in at.
pub(super) struct Project {
    issuer: UserTokenIssuer,
    /// What stands in front of GoTrue lets nobody in without it.
    api_key: Option<HeaderValue>,
}

/// Whether the project's API key was missing when it was last looked for.
#[derive(Debug, Clone, Default)]
pub(super) struct KeyWatch(Arc<AtomicBool>);

impl KeyWatch {
    /// Takes down what was found, and says whether there is something to tell: once, however often people sign in.
    fn is_news(&self, is_missing: bool) -> bool {
        !self.0.swap(is_missing, Ordering::Relaxed) && is_missing
    }
}

/// What GoTrue is asked for; the same answer means different things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    SignIn,
    Refresh,
    LogOut,
}

/// An error as GoTrue writes it: a number in `code` and a word in `error_code`, or (API of 2024) the word in `code`, or as
/// OAuth has it, in `error`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorBody {
    code: Value,
    error_code: Option<String>,
    error: Option<String>,
}

impl Project {
    pub(super) async fn of(issuer: &UserTokenIssuer, dir: &Path, watch: &KeyWatch) -> Self {
        let key = issuer_key(dir, &issuer.name).await;
        if watch.is_news(key.is_err())
            && let Err(error) = &key
        {
            let file = names::issuer_key(&issuer.name);
            tracing::warn!(file, %error, "the API key of the login server is not to be had");
        }
        Self { issuer: issuer.clone(), api_key: key.ok().and_then(|key| sensitive(&key)) }
    }

    /// The issuer's short name.
    pub(super) fn name(&self) -> &str {
        &self.issuer.name
    }

    pub(super) async fn sign_in(&self, wanted: &SignIn) -> Result<Session, LoginFailure> {
        self.session(Asked::SignIn, wanted.grant()).await
    }

    pub(super) async fn refresh(&self, wanted: &Refresh) -> Result<Session, LoginFailure> {
        self.session(Asked::Refresh, wanted.grant()).await
    }

    pub(super) async fn log_out(&self, wanted: &Logout) -> Result<(), LoginFailure> {
        let bearer = sensitive(&format!("Bearer {}", wanted.access_token)).ok_or(LoginFailure::Malformed)?;
        let headers = HeaderMap::from_iter([(AUTHORIZATION, bearer)]);
        let path = format!("/logout?scope={}", wanted.scope.as_str());
        let answer = self.ask(Asked::LogOut, &path, headers, Bytes::new()).await;
        match answer {
            // It has ended already, which is what was asked for.
            Ok(_) | Err(LoginFailure::SessionEnded) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    async fn session(&self, asked: Asked, (grant, body): (&str, Value)) -> Result<Session, LoginFailure> {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        let path = format!("/token?grant_type={grant}");
        let answer = self.ask(asked, &path, headers, Bytes::from(body.to_string())).await?;
        // The parser's message could quote a token.
        serde_json::from_slice(&answer).map_err(|_| {
            tracing::error!(issuer = self.name(), grant, "the login server answered 200 without a session");
            LoginFailure::Unavailable
        })
    }

    async fn ask(&self, asked: Asked, path: &str, headers: HeaderMap, body: Bytes) -> Result<Bytes, LoginFailure> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        let url = format!("{}{path}", self.issuer.issuer.trim_end_matches('/'));
        *request.uri_mut() = url.parse().map_err(|_| LoginFailure::Unavailable)?;
        *request.headers_mut() = headers;
        if let Some(key) = &self.api_key {
            request.headers_mut().insert("apikey", key.clone());
        }
        let answer = match fetch::send(request, self.issuer.ca_bundle.as_deref()).await {
            Ok(answer) if answer.status.is_success() => return Ok(answer.body),
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!(issuer = self.name(), %error, "the login server cannot be reached");
                return Err(LoginFailure::Unavailable);
            }
        };
        let code = code(&answer);
        let failure = meaning(asked, answer.status, &code, &answer.headers);
        if failure == LoginFailure::Unavailable {
            tracing::warn!(
                issuer = self.name(),
                status = answer.status.as_u16(),
                code = code.chars().take(MAX_LOGGED_CHARACTERS).collect::<String>(),
                "the login server did not do what it was asked for"
            );
        }
        Err(failure)
    }
}

/// GoTrue's word for what went wrong; empty: it has none.
fn code(answer: &Fetched) -> String {
    let body: ErrorBody = serde_json::from_slice(&answer.body).unwrap_or_default();
    let word = body.error_code.or_else(|| body.code.as_str().map(str::to_owned)).or(body.error);
    word.unwrap_or_default()
}

/// What an answer other than success means. A session ends only where GoTrue says in so many words that it has; whatever
/// may be a fault or a setting is nothing that users could do anything about.
fn meaning(asked: Asked, status: StatusCode, code: &str, headers: &HeaderMap) -> LoginFailure {
    if status == StatusCode::TOO_MANY_REQUESTS {
        let wait = retry_after_of(headers).unwrap_or(DEFAULT_WAIT_SECONDS).min(MAX_WAIT_SECONDS);
        return LoginFailure::RateLimited(Duration::from_secs(wait));
    }
    if !status.is_client_error() {
        return LoginFailure::Unavailable;
    }
    let has_ended = ENDED.contains(&code) || code.starts_with("session_");
    match asked {
        Asked::SignIn if WRONG.contains(&code) => LoginFailure::InvalidCredentials,
        Asked::Refresh if has_ended => LoginFailure::SessionEnded,
        Asked::LogOut if code.starts_with("session_") => LoginFailure::SessionEnded,
        Asked::LogOut if code == "bad_jwt" => LoginFailure::InvalidCredentials,
        _ => LoginFailure::Unavailable,
    }
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The end of a session, beside everything that begins with `session_`.
const ENDED: [&str; 2] = ["refresh_token_already_used", "refresh_token_not_found"];
/// What the one who signs in has to do something about. `invalid_grant` is what GoTrue said before it had codes.
const WRONG: [&str; 12] = [
    "invalid_credentials",
    "invalid_grant",
    "email_not_confirmed",
    "phone_not_confirmed",
    "email_address_invalid",
    "user_banned",
    "user_not_found",
    "validation_failed",
    "bad_code_verifier",
    "flow_state_not_found",
    "flow_state_expired",
    "bad_oauth_state",
];
const DEFAULT_WAIT_SECONDS: u64 = 30;
const MAX_WAIT_SECONDS: u64 = 3600;
const MAX_LOGGED_CHARACTERS: usize = 64;

#[cfg(test)]
mod tests {
    use http::header::RETRY_AFTER;

    use super::*;

    fn answer(status: u16, body: &'static str) -> Fetched {
        Fetched {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    fn means(asked: Asked, status: u16, body: &'static str) -> LoginFailure {
        let answer = answer(status, body);
        meaning(asked, answer.status, &code(&answer), &answer.headers)
    }

    #[test]
    fn that_there_is_no_key_is_told_once_each_time_it_goes_missing() {
        let watch = KeyWatch::default();
        let told = [true, true, true, false, false, true, true].map(|is_missing| watch.is_news(is_missing));
        assert_eq!(told, [true, false, false, false, false, true, false]);
    }

    #[test]
    fn a_session_ends_only_where_gotrue_says_so() {
        for body in [
            r#"{"code":400,"error_code":"refresh_token_already_used","msg":"Invalid Refresh Token: Already Used"}"#,
            r#"{"code":400,"error_code":"refresh_token_not_found"}"#,
            r#"{"code":"session_expired","message":"as the API of 2024 has it"}"#,
            r#"{"code":403,"error_code":"session_not_found"}"#,
        ] {
            assert_eq!(means(Asked::Refresh, 400, body), LoginFailure::SessionEnded, "{body}");
            assert_eq!(means(Asked::Refresh, 500, body), LoginFailure::Unavailable, "a 5xx never does");
        }
        for (status, body) in [
            (400, r#"{"code":400,"error_code":"validation_failed"}"#),
            (400, r#"{"error":"invalid_request"}"#),
            (401, r#"{"message":"Invalid API key"}"#),
            (403, r#"{"code":403,"error_code":"user_banned"}"#),
            (404, "nothing here"),
            (302, ""),
            (500, r#"{"code":500,"error_code":"unexpected_failure"}"#),
            (503, ""),
        ] {
            assert_eq!(means(Asked::Refresh, status, body), LoginFailure::Unavailable, "{status} {body}");
        }
    }

    #[test]
    fn only_what_a_user_can_do_something_about_is_told_to_users() {
        for body in [
            r#"{"code":400,"error_code":"invalid_credentials","msg":"Invalid login credentials"}"#,
            r#"{"error":"invalid_grant","error_description":"Invalid login credentials"}"#,
            r#"{"code":404,"error_code":"flow_state_not_found"}"#,
        ] {
            assert_eq!(means(Asked::SignIn, 400, body), LoginFailure::InvalidCredentials, "{body}");
        }
        // A wrong key of the project is no wrong password.
        assert_eq!(means(Asked::SignIn, 401, r#"{"message":"Invalid API key"}"#), LoginFailure::Unavailable);
        let off = r#"{"code":422,"error_code":"email_provider_disabled"}"#;
        assert_eq!(means(Asked::SignIn, 422, off), LoginFailure::Unavailable);
    }

    #[test]
    fn gotrues_own_limit_is_passed_on_within_reason() {
        let wait = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(text));
            meaning(Asked::SignIn, StatusCode::TOO_MANY_REQUESTS, "over_request_rate_limit", &headers)
        };
        let seconds = |seconds| LoginFailure::RateLimited(Duration::from_secs(seconds));
        assert_eq!((wait("7"), wait("99999999"), wait("soon")), (seconds(7), seconds(3600), seconds(30)));
    }

    #[test]
    fn what_has_ended_is_as_good_as_signed_out() {
        let body = r#"{"code":403,"error_code":"session_not_found"}"#;
        assert_eq!(means(Asked::LogOut, 403, body), LoginFailure::SessionEnded);
        let body = r#"{"code":403,"error_code":"bad_jwt"}"#;
        assert_eq!(means(Asked::LogOut, 403, body), LoginFailure::InvalidCredentials);
    }
}
