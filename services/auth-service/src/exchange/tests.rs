use gaia_api::SpiffeId;
use gaia_api::mount::{DeniedSubject, Denylist, Grant, Grants, SCHEMA_VERSION, ServiceIdentity, TokenRules};
use gaia_auth::{Identity, Trace};
use jiff::SignedDuration;

use super::*;

fn id(name: &str) -> SpiffeId {
    SpiffeId::workload("gaia.local", "shop", name)
}

fn grants(scopes: &[&str]) -> GrantTable {
    let service = |name: &str| ServiceIdentity { namespace: "shop".into(), name: name.into(), spiffe_id: id(name) };
    let grant = |target: &str, on_behalf_of| Grant {
        caller: id("gateway"),
        target: id(target),
        scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
        on_behalf_of,
    };
    GrantTable::from(Grants {
        schema_version: SCHEMA_VERSION,
        tokens: TokenRules { issuer: "gaia-platform".into(), audience: "gaia-services".into(), max_ttl_seconds: 3600 },
        token_ttl_seconds: None,
        services: ["gateway", "chat", "assets", "web"].map(service).into(),
        grants: vec![grant("assets", true), grant("chat", false)],
    })
}

/// `web` calls `assets` through the gateway, with a token of these scopes; its own pair is granted `own`, the gateway's
/// `granted`.
fn through_gateway(own: Option<&[&str]>, granted: &[&str], token: &[&str]) -> Result<DelegatedClaims, Denial> {
    let texts = |scopes: &[&str]| scopes.iter().map(|&scope| scope.to_owned()).collect::<Vec<_>>();
    let pair = |caller: &str, scopes: &[&str], on_behalf_of| Grant {
        caller: id(caller),
        target: id("assets"),
        scopes: texts(scopes),
        on_behalf_of,
    };
    let service = |name: &str| ServiceIdentity { namespace: "shop".into(), name: name.into(), spiffe_id: id(name) };
    let table = GrantTable::from(Grants {
        schema_version: SCHEMA_VERSION,
        tokens: TokenRules { issuer: "gaia-platform".into(), audience: "gaia-services".into(), max_ttl_seconds: 3600 },
        token_ttl_seconds: None,
        services: ["gateway", "assets", "web"].map(service).into(),
        grants: [pair("gateway", granted, true)].into_iter().chain(own.map(|own| pair("web", own, false))).collect(),
    });
    let subject = Introspected {
        kind: Credential::ServiceToken,
        subject: Identity::Service(id("web")),
        client: Some(id("web")),
        audience: Some(id("gateway").to_string()),
        scopes: Scopes::from_list(&texts(token)),
        expires: Some(later(120)),
        ..user()
    };
    claims(&table, &Denied::default(), &peer("gateway"), &subject, &for_target("assets", None), now(), "j".into())
}

#[test]
fn a_service_is_carried_by_the_gateway_within_what_both_pairs_have() {
    let claims = through_gateway(Some(&["r", "w"]), &["r", "d"], &[]).unwrap();
    assert_eq!((claims.sub.as_str(), claims.act.sub.as_str()), (id("web").as_str(), id("gateway").as_str()));
    assert_eq!((claims.client_id.as_str(), claims.aud.as_str()), (id("gateway").as_str(), id("assets").as_str()));
    assert_eq!((claims.scope.as_deref(), claims.exp - claims.iat), (Some("r"), 120));
    let scope = |own: Option<&[&str]>, granted: &[&str], token: &[&str]| {
        through_gateway(own, granted, token).map(|claims| claims.scope)
    };
    assert_eq!(scope(Some(&[]), &[], &[]), Ok(None));
    assert_eq!(scope(Some(&["r"]), &[], &[]), Ok(Some("r".into())));
    assert_eq!(scope(Some(&[]), &["w"], &[]), Ok(Some("w".into())));
    assert_eq!(scope(Some(&[]), &[], &["w"]), Ok(Some("w".into())), "not above the scopes of its token");
    assert_eq!(scope(Some(&["r"]), &["w"], &[]), Err(Denial::ScopeNotGranted));
    assert_eq!(scope(None, &[], &[]), Err(Denial::PairNotGranted), "the service may not call the target itself");
}

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn later(seconds: i64) -> Timestamp {
    now() + SignedDuration::from_secs(seconds)
}

