//! Errors of the provider, and the limited information sent to clients.

use std::io;
use std::path::PathBuf;

use http::StatusCode;

/// Reason why there is no answer, or only a part of it. The provider's message is omitted: it may contain part of our
/// key.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The key file is missing or cannot be read.
    #[error("the provider's key in {path} cannot be read")]
    KeyNotRead {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The key file contains no valid key.
    #[error("{path} has no key: it must be one line of at most 4096 visible ASCII characters")]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// The provider cannot be reached.
    #[error("cannot reach the provider")]
    NotReached(#[source] reqwest::Error),
    /// The answer did not start in time.
    #[error("the provider did not start its answer in time")]
    NoBeginning,
    /// The provider's rate limit is exceeded.
    #[error("the rate limit of the provider is exceeded")]
    RateLimited {
        /// The provider's `Retry-After`, in seconds.
        retry_after: Option<u64>,
    },
    /// The provider accepts our key but refuses the request.
    #[error("the provider refused the request: {0}")]
    Refused(StatusCode),
    /// Any other status: our key is rejected, the provider failed, or it redirects.
    #[error("the provider responded with {0}")]
    Status(StatusCode),
    /// A success that is not an event stream.
    #[error("the provider's response is not an event stream")]
    NotAStream,
    /// The stream stalled.
    #[error("the provider's answer stalled")]
    Silent,
    /// The answer exceeds the time or size limit.
    #[error("the provider's answer exceeded the time or size limit")]
    Endless,
    /// The connection was closed or reset.
    #[error("the provider closed the connection before the end of the answer")]
    BrokeOff(#[source] reqwest::Error),
    /// The stream ended before the answer was complete.
    #[error("the provider's answer ended without a finish reason")]
    EndedEarly,
    /// An event exceeds the size limit.
    #[error("the provider sent an event above the size limit")]
    LineTooLong,
    /// An event is malformed.
    #[error("the provider sent a malformed event")]
    Garbage,
    /// An error object within the stream.
    #[error("the provider reported an error within the answer")]
    ErrorMidStream,
}

impl ProviderError {
    /// Returns the code for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::RateLimited { .. } => "provider_rate_limited",
            Self::Refused(_) => "provider_refused",
            Self::NoBeginning | Self::Silent | Self::Endless => "provider_timeout",
            Self::BrokeOff(_) | Self::EndedEarly | Self::LineTooLong | Self::Garbage | Self::NotAStream => {
                "provider_interrupted"
            }
            Self::KeyNotRead { .. }
            | Self::NoKey { .. }
            | Self::NotReached(_)
            | Self::Status(_)
            | Self::ErrorMidStream => "provider_unavailable",
        }
    }

    /// Returns the HTTP status, for responses that have not started.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::NoBeginning | Self::Silent | Self::Endless => StatusCode::GATEWAY_TIMEOUT,
            Self::KeyNotRead { .. } | Self::NoKey { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Status(status) if *status == StatusCode::SERVICE_UNAVAILABLE => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_GATEWAY,
        }
    }

    /// Returns the message for users.
    #[must_use]
    pub fn message(&self) -> &'static str {
        match self.code() {
            "provider_rate_limited" => "The provider's rate limit is exceeded. Try again later.",
            "provider_refused" => "The provider rejected this conversation: it may be too long, or the model unknown.",
            "provider_timeout" => "The provider did not respond in time.",
            "provider_interrupted" => "The answer was interrupted.",
            _ => "The provider is unavailable. Try again later.",
        }
    }
}
