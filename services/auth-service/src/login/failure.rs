//! Why there is no session, and how it is told.

use std::time::Duration;

use axum::response::Response;
use gaia_auth::problem_with;
use gaia_runtime::rate::{retry_after, when_to_retry};
use http::StatusCode;

/// Why there is no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LoginFailure {
    /// The request is not what it should be.
    Malformed,
    /// It is not a service that asks.
    NotAService,
    /// The login server does not know these credentials.
    InvalidCredentials,
    /// The login server has ended the session: only signing in again helps.
    SessionEnded,
    /// The login server cannot tell at the moment.
    Unavailable,
    /// Too many requests.
    RateLimited(Duration),
    /// No login server is configured.
    Off,
}

impl LoginFailure {
    /// For programs, also as a metric's label.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NotAService => "not_a_service",
            Self::InvalidCredentials => "invalid_credentials",
            Self::SessionEnded => "session_ended",
            Self::Unavailable => "login_unavailable",
            Self::RateLimited(_) => "rate_limited",
            Self::Off => "login_off",
        }
    }

    fn answer(self) -> (StatusCode, &'static str) {
        match self {
            Self::Malformed => (StatusCode::BAD_REQUEST, "This is not a request to sign in or out."),
            Self::NotAService => (StatusCode::FORBIDDEN, "Users sign in through a service."),
            Self::InvalidCredentials => (StatusCode::UNAUTHORIZED, "These credentials are not valid."),
            Self::SessionEnded => (StatusCode::UNAUTHORIZED, "The session has ended."),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "Signing in is not possible at the moment."),
            Self::RateLimited(_) => (StatusCode::TOO_MANY_REQUESTS, "Too many attempts."),
            Self::Off => (StatusCode::NOT_IMPLEMENTED, "Signing in is not configured."),
        }
    }

    /// A problem document with the `code`. A 401 is about the user's credentials and has no challenge: by that, callers tell it
    /// from one that is about their own.
    pub(super) fn response(self) -> Response {
        let (status, message) = self.answer();
        let response = problem_with(status, message, &[("code", self.code())]);
        let wait = match self {
            Self::RateLimited(wait) => Some(retry_after(wait)),
            Self::Unavailable => Some(UNAVAILABLE_SECONDS),
            _ => None,
        };
        when_to_retry(response, wait)
    }
}

const UNAVAILABLE_SECONDS: u64 = 5;
