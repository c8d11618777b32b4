//! Service-token verification, one row per rule and attack.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gaia_api::mount::{DeniedSubject, Denylist};
use proptest::prelude::*;
use rstest::rstest;
use serde_json::json;

use super::*;
use crate::fixtures::{EC_SIGNER, RSA_SIGNER, at, caller, claims, delegated_claims, keys, now, own, peer};

/// One verification attempt; `Default` succeeds.
struct Attempt {
    header: Value,
    claims: Value,
    raw_claims: Option<String>,
    peer: Option<PeerIdentity>,
    denylist: Denylist,
    is_broad_accepted: bool,
}

impl Default for Attempt {
    fn default() -> Self {
        Self {
            header: json!({ "alg": "RS256", "kid": RSA_SIGNER.kid(), "typ": "at+jwt" }),
            claims: serde_json::to_value(claims()).unwrap(),
            raw_claims: None,
            peer: Some(peer(caller())),
            denylist: Denylist::empty(),
            is_broad_accepted: true,
        }
    }
}

impl Attempt {
    fn with(name: &str, value: Value) -> Self {
        let mut attempt = Self::default();
        attempt.claims[name] = value;
        attempt
    }

    fn without(name: &str) -> Self {
        let mut attempt = Self::default();
        attempt.claims.as_object_mut().unwrap().remove(name);
        attempt
    }

    fn header(name: &str, value: Value) -> Self {
        let mut attempt = Self::default();
        attempt.header[name] = value;
        attempt
    }

    /// A valid delegated token with one claim replaced; null removes the claim.
    fn delegated(name: &str, value: Value) -> Self {
        let mut attempt = Self { claims: serde_json::to_value(delegated_claims()).unwrap(), ..Self::default() };
        attempt.claims[name] = value;
        attempt.claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        attempt
    }

    fn token(&self) -> String {
        let payload = self.raw_claims.clone().unwrap_or_else(|| self.claims.to_string());
        RSA_SIGNER.sign_parts(self.header.to_string().as_bytes(), payload.as_bytes()).unwrap()
    }

    fn verify(&self) -> Result<ServiceToken, Reason> {
        self.verify_text(&self.token())
    }

    fn verify_text(&self, token: &str) -> Result<ServiceToken, Reason> {
        let denied = Denied::from(&self.denylist);
        let rules = TokenRules {
            keys: &keys(),
            issuer: "gaia-platform",
            own: &own(),
            broad_audience: self.is_broad_accepted.then_some("gaia-services"),
            max_ttl_seconds: 3600,
            denied: &denied,
        };
        rules.verify(token, self.peer.as_ref(), now()).map_err(|refusal| refusal.reason)
    }

    fn reason(&self) -> Option<Reason> {
        self.verify().err()
    }
}

#[test]
fn a_good_token_of_either_algorithm_is_accepted() {
    let token = Attempt::default().verify().unwrap();
    assert_eq!(token.caller, caller());
    assert_eq!(token.scopes, Scopes::from_list(&["assets:read".to_owned()]));
    assert_eq!(token.trace.jti.as_deref(), Some("j1"));
    assert!(Attempt::default().verify_text(&EC_SIGNER.sign(&claims()).unwrap()).is_ok());
}

#[test]
fn a_token_signed_by_someone_else_or_changed_is_refused() {
    let good = Attempt::default().token();
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (header, _) = signed.split_once('.').unwrap();
    let other_claims = URL_SAFE_NO_PAD.encode(json!({ "sub": "spiffe://gaia.local/ns/shop/sa/admin" }).to_string());
    // The EC key's token under the RSA key's ID, and the reverse.
    let ec = EC_SIGNER.sign_parts(&serde_json::to_vec(&Attempt::default().header).unwrap(), b"{}").unwrap();
    for forged in [
        format!("{header}.{other_claims}.{signature}"),
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode([0; 256])),
        format!("{signed}.AAAA"),
        ec,
    ] {
        assert_eq!(Attempt::default().verify_text(&forged).unwrap_err(), Reason::SignatureWrong);
    }
}

