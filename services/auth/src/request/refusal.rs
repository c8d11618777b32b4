//! Reasons for refusals, and the limited information sent to clients.

use std::sync::Arc;

use http::{HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;

use crate::request::notice::http_date;

/// Reason for a refusal. It goes to logs and metrics only; the client gets one message per status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "variant names describe the finding; `as_str` and `status` document them")]
pub enum Reason {
    // Malformed: 400.
    AuthorizationRepeated,
    AuthorizationNotText,
    ApiKeyRepeated,
    CredentialTooLong,
    CredentialEmpty,
    TokenShape,
    TokenAlphabet,
    TokenHeaderTooLong,
    // Not authenticated: 401.
    NoCredential,
    SchemeUnknown,
    HeaderNotJson,
    HeaderNameRepeated,
    HeaderFieldRefused,
    TypeWrong,
    KidMissing,
    KidUnknown,
    KidRevoked,
    AlgorithmWrong,
    SignatureWrong,
    ClaimsNotJson,
    ClaimRepeated,
    IssuerWrong,
    AudienceWrong,
    SubjectWrong,
    ActorWrong,
    KindNotAccepted,
    TokenIdMissing,
    TokenIdRevoked,
    TimesMissing,
    Expired,
    NotYetValid,
    IssuedInFuture,
    LifeTooLong,
    ScopeMalformed,
    SubjectRevoked,
    PeerMissing,
    /// A platform token on an ingress listener, where clients present no certificate.
    MeshOnly,
    PeerDiffers,
    PeerExpired,
    PeerRevoked,
    /// The peer is the operator, which never calls services.
    PeerNotAWorkload,
    ConfirmationDiffers,
    /// An unreadable token next to an API key; the key does not replace it.
    TokenUnreadable,
    ApiKeyUnknown,
    ApiKeyExpired,
    ApiKeyRevoked,
    /// The key belongs to a user of an issuer that is not in the policy.
    ApiKeyIssuerUnknown,
    ApiKeysNotAccepted,
    /// Keys are temporarily refused, to find remaining users.
    ApiKeysBrownedOut,
    CredentialsConflict,
    /// The `anon` or `service_role` key of a project, which names no user.
    ProjectKey,
    IdToken,
    /// A token for an OAuth client that is not listed.
    ClientNotListed,
    AnonymousUser,
    ClaimRequired,
    /// The issuer, queried over HTTP, rejected the token.
    IssuerRefused,
    // Authenticated, not permitted: 403.
    ScopeMissing,
    CallerNotDeclared,
    /// The caller may not carry another identity.
    DelegationNotAllowed,
    // Unable to decide: 503.
    PolicyNotLoaded,
    KeysNotLoaded,
    /// The keys of an external issuer were never loaded, or are too old.
    IssuerKeysNotLoaded,
    /// The issuer, queried over HTTP, does not respond.
    IssuerUnavailable,
}

impl Reason {
    /// The text used as a metric label and in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AuthorizationRepeated => "authorization_repeated",
            Self::AuthorizationNotText => "authorization_not_text",
            Self::ApiKeyRepeated => "api_key_repeated",
            Self::CredentialTooLong => "credential_too_long",
            Self::CredentialEmpty => "credential_empty",
            Self::TokenShape => "token_shape",
            Self::TokenAlphabet => "token_alphabet",
            Self::TokenHeaderTooLong => "token_header_too_long",
            Self::NoCredential => "no_credential",
            Self::SchemeUnknown => "scheme_unknown",
            Self::HeaderNotJson => "header_not_json",
            Self::HeaderNameRepeated => "header_name_repeated",
            Self::HeaderFieldRefused => "header_field_refused",
            Self::TypeWrong => "type_wrong",
            Self::KidMissing => "kid_missing",
            Self::KidUnknown => "kid_unknown",
            Self::KidRevoked => "kid_revoked",
            Self::AlgorithmWrong => "algorithm_wrong",
            Self::SignatureWrong => "signature_wrong",
            Self::ClaimsNotJson => "claims_not_json",
            Self::ClaimRepeated => "claim_repeated",
            Self::IssuerWrong => "issuer_wrong",
            Self::AudienceWrong => "audience_wrong",
            Self::SubjectWrong => "subject_wrong",
            Self::ActorWrong => "actor_wrong",
            Self::KindNotAccepted => "kind_not_accepted",
            Self::TokenIdMissing => "jti_missing",
            Self::TokenIdRevoked => "jti_revoked",
            Self::TimesMissing => "times_missing",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::IssuedInFuture => "issued_in_future",
            Self::LifeTooLong => "life_too_long",
            Self::ScopeMalformed => "scope_malformed",
            Self::SubjectRevoked => "subject_revoked",
            Self::PeerMissing => "peer_missing",
            Self::MeshOnly => "mesh_only",
            Self::PeerDiffers => "peer_differs",
            Self::PeerExpired => "peer_expired",
            Self::PeerRevoked => "peer_revoked",
            Self::PeerNotAWorkload => "peer_not_a_workload",
            Self::ConfirmationDiffers => "confirmation_differs",
            Self::TokenUnreadable => "token_unreadable",
            Self::ApiKeyUnknown => "api_key_unknown",
            Self::ApiKeyExpired => "api_key_expired",
            Self::ApiKeyRevoked => "api_key_revoked",
            Self::ApiKeyIssuerUnknown => "api_key_issuer_unknown",
            Self::ApiKeysNotAccepted => "api_keys_not_accepted",
            Self::ApiKeysBrownedOut => "api_keys_browned_out",
            Self::CredentialsConflict => "credentials_conflict",
            Self::ProjectKey => "project_key",
            Self::IdToken => "id_token",
            Self::ClientNotListed => "client_not_listed",
            Self::AnonymousUser => "anonymous_user",
            Self::ClaimRequired => "claim_required",
            Self::IssuerRefused => "issuer_refused",
            Self::ScopeMissing => "scope_missing",
            Self::CallerNotDeclared => "caller_not_declared",
            Self::DelegationNotAllowed => "delegation_not_allowed",
            Self::PolicyNotLoaded => "policy_not_loaded",
            Self::KeysNotLoaded => "keys_not_loaded",
            Self::IssuerKeysNotLoaded => "issuer_keys_not_loaded",
            Self::IssuerUnavailable => "issuer_unavailable",
        }
    }

    /// Returns the HTTP status for the client.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::AuthorizationRepeated
            | Self::AuthorizationNotText
            | Self::ApiKeyRepeated
            | Self::CredentialTooLong
            | Self::CredentialEmpty
            | Self::TokenShape
            | Self::TokenAlphabet
            | Self::TokenHeaderTooLong => StatusCode::BAD_REQUEST,
            Self::ScopeMissing | Self::CallerNotDeclared | Self::DelegationNotAllowed => StatusCode::FORBIDDEN,
            Self::PolicyNotLoaded | Self::KeysNotLoaded | Self::IssuerKeysNotLoaded | Self::IssuerUnavailable => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            _ => StatusCode::UNAUTHORIZED,
        }
    }
}

