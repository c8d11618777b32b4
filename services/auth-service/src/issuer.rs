//! Issuing of service tokens.

use std::num::NonZeroU64;

use gaia_auth::issue::ServiceClaims;
use gaia_auth::{Denied, PeerIdentity, Reason, parse_scope};
use jiff::Timestamp;
use serde::Deserialize;

use crate::denial::Denial;
use crate::grants::{GrantTable, granted};

/// A parsed token request.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// The caller's own name.
    pub service_name: String,
    /// The service to call, `name` or `namespace/name`; none: a broad token of the dual phases.
    #[serde(default)]
    pub target_service: Option<String>,
    /// The requested scopes, separated by spaces; none: all granted ones.
    #[serde(default)]
    pub scope: Option<String>,
    /// The requested validity in seconds; none: that of the TrustDomain. Values above the maximum are reduced.
    #[serde(default)]
    pub expires_in: Option<NonZeroU64>,
}

/// Parses a request.
///
/// # Errors
/// [`Denial::Malformed`] if it is not valid JSON of the expected form.
pub fn parse(body: &[u8]) -> Result<TokenRequest, Denial> {
    serde_json::from_slice(body).map_err(|_| Denial::Malformed)
}

/// Returns the claims of a service token for `peer`, issued at `now` with the ID `jti`. No token is issued that the
/// current denylist would reject.
///
/// # Errors
/// [`Denial`] for the first rule that is broken.
pub fn claims(
    grants: &GrantTable,
    denied: &Denied,
    peer: &PeerIdentity,
    request: &TokenRequest,
    now: Timestamp,
    jti: String,
) -> Result<ServiceClaims, Denial> {
    let issued = whole_seconds(now);
    check_peer(denied, peer, now)?;
    let requested = match &request.scope {
        None => None,
        Some(scope) => Some(parse_scope(scope).ok_or(Denial::Malformed)?),
    };
    let caller = grants.own(&request.service_name, &peer.spiffe_id).ok_or(Denial::NotItsName)?;
    let (aud, scope) = match &request.target_service {
        None if requested.is_some() => return Err(Denial::ScopeWithoutTarget),
        None => (grants.tokens().audience.clone(), None),
        Some(target) => {
            let target = grants.target(target, caller)?;
            let allowed = grants.scopes(&peer.spiffe_id, &target.spiffe_id).ok_or(Denial::PairNotGranted)?;
            let scope = granted(requested.as_deref(), allowed).map_err(|()| Denial::ScopeNotGranted)?;
            (target.spiffe_id.to_string(), scope)
        }
    };
    let validity = grants.validity_seconds(request.expires_in.map(NonZeroU64::get));
    let life = life_seconds(validity, peer.not_after, now)?;
    Ok(ServiceClaims {
        iss: grants.tokens().issuer.clone(),
        sub: peer.spiffe_id.to_string(),
        client_id: peer.spiffe_id.to_string(),
        service: caller.name.clone(),
        aud,
        jti,
        iat: issued.as_second(),
        exp: issued.as_second() + life,
        scope,
    })
}

/// Checks that a verifier with the same denylist would accept a token of the peer issued at `now`.
pub(crate) fn check_peer(denied: &Denied, peer: &PeerIdentity, now: Timestamp) -> Result<(), Denial> {
    denied.check_peer(peer, now).map_err(|reason| match reason {
        Reason::PeerExpired => Denial::CertificateEnding,
        _ => Denial::PeerRevoked,
    })?;
    denied.check_subject(peer.spiffe_id.as_str(), whole_seconds(now)).map_err(|_| Denial::SubjectRevoked)
}

/// Rounds down to whole seconds, as in `iat`, which decides about revocation.
pub(crate) fn whole_seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// Returns the validity of a token, limited by the certificate that it is bound to.
pub(crate) fn life_seconds(longest_seconds: u64, not_after: Timestamp, now: Timestamp) -> Result<i64, Denial> {
    let longest = i64::try_from(longest_seconds).unwrap_or(i64::MAX);
    let certificate = not_after.as_second() - now.as_second();
    let life = longest.min(certificate);
    if life > 0 { Ok(life) } else { Err(Denial::CertificateEnding) }
}

#[cfg(test)]
mod tests {
    use gaia_api::SpiffeId;
    use gaia_api::mount::{DeniedSubject, Denylist, Grant, Grants, SCHEMA_VERSION, ServiceIdentity, TokenRules};
    use jiff::SignedDuration;

    use super::*;

    fn id(name: &str) -> SpiffeId {
        SpiffeId::workload("gaia.local", "shop", name)
    }

    fn grants(max_ttl_seconds: u64) -> GrantTable {
        GrantTable::from(mounted(max_ttl_seconds))
    }