#[test]
fn hs256_with_the_public_key_as_secret_is_refused_before_any_signature_is_looked_at() {
    assert_eq!(Attempt::header("alg", json!("HS256")).reason(), Some(Reason::AlgorithmWrong));
    assert_eq!(Attempt::header("alg", json!("none")).reason(), Some(Reason::AlgorithmWrong));
    assert_eq!(Attempt::header("alg", json!("ES256")).reason(), Some(Reason::AlgorithmWrong), "the key is an RSA key");
}

#[test]
fn a_token_truly_signed_with_hmac_and_the_public_key_as_secret_is_refused() {
    use aws_lc_rs::hmac;

    let jwk = RSA_SIGNER.jwk();
    let modulus = URL_SAFE_NO_PAD.decode(jwk["n"].as_str().unwrap()).unwrap();
    // Every form of the public key that a confused verifier could use as an HMAC secret.
    for secret in [modulus, jwk.to_string().into_bytes(), RSA_SIGNER.kid().as_bytes().to_vec()] {
        for alg in ["HS256", "RS256"] {
            let header = json!({ "alg": alg, "kid": RSA_SIGNER.kid(), "typ": "at+jwt" }).to_string();
            let payload = Attempt::default().claims.to_string();
            let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), signed.as_bytes());
            let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag));
            let expected = if alg == "HS256" { Reason::AlgorithmWrong } else { Reason::SignatureWrong };
            assert_eq!(Attempt::default().verify_text(&token).unwrap_err(), expected);
        }
    }
}

