//! Interpretation of GoTrue's error responses, which depends on the request.

use std::time::Duration;

use gaia_runtime::rate::retry_after_of;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use super::failure::LoginFailure;

/// A request to GoTrue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// Create a session from a password or a code.
    SignIn,
    /// Create a session from a refresh token.
    Refresh,
    /// End a session.
    LogOut,
    /// Read the settings of the project.
    Settings,
}

/// An error of GoTrue: a number in `code` and a name in `error_code`, or (API of 2024) the name in `code`, or as in
/// OAuth, in `error`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorBody {
    code: Value,
    error_code: Option<String>,
    error: Option<String>,
}

/// Returns GoTrue's error code; empty if the response has none.
pub(super) fn code(body: &[u8]) -> String {
    let body: ErrorBody = serde_json::from_slice(body).unwrap_or_default();
    let word = body.error_code.or_else(|| body.code.as_str().map(str::to_owned)).or(body.error);
    word.unwrap_or_default()
}

/// Interprets an error response. Only a code of GoTrue ends a session or permanently refuses a user: a response without
/// one comes from an intermediary, and a 5xx is temporary.
pub(super) fn meaning(asked: Asked, status: StatusCode, code: &str, headers: &HeaderMap) -> LoginFailure {
    if status == StatusCode::TOO_MANY_REQUESTS {
        let wait = retry_after_of(headers).unwrap_or(DEFAULT_WAIT_SECONDS).clamp(1, MAX_WAIT_SECONDS);
        return LoginFailure::RateLimited(Duration::from_secs(wait));
    }
    if !status.is_client_error() {
        return LoginFailure::Unavailable;
    }
    let no_user = matches!(code, "user_banned" | "user_not_found");
    let no_session = no_user || code.starts_with("session_");
    match asked {
        Asked::SignIn => refused_sign_in(code),
        Asked::Refresh if no_session || NO_TOKEN.contains(&code) => LoginFailure::SessionEnded,
        Asked::Refresh => refused_for_good(code).unwrap_or(LoginFailure::Unavailable),
        Asked::LogOut if no_session => LoginFailure::SessionEnded,
        Asked::LogOut if code == "bad_jwt" => LoginFailure::InvalidCredentials,
        Asked::LogOut | Asked::Settings => LoginFailure::Unavailable,
    }
}

fn refused_sign_in(code: &str) -> LoginFailure {
    if WRONG.contains(&code) {
        return LoginFailure::InvalidCredentials;
    }
    refused_for_good(code).unwrap_or(LoginFailure::Unavailable)
}

/// Returns the permanent failure for settings of the project or the account that a retry does not change.
fn refused_for_good(code: &str) -> Option<LoginFailure> {
    Some(match code {
        "email_not_confirmed" | "phone_not_confirmed" | "provider_email_needs_verification" => {
            LoginFailure::NotConfirmed
        }
        "captcha_failed" => LoginFailure::CaptchaRequired,
        "insufficient_aal" => LoginFailure::SecondFactorRequired,
        "signup_disabled" => LoginFailure::MethodOff,
        code if code.ends_with("_provider_disabled") || code == "provider_disabled" => LoginFailure::MethodOff,
        _ => return None,
    })
}

