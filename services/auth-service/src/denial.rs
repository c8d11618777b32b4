//! Why there is no token, and what is said about it.

use std::time::Duration;

use gaia_auth::Reason;
use http::StatusCode;

use crate::grants::NameError;
use gaia_runtime::rate::retry_after;

/// Why there is no token. The reason goes to logs and metrics; the caller sees one message per status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Denial {
    /// The request is not what it should be.
    Malformed,
    /// A broad token carries no scope.
    ScopeWithoutTarget,
    /// Several services have the target's name.
    TargetAmbiguous,
    /// The peer runs no service of that name.
    NotItsName,
    /// The peer runs no service at all.
    CallerUnknown,
    /// The peer may call the target, but for nobody else.
    DelegationNotGranted,
    /// What is asked for is no token exchange.
    GrantTypeUnknown,
    /// The credential to exchange is no good, or cannot be judged.
    SubjectRefused(Reason),
    /// Too many requests of this caller, for this subject or from this client.
    TooMany(Duration),
    /// More is asked for than can be signed.
    Busy,
    /// There is no such target.
    TargetUnknown,
    /// The pair is not granted.
    PairNotGranted,
    /// None of the scopes is granted.
    ScopeNotGranted,
    /// The peer's certificate is revoked.
    PeerRevoked,
    /// Tokens about the peer that are issued now are revoked.
    SubjectRevoked,
    /// The peer's certificate ends before a token could begin.
    CertificateEnding,
    /// There is no signing key that may be used, or there are no grants yet.
    NotReady,
    /// The signing library failed.
    SigningFailed,
}

impl Denial {
    /// The text used as a metric label and in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::ScopeWithoutTarget => "scope_without_target",
            Self::TargetAmbiguous => "target_ambiguous",
            Self::NotItsName => "not_its_name",
            Self::CallerUnknown => "caller_unknown",
            Self::DelegationNotGranted => "delegation_not_granted",
            Self::GrantTypeUnknown => "grant_type_unknown",
            Self::SubjectRefused(reason) => reason.as_str(),
            Self::TooMany(_) => "too_many",
            Self::Busy => "busy",
            Self::TargetUnknown => "target_unknown",
            Self::PairNotGranted => "pair_not_granted",
            Self::ScopeNotGranted => "scope_not_granted",
            Self::PeerRevoked => "peer_revoked",
            Self::SubjectRevoked => "subject_revoked",
            Self::CertificateEnding => "certificate_ending",
            Self::NotReady => "not_ready",
            Self::SigningFailed => "signing_failed",
        }
    }

    /// RFC 6749, section 5.2, and RFC 8693, section 2.2.2: the code that an OAuth client knows.
    #[must_use]
    pub fn oauth_code(self) -> &'static str {
        match self {
            Self::GrantTypeUnknown => "unsupported_grant_type",
            Self::TargetUnknown | Self::TargetAmbiguous | Self::PairNotGranted => "invalid_target",
            Self::ScopeNotGranted | Self::ScopeWithoutTarget => "invalid_scope",
            Self::NotItsName
            | Self::CallerUnknown
            | Self::DelegationNotGranted
            | Self::PeerRevoked
            | Self::SubjectRevoked
            | Self::CertificateEnding => "unauthorized_client",
            Self::SigningFailed => "server_error",
            Self::TooMany(_) | Self::Busy | Self::NotReady => "temporarily_unavailable",
            Self::SubjectRefused(reason) if reason.status() == StatusCode::SERVICE_UNAVAILABLE => {
                "temporarily_unavailable"
            }
            Self::Malformed | Self::SubjectRefused(_) => "invalid_request",
        }
    }

    /// Whether it is for the credential or for what was asked with it. Such a request is charged to the client that it
    /// came from.
    #[must_use]
    pub fn is_of_the_request(self) -> bool {
        matches!(self.answer().0, StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN)
    }

    /// After how many seconds to ask again, where that is worth a try. A refusal without it is definitive.
    #[must_use]
    pub fn retry_after(self) -> Option<u64> {
        match self {
            Self::TooMany(wait) => Some(retry_after(wait)),
            // It may be published already, and not yet here.
            Self::SubjectRefused(Reason::KidUnknown) => Some(1),
            _ if self.answer().0 == StatusCode::SERVICE_UNAVAILABLE => Some(1),
            _ => None,
        }
    }

    /// The status and the one message the caller sees.
    #[must_use]
    pub fn answer(self) -> (StatusCode, &'static str) {
        match self {
            Self::Malformed | Self::ScopeWithoutTarget | Self::TargetAmbiguous | Self::GrantTypeUnknown => {
                (StatusCode::BAD_REQUEST, "This is not a request for a token.")
            }
            Self::SubjectRefused(reason) if reason.status() == StatusCode::SERVICE_UNAVAILABLE => {
                (StatusCode::SERVICE_UNAVAILABLE, "The credential cannot be judged yet.")
            }
            Self::SubjectRefused(_) => (StatusCode::BAD_REQUEST, "The credential to exchange is not accepted."),
            Self::TooMany(_) => (StatusCode::TOO_MANY_REQUESTS, "Too many requests for tokens."),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "Too many tokens are asked for."),
            Self::NotItsName
            | Self::CallerUnknown
            | Self::DelegationNotGranted
            | Self::TargetUnknown
            | Self::PairNotGranted
            | Self::ScopeNotGranted
            | Self::PeerRevoked
            | Self::SubjectRevoked
            | Self::CertificateEnding => (StatusCode::FORBIDDEN, "This caller may not have that token."),
            Self::NotReady => (StatusCode::SERVICE_UNAVAILABLE, "Tokens cannot be issued yet."),
            Self::SigningFailed => (StatusCode::INTERNAL_SERVER_ERROR, "The token could not be made."),
        }
    }
}

impl From<NameError> for Denial {
    fn from(error: NameError) -> Self {
        match error {
            NameError::Unknown => Self::TargetUnknown,
            NameError::Ambiguous => Self::TargetAmbiguous,
        }
    }
}