    fn mounted(max_ttl_seconds: u64) -> Grants {
        let service = |name: &str| ServiceIdentity { namespace: "shop".into(), name: name.into(), spiffe_id: id(name) };
        Grants {
            schema_version: SCHEMA_VERSION,
            tokens: TokenRules { issuer: "gaia-platform".into(), audience: "gaia-services".into(), max_ttl_seconds },
            token_ttl_seconds: None,
            services: ["gateway", "chat", "assets"].map(service).into(),
            grants: vec![Grant {
                caller: id("gateway"),
                target: id("assets"),
                scopes: vec!["assets:read".into()],
                on_behalf_of: false,
            }],
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn ask(request: &str) -> Result<ServiceClaims, Denial> {
        ask_with(request, 3600, 3600)
    }

    fn ask_with(request: &str, max_ttl_seconds: u64, certificate_seconds: i64) -> Result<ServiceClaims, Denial> {
        let peer = peer(certificate_seconds);
        claims(&grants(max_ttl_seconds), &Denied::default(), &peer, &parse(request.as_bytes())?, now(), "j".into())
    }

    fn ask_under(denylist: &Denylist, now: Timestamp) -> Result<ServiceClaims, Denial> {
        let request = parse(br#"{"service_name":"gateway"}"#)?;
        claims(&grants(3600), &Denied::from(denylist), &peer(3600), &request, now, "j".into())
    }

    fn peer(certificate_seconds: i64) -> PeerIdentity {
        PeerIdentity {
            spiffe_id: id("gateway"),
            fingerprint: "ab".repeat(32),
            serial: "".into(),
            not_after: Timestamp::from_second(now().as_second() + certificate_seconds).unwrap(),
        }
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
            // Another service's name with the caller's own certificate.
            (r#"{"service_name":"chat","target_service":"assets"}"#, Denial::NotItsName),
            (r#"{"service_name":"other/gateway","target_service":"assets"}"#, Denial::NotItsName),
            (r#"{"service_name":"gateway","target_service":"chat"}"#, Denial::PairNotGranted),
            (r#"{"service_name":"gateway","target_service":"nobody"}"#, Denial::TargetUnknown),
            (r#"{"service_name":"gateway","target_service":"assets","scope":"assets:write"}"#, Denial::ScopeNotGranted),
            (r#"{"service_name":"gateway","scope":"assets:read"}"#, Denial::ScopeWithoutTarget),
            (r#"{"service_name":"gateway","target_service":"assets","scope":""}"#, Denial::Malformed),
            // A misspelled target must not result in a broad token.
            (r#"{"service_name":"gateway","target":"assets"}"#, Denial::Malformed),
            (r#"{"service_name":"gateway","service_name":"chat"}"#, Denial::Malformed),
            (r#"{"service_name":"gateway","expires_in":0}"#, Denial::Malformed),
            (r#"{"service_name":"gateway","expires_in":-1}"#, Denial::Malformed),
            (r#"{"service_name":"gateway","expires_in":"600"}"#, Denial::Malformed),
            (r#"{"service_name":"gateway","expires_in":1.5}"#, Denial::Malformed),
            ("", Denial::Malformed),
            ("[]", Denial::Malformed),
        ] {
            assert_eq!(ask(request), Err(denial), "{request}");
        }
    }

    #[test]
    fn a_revoked_leaf_gets_no_token() {
        let denylist = Denylist { leaves: vec!["ab".repeat(32)], ..Denylist::empty() };
        assert_eq!(ask_under(&denylist, now()), Err(Denial::PeerRevoked));
        let other = Denylist { leaves: vec!["cd".repeat(32)], ..Denylist::empty() };
        assert!(ask_under(&other, now()).is_ok());
    }

    #[test]
    fn a_revoked_subject_gets_no_token_that_a_verifier_would_refuse() {
        let milliseconds = |ms| now() + SignedDuration::from_millis(ms);
        let denied_until = |not_before| Denylist {
            subjects: vec![DeniedSubject { sub: id("gateway").to_string(), not_before }],
            ..Denylist::empty()
        };
        assert!(ask_under(&denied_until(now()), now()).is_ok());
        assert_eq!(ask_under(&denied_until(milliseconds(1)), now()), Err(Denial::SubjectRevoked));
        // `iat` would be the whole second before, which is still revoked.
        assert_eq!(ask_under(&denied_until(milliseconds(500)), milliseconds(700)), Err(Denial::SubjectRevoked));
        assert!(ask_under(&denied_until(milliseconds(500)), milliseconds(1000)).is_ok());
        let someone_else = DeniedSubject { sub: id("chat").to_string(), not_before: milliseconds(9000) };
        assert!(ask_under(&Denylist { subjects: vec![someone_else], ..Denylist::empty() }, now()).is_ok());
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

    #[test]
    fn a_validity_that_is_asked_for_is_granted_up_to_the_cap_and_the_certificate() {
        let life = |expires_in: u64, max, certificate| {
            let request = format!(r#"{{"service_name":"gateway","expires_in":{expires_in}}}"#);
            ask_with(&request, max, certificate).map(|claims| claims.exp - claims.iat)
        };
        assert_eq!(life(1, 3600, 3600), Ok(1));
        assert_eq!(life(1800, 3600, 3600), Ok(1800), "longer than the default");
        assert_eq!(life(7200, 3600, 7200), Ok(3600), "the cap");
        assert_eq!(life(1800, 3600, 600), Ok(600), "the certificate");
        assert_eq!(life(u64::MAX, 3600, 3600), Ok(3600));
    }

    #[test]
    fn the_validity_of_the_trust_domain_holds_unless_another_is_asked_for() {
        let life = |ttl_seconds, expires_in: &str| {
            let grants = Grants { token_ttl_seconds: ttl_seconds, ..mounted(3600) };
            let request = parse(format!(r#"{{"service_name":"gateway"{expires_in}}}"#).as_bytes()).unwrap();
            let table = GrantTable::from(grants);
            claims(&table, &Denied::default(), &peer(7200), &request, now(), "j".into()).unwrap().exp
                - now().as_second()
        };
        assert_eq!(life(None, ""), 900);
        assert_eq!(life(Some(1200), ""), 1200);
        assert_eq!(life(Some(7200), ""), 3600, "an old policy of the cap");
        assert_eq!(life(Some(1200), r#","expires_in":60"#), 60);
    }
}
