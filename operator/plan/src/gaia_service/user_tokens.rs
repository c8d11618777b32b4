//! Tokens of external issuers that a service accepts.

use gaia_api::crd::{GaiaService, TrustDomain, UserTokenIssuer, UserTokensSpec, reason};
use gaia_api::mount::{self, UserTokens};
use gaia_pki::Certificate;

use crate::{Refusal, projection};

/// The policy for user tokens, and the refusal of a request that cannot be met. An unknown issuer is left out and
/// reported: a service must not go on accepting tokens of an issuer that is no longer declared only because it also names
/// another one.
pub(crate) fn accepted(service: &GaiaService, domain: &TrustDomain) -> (UserTokens, Option<Refusal>) {
    let declared = &domain.spec.user_token_issuers;
    let asked = service.spec.auth.user_tokens.clone().unwrap_or_default();
    let mut refusal = unknown(&asked, domain);
    let wanted = |issuer: &&UserTokenIssuer| asked.issuers.is_empty() || asked.issuers.contains(&issuer.name);
    let mut issuers = vec![];
    for issuer in declared.iter().filter(wanted) {
        match check(issuer, domain) {
            Ok(()) => issuers.push(mounted(issuer)),
            Err(found) => refusal = refusal.or(Some(found)),
        }
    }
    // Without an issuer there are no user tokens, and so no scopes.
    let scopes = if issuers.is_empty() { vec![] } else { projection::sorted(&asked.scopes) };
    (UserTokens { issuers, scopes }, refusal)
}

/// The first issuer that is named and not declared.
fn unknown(asked: &UserTokensSpec, domain: &TrustDomain) -> Option<Refusal> {
    let declared = &domain.spec.user_token_issuers;
    let missing = asked.issuers.iter().find(|name| !declared.iter().any(|issuer| issuer.name == **name))?;
    let message = format!(
        "spec.auth.userTokens.issuers: TrustDomain {} has no {missing:?} in spec.userTokenIssuers; its tokens are refused",
        name(domain),
    );
    Some(Refusal::stalled(reason::USER_TOKEN_ISSUER_NOT_FOUND, message))
}

/// Checks that the schema cannot express.
fn check(issuer: &UserTokenIssuer, domain: &TrustDomain) -> Result<(), Refusal> {
    let refuse = |field: &str, why: &str| {
        let message = format!(
            "TrustDomain {}: spec.userTokenIssuers {:?}: {field} {why}; its tokens are refused",
            name(domain),
            issuer.name
        );
        Err(Refusal::stalled(reason::USER_TOKEN_ISSUER_INVALID, message))
    };
    if issuer.issuer == domain.spec.tokens.issuer {
        return refuse("issuer", "must not be that of spec.tokens.issuer");
    }
    match &issuer.ca_bundle {
        Some(pem) if Certificate::chain_from_pem(pem.as_bytes()).map_or(true, |found| found.is_empty()) => {
            refuse("caBundle", "must be PEM certificates")
        }
        _ => Ok(()),
    }
}

fn mounted(issuer: &UserTokenIssuer) -> mount::UserTokenIssuer {
    mount::UserTokenIssuer {
        name: issuer.name.clone(),
        issuer: issuer.issuer.clone(),
        profile: issuer.profile.into(),
        verification: issuer.verification.into(),
        jwks_url: issuer.jwks_url.clone(),
        audiences: projection::sorted(&issuer.audiences),
        algorithms: issuer.algorithms.iter().map(|algorithm| format!("{algorithm:?}")).collect(),
        required_claims: issuer.required_claims.clone(),
        client_ids: projection::sorted(&issuer.client_ids),
        ca_bundle: issuer.ca_bundle.clone(),
        max_ttl_seconds: issuer.max_ttl.as_ref().map(|life| life.value().as_secs()),
    }
}