fn peer(name: &str) -> PeerIdentity {
    PeerIdentity { spiffe_id: id(name), fingerprint: "ab".repeat(32), serial: "".into(), not_after: later(3600) }
}

fn user() -> Introspected {
    Introspected {
        kind: Credential::UserToken,
        subject: Identity::User { issuer: "supabase".into(), sub: "3fa8".into() },
        client: None,
        issuer: None,
        audience: None,
        scopes: Scopes::All,
        issued: Some(now()),
        expires: Some(later(3600)),
        is_anonymous: false,
        trace: Trace::default(),
    }
}

fn form(pairs: &[(&str, &str)]) -> Result<ExchangeRequest, Denial> {
    ExchangeRequest::parse(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
}

const GOOD: [(&str, &str); 4] = [
    ("grant_type", EXCHANGE_GRANT_TYPE),
    ("subject_token", "a.b.c"),
    ("subject_token_type", JWT_TYPE),
    ("audience", "assets"),
];

fn for_target(audience: &str, scope: Option<&str>) -> ExchangeRequest {
    let subject = SubjectCredential::Token("a.b.c".into());
    ExchangeRequest { subject, audience: audience.into(), scope: scope.map(Into::into) }
}

fn ask(granted: &[&str], subject: &Introspected, request: &ExchangeRequest) -> Result<DelegatedClaims, Denial> {
    claims(&grants(granted), &Denied::default(), &peer("gateway"), subject, request, now(), "j".into())
}

#[test]
fn a_form_asks_for_an_exchange_or_for_nothing() {
    assert_eq!(form(&GOOD), Ok(for_target("assets", None)));
    let with = |name: &'static str, value: &'static str| {
        let mut pairs = GOOD.to_vec();
        pairs.retain(|(other, _)| *other != name);
        pairs.push((name, value));
        form(&pairs)
    };
    let key = with("subject_token_type", API_KEY_TYPE).unwrap();
    assert_eq!(key.subject, SubjectCredential::ApiKey("a.b.c".into()));
    assert!(!format!("{key:?}").contains("a.b.c"));
    assert_eq!(with("scope", "a b").unwrap().scope.as_deref(), Some("a b"));
    assert!(with("requested_token_type", JWT_TYPE).is_ok());
    for (name, value, denial) in [
        ("grant_type", "client_credentials", Denial::GrantTypeUnknown),
        ("subject_token", "", Denial::Malformed),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:saml2", Denial::Malformed),
        ("audience", "", Denial::Malformed),
        ("requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token", Denial::Malformed),
        // The actor is always the peer.
        ("actor_token", "d.e.f", Denial::Malformed),
        ("resource", "https://assets", Denial::Malformed),
    ] {
        assert_eq!(with(name, value), Err(denial), "{name}={value}");
    }
}

#[test]
fn a_user_is_carried_to_one_target_by_the_peer_alone() {
    let claims = ask(&["assets:read"], &user(), &for_target("shop/assets", None)).unwrap();
    assert_eq!(claims.sub, "user:supabase:3fa8");
    assert_eq!((claims.client_id.as_str(), claims.act.sub.as_str()), (id("gateway").as_str(), id("gateway").as_str()));
    assert_eq!((claims.aud.as_str(), claims.scope.as_deref()), (id("assets").as_str(), Some("assets:read")));
    assert_eq!((claims.iat, claims.exp), (now().as_second(), now().as_second() + 300));
}

#[test]
fn a_delegated_token_allows_what_both_the_subject_has_and_the_caller_is_granted() {
    let scope = |granted: &[&str], has: &[&str], asked: Option<&str>| {
        let has: Vec<String> = has.iter().map(|&scope| scope.to_owned()).collect();
        let subject = Introspected { scopes: Scopes::from_list(&has), ..user() };
        ask(granted, &subject, &for_target("assets", asked)).map(|claims| claims.scope)
    };
    let some = |text: &str| Ok(Some(text.to_owned()));
    assert_eq!(scope(&[], &[], None), Ok(None));
    assert_eq!(scope(&["r", "w"], &[], None), some("r w"));
    assert_eq!(scope(&[], &["r"], None), some("r"));
    assert_eq!(scope(&["r", "w"], &["w", "x"], None), some("w"));
    assert_eq!(scope(&[], &[], Some("w")), some("w"));
    assert_eq!(scope(&["r", "w"], &["r"], Some("r w")), some("r"));
    assert_eq!(scope(&["r"], &["w"], None), Err(Denial::ScopeNotGranted), "no scope would say: all");
    assert_eq!(scope(&["r"], &["r"], Some("w")), Err(Denial::ScopeNotGranted));
    assert_eq!(scope(&["r"], &["r"], Some("r  w")), Err(Denial::Malformed));
}

#[test]
fn everything_else_is_denied() {
    let refused = Denial::SubjectRefused;
    let of = |subject: &str, audience: &str| Introspected {
        kind: Credential::ServiceToken,
        subject: Identity::Service(id(subject)),
        audience: Some(audience.to_owned()),
        ..user()
    };
    let own = of("gateway", id("gateway").as_str());
    let (broad, elsewhere) = (of("web", "gaia-services"), of("web", id("chat").as_str()));
    let anonymous = Introspected { is_anonymous: true, ..user() };
    let ended = Introspected { expires: Some(now()), ..user() };
    for (subject, target, denial) in [
        (&user(), "chat", Denial::DelegationNotGranted),
        (&user(), "web", Denial::PairNotGranted),
        (&user(), "nobody", Denial::TargetUnknown),
        (&own, "assets", refused(Reason::KindNotAccepted)),
        (&broad, "assets", refused(Reason::AudienceWrong)),
        (&elsewhere, "assets", refused(Reason::AudienceWrong)),
        (&anonymous, "assets", refused(Reason::AnonymousUser)),
        (&ended, "assets", refused(Reason::Expired)),
    ] {
        assert_eq!(ask(&[], subject, &for_target(target, None)), Err(denial), "{target}");
    }
    let request = for_target("assets", None);
    let stranger = peer("batch-job");
    let unknown = claims(&grants(&[]), &Denied::default(), &stranger, &user(), &request, now(), "j".into());
    assert_eq!(unknown, Err(Denial::CallerUnknown));
}

#[test]
fn a_delegated_token_ends_with_what_it_was_made_from_and_with_the_certificate() {
    let life = |expires: Option<Timestamp>, certificate: i64| {
        let subject = Introspected { expires, ..user() };
        let peer = PeerIdentity { not_after: later(certificate), ..peer("gateway") };
        let request = for_target("assets", None);
        let claims = claims(&grants(&[]), &Denied::default(), &peer, &subject, &request, now(), "j".into());
        claims.map(|claims| claims.exp - claims.iat)
    };
    assert_eq!(life(None, 3600), Ok(300));
    assert_eq!(life(Some(later(40)), 3600), Ok(40));
    assert_eq!(life(Some(later(40)), 20), Ok(20));
    assert_eq!(life(None, 0), Err(Denial::CertificateEnding));
}

#[test]
fn nothing_is_issued_about_whom_a_verifier_would_refuse() {
    let under = |denylist: &Denylist| {
        let (denied, request) = (Denied::from(denylist), for_target("assets", None));
        claims(&grants(&[]), &denied, &peer("gateway"), &user(), &request, now(), "j".into()).map(drop)
    };
    let subject = |sub: &str| Denylist {
        subjects: vec![DeniedSubject { sub: sub.to_owned(), not_before: later(60) }],
        ..Denylist::empty()
    };
    assert_eq!(under(&subject("user:supabase:3fa8")), Err(Denial::SubjectRefused(Reason::SubjectRevoked)));
    assert_eq!(under(&subject(id("gateway").as_str())), Err(Denial::SubjectRevoked));
    assert_eq!(under(&subject("user:supabase:other")), Ok(()));
    let leaf = Denylist { leaves: vec!["ab".repeat(32)], ..Denylist::empty() };
    assert_eq!(under(&leaf), Err(Denial::PeerRevoked));
}

#[test]
fn an_owned_key_is_its_owner_and_the_targets_own_key_stands_for_itself() {
    let sub = |owner: &str| {
        let trace = Trace { key_id: Some("k1".into()), ..Trace::default() };
        let subject = Introspected { kind: Credential::ApiKey, subject: Identity::Service(id(owner)), trace, ..user() };
        let request = for_target("assets", None);
        claims(&grants(&[]), &Denied::default(), &peer("gateway"), &subject, &request, now(), "j".into()).unwrap().sub
    };
    assert_eq!(sub("web"), id("web").as_str());
    assert_eq!(sub("assets"), "key:k1");
}
