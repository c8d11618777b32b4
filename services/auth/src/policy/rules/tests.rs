//! Precedence of credentials under each mode.

use gaia_api::mount::{
    ApiKeyRecord, ApiKeyRules, Caller, Denylist, SCHEMA_VERSION, ServiceIdentity, TlsMode, TokenRules as TokenPolicy,
    UserTokens,
};
use http::HeaderValue;

use super::*;
use crate::fixtures::{
    RSA_SIGNER, caller, claims, delegated_claims, keys, now, own, peer, user_claims, user_issuer, user_token,
};
use crate::issue::{DelegatedClaims, ServiceClaims};
use crate::policy::api_key::tests::{record, table};
use crate::principal::{Listener, Transport};

fn policy(mode: AuthMode) -> Policy {
    Policy {
        schema_version: SCHEMA_VERSION,
        service: ServiceIdentity { namespace: "shop".into(), name: "asset-service".into(), spiffe_id: own() },
        tls_mode: TlsMode::Permissive,
        mode,
        tokens: TokenPolicy { issuer: "gaia-platform".into(), audience: "gaia-services".into(), max_ttl_seconds: 3600 },
        callers: vec![Caller { spiffe_id: caller(), scopes: vec![], on_behalf_of: false }],
        api_keys: ApiKeyRules::default(),
        user_tokens: UserTokens::default(),
        targets: None,
        token_issuer: None,
    }
}

fn rules_of(policy: Policy) -> Rules {
    let owned = ApiKeyRecord { principal: caller().to_string(), ..record("owned", "owned-key") };
    let shared = ApiKeyRecord { shared: true, ..record("shared", "shared-key") };
    let revoked = ApiKeyRecord { state: gaia_api::mount::ApiKeyState::Revoked, ..record("revoked", "revoked-key") };
    let keys_of_others = record("foreign", "foreign-key");
    let api_keys = table(vec![owned, shared, revoked, keys_of_others]).unwrap();
    Rules::new(policy, Some(Arc::new(keys())), Denied::default(), api_keys)
}