/// A refused request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The reason.
    pub reason: Reason,
    /// Loggable details of the credential.
    pub trace: Trace,
    /// Time from which the credential may be accepted again, if known: the end of a brownout.
    pub until: Option<Timestamp>,
}

/// Loggable details of a credential: names, never secrets. Client-supplied texts are truncated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// The signing key named by the token.
    pub kid: Option<Arc<str>>,
    /// The verified token ID.
    pub jti: Option<Arc<str>>,
    /// The verified subject of the token.
    pub sub: Option<Arc<str>>,
    /// Unverified names from the token.
    pub claimed: Option<Box<Claimed>>,
    /// The ID of the API key record.
    pub key_id: Option<Arc<str>>,
}

/// Unverified names from a token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claimed {
    /// The token ID.
    pub jti: Option<Arc<str>>,
    /// The subject.
    pub sub: Option<Arc<str>>,
}

impl Trace {
    /// Returns the unverified token ID.
    #[must_use]
    pub fn claimed_jti(&self) -> Option<&str> {
        self.claimed.as_ref()?.jti.as_deref()
    }

    /// Returns the unverified subject.
    #[must_use]
    pub fn claimed_sub(&self) -> Option<&str> {
        self.claimed.as_ref()?.sub.as_deref()
    }

    /// Converts the names of an unverified token.
    pub(crate) fn into_claimed(self) -> Self {
        Self { claimed: Some(Box::new(Claimed { jti: self.jti, sub: self.sub })), jti: None, sub: None, ..self }
    }