fn name(domain: &TrustDomain) -> &str {
    domain.metadata.name.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use gaia_api::Span;
    use gaia_api::crd::{
        AuthSpec, GaiaServiceSpec, IssuerProfile, IssuerVerification, SecretRef, TokenAlgorithm, TrustDomainSpec,
    };
    use serde_json::json;

    use super::*;

    fn issuer(name: &str) -> UserTokenIssuer {
        UserTokenIssuer {
            name: name.to_owned(),
            issuer: format!("https://{name}.example/auth/v1"),
            profile: IssuerProfile::default(),
            verification: IssuerVerification::default(),
            jwks_url: Some(format!("https://{name}.example/jwks")),
            api_key_secret_ref: None,
            audiences: vec![],
            algorithms: vec![],
            required_claims: std::collections::BTreeMap::new(),
            client_ids: vec![],
            max_ttl: None,
            ca_bundle: None,
        }
    }

    fn domain(issuers: Vec<UserTokenIssuer>) -> TrustDomain {
        let spec: TrustDomainSpec = serde_json::from_value(json!({ "trustDomain": "shop.example" })).unwrap();
        TrustDomain::new("gaia", TrustDomainSpec { user_token_issuers: issuers, ..spec })
    }

    fn service(issuers: Option<&[&str]>) -> GaiaService {
        let user_tokens = issuers.map(|issuers| UserTokensSpec {
            issuers: issuers.iter().map(|name| (*name).to_owned()).collect(),
            scopes: vec!["chat:write".to_owned(), "assets:read".to_owned()],
        });
        let auth = AuthSpec { user_tokens, ..AuthSpec::default() };
        GaiaService::new("web", GaiaServiceSpec { auth, ..GaiaServiceSpec::default() })
    }

    fn names(accepted: &UserTokens) -> Vec<&str> {
        accepted.issuers.iter().map(|issuer| issuer.name.as_str()).collect()
    }

    #[test]
    fn a_service_that_says_nothing_takes_the_tokens_of_every_issuer_and_one_that_names_some_of_these_alone() {
        let domain = domain(vec![issuer("supabase"), issuer("partner")]);
        for (asked, expected, scopes) in [
            (None, &["supabase", "partner"][..], &[][..]),
            (Some(&[][..]), &["supabase", "partner"], &["assets:read", "chat:write"]),
            (Some(&["partner"]), &["partner"], &["assets:read", "chat:write"]),
        ] {
            let (accepted, refusal) = accepted(&service(asked), &domain);
            assert_eq!(names(&accepted), expected);
            assert_eq!(accepted.scopes, scopes);
            assert_eq!(refusal, None);
        }
    }

    #[test]
    fn an_issuer_nobody_declared_is_named_and_never_makes_all_of_them_welcome() {
        let domain = domain(vec![issuer("supabase")]);
        let (accepted, refusal) = accepted(&service(Some(&["partner"])), &domain);
        assert!(accepted.is_empty() && accepted.scopes.is_empty());
        let refusal = refusal.unwrap();
        assert_eq!((refusal.reason, refusal.stalled), ("UserTokenIssuerNotFound", true));
        assert_eq!(
            refusal.message,
            "spec.auth.userTokens.issuers: TrustDomain gaia has no \"partner\" in spec.userTokenIssuers; its tokens are refused"
        );
    }

    #[test]
    fn everything_that_is_declared_of_an_issuer_is_in_the_policy_and_its_secret_is_not() {
        let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", "x");
        let declared = UserTokenIssuer {
            profile: IssuerProfile::Generic,
            verification: IssuerVerification::Remote,
            api_key_secret_ref: Some(SecretRef { name: "partner-key".to_owned() }),
            audiences: vec!["b".to_owned(), "a".to_owned()],
            algorithms: vec![TokenAlgorithm::ES256],
            required_claims: [("tier".to_owned(), "gold".to_owned())].into(),
            client_ids: vec!["app".to_owned()],
            max_ttl: Some(Span::hours(2)),
            ..issuer("partner")
        };
        let (taken, refusal) = accepted(&service(None), &domain(vec![declared.clone()]));
        assert_eq!(refusal, None);
        let expected = json!({ "issuers": [{
            "name": "partner", "issuer": "https://partner.example/auth/v1", "profile": "Generic", "verification": "Remote",
            "jwksURL": "https://partner.example/jwks", "audiences": ["a", "b"], "algorithms": ["ES256"],
            "requiredClaims": { "tier": "gold" }, "clientIds": ["app"], "maxTtlSeconds": 7200,
        }] });
        assert_eq!(serde_json::to_value(&taken).unwrap(), expected);

        let broken = UserTokenIssuer { ca_bundle: Some(pem), ..declared };
        let (taken, refusal) = accepted(&service(None), &domain(vec![broken, issuer("supabase")]));
        assert_eq!(names(&taken), ["supabase"]);
        let refusal = refusal.unwrap();
        assert_eq!(refusal.reason, "UserTokenIssuerInvalid");
        assert!(refusal.message.contains("spec.userTokenIssuers \"partner\": caBundle must be PEM"), "{refusal:?}");
    }

    #[test]
    fn the_platforms_own_issuer_is_no_outside_one() {
        let own = UserTokenIssuer { issuer: "gaia-platform".to_owned(), ..issuer("self") };
        let (taken, refusal) = accepted(&service(None), &domain(vec![own]));
        assert!(taken.is_empty());
        assert!(refusal.unwrap().message.contains("issuer must not be that of spec.tokens.issuer"));
    }
}
