//! Reasons why sign-in fails, and their responses.

use std::time::Duration;

use axum::response::Response;
use gaia_auth::problem_with;
use gaia_runtime::rate::{retry_after, when_to_retry};
use http::StatusCode;

/// Reason why no session is returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LoginFailure {
    /// The request is malformed.
    Malformed,
    /// The caller is not a service.
    NotAService,
    /// The login server rejected the credentials.
    InvalidCredentials,
    /// The login server has ended the session; the user must sign in again.
    SessionEnded,
    /// The login server did not give a definitive response.
    Unavailable,
    /// Too many requests.
    RateLimited(Duration),
    /// No login server is configured.
    Off,
    /// The password is correct, but the address or telephone number is not confirmed.
    NotConfirmed,
    /// The project requires a captcha, which a service cannot solve.
    CaptchaRequired,
    /// The project does not offer this sign-in method.
    MethodOff,
    /// The session has a lower assurance level than the platform or the project requires.
    SecondFactorRequired,
    /// The user has a role that the platform does not permit.
    RoleNotAdmitted,
    /// The access token, or the whole response, is larger than the platform accepts.
    SessionTooLarge,
}

impl LoginFailure {
    /// Returns the code for programs, also used as a metric label.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NotAService => "not_a_service",
            Self::InvalidCredentials => "invalid_credentials",
            Self::SessionEnded => "session_ended",
            Self::Unavailable => "login_unavailable",
            Self::RateLimited(_) => "rate_limited",
            Self::Off => "login_off",
            Self::NotConfirmed => "address_not_confirmed",
            Self::CaptchaRequired => "captcha_required",
            Self::MethodOff => "method_off",
            Self::SecondFactorRequired => "second_factor_required",
            Self::RoleNotAdmitted => "role_not_admitted",
            Self::SessionTooLarge => "session_too_large",
        }
    }

    fn answer(self) -> (StatusCode, &'static str) {
        match self {
            Self::Malformed => (StatusCode::BAD_REQUEST, "The sign-in request is malformed."),
            Self::NotAService => (StatusCode::FORBIDDEN, "Only services may call this endpoint."),
            Self::InvalidCredentials => (StatusCode::UNAUTHORIZED, "These credentials are not valid."),
            Self::SessionEnded => (StatusCode::UNAUTHORIZED, "The session has ended."),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "The sign-in service is temporarily unavailable."),
            Self::RateLimited(_) => (StatusCode::TOO_MANY_REQUESTS, "Too many attempts."),
            Self::Off => (StatusCode::NOT_IMPLEMENTED, "No login server is configured."),
            Self::NotConfirmed => (StatusCode::FORBIDDEN, "The address of this account is not confirmed."),
            Self::CaptchaRequired => (StatusCode::FORBIDDEN, "The login server requires a captcha."),
            Self::MethodOff => (StatusCode::FORBIDDEN, "The login server does not offer this sign-in method."),
            Self::SecondFactorRequired => (StatusCode::FORBIDDEN, "This account must sign in with a second factor."),
            Self::RoleNotAdmitted => (StatusCode::FORBIDDEN, "The role of this account is not permitted."),
            Self::SessionTooLarge => (
                StatusCode::FORBIDDEN,
                "The access token of this account is larger than 8 KiB, or its session than 64 KiB.",
            ),
        }
    }

    /// Returns the problem document with the `code`. A 401 about the user's credentials has no challenge, unlike a 401
    /// about the caller's own. Only temporary failures have `Retry-After`.
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};

    use super::*;

    #[test]
    fn only_failures_that_pass_by_themselves_say_when_to_retry() {
        use LoginFailure::*;
        let permanent = [
            Malformed,
            NotAService,
            InvalidCredentials,
            SessionEnded,
            Off,
            NotConfirmed,
            CaptchaRequired,
            MethodOff,
            SecondFactorRequired,
            RoleNotAdmitted,
            SessionTooLarge,
        ];
        for failure in permanent {
            let response = failure.response();
            assert!(response.status().is_client_error() || failure == Off, "{failure:?}");
            assert!(!response.headers().contains_key(RETRY_AFTER), "{failure:?}");
            assert!(!response.headers().contains_key(WWW_AUTHENTICATE), "{failure:?}");
        }
        for failure in [Unavailable, RateLimited(Duration::from_millis(1500))] {
            assert!(failure.response().headers().contains_key(RETRY_AFTER), "{failure:?}");
        }
        let codes: BTreeSet<&str> = permanent.iter().map(|failure| failure.code()).collect();
        assert_eq!(codes.len(), permanent.len(), "each has a code of its own");
    }
}
