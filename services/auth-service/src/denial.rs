//! Reasons why no token is issued, and their responses.

use std::time::Duration;

use gaia_auth::Reason;
use http::StatusCode;

use crate::grants::NameError;
use gaia_runtime::rate::retry_after;

/// Reason why no token is issued. It goes to logs and metrics; the client gets one message per status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Denial {
    /// The request is malformed.
    Malformed,
    /// A broad token cannot have scopes.
    ScopeWithoutTarget,
    /// Several services match the target's name.
    TargetAmbiguous,
    /// The peer runs no service of that name.
    NotItsName,
    /// The peer runs no declared service.
    CallerUnknown,
    /// The peer may call the target, but not on behalf of others.
    DelegationNotGranted,
    /// The request is not a token exchange.
    GrantTypeUnknown,
    /// The credential to exchange is rejected, or cannot be verified at present.
    SubjectRefused(Reason),
    /// The rate limit of the caller, the subject or the client is exceeded.
    TooMany(Duration),
    /// The signing queue is full.
    Busy,
    /// The target does not exist.
    TargetUnknown,
    /// No grant permits the caller to call the target.
    PairNotGranted,
    /// None of the scopes is granted.
    ScopeNotGranted,
    /// The peer's certificate is revoked.
    PeerRevoked,
    /// Tokens of the peer issued at this time are revoked.
    SubjectRevoked,
    /// The peer's certificate expires before the token would be valid.
    CertificateEnding,
    /// The signing key or the grants are not loaded yet.
    NotReady,
    /// The cryptography library failed.
    SigningFailed,
}

impl Denial {
    /// Returns the metric label, also used in logs.
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

    /// Returns the OAuth error code (RFC 6749, section 5.2, and RFC 8693, section 2.2.2).
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

    /// Returns true if the credential or the parameters caused the refusal. Such a request is charged to its client.
    #[must_use]
    pub fn is_of_the_request(self) -> bool {
        matches!(self.answer().0, StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN)
    }

    /// Returns true if a retry would be refused too while the mounted files stay the same.
    #[must_use]
    pub fn is_definitive(self) -> bool {
        // The revocation of a service ends by time.
        self.is_of_the_request() && self.retry_after().is_none() && self != Self::SubjectRevoked
    }

    /// Returns the seconds for `Retry-After`, if a retry may succeed. A refusal without it is definitive.
    #[must_use]
    pub fn retry_after(self) -> Option<u64> {
        match self {
            Self::TooMany(wait) => Some(retry_after(wait)),
            // The key may be published already, but not loaded here yet.
            Self::SubjectRefused(Reason::KidUnknown) => Some(1),
            // Time alone may change it.
            Self::SubjectRefused(Reason::NotYetValid | Reason::IssuedInFuture | Reason::ApiKeysBrownedOut) => Some(1),
            _ if self.answer().0 == StatusCode::SERVICE_UNAVAILABLE => Some(1),
            _ => None,
        }
    }

    /// Returns the status and the message for the client.
    #[must_use]
    pub fn answer(self) -> (StatusCode, &'static str) {
        match self {
            Self::Malformed | Self::ScopeWithoutTarget | Self::TargetAmbiguous | Self::GrantTypeUnknown => {
                (StatusCode::BAD_REQUEST, "The token request is malformed.")
            }
            Self::SubjectRefused(reason) if reason.status() == StatusCode::SERVICE_UNAVAILABLE => {
                (StatusCode::SERVICE_UNAVAILABLE, "The credential cannot be verified at present. Try again later.")
            }
            Self::SubjectRefused(_) => (StatusCode::BAD_REQUEST, "The credential to exchange is not accepted."),
            Self::TooMany(_) => (StatusCode::TOO_MANY_REQUESTS, "Too many requests for tokens."),
            Self::Busy => {
                (StatusCode::SERVICE_UNAVAILABLE, "Too many token requests are waiting to be signed. Try again later.")
            }
            Self::NotItsName
            | Self::CallerUnknown
            | Self::DelegationNotGranted
            | Self::TargetUnknown
            | Self::PairNotGranted
            | Self::ScopeNotGranted
            | Self::PeerRevoked
            | Self::SubjectRevoked
            | Self::CertificateEnding => (StatusCode::FORBIDDEN, "This caller is not permitted to get this token."),
            Self::NotReady => (StatusCode::SERVICE_UNAVAILABLE, "The token issuer is not ready yet."),
            Self::SigningFailed => (StatusCode::INTERNAL_SERVER_ERROR, "The token could not be signed."),
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