fn headers(token: Option<&str>, key: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(token) = token {
        headers.insert("authorization", HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
    }
    if let Some(key) = key {
        headers.insert("x-api-key", HeaderValue::from_str(key).unwrap());
    }
    headers
}

fn mtls() -> Connection {
    Connection { transport: Transport::Mtls, peer: Some(peer(caller())), address: None, listener: Listener::Mesh }
}

fn good_token() -> String {
    RSA_SIGNER.sign(&claims()).unwrap()
}

fn bad_token() -> String {
    RSA_SIGNER.sign(&ServiceClaims { aud: "spiffe://gaia.local/ns/shop/sa/other".into(), ..claims() }).unwrap()
}

fn evaluate(mode: AuthMode, token: Option<&str>, key: Option<&str>) -> Result<String, Reason> {
    let verdict = rules_of(policy(mode)).authenticate(&headers(token, key), &mtls(), now());
    verdict.result.map(|principal| principal.subject.to_string()).map_err(|refusal| refusal.reason)
}

#[test]
fn each_mode_gives_each_combination_of_credentials_its_verdict() {
    use AuthMode::{APIKeyOnly, Dual, JWTOnly};
    let (good, bad) = (good_token(), bad_token());
    let (good, bad) = (Some(good.as_str()), Some(bad.as_str()));
    let service = Ok(caller().to_string());
    let shared = Ok("key:shared".to_owned());
    let table = [
        (None, None, Err(Reason::NoCredential), Err(Reason::NoCredential), Err(Reason::NoCredential)),
        (None, Some("shared-key"), shared.clone(), shared.clone(), Err(Reason::ApiKeysNotAccepted)),
        (None, Some("owned-key"), service.clone(), service.clone(), Err(Reason::ApiKeysNotAccepted)),
        (None, Some("nonsense"), Err(Reason::ApiKeyUnknown), Err(Reason::ApiKeyUnknown), Err(Reason::ApiKeyUnknown)),
        (None, Some("revoked-key"), Err(Reason::ApiKeyRevoked), Err(Reason::ApiKeyRevoked), Err(Reason::ApiKeyRevoked)),
        (good, None, Err(Reason::NoCredential), service.clone(), service.clone()),
        (good, Some("shared-key"), shared.clone(), service.clone(), service.clone()),
        (good, Some("owned-key"), service.clone(), service.clone(), service.clone()),
        (good, Some("revoked-key"), Err(Reason::ApiKeyRevoked), service.clone(), service.clone()),
        (good, Some("foreign-key"), Ok("key:foreign".into()), Err(Reason::CredentialsConflict), service.clone()),
        (bad, None, Err(Reason::NoCredential), Err(Reason::AudienceWrong), Err(Reason::AudienceWrong)),
        // An invalid token is never replaced by a key.
        (bad, Some("shared-key"), shared.clone(), Err(Reason::AudienceWrong), Err(Reason::AudienceWrong)),
        (bad, Some("owned-key"), service.clone(), Err(Reason::AudienceWrong), Err(Reason::AudienceWrong)),
        (Some("a.b.c.d"), Some("owned-key"), service, Err(Reason::TokenUnreadable), Err(Reason::TokenUnreadable)),
    ];
    for (token, key, api_key_only, dual, jwt_only) in table {
        for (mode, expected) in [(APIKeyOnly, api_key_only), (Dual, dual), (JWTOnly, jwt_only)] {
            assert_eq!(evaluate(mode, token, key), expected, "{mode:?} {key:?} token {}", token.is_some());
        }
    }
}

#[test]
fn a_refused_key_is_still_recognised_and_so_counted() {
    let verdict = rules_of(policy(AuthMode::JWTOnly)).authenticate(&headers(None, Some("shared-key")), &mtls(), now());
    assert_eq!(verdict.key_id.as_deref(), Some("shared"));
    assert_eq!(verdict.credential, Credential::ApiKey);
    assert_eq!(verdict.result.unwrap_err().trace.key_id.as_deref(), Some("shared"));
}

#[test]
fn an_undeclared_caller_is_let_in_and_counted_until_tokens_are_all_there_is() {
    let undeclared = |mode| {
        let rules = rules_of(Policy { callers: vec![], ..policy(mode) });
        rules.authenticate(&headers(Some(&good_token()), None), &mtls(), now())
    };
    let verdict = undeclared(AuthMode::Dual);
    assert!(verdict.result.is_ok());
    assert_eq!(verdict.would_deny(), Some(Reason::CallerNotDeclared));
    assert_eq!(undeclared(AuthMode::JWTOnly).result.unwrap_err().reason, Reason::CallerNotDeclared);
}

#[test]
fn a_caller_has_what_both_its_token_and_the_policy_name() {
    let scopes = |policy_scopes: &[&str], token_scope: Option<&str>| {
        let mut policy = policy(AuthMode::Dual);
        policy.callers[0].scopes = policy_scopes.iter().map(|&s| s.to_owned()).collect();
        let token = RSA_SIGNER.sign(&ServiceClaims { scope: token_scope.map(str::to_owned), ..claims() }).unwrap();
        rules_of(policy).authenticate(&headers(Some(&token), None), &mtls(), now()).result.unwrap().scopes
    };
    assert!(!scopes(&["assets:read"], Some("assets:write")).allow("assets:write"));
    assert!(!scopes(&["assets:read"], Some("assets:write")).allow("assets:read"));
    assert!(scopes(&[], Some("assets:write")).allow("assets:write"));
    assert!(!scopes(&["assets:read"], None).allow("assets:write"));
    assert_eq!(scopes(&[], None), Scopes::All);
}

#[test]
fn a_user_who_is_brought_may_do_no_more_than_users_may() {
    let scopes = |subject: &str| {
        let mut policy = policy(AuthMode::JWTOnly);
        policy.callers[0].on_behalf_of = true;
        policy.user_tokens.scopes = vec!["assets:read".to_owned()];
        let token = RSA_SIGNER.sign(&DelegatedClaims { sub: subject.to_owned(), ..delegated_claims() }).unwrap();
        rules_of(policy).authenticate(&headers(Some(&token), None), &mtls(), now()).result.unwrap().scopes
    };
    let user = scopes("user:supabase:3fa85f64");
    assert!(user.allow("assets:read") && !user.allow("assets:write"));
    assert!(scopes("key:mobile").allow("assets:write"), "a key is no user");
}

#[test]
fn a_service_that_is_called_for_has_no_more_than_by_itself() {
    let web = gaia_api::SpiffeId::workload("gaia.local", "shop", "web");
    let ask = |mode, own: Option<&[&str]>, carries: bool| {
        let mut policy = policy(mode);
        policy.callers[0].on_behalf_of = carries;
        policy.callers.extend(own.map(|own| Caller {
            spiffe_id: web.clone(),
            scopes: own.iter().map(|&scope| scope.to_owned()).collect(),
            on_behalf_of: false,
        }));
        let token = RSA_SIGNER.sign(&DelegatedClaims { sub: web.to_string(), ..delegated_claims() }).unwrap();
        rules_of(policy).authenticate(&headers(Some(&token), None), &mtls(), now()).result
    };
    let principal = ask(AuthMode::JWTOnly, Some(&["assets:read"]), true).unwrap();
    assert_eq!((principal.subject, principal.actor), (Identity::Service(web.clone()), Identity::Service(caller())));
    assert!(principal.scopes.allow("assets:read") && !principal.scopes.allow("assets:write"));
    let reason = |result: Result<Principal, Refusal>| result.map(drop).map_err(|refusal| refusal.reason);
    assert_eq!(reason(ask(AuthMode::JWTOnly, None, true)), Err(Reason::CallerNotDeclared));
    assert_eq!(reason(ask(AuthMode::Dual, None, true)), Ok(()), "undeclared callers are let in in Dual");
    assert_eq!(reason(ask(AuthMode::Dual, Some(&[]), false)), Err(Reason::DelegationNotAllowed));
}

#[test]
fn a_refused_token_is_counted_as_what_it_says_it_is() {
    let mut policy = policy(AuthMode::Dual);
    policy.user_tokens.issuers = vec![user_issuer()];
    let rules = rules_of(policy);
    let kind = |token: &str| {
        // The signature is truncated.
        let token = &token[..token.len() - 4];
        let verdict = rules.authenticate(&headers(Some(token), Some("shared-key")), &mtls(), now());
        assert!(verdict.result.is_err());
        verdict.credential
    };
    assert_eq!(kind(&good_token()), Credential::ServiceToken);
    assert_eq!(kind(&RSA_SIGNER.sign(&delegated_claims()).unwrap()), Credential::DelegatedToken);
    assert_eq!(kind(&user_token(&user_claims())), Credential::UserToken);
    assert_eq!(kind("a.b.c.d...."), Credential::ServiceToken);
}

#[test]
fn a_broad_token_ends_with_the_dual_phase() {
    let token = RSA_SIGNER.sign(&ServiceClaims { aud: "gaia-services".into(), scope: None, ..claims() }).unwrap();
    assert!(evaluate(AuthMode::Dual, Some(&token), None).is_ok());
    assert_eq!(evaluate(AuthMode::JWTOnly, Some(&token), None), Err(Reason::AudienceWrong));
}

#[test]
fn a_revoked_or_expired_leaf_is_refused_whatever_else_is_presented() {
    let denied = Denied::from(&Denylist { leaves: vec!["AB".repeat(32)], ..Denylist::empty() });
    let api_keys = table(vec![record("a", "k")]).unwrap();
    let rules = Rules::new(policy(AuthMode::Dual), None, denied, api_keys);
    let verdict = rules.authenticate(&headers(None, Some("k")), &mtls(), now());
    assert_eq!(verdict.result.unwrap_err().reason, Reason::PeerRevoked);
    assert_eq!(rules.authenticate_peer(&mtls(), now()).unwrap_err().reason, Reason::PeerRevoked);
    let later = now() + jiff::SignedDuration::from_hours(2);
    let rules = rules_of(policy(AuthMode::Dual));
    assert_eq!(rules.authenticate_peer(&mtls(), later).unwrap_err().reason, Reason::PeerExpired);
    assert_eq!(rules.authenticate_peer(&Connection::default(), now()).unwrap_err().reason, Reason::PeerMissing);
    assert_eq!(rules.authenticate_peer(&mtls(), now()).unwrap().subject.to_string(), caller().as_str());
}

#[test]
fn the_operator_is_nobodys_principal_whatever_it_presents() {
    let operator = Connection {
        transport: Transport::Mtls,
        peer: Some(PeerIdentity { spiffe_id: gaia_api::SpiffeId::operator("gaia.local"), ..mtls().peer.unwrap() }),
        address: None,
        listener: Listener::Mesh,
    };
    let rules = rules_of(policy(AuthMode::Dual));
    assert_eq!(rules.authenticate_peer(&operator, now()).unwrap_err().reason, Reason::PeerNotAWorkload);
    for (token, key) in [(None, None), (None, Some("shared-key")), (Some(good_token()), None)] {
        let verdict = rules.authenticate(&headers(token.as_deref(), key), &operator, now());
        assert_eq!(verdict.result.unwrap_err().reason, Reason::PeerNotAWorkload);
    }
}

#[test]
fn tokens_get_a_503_while_no_key_was_ever_loaded() {
    let rules = Rules::new(policy(AuthMode::Dual), None, Denied::default(), ApiKeyTable::default());
    let verdict = rules.authenticate(&headers(Some(&good_token()), None), &mtls(), now());
    assert_eq!(verdict.result.unwrap_err().reason, Reason::KeysNotLoaded);
}

#[test]
fn behind_mtls_the_peer_is_the_actor_and_the_keys_holder_the_subject() {
    let verdict = rules_of(policy(AuthMode::Dual)).authenticate(&headers(None, Some("shared-key")), &mtls(), now());
    let principal = verdict.result.unwrap();
    assert_eq!(principal.actor.to_string(), caller().as_str());
    assert_eq!(principal.subject.to_string(), "key:shared");
}

/// The result with a cached earlier verification.
fn with_cache(rules: &Rules, cache: &TokenCache, token: &str, peer: PeerIdentity, now: Timestamp) -> Option<Reason> {
    let connection =
        Connection { transport: Transport::Mtls, peer: Some(peer), address: None, listener: Listener::Mesh };
    let known = Known { cache, user_keys: &UserKeys::default(), answer: None };
    let verdict = rules.authenticate_with(&headers(Some(token), None), &connection, now, known);
    verdict.result.err().map(|refusal| refusal.reason)
}

#[test]
fn a_remembered_token_is_asked_again_for_its_time_its_peer_and_what_is_revoked() {
    let (cache, token) = (TokenCache::default(), good_token());
    let good = rules_of(policy(AuthMode::Dual));
    assert_eq!(with_cache(&good, &cache, &token, peer(caller()), now()), None);
    assert!(cache.get(TokenHash::of(&token), now()).is_some(), "it is remembered");
    assert_eq!(with_cache(&good, &cache, &token, peer(own()), now()), Some(Reason::PeerDiffers));
    let long_before = now() - jiff::SignedDuration::from_secs(61);
    assert_eq!(with_cache(&good, &cache, &token, peer(caller()), long_before), Some(Reason::IssuedInFuture));
    let with_denylist = |denylist: Denylist| {
        let denied = Denied::from(&denylist);
        let rules = Rules::new(policy(AuthMode::Dual), Some(Arc::new(keys())), denied, ApiKeyTable::default());
        with_cache(&rules, &cache, &token, peer(caller()), now())
    };
    let kids = vec![RSA_SIGNER.kid().to_owned()];
    assert_eq!(with_denylist(Denylist { kids, ..Denylist::empty() }), Some(Reason::KidRevoked));
    let jtis = vec!["j1".to_owned()];
    assert_eq!(with_denylist(Denylist { jtis, ..Denylist::empty() }), Some(Reason::TokenIdRevoked));
    assert_eq!(with_denylist(Denylist::empty()), None);
}

#[test]
fn a_remembered_token_ends_with_the_keys_and_the_policy_it_was_read_by() {
    let (cache, token) = (TokenCache::default(), good_token());
    assert_eq!(with_cache(&rules_of(policy(AuthMode::Dual)), &cache, &token, peer(caller()), now()), None);
    let set = serde_json::json!({ "keys": [crate::fixtures::EC_SIGNER.jwk()] }).to_string();
    let other_keys = Some(Arc::new(KeySet::parse(set.as_bytes()).unwrap()));
    let rules = Rules::new(policy(AuthMode::Dual), other_keys, Denied::default(), ApiKeyTable::default());
    assert_eq!(with_cache(&rules, &cache, &token, peer(caller()), now()), Some(Reason::KidUnknown));
    let rules = Rules::new(policy(AuthMode::Dual), None, Denied::default(), ApiKeyTable::default());
    assert_eq!(with_cache(&rules, &cache, &token, peer(caller()), now()), Some(Reason::KeysNotLoaded));
    let mut shorter = policy(AuthMode::Dual);
    shorter.tokens.max_ttl_seconds = 60;
    assert_eq!(with_cache(&rules_of(shorter), &cache, &token, peer(caller()), now()), Some(Reason::LifeTooLong));
}

#[test]
fn what_is_allowed_is_never_remembered() {
    let (cache, token) = (TokenCache::default(), good_token());
    assert_eq!(with_cache(&rules_of(policy(AuthMode::JWTOnly)), &cache, &token, peer(caller()), now()), None);
    let without = rules_of(Policy { callers: vec![], ..policy(AuthMode::JWTOnly) });
    assert_eq!(with_cache(&without, &cache, &token, peer(caller()), now()), Some(Reason::CallerNotDeclared));
}

#[test]
fn a_policy_whose_issuers_could_be_taken_for_each_other_is_refused() {
    let with = |issuers: Vec<UserTokenIssuer>| {
        let user_tokens = UserTokens { issuers, scopes: vec![] };
        check_policy(&Policy { user_tokens, ..policy(AuthMode::Dual) }).map_err(|error| error.to_string())
    };
    let named =
        |name: &str, issuer: &str| UserTokenIssuer { name: name.into(), issuer: issuer.into(), ..user_issuer() };
    assert_eq!(with(vec![named("a", "x"), named("b", "y")]), Ok(()));
    assert!(with(vec![named("a", "x"), named("a", "y")]).unwrap_err().contains("twice"));
    assert!(with(vec![named("a", "x"), named("b", "x")]).unwrap_err().contains("twice"));
    assert!(with(vec![named("a", "gaia-platform")]).unwrap_err().contains("platform's own"));
    // `user:a:b:c` must be unambiguous.
    assert!(with(vec![named("a:b", "x")]).unwrap_err().contains("DNS label"));
}