#[rstest]
// 4: a kid is only used as a map key.
#[case::a_kid_that_is_a_path(Attempt::header("kid", json!("../../../dev/null")), Reason::KidUnknown)]
#[case::a_kid_that_is_sql(Attempt::header("kid", json!("x' UNION SELECT 'k")), Reason::KidUnknown)]
// 8: other types of tokens signed with the same key.
#[case::an_id_token(Attempt::header("typ", json!("JWT")), Reason::TypeWrong)]
#[case::a_type_in_another_spelling(Attempt::header("typ", json!("AT+JWT")), Reason::TypeWrong)]
#[case::an_actor_who_is_not_the_client(Attempt::with("act", json!({"sub": "x"})), Reason::ActorWrong)]
// 9: issuer, audience, subject.
#[case::another_issuer(Attempt::with("iss", json!("evil")), Reason::IssuerWrong)]
#[case::a_list_of_issuers(Attempt::with("iss", json!(["gaia-platform"])), Reason::IssuerWrong)]
#[case::no_issuer(Attempt::without("iss"), Reason::IssuerWrong)]
#[case::a_token_for_another_service(Attempt::with("aud", json!("spiffe://gaia.local/ns/shop/sa/chat")), Reason::AudienceWrong)]
#[case::several_audiences(Attempt::with("aud", json!([own().as_str(), "x"])), Reason::AudienceWrong)]
#[case::no_audience(Attempt::without("aud"), Reason::AudienceWrong)]
#[case::a_broad_token_with_scopes(Attempt::with("aud", json!("gaia-services")), Reason::AudienceWrong)]
#[case::no_subject(Attempt::without("sub"), Reason::SubjectWrong)]
#[case::an_empty_subject(Attempt::with("sub", json!("")), Reason::SubjectWrong)]
#[case::no_client(Attempt::without("client_id"), Reason::SubjectWrong)]
#[case::a_client_that_is_not_the_subject(Attempt::with("client_id", json!("spiffe://gaia.local/ns/a/sa/b")), Reason::SubjectWrong)]
#[case::a_subject_that_is_no_workload(
    { let mut a = Attempt::with("sub", json!("gateway")); a.claims["client_id"] = json!("gateway"); a },
    Reason::SubjectWrong
)]
// 10: times are integers in a valid range.
#[case::no_expiry(Attempt::without("exp"), Reason::TimesMissing)]
#[case::no_issue_time(Attempt::without("iat"), Reason::TimesMissing)]
#[case::an_expiry_in_text(Attempt::with("exp", json!("1800000900")), Reason::TimesMissing)]
#[case::a_fraction(Attempt::with("exp", json!(1_800_000_900.5)), Reason::TimesMissing)]
#[case::a_negative_time(Attempt::with("iat", json!(-1)), Reason::TimesMissing)]
#[case::an_expiry_beyond_integers(Attempt::with("exp", json!(u64::MAX)), Reason::TimesMissing)]
#[case::the_longest_expiry(Attempt::with("exp", json!(i64::MAX)), Reason::TimesMissing)]
#[case::a_token_for_longer_than_allowed(Attempt::with("exp", json!(1_800_003_601)), Reason::LifeTooLong)]
#[case::a_token_that_ends_before_it_starts(Attempt::with("exp", json!(1_799_999_999)), Reason::LifeTooLong)]
#[case::a_not_before_in_text(Attempt::with("nbf", json!("0")), Reason::TimesMissing)]
#[case::not_valid_yet(Attempt::with("nbf", json!(1_800_000_061)), Reason::NotYetValid)]
// 11: no ambiguous JSON.
#[case::a_repeated_claim(
    Attempt { raw_claims: Some(r#"{"sub":"a","sub":"b"}"#.into()), ..Attempt::default() }, Reason::ClaimRepeated
)]
#[case::a_repeated_name_inside_a_claim(
    Attempt { raw_claims: Some(r#"{"x":[{"a":1,"a":2}]}"#.into()), ..Attempt::default() }, Reason::ClaimRepeated
)]
#[case::claims_that_are_no_object(Attempt { raw_claims: Some("[]".into()), ..Attempt::default() }, Reason::ClaimsNotJson)]
// 12: a token is accepted from its client only.
#[case::stolen_and_used_without_a_certificate(Attempt { peer: None, ..Attempt::default() }, Reason::PeerMissing)]
#[case::stolen_and_used_by_another_service(Attempt { peer: Some(peer(own())), ..Attempt::default() }, Reason::PeerDiffers)]
#[case::bound_to_another_leaf(Attempt::with("cnf", json!({"x5t#S256": "AAAA"})), Reason::ConfirmationDiffers)]
#[case::bound_in_a_way_not_known(Attempt::with("cnf", json!({"jkt": "AAAA"})), Reason::ConfirmationDiffers)]
#[case::bound_in_two_ways(
    Attempt::with("cnf", json!({"x5t#S256": URL_SAFE_NO_PAD.encode([0xab; 32]), "jkt": "x"})), Reason::ConfirmationDiffers
)]
#[case::bound_to_nothing(Attempt::with("cnf", json!(null)), Reason::ConfirmationDiffers)]
// jti and scope.
#[case::no_token_id(Attempt::without("jti"), Reason::TokenIdMissing)]
#[case::an_endless_token_id(Attempt::with("jti", json!("j".repeat(129))), Reason::TokenIdMissing)]
#[case::scopes_in_a_list(Attempt::with("scope", json!(["assets:read"])), Reason::ScopeMalformed)]
#[case::an_empty_scope(Attempt::with("scope", json!("")), Reason::ScopeMalformed)]
#[case::two_spaces_between_scopes(Attempt::with("scope", json!("a  b")), Reason::ScopeMalformed)]
#[case::a_quote_in_a_scope(Attempt::with("scope", json!("a\"b")), Reason::ScopeMalformed)]
// 14: revoked.
#[case::a_revoked_signing_key(
    Attempt { denylist: Denylist { kids: vec![RSA_SIGNER.kid().into()], ..Denylist::empty() }, ..Attempt::default() },
    Reason::KidRevoked
)]
#[case::a_revoked_token(
    Attempt { denylist: Denylist { jtis: vec!["j1".into()], ..Denylist::empty() }, ..Attempt::default() },
    Reason::TokenIdRevoked
)]
#[case::a_subject_whose_older_tokens_are_revoked(
    Attempt {
        denylist: Denylist {
            subjects: vec![DeniedSubject { sub: caller().to_string(), not_before: at(1_800_000_001) }],
            ..Denylist::empty()
        },
        ..Attempt::default()
    },
    Reason::SubjectRevoked
)]
fn a_token_that_breaks_a_rule_is_refused(#[case] attempt: Attempt, #[case] reason: Reason) {
    assert_eq!(attempt.reason(), Some(reason));
}

