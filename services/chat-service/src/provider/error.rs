//! Why a provider did not answer, and the little of it that a caller is told.

use std::io;
use std::path::PathBuf;

use http::StatusCode;

/// Why there is no answer, or no more of it. What the provider said in words stays out: it may hold part of our key.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The file with the key is missing or cannot be read.
    #[error("the provider's key in {path} cannot be read")]
    KeyNotRead {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds nothing that could be a key.
    #[error("{path} holds no key: it must be one line of at most 4096 visible ASCII characters")]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// Nobody is there.
    #[error("the provider is not reached")]
    NotReached(#[source] reqwest::Error),
    /// The answer did not begin in time.
    #[error("the provider's answer did not begin in time")]
    NoBeginning,
    /// It takes no more for now.
    #[error("the provider limits our rate")]
    RateLimited {
        /// The seconds it asked us to wait.
        retry_after: Option<u64>,
    },
    /// It takes our key, but not what was asked.
    #[error("the provider refuses the request: {0}")]
    Refused(StatusCode),
    /// Any other status: our key is no good, its servers are not, or it wants us elsewhere.
    #[error("the provider answered {0}")]
    Status(StatusCode),
    /// A success that is no event stream.
    #[error("the provider's answer is no event stream")]
    NotAStream,
    /// The answer stopped coming.
    #[error("the provider fell silent in the middle of an answer")]
    Silent,
    /// The answer goes on and on.
    #[error("the provider did not come to an end in time")]
    Endless,
    /// The connection broke.
    #[error("the provider's answer broke off")]
    BrokeOff(#[source] reqwest::Error),
    /// The stream ended before the answer did.
    #[error("the provider's answer ended without a finish reason")]
    EndedEarly,
    /// An event is longer than any should be.
    #[error("the provider sent a line that is too long")]
    LineTooLong,
    /// An event is not what the protocol has.
    #[error("the provider sent an event that cannot be read")]
    Garbage,
    /// An error object in the middle of the stream.
    #[error("the provider sent an error in the middle of an answer")]
    ErrorMidStream,
}

impl ProviderError {
    /// The one word by which programs know it.
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

    /// The status where there is still one to give.
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

    /// What a person is told.
    #[must_use]
    pub fn message(&self) -> &'static str {
        match self.code() {
            "provider_rate_limited" => "The provider takes no more requests for now.",
            "provider_refused" => {
                "The provider does not take this conversation: it may be too long, or the model unknown."
            }
            "provider_timeout" => "The provider took too long.",
            "provider_interrupted" => "The answer broke off.",
            _ => "The provider cannot be used right now.",
        }
    }
}
