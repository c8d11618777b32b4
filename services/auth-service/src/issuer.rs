//! Who gets which service token.

use gaia_auth::issue::ServiceClaims;
use gaia_auth::{PeerIdentity, parse_scope};
use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;

use crate::grants::{GrantTable, NameError, granted};

/// What a service asks for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// The caller's own name.
    pub service_name: String,
    /// Whom it wants to call, `name` or `namespace/name`; none: a broad token of the dual phases.
    #[serde(default)]
    pub target_service: Option<String>,
    /// The scopes it wants, one space apart; none: all that are granted.
    #[serde(default)]
    pub scope: Option<String>,
}

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
    /// There is no such target.
    TargetUnknown,
    /// The pair is not granted.
    PairNotGranted,
    /// None of the scopes is granted.
    ScopeNotGranted,
    /// The peer's certificate ends before a token could begin.
    CertificateEnding,
    /// There is no signing key, or there are no grants yet.
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
            Self::TargetUnknown => "target_unknown",
            Self::PairNotGranted => "pair_not_granted",
            Self::ScopeNotGranted => "scope_not_granted",
            Self::CertificateEnding => "certificate_ending",
            Self::NotReady => "not_ready",
            Self::SigningFailed => "signing_failed",
        }
    }

    /// The status and the one message the caller sees.
    #[must_use]
    pub fn answer(self) -> (StatusCode, &'static str) {
        match self {
            Self::Malformed | Self::ScopeWithoutTarget | Self::TargetAmbiguous => {
                (StatusCode::BAD_REQUEST, "This is not a request for a service token.")
            }
            Self::NotItsName
            | Self::TargetUnknown
            | Self::PairNotGranted
            | Self::ScopeNotGranted
            | Self::CertificateEnding => (StatusCode::FORBIDDEN, "This caller may not have that token."),
            Self::NotReady => (StatusCode::SERVICE_UNAVAILABLE, "Tokens cannot be issued yet."),
            Self::SigningFailed => (StatusCode::INTERNAL_SERVER_ERROR, "The token could not be made."),
        }
    }
}

/// Reads a request.
///
/// # Errors
/// [`Denial::Malformed`] if it is not the JSON it should be.
pub fn parse(body: &[u8]) -> Result<TokenRequest, Denial> {
    serde_json::from_slice(body).map_err(|_| Denial::Malformed)
}

/// The claims a peer gets for its request, issued at `now` under the id `jti`.
///
/// # Errors
/// [`Denial`] with the first rule in the way.
pub fn claims(
    grants: &GrantTable,
    peer: &PeerIdentity,
    request: &TokenRequest,
    now: Timestamp,
    jti: String,
) -> Result<ServiceClaims, Denial> {
    let requested = match &request.scope {
        None => None,
        Some(scope) => Some(parse_scope(scope).ok_or(Denial::Malformed)?),
    };
    let caller = grants.own(&request.service_name, &peer.spiffe_id).ok_or(Denial::NotItsName)?;
    let (aud, scope) = match &request.target_service {
        None if requested.is_some() => return Err(Denial::ScopeWithoutTarget),
        None => (grants.tokens().audience.clone(), None),
        Some(target) => {
            let target = grants.target(target, caller).map_err(|error| match error {
                NameError::Unknown => Denial::TargetUnknown,
                NameError::Ambiguous => Denial::TargetAmbiguous,
            })?;
            let allowed = grants.scopes(&peer.spiffe_id, &target.spiffe_id).ok_or(Denial::PairNotGranted)?;
            let scope = granted(requested.as_deref(), allowed).map_err(|()| Denial::ScopeNotGranted)?;
            (target.spiffe_id.to_string(), scope)
        }
    };
    let life = life_seconds(grants.tokens().max_ttl_seconds, peer.not_after, now)?;
    Ok(ServiceClaims {
        iss: grants.tokens().issuer.clone(),
        sub: peer.spiffe_id.to_string(),
        client_id: peer.spiffe_id.to_string(),
        service: caller.name.clone(),
        aud,
        jti,
        iat: now.as_second(),
        exp: now.as_second() + life,
        scope,
    })
}

/// A token lives no longer than the certificate it is bound to.
fn life_seconds(max_ttl_seconds: u64, not_after: Timestamp, now: Timestamp) -> Result<i64, Denial> {
    let max = i64::try_from(max_ttl_seconds).unwrap_or(i64::MAX);
    let certificate = not_after.as_second() - now.as_second();
    let life = DEFAULT_LIFE_SECONDS.min(max).min(certificate);
    if life > 0 { Ok(life) } else { Err(Denial::CertificateEnding) }
}