#[test]
fn a_delegated_token_says_who_acts_for_whom() {
    let token = Attempt::default().verify_text(&RSA_SIGNER.sign(&delegated_claims()).unwrap()).unwrap();
    assert_eq!(token.caller, caller());
    assert_eq!(token.on_behalf_of.unwrap().to_string(), "user:supabase:3fa85f64");
    let for_a_key = Attempt::delegated("sub", json!("key:mobile")).verify().unwrap();
    assert_eq!(for_a_key.on_behalf_of, Some(Identity::Key("mobile".into())));
    let web = SpiffeId::workload("gaia.local", "shop", "web");
    let for_a_service = Attempt::delegated("sub", json!(web.as_str())).verify().unwrap();
    assert_eq!(for_a_service.on_behalf_of, Some(Identity::Service(web.clone())));
    let subjects = vec![DeniedSubject { sub: web.to_string(), not_before: at(1_800_000_001) }];
    let denylist = Denylist { subjects, ..Denylist::empty() };
    let revoked = Attempt { denylist, ..Attempt::delegated("sub", json!(web.as_str())) };
    assert_eq!(revoked.reason(), Some(Reason::SubjectRevoked));
}

#[rstest]
// A delegated token with the caller itself as subject is refused.
#[case::for_the_target(Attempt::delegated("sub", json!(own().as_str())), Reason::SubjectWrong)]
#[case::for_a_service_elsewhere(Attempt::delegated("sub", json!("spiffe://other/ns/shop/sa/web")), Reason::SubjectWrong)]
#[case::for_the_operator(Attempt::delegated("sub", json!("spiffe://gaia.local/gaia/operator")), Reason::SubjectWrong)]
#[case::for_itself(Attempt::delegated("sub", json!(caller().as_str())), Reason::SubjectWrong)]
#[case::for_a_bare_name(Attempt::delegated("sub", json!("gateway")), Reason::SubjectWrong)]
#[case::for_a_user_of_no_issuer(Attempt::delegated("sub", json!("user::x")), Reason::SubjectWrong)]
#[case::for_nobody(Attempt::delegated("sub", json!(null)), Reason::SubjectWrong)]
// Without `act` it would be an unbound token of the user.
#[case::without_an_actor(Attempt::delegated("act", json!(null)), Reason::SubjectWrong)]
#[case::with_an_actor_who_is_not_the_client(Attempt::delegated("act", json!({"sub": own().as_str()})), Reason::ActorWrong)]
#[case::with_a_chain_of_actors(
    Attempt::delegated("act", json!({"sub": caller().as_str(), "act": {"sub": own().as_str()}})), Reason::ActorWrong
)]
#[case::with_an_actor_in_text(Attempt::delegated("act", json!(caller().as_str())), Reason::ActorWrong)]
#[case::without_a_client(Attempt::delegated("client_id", json!(null)), Reason::SubjectWrong)]
#[case::for_every_service(Attempt::delegated("aud", json!("gaia-services")), Reason::AudienceWrong)]
#[case::for_longer_than_five_minutes(Attempt::delegated("exp", json!(now().as_second() + 301)), Reason::LifeTooLong)]
#[case::stolen_and_used_by_another_service(
    Attempt { peer: Some(peer(own())), ..Attempt::delegated("scope", json!("a")) }, Reason::PeerDiffers
)]
#[case::stolen_and_used_without_a_certificate(Attempt { peer: None, ..Attempt::delegated("scope", json!("a")) }, Reason::PeerMissing)]
#[case::for_a_revoked_user(
    Attempt {
        denylist: Denylist {
            subjects: vec![DeniedSubject { sub: "user:supabase:3fa85f64".into(), not_before: at(1_800_000_001) }],
            ..Denylist::empty()
        },
        ..Attempt::delegated("scope", json!("a"))
    },
    Reason::SubjectRevoked
)]
#[case::by_a_revoked_caller(
    Attempt {
        denylist: Denylist {
            subjects: vec![DeniedSubject { sub: caller().to_string(), not_before: at(1_800_000_001) }],
            ..Denylist::empty()
        },
        ..Attempt::delegated("scope", json!("a"))
    },
    Reason::SubjectRevoked
)]
fn a_delegated_token_that_breaks_a_rule_is_refused(#[case] attempt: Attempt, #[case] reason: Reason) {
    assert_eq!(attempt.reason(), Some(reason));
}

