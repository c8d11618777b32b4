//! Why a chat did not come to its end, and what the caller is told of it.

use axum::response::{IntoResponse, Response};
use gaia_auth::problem_with;
use gaia_runtime::NoRoom;
use gaia_runtime::rate::when_to_retry;
use http::StatusCode;

use crate::provider::ProviderError;
use crate::question::InvalidQuestion;
use crate::slots::NoSlot;

/// Why there is no answer, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The request is larger than any may be.
    #[error("the request is too large")]
    TooLarge,
    /// The request did not arrive.
    #[error("the request did not arrive")]
    NotArrived,
    /// The request is not what it must be.
    #[error(transparent)]
    Invalid(#[from] InvalidQuestion),
    /// Too much is under way.
    #[error(transparent)]
    NoSlot(#[from] NoSlot),
    /// Too much is on its way in.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// The caller's credential ended before the answer did.
    #[error("the credential has ended")]
    CredentialEnded,
    /// The provider failed.
    #[error(transparent)]
    Provider(#[from] ProviderError),
}

impl ChatError {
    /// The one word by which programs know it; also in metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::NotArrived => "not_arrived",
            Self::Invalid(_) => "invalid_request",
            Self::NoSlot(NoSlot::ForSubject) => "too_many_chats",
            Self::NoSlot(NoSlot::ForAnybody) | Self::NoRoom(_) => "too_busy",
            Self::CredentialEnded => "credential_ended",
            Self::Provider(error) => error.code(),
        }
    }

    /// What a person is told.
    #[must_use]
    pub fn message(&self) -> String {
        let text = match self {
            Self::TooLarge => "A request may have at most 512 KiB.",
            Self::NotArrived => "The request did not arrive.",
            Self::Invalid(invalid) => return format!("{invalid}."),
            Self::NoSlot(NoSlot::ForSubject) => "Too many answers are under way for you.",
            Self::NoSlot(NoSlot::ForAnybody) => "Too many answers are under way.",
            Self::NoRoom(_) => "Too many requests are on their way in.",
            Self::CredentialEnded => "The credential of this request has ended.",
            Self::Provider(error) => error.message(),
        };
        text.to_owned()
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotArrived => StatusCode::REQUEST_TIMEOUT,
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::NoSlot(NoSlot::ForSubject) => StatusCode::TOO_MANY_REQUESTS,
            Self::NoSlot(NoSlot::ForAnybody) | Self::NoRoom(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::CredentialEnded => StatusCode::UNAUTHORIZED,
            Self::Provider(error) => error.status(),
        }
    }

    /// Seconds after which it may be different.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::NoSlot(_) | Self::NoRoom(_) => Some(1),
            Self::Provider(ProviderError::RateLimited { retry_after }) => {
                Some(retry_after.unwrap_or(USUAL_WAIT_SECONDS).min(MAX_WAIT_SECONDS))
            }
            Self::Provider(error) if error.status() == StatusCode::SERVICE_UNAVAILABLE => Some(USUAL_WAIT_SECONDS),
            _ => None,
        }
    }
}

impl IntoResponse for ChatError {
    fn into_response(self) -> Response {
        let mut members = vec![("code", self.code())];
        if let Self::Invalid(invalid) = &self {
            members.push(("field", &invalid.field));
        }
        when_to_retry(problem_with(self.status(), &self.message(), &members), self.retry_after())
    }
}

const USUAL_WAIT_SECONDS: u64 = 5;
const MAX_WAIT_SECONDS: u64 = 3600;