/// Codes of unusable refresh tokens, in addition to `session_…` and those of deleted users. A malformed one is
/// `validation_failed`.
const NO_TOKEN: [&str; 3] = ["refresh_token_already_used", "refresh_token_not_found", "validation_failed"];
/// Codes of invalid credentials. `invalid_grant` predates GoTrue's error codes. Banned and unknown users are not
/// distinguished for clients, because GoTrue checks for them before the password.
const WRONG: [&str; 10] = [
    "invalid_credentials",
    "invalid_grant",
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

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::RETRY_AFTER;

    use super::*;

    fn means(asked: Asked, status: u16, body: &'static str) -> LoginFailure {
        meaning(asked, StatusCode::from_u16(status).unwrap(), &code(body.as_bytes()), &HeaderMap::new())
    }

    #[test]
    fn session_ends_where_gotrue_says_so() {
        for (status, body) in [
            (
                400,
                r#"{"code":400,"error_code":"refresh_token_already_used","msg":"Invalid Refresh Token: Already Used"}"#,
            ),
            (400, r#"{"code":400,"error_code":"refresh_token_not_found"}"#),
            (400, r#"{"code":"session_expired","message":"as the API of 2024 has it"}"#),
            (403, r#"{"code":403,"error_code":"session_not_found"}"#),
            (400, r#"{"code":400,"error_code":"user_banned","msg":"Invalid Refresh Token: User Banned"}"#),
            (400, r#"{"code":400,"error_code":"user_not_found"}"#),
            (403, r#"{"code":403,"error_code":"user_not_found"}"#),
            (403, r#"{"code":403,"error_code":"user_banned"}"#),
            (400, r#"{"code":400,"error_code":"validation_failed","msg":"Refresh token is not valid"}"#),
        ] {
            assert_eq!(means(Asked::Refresh, status, body), LoginFailure::SessionEnded, "{body}");
            assert_eq!(means(Asked::Refresh, 500, body), LoginFailure::Unavailable, "a 5xx never does");
        }
        for (status, body) in [
            (400, r#"{"error":"invalid_request"}"#),
            (400, r#"{"code":400,"error_code":"bad_json"}"#),
            (401, r#"{"message":"Invalid API key"}"#),
            (403, "forbidden by a proxy"),
            (404, "nothing here"),
            (409, r#"{"code":409,"error_code":"conflict"}"#),
            (302, ""),
            (500, r#"{"code":500,"error_code":"unexpected_failure"}"#),
            (503, ""),
        ] {
            assert_eq!(means(Asked::Refresh, status, body), LoginFailure::Unavailable, "{status} {body}");
        }
    }

    #[test]
    fn wrong_credentials_are_told_to_users_and_faults_are_not() {
        for body in [
            r#"{"code":400,"error_code":"invalid_credentials","msg":"Invalid login credentials"}"#,
            r#"{"error":"invalid_grant","error_description":"Invalid login credentials"}"#,
            r#"{"code":404,"error_code":"flow_state_not_found"}"#,
            r#"{"code":400,"error_code":"user_banned"}"#,
        ] {
            assert_eq!(means(Asked::SignIn, 400, body), LoginFailure::InvalidCredentials, "{body}");
        }
        // An invalid key of the project is not an invalid password.
        assert_eq!(means(Asked::SignIn, 401, r#"{"message":"Invalid API key"}"#), LoginFailure::Unavailable);
        assert_eq!(means(Asked::SignIn, 400, r#"{"error_code":"something_new"}"#), LoginFailure::Unavailable);
    }

    #[test]
    fn permanent_refusals_have_a_failure_of_their_own() {
        for (status, code, failure) in [
            (400, r#"{"error_code":"email_not_confirmed"}"#, LoginFailure::NotConfirmed),
            (400, r#"{"error_code":"phone_not_confirmed"}"#, LoginFailure::NotConfirmed),
            (400, r#"{"error_code":"captcha_failed"}"#, LoginFailure::CaptchaRequired),
            (422, r#"{"error_code":"email_provider_disabled"}"#, LoginFailure::MethodOff),
            (422, r#"{"error_code":"phone_provider_disabled"}"#, LoginFailure::MethodOff),
            (400, r#"{"error_code":"provider_disabled"}"#, LoginFailure::MethodOff),
            (403, r#"{"error_code":"insufficient_aal"}"#, LoginFailure::SecondFactorRequired),
        ] {
            assert_eq!(means(Asked::SignIn, status, code), failure, "{code}");
            assert_eq!(means(Asked::SignIn, 500, code), LoginFailure::Unavailable, "{code}");
        }
    }

    #[test]
    fn limit_of_gotrue_is_passed_on_within_reason() {
        let wait = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(text));
            meaning(Asked::SignIn, StatusCode::TOO_MANY_REQUESTS, "over_request_rate_limit", &headers)
        };
        let seconds = |seconds| LoginFailure::RateLimited(Duration::from_secs(seconds));
        assert_eq!((wait("7"), wait("99999999"), wait("soon")), (seconds(7), seconds(3600), seconds(30)));
    }

    #[test]
    fn sign_out_of_a_session_or_user_that_is_gone_is_done() {
        for body in [
            r#"{"code":403,"error_code":"session_not_found"}"#,
            r#"{"code":403,"error_code":"user_banned"}"#,
            r#"{"code":403,"error_code":"user_not_found"}"#,
        ] {
            assert_eq!(means(Asked::LogOut, 403, body), LoginFailure::SessionEnded, "{body}");
        }
        let body = r#"{"code":403,"error_code":"bad_jwt"}"#;
        assert_eq!(means(Asked::LogOut, 403, body), LoginFailure::InvalidCredentials);
        assert_eq!(means(Asked::LogOut, 403, "forbidden by a proxy"), LoginFailure::Unavailable);
    }
}
