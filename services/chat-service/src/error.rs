//! Reasons why a chat fails, and their responses.

use axum::response::{IntoResponse, Response};
use gaia_auth::problem_with;
use gaia_runtime::BudgetExhausted;
use gaia_runtime::rate::when_to_retry;
use http::StatusCode;

use crate::provider::ProviderError;
use crate::question::InvalidQuestion;
use crate::slots::NoSlot;

/// Reason why there is no answer, or only a part of it.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The request is too large.
    #[error("the request is too large")]
    TooLarge,
    /// The request body was not received.
    #[error("the request body was not received")]
    NotArrived,
    /// The request is invalid.
    #[error(transparent)]
    Invalid(#[from] InvalidQuestion),
    /// The limit of concurrent answers is reached.
    #[error(transparent)]
    NoSlot(#[from] NoSlot),
    /// The memory budget for questions is exhausted.
    #[error(transparent)]
    BudgetExhausted(#[from] BudgetExhausted),
    /// The caller's credential expired before the end of the answer.
    #[error("the credential has expired")]
    CredentialEnded,
    /// The provider failed.
    #[error(transparent)]
    Provider(#[from] ProviderError),
}

impl ChatError {
    /// Returns the code for programs, also used in metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::NotArrived => "not_arrived",
            Self::Invalid(_) => "invalid_request",
            Self::NoSlot(NoSlot::ForSubject) => "too_many_chats",
            Self::NoSlot(NoSlot::ForAnybody) | Self::BudgetExhausted(_) => "too_busy",
            Self::CredentialEnded => "credential_ended",
            Self::Provider(error) => error.code(),
        }
    }

    /// Returns the message for users.
    #[must_use]
    pub fn message(&self) -> String {
        let text = match self {
            Self::TooLarge => "A request may have at most 512 KiB.",
            Self::NotArrived => "The request body was not received.",
            Self::Invalid(invalid) => return format!("{invalid}."),
            Self::NoSlot(NoSlot::ForSubject) => "You have too many answers in progress.",
            Self::NoSlot(NoSlot::ForAnybody) => "Too many answers are in progress.",
            Self::BudgetExhausted(_) => "Too many requests are being received.",
            Self::CredentialEnded => "The credential of this request has expired.",
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
            Self::NoSlot(NoSlot::ForAnybody) | Self::BudgetExhausted(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::CredentialEnded => StatusCode::UNAUTHORIZED,
            Self::Provider(error) => error.status(),
        }
    }

    /// Returns the seconds for `Retry-After`.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::NoSlot(_) | Self::BudgetExhausted(_) => Some(1),
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
