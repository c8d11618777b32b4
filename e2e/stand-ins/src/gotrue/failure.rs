//! Errors as GoTrue answers them.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::json;

/// One error: a status, a code for programs, and a text for users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: &'static str,
}

impl Failure {
    pub(super) const TOO_MANY: Self =
        Self::new(StatusCode::TOO_MANY_REQUESTS, "over_request_rate_limit", "Request rate limit reached");
    pub(super) const BAD_JSON: Self =
        Self::new(StatusCode::BAD_REQUEST, "bad_json", "Could not parse request body as JSON");
    pub(super) const GRANT_TYPE: Self =
        Self::new(StatusCode::BAD_REQUEST, "invalid_credentials", "unsupported_grant_type");
    pub(super) const CREDENTIALS: Self =
        Self::new(StatusCode::BAD_REQUEST, "invalid_credentials", "Invalid login credentials");
    pub(super) const NO_EMAIL: Self = Self::new(StatusCode::BAD_REQUEST, "validation_failed", "missing email or phone");
    pub(super) const WEAK_PASSWORD: Self =
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "weak_password", "Password should be at least 6 characters.");
    pub(super) const USER_EXISTS: Self =
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "user_already_exists", "User already registered");
    pub(super) const NOT_FOUND: Self =
        Self::new(StatusCode::BAD_REQUEST, "refresh_token_not_found", "Invalid Refresh Token: Refresh Token Not Found");
    pub(super) const ALREADY_USED: Self =
        Self::new(StatusCode::BAD_REQUEST, "refresh_token_already_used", "Invalid Refresh Token: Already Used");
    pub(super) const NO_FLOW: Self =
        Self::new(StatusCode::NOT_FOUND, "flow_state_not_found", "invalid flow state, no valid flow state found");
    pub(super) const FLOW_EXPIRED: Self =
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "flow_state_expired", "invalid flow state, flow state has expired");
    pub(super) const VERIFIER: Self = Self::new(
        StatusCode::BAD_REQUEST,
        "bad_code_verifier",
        "code challenge does not match previously saved code verifier",
    );
    pub(super) const NO_CODE: Self = Self::new(
        StatusCode::BAD_REQUEST,
        "validation_failed",
        "invalid request: both auth code and code verifier should be non-empty",
    );
    pub(super) const CHALLENGE: Self = Self::new(
        StatusCode::BAD_REQUEST,
        "validation_failed",
        "PKCE flow requires code_challenge_method and code_challenge",
    );
    pub(super) const NO_BEARER: Self =
        Self::new(StatusCode::UNAUTHORIZED, "no_authorization", "This endpoint requires a Bearer token");
    pub(super) const BAD_JWT: Self =
        Self::new(StatusCode::FORBIDDEN, "bad_jwt", "invalid JWT: unable to parse or verify signature");
    pub(super) const NO_SUB: Self = Self::new(StatusCode::FORBIDDEN, "bad_jwt", "invalid claim: missing sub claim");
    pub(super) const NO_SESSION: Self =
        Self::new(StatusCode::FORBIDDEN, "session_not_found", "Session from session_id claim in JWT does not exist");
    pub(super) const LOGOUT_SCOPE: Self =
        Self::new(StatusCode::BAD_REQUEST, "validation_failed", "Unsupported logout scope");

    pub(super) const TWO_NAMES: Self = Self::new(
        StatusCode::BAD_REQUEST,
        "validation_failed",
        "Only an email address or phone number should be provided on login.",
    );
    pub(super) const NOT_CONFIRMED: Self =
        Self::new(StatusCode::BAD_REQUEST, "email_not_confirmed", "Email not confirmed");
    pub(super) const BANNED: Self = Self::new(StatusCode::BAD_REQUEST, "user_banned", "User is banned");
    pub(super) const REFRESH_BANNED: Self =
        Self::new(StatusCode::BAD_REQUEST, "user_banned", "Invalid Refresh Token: User Banned");
    pub(super) const BEARER_BANNED: Self = Self::new(StatusCode::FORBIDDEN, "user_banned", "User is banned");
    pub(super) const NO_USER: Self =
        Self::new(StatusCode::FORBIDDEN, "user_not_found", "User from sub claim in JWT does not exist");
    pub(super) const EMAIL_OFF: Self =
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "email_provider_disabled", "Email logins are disabled");
    pub(super) const EMAIL_SIGNUPS_OFF: Self =
        Self::new(StatusCode::BAD_REQUEST, "email_provider_disabled", "Email signups are disabled");
    pub(super) const PHONE_OFF: Self =
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "phone_provider_disabled", "Phone logins are disabled");
    pub(super) const ANONYMOUS_OFF: Self =
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "anonymous_provider_disabled", "Anonymous sign-ins are disabled");
    pub(super) const SIGNUPS_OFF: Self =
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "signup_disabled", "Signups not allowed for this instance");
    pub(super) const CAPTCHA: Self = Self::new(
        StatusCode::BAD_REQUEST,
        "captcha_failed",
        "captcha protection: request disallowed (no captcha_token found)",
    );
    pub(super) const NO_PASSWORD: Self =
        Self::new(StatusCode::BAD_REQUEST, "validation_failed", "Signup requires a valid password");
    pub(super) const EMAIL_FORMAT: Self =
        Self::new(StatusCode::BAD_REQUEST, "validation_failed", "Unable to validate email address: invalid format");
    pub(super) const REFRESH_FORM: Self =
        Self::new(StatusCode::BAD_REQUEST, "validation_failed", "Refresh token is not valid");
    pub(super) const REFRESH_AHEAD: Self =
        Self::new(StatusCode::BAD_REQUEST, "validation_failed", "Invalid Refresh Token: Not Issued By This Server");
    pub(super) const PROVIDER_OFF: Self =
        Self::new(StatusCode::BAD_REQUEST, "validation_failed", "Unsupported provider: provider is not enabled");
    pub(super) const NOT_ADMIN: Self = Self::new(StatusCode::FORBIDDEN, "not_admin", "User not allowed");
    pub(super) const ADMIN_NO_USER: Self = Self::new(StatusCode::NOT_FOUND, "user_not_found", "User not found");
    pub(super) const NO_FACTOR: Self = Self::new(StatusCode::NOT_FOUND, "mfa_factor_not_found", "Factor not found");
    pub(super) const FACTOR_TYPE: Self =
        Self::new(StatusCode::BAD_REQUEST, "validation_failed", "factor_type needs to be totp, phone, or webauthn");
    pub(super) const ANONYMOUS_FACTOR: Self =
        Self::new(StatusCode::FORBIDDEN, "no_authorization", "Anonymous user not allowed to perform these actions");
    pub(super) const WRONG_DIGITS: Self =
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "mfa_verification_failed", "Invalid TOTP code entered");
    pub(super) const LOW_AAL: Self = Self::new(
        StatusCode::UNAUTHORIZED,
        "insufficient_aal",
        "AAL2 session is required to update email or password when MFA is enabled.",
    );

    const fn new(status: StatusCode, code: &'static str, message: &'static str) -> Self {
        Self { status, code, message }
    }

    pub(super) fn unexpected(status: StatusCode) -> Self {
        Self::new(status, "unexpected_failure", "Unexpected failure, please check server logs for more information")
    }
}

/// Internal failures: no randomness, an error of a library.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        tracing::error!(error = format!("{error:#}"), "the login server failed");
        Self::unexpected(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = json!({ "code": self.status.as_u16(), "error_code": self.code, "msg": self.message });
        let mut response = (self.status, [("x-sb-error-code", self.code)], Json(body)).into_response();
        response.extensions_mut().insert(self);
        response
    }
}