    /// Converts the names after the token was verified.
    pub(crate) fn into_verified(self) -> Self {
        let Claimed { jti, sub } = self.claimed.map(|claimed| *claimed).unwrap_or_default();
        Self { jti, sub, claimed: None, ..self }
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self { reason, trace: Trace::default(), until: None }
    }
}

impl Refusal {
    /// Returns the response, an RFC 9457 problem document that is the same for every reason of a status.
    #[must_use]
    pub fn response<B: From<String>>(&self) -> Response<B> {
        let status = self.reason.status();
        let mut response = match self.until {
            Some(until) => problem(status, &format!("API keys are refused here until {until}.")),
            None => problem(status, message(self.reason)),
        };
        let until = self.until.and_then(http_date).and_then(|date| HeaderValue::try_from(date).ok());
        if let Some(until) = until {
            response.headers_mut().insert(header::RETRY_AFTER, until);
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge(self.reason));
        }
        response
    }
}

/// Returns an RFC 9457 problem document that must not be cached.
#[must_use]
pub fn problem<B: From<String>>(status: StatusCode, detail: &str) -> Response<B> {
    problem_with(status, detail, &[])
}

/// Like [`problem`], with extension members (RFC 9457, section 3.2) such as a `code`.
#[must_use]
pub fn problem_with<B: From<String>>(status: StatusCode, detail: &str, members: &[(&str, &str)]) -> Response<B> {
    let mut body = serde_json::json!({
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "detail": detail,
    });
    for (name, value) in members {
        body[*name] = (*value).into();
    }
    let mut response = Response::new(B::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Returns the message for the client. Two reasons of a 401 have messages of their own that name a next step: a key
/// where keys are disabled, and a platform token on an ingress listener.
fn message(reason: Reason) -> &'static str {
    match (reason, reason.status()) {
        (Reason::ApiKeysNotAccepted, _) => "API keys are no longer accepted here.",
        (Reason::MeshOnly, _) => "Platform tokens are accepted only on the mesh listener, with a client certificate.",
        (_, StatusCode::BAD_REQUEST) => "The credentials of this request are malformed.",
        (_, StatusCode::FORBIDDEN) => "This caller is not permitted to do this.",
        (_, StatusCode::SERVICE_UNAVAILABLE) => "Authentication is not ready yet. Try again later.",
        _ => "This request requires valid credentials.",
    }
}

/// Returns the challenge. RFC 6750, section 3: no error code if no credential was presented.
fn challenge(reason: Reason) -> HeaderValue {
    HeaderValue::from_static(match reason {
        Reason::NoCredential | Reason::SchemeUnknown => r#"Bearer realm="gaia""#,
        _ => r#"Bearer realm="gaia", error="invalid_token""#,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_of_a_status_gives_the_same_answer() {
        let answer = |reason: Reason| {
            let response: Response<String> = Refusal::from(reason).response();
            (response.status(), response.headers().clone(), response.into_body())
        };
        assert_eq!(answer(Reason::Expired), answer(Reason::SignatureWrong));
        assert_eq!(answer(Reason::ApiKeyUnknown), answer(Reason::KidUnknown));
        assert_eq!(answer(Reason::TokenShape), answer(Reason::AuthorizationRepeated));
        assert_eq!(answer(Reason::ScopeMissing), answer(Reason::CallerNotDeclared));
    }

    #[test]
    fn only_a_401_carries_a_challenge_and_only_a_bad_credential_an_error_code() {
        let challenge = |reason: Reason| {
            let response: Response<String> = Refusal::from(reason).response();
            response.headers().get(header::WWW_AUTHENTICATE).map(|v| v.to_str().unwrap().to_owned())
        };
        assert_eq!(challenge(Reason::NoCredential).unwrap(), r#"Bearer realm="gaia""#);
        assert_eq!(challenge(Reason::Expired).unwrap(), r#"Bearer realm="gaia", error="invalid_token""#);
        assert_eq!(challenge(Reason::ScopeMissing), None);
        assert_eq!(challenge(Reason::TokenShape), None);
        assert_eq!(challenge(Reason::KeysNotLoaded), None);
    }
}