const DEFAULT_LIFE_SECONDS: i64 = 15 * 60;

#[cfg(test)]
mod tests {
    use gaia_api::SpiffeId;
    use gaia_api::mount::{Grant, Grants, SCHEMA_VERSION, ServiceIdentity, TokenRules};

    use super::*;

    fn id(name: &str) -> SpiffeId {
        SpiffeId::workload("gaia.local", "shop", name)
    }

    fn grants(max_ttl_seconds: u64) -> GrantTable {
        let service = |name: &str| ServiceIdentity { namespace: "shop".into(), name: name.into(), spiffe_id: id(name) };
        GrantTable::from(Grants {
            schema_version: SCHEMA_VERSION,
            tokens: TokenRules { issuer: "gaia-platform".into(), audience: "gaia-services".into(), max_ttl_seconds },
            services: ["gateway", "chat", "assets"].map(service).into(),
            grants: vec![Grant { caller: id("gateway"), target: id("assets"), scopes: vec!["assets:read".into()] }],
        })
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn ask(request: &str) -> Result<ServiceClaims, Denial> {
        ask_with(request, 3600, 3600)
    }

    fn ask_with(request: &str, max_ttl_seconds: u64, certificate_seconds: i64) -> Result<ServiceClaims, Denial> {
        let peer = PeerIdentity {
            spiffe_id: id("gateway"),
            fingerprint: String::new(),
            serial: String::new(),
            not_after: Timestamp::from_second(now().as_second() + certificate_seconds).unwrap(),
        };
        claims(&grants(max_ttl_seconds), &peer, &parse(request.as_bytes())?, now(), "j".into())
    }

    #[test]
    fn a_granted_pair_gets_a_token_for_that_target_alone() {
        let claims = ask(r#"{"service_name":"gateway","target_service":"assets","scope":"assets:read x"}"#).unwrap();
        assert_eq!((claims.sub.as_str(), claims.client_id.as_str()), (id("gateway").as_str(), id("gateway").as_str()));
        assert_eq!(claims.aud, id("assets").as_str());
        assert_eq!(claims.scope.as_deref(), Some("assets:read"));
        assert_eq!((claims.iat, claims.exp), (1_800_000_000, 1_800_000_900));
    }

    #[test]
    fn without_a_target_there_is_a_broad_token_and_no_scope() {
        let claims = ask(r#"{"service_name":"shop/gateway"}"#).unwrap();
        assert_eq!((claims.aud.as_str(), claims.scope), ("gaia-services", None));
    }

    #[test]
    fn everything_else_is_denied() {
        for (request, denial) in [
            // Posing as another service with one's own certificate.
            (r#"{"service_name":"chat","target_service":"assets"}"#, Denial::NotItsName),
            (r#"{"service_name":"other/gateway","target_service":"assets"}"#, Denial::NotItsName),
            (r#"{"service_name":"gateway","target_service":"chat"}"#, Denial::PairNotGranted),
            (r#"{"service_name":"gateway","target_service":"nobody"}"#, Denial::TargetUnknown),
            (r#"{"service_name":"gateway","target_service":"assets","scope":"assets:write"}"#, Denial::ScopeNotGranted),
            (r#"{"service_name":"gateway","scope":"assets:read"}"#, Denial::ScopeWithoutTarget),
            (r#"{"service_name":"gateway","target_service":"assets","scope":""}"#, Denial::Malformed),
            // A misspelt target must not turn into a token for everyone.
            (r#"{"service_name":"gateway","target":"assets"}"#, Denial::Malformed),
            (r#"{"service_name":"gateway","service_name":"chat"}"#, Denial::Malformed),
            ("", Denial::Malformed),
            ("[]", Denial::Malformed),
        ] {
            assert_eq!(ask(request), Err(denial), "{request}");
        }
    }

    #[test]
    fn a_token_ends_with_the_cap_and_with_its_certificate() {
        let life = |max, certificate| {
            ask_with(r#"{"service_name":"gateway"}"#, max, certificate).map(|claims| claims.exp - claims.iat)
        };
        assert_eq!(life(3600, 3600), Ok(900));
        assert_eq!(life(60, 3600), Ok(60));
        assert_eq!(life(3600, 10), Ok(10));
        assert_eq!(life(3600, 0), Err(Denial::CertificateEnding));
    }
}
