use gaia_api::mount::{
    ApiKeyRules, Brownout, Caller as DeclaredCaller, DeniedSubject, Denylist, Policy, SCHEMA_VERSION, ServiceIdentity,
    TlsMode, TokenRules as PlatformTokens, UserTokenVerification, UserTokens,
};
use gaia_api::{ManualClock, ledger::LedgerCaller};

use super::*;
use crate::fixtures::{
    RSA_SIGNER, USER, USER_SIGNER, at, caller, claims, delegated_claims, keys, now, now_or_never, own, peer,
    user_claims, user_issuer, user_token,
};
use crate::issue::{DelegatedClaims, ServiceClaims};
use crate::issuers::{Ask, Question};
use crate::policy::api_key::tests::{record, table};
use crate::tokens::KeySet;
use crate::{Decision, Denied, Observer};

struct Nobody;

impl Observer for Nobody {
    fn decided(&self, _: &Decision<'_>) {}
}

/// External issuers that confirm every token, or none.
struct Answering(Result<(), Reason>);

impl Ask for Answering {
    fn ask(&self, _: Question) -> std::pin::Pin<Box<dyn Future<Output = Result<(), Reason>> + Send>> {
        Box::pin(std::future::ready(self.0))
    }
}

fn policy() -> Policy {
    let auth_service = SpiffeId::workload("gaia.local", "shop", "auth-service");
    Policy {
        schema_version: SCHEMA_VERSION,
        service: ServiceIdentity { namespace: "shop".into(), name: "auth-service".into(), spiffe_id: auth_service },
        tls_mode: TlsMode::Permissive,
        mode: AuthMode::Dual,
        tokens: PlatformTokens {
            issuer: "gaia-platform".into(),
            audience: "gaia-services".into(),
            max_ttl_seconds: 3600,
        },
        callers: vec![DeclaredCaller { spiffe_id: caller(), scopes: vec![], on_behalf_of: false }],
        api_keys: ApiKeyRules::default(),
        user_tokens: UserTokens { issuers: vec![user_issuer()], scopes: vec!["chat:write".into()] },
        targets: None,
        token_issuer: None,
    }
}

fn with(policy: Policy, denylist: &Denylist) -> Arc<Authenticator> {
    let authenticator = Arc::new(Authenticator::new(Arc::new(ManualClock::new(now())), Arc::new(Nobody)));
    let mut mobile = record("mobile", "good-key");
    mobile.scopes = vec!["assets:read".into()];
    let mut ended = record("ended", "ended-key");
    ended.expires = Some(now());
    let api_keys = table(vec![mobile, ended]).unwrap();
    authenticator.replace(Arc::new(Rules::new(policy, Some(Arc::new(keys())), Denied::from(denylist), api_keys)));
    let set = serde_json::json!({ "keys": [USER_SIGNER.jwk()] }).to_string();
    authenticator.user_keys().set("supabase", &Arc::new(KeySet::parse_outside(set.as_bytes(), &[]).unwrap()));
    authenticator
}

fn plain() -> Arc<Authenticator> {
    with(policy(), &Denylist::empty())
}

fn examine(authenticator: &Arc<Authenticator>, token: &str) -> Result<Introspected, Reason> {
    let examined = now_or_never(authenticator.introspect_token(token, Some(&peer(own())), Client::default()));
    examined.map_err(|refusal| refusal.reason)
}

fn signed(claims: &DelegatedClaims) -> String {
    RSA_SIGNER.sign(claims).unwrap()
}

#[test]
fn a_delegated_token_is_examined_by_the_service_that_it_was_shown_to_and_by_no_other() {
    let token = signed(&DelegatedClaims { scope: Some("assets:read".into()), ..delegated_claims() });
    let examined = examine(&plain(), &token).unwrap();
    assert_eq!(examined.kind, Credential::DelegatedToken);
    assert_eq!(examined.subject.to_string(), delegated_claims().sub);
    assert_eq!((examined.client, examined.audience), (Some(caller()), Some(own().to_string())));
    assert_eq!(examined.scopes, Scopes::from_list(&["assets:read".into()]));
    assert_eq!(examined.expires, Some(at(now().as_second() + 300)));
    // The audience is neither the client of the token nor another service.
    let others = now_or_never(plain().introspect_token(&token, Some(&peer(caller())), Client::default()));
    assert_eq!(others.unwrap_err().reason, Reason::AudienceWrong);
    assert_eq!(
        now_or_never(plain().introspect_token(&token, None, Client::default())).unwrap_err().reason,
        Reason::PeerMissing
    );
}

#[test]
fn a_service_token_says_for_whom_it_is_and_a_broad_one_does_until_tokens_are_all_there_is() {
    let examined = examine(&plain(), &RSA_SIGNER.sign(&claims()).unwrap()).unwrap();
    assert_eq!((examined.kind, examined.subject), (Credential::ServiceToken, Identity::Service(caller())));
    let broad = ServiceClaims { aud: "gaia-services".into(), scope: None, ..claims() };
    let broad = RSA_SIGNER.sign(&broad).unwrap();
    assert_eq!(examine(&plain(), &broad).unwrap().audience.as_deref(), Some("gaia-services"));
    let strict = with(Policy { mode: AuthMode::JWTOnly, ..policy() }, &Denylist::empty());
    assert_eq!(examine(&strict, &broad), Err(Reason::AudienceWrong));
}

#[test]
fn what_is_revoked_is_examined_no_better_than_it_would_be_taken() {
    let token = signed(&delegated_claims());
    let subject = |sub: String| DeniedSubject { sub, not_before: at(now().as_second() + 1) };
    for (denylist, reason) in [
        (Denylist { jtis: vec!["d1".into()], ..Denylist::empty() }, Reason::TokenIdRevoked),
        (Denylist { kids: vec![RSA_SIGNER.kid().into()], ..Denylist::empty() }, Reason::KidRevoked),
        (Denylist { subjects: vec![subject(caller().to_string())], ..Denylist::empty() }, Reason::SubjectRevoked),
        (Denylist { subjects: vec![subject(delegated_claims().sub)], ..Denylist::empty() }, Reason::SubjectRevoked),
    ] {
        assert_eq!(examine(&with(policy(), &denylist), &token), Err(reason), "{denylist:?}");
    }
    let old = DelegatedClaims { iat: now().as_second() - 400, exp: now().as_second() - 100, ..delegated_claims() };
    assert_eq!(examine(&plain(), &signed(&old)), Err(Reason::Expired));
}

#[test]
fn a_user_token_is_examined_by_its_issuer_and_has_the_scopes_of_users() {
    let examined = examine(&plain(), &user_token(&user_claims())).unwrap();
    assert_eq!((examined.kind, examined.is_anonymous), (Credential::UserToken, false));
    assert_eq!(examined.subject.to_string(), format!("user:supabase:{USER}"));
    assert_eq!(examined.scopes, Scopes::from_list(&["chat:write".into()]));
    let mut anonymous = user_claims();
    anonymous["is_anonymous"] = true.into();
    assert!(examine(&plain(), &user_token(&anonymous)).unwrap().is_anonymous);
    let mut project_key = user_claims();
    project_key["role"] = "service_role".into();
    assert_eq!(examine(&plain(), &user_token(&project_key)), Err(Reason::ProjectKey));
    let mut stranger = user_claims();
    stranger["iss"] = "https://other.example/auth/v1".into();
    assert_eq!(examine(&plain(), &user_token(&stranger)), Err(Reason::KidUnknown));
}

#[test]
fn an_issuer_that_verifies_its_tokens_itself_is_asked_whatever_the_mode() {
    let mut policy = policy();
    policy.user_tokens.issuers[0].verification = UserTokenVerification::Remote;
    policy.mode = AuthMode::APIKeyOnly;
    for (answer, expected) in [(Ok(()), Ok(())), (Err(Reason::IssuerRefused), Err(Reason::IssuerRefused))] {
        let authenticator = with(policy.clone(), &Denylist::empty());
        authenticator.ask_through(Arc::new(Answering(answer)));
        let examined = examine(&authenticator, &user_token(&user_claims()));
        assert_eq!(examined.map(drop), expected);
    }
    let silent = with(policy, &Denylist::empty());
    assert_eq!(examine(&silent, &user_token(&user_claims())), Err(Reason::IssuerUnavailable));
}

#[test]
fn a_key_obeys_mode_and_brownouts_and_its_use_is_noted_whatever_becomes_of_it() {
    let gateway = Connection { peer: Some(peer(caller())), ..Connection::default() };
    let examine = |authenticator: &Authenticator, key: &str| {
        let examined = authenticator.introspect_key(key, "/exchange", &HeaderMap::new(), &gateway);
        examined.map_err(|refusal| refusal.reason)
    };
    let examined = examine(&plain(), "good-key").unwrap();
    assert_eq!(examined.subject, Identity::Key("mobile".into()));
    assert_eq!(examined.scopes, Scopes::from_list(&["assets:read".into()]));
    for (key, reason) in [
        ("ended-key", Reason::ApiKeyExpired),
        ("other-key", Reason::ApiKeyUnknown),
        (" ", Reason::CredentialEmpty),
        (&"k".repeat(1025), Reason::CredentialTooLong),
    ] {
        assert_eq!(examine(&plain(), key), Err(reason), "{key}");
    }
    let strict = with(Policy { mode: AuthMode::JWTOnly, ..policy() }, &Denylist::empty());
    assert_eq!(examine(&strict, "good-key"), Err(Reason::ApiKeysNotAccepted));
    let noted = strict.ledger().entries();
    assert_eq!((noted[0].key.as_str(), &noted[0].caller), ("mobile", &LedgerCaller::Peer { spiffe_id: caller() }));
    let brownout = Brownout { start: now(), end: at(now().as_second() + 60) };
    let api_keys = ApiKeyRules { brownouts: vec![brownout], ..ApiKeyRules::default() };
    let browned = with(Policy { api_keys, ..policy() }, &Denylist::empty());
    assert_eq!(examine(&browned, "good-key"), Err(Reason::ApiKeysBrownedOut));
}

#[test]
fn an_owned_key_is_one_subject_directly_and_through_a_service_that_brings_it() {
    let owners = [own().to_string(), "user:supabase:3fa8".to_owned(), "mobile-app".to_owned(), caller().to_string()];
    let records = owners.iter().enumerate().map(|(number, owner)| gaia_api::mount::ApiKeyRecord {
        principal: owner.clone(),
        ..record(&format!("key{number}"), &format!("text{number}"))
    });
    let records = table(records.collect()).unwrap();
    let authenticator = plain();
    authenticator.replace(Arc::new(Rules::new(policy(), None, Denied::default(), records)));
    let gateway = Connection { peer: Some(peer(caller())), ..Connection::default() };
    for (number, subject) in [&owners[0], &owners[1], "key:key2", "key:key3"].into_iter().enumerate() {
        let key = format!("text{number}");
        let brought = authenticator.introspect_key(&key, "/exchange", &HeaderMap::new(), &gateway).unwrap();
        assert_eq!(brought.subject.to_string(), subject);
        assert_eq!(brought.kind, Credential::ApiKey);
        let mut headers = HeaderMap::new();
        headers.insert("x-api-key", key.parse().unwrap());
        let direct = authenticator.check("/", crate::Access::Scopes(&[]), &headers, &Connection::default());
        if number < 3 {
            assert_eq!(direct.unwrap().principal.unwrap().subject.to_string(), subject, "{key}");
        }
    }
}