#[test]
fn clocks_may_differ_by_a_minute_and_no_more() {
    let expired = |seconds_ago: i64| {
        let mut attempt = Attempt::with("iat", json!(now().as_second() - 900));
        attempt.claims["exp"] = json!(now().as_second() - seconds_ago);
        attempt.reason()
    };
    assert_eq!(expired(59), None);
    assert_eq!(expired(60), Some(Reason::Expired));
    assert_eq!(expired(61), Some(Reason::Expired));
    let issued_in = |seconds: i64| Attempt::with("iat", json!(now().as_second() + seconds)).reason();
    assert_eq!(issued_in(60), None);
    assert_eq!(issued_in(61), Some(Reason::IssuedInFuture));
    let valid_in = |seconds: i64| Attempt::with("nbf", json!(now().as_second() + seconds)).reason();
    assert_eq!(valid_in(60), None);
    assert_eq!(valid_in(61), Some(Reason::NotYetValid));
}

#[test]
fn a_broad_token_is_accepted_without_scopes_and_only_where_policy_says_so() {
    let mut attempt = Attempt::without("scope");
    attempt.claims["aud"] = json!("gaia-services");
    assert_eq!(attempt.verify().unwrap().scopes, Scopes::All);
    attempt.is_broad_accepted = false;
    assert_eq!(attempt.reason(), Some(Reason::AudienceWrong));
}

#[test]
fn a_confirmation_of_the_very_leaf_is_accepted() {
    let thumbprint = URL_SAFE_NO_PAD.encode([0xab; 32]);
    assert_eq!(Attempt::with("cnf", json!({ "x5t#S256": thumbprint })).reason(), None);
}

#[test]
fn tokens_issued_after_a_subject_was_revoked_work_again() {
    let subjects = vec![DeniedSubject { sub: caller().to_string(), not_before: now() }];
    let attempt = Attempt { denylist: Denylist { subjects, ..Denylist::empty() }, ..Attempt::default() };
    assert_eq!(attempt.reason(), None);
}

#[test]
fn a_refusal_names_kid_jti_and_subject_but_never_the_token() {
    let attempt = Attempt { peer: None, ..Attempt::default() };
    let token = attempt.token();
    let denied = Denied::default();
    let rules = TokenRules {
        keys: &keys(),
        issuer: "gaia-platform",
        own: &own(),
        broad_audience: None,
        max_ttl_seconds: 3600,
        denied: &denied,
    };
    let refusal = rules.verify(&token, None, now()).unwrap_err();
    assert_eq!(refusal.trace.kid.as_deref(), Some(RSA_SIGNER.kid()));
    assert_eq!(refusal.trace.sub.as_deref(), Some(caller().as_str()));
    assert!(!format!("{refusal:?}").contains(token.rsplit_once('.').unwrap().1));
}

proptest! {
    #[test]
    fn a_single_changed_character_is_never_accepted(position in 0usize..600, replacement in "[A-Za-z0-9_-]") {
        let attempt = Attempt::default();
        let good = attempt.token();
        let position = position % good.len();
        let mut changed = good.clone();
        changed.replace_range(position..=position, &replacement);
        if changed != good {
            prop_assert!(attempt.verify_text(&changed).is_err());
        }
    }
}
