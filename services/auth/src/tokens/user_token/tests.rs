//! User-token verification, one row per rule and attack.

use gaia_api::mount::{DeniedSubject, Denylist};
use jiff::SignedDuration;
use rstest::rstest;
use serde_json::json;

use super::*;
use crate::fixtures::{
    RSA_SIGNER, USER, USER_SIGNER, at, claims as service_claims, now, user_claims, user_issuer, user_key_set,
    user_token,
};

fn verify(issuer: &UserTokenIssuer, token: &str) -> Result<UserToken, Reason> {
    let rules = UserTokenRules { issuer, denied: &Denied::default() };
    rules.verify(&user_key_set(), token, None, now()).map_err(|refusal| refusal.reason)
}

/// The valid claims with one replaced; null removes it.
fn with(name: &str, value: Value) -> Value {
    let mut claims = user_claims();
    claims[name] = value;
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    claims
}

fn judged(claims: &Value) -> Result<UserToken, Reason> {
    verify(&user_issuer(), &user_token(claims))
}

#[test]
fn the_token_of_a_session_names_its_user() {
    let token = judged(&user_claims()).unwrap();
    assert_eq!(token.identity().to_string(), format!("user:supabase:{USER}"));
    assert!(!token.is_anonymous);
    assert_eq!(token.trace.sub.as_deref(), Some(USER));
    let in_a_list = with("aud", json!(["other", "authenticated"]));
    assert!(judged(&in_a_list).is_ok(), "of several audiences one is enough");
}

#[rstest]
// The project keys are published or grant full access; neither is a user.
#[case::the_anon_key(with("role", json!("anon")), Reason::ProjectKey)]
#[case::the_service_role_key(with("role", json!("service_role")), Reason::ProjectKey)]
#[case::an_id_token(with("at_hash", json!("x")), Reason::IdToken)]
#[case::an_id_token_with_a_nonce(with("nonce", json!("x")), Reason::IdToken)]
#[case::an_id_token_that_says_so(with("token_use", json!("id")), Reason::IdToken)]
#[case::a_token_of_a_third_party(with("client_id", json!("9a7c")), Reason::ClientNotListed)]
#[case::another_project(with("iss", json!("https://other.example/auth/v1")), Reason::IssuerWrong)]
#[case::no_issuer(with("iss", json!(null)), Reason::IssuerWrong)]
#[case::a_list_of_issuers(with("iss", json!([user_issuer().issuer])), Reason::IssuerWrong)]
#[case::another_audience(with("aud", json!("admin")), Reason::AudienceWrong)]
#[case::no_audience(with("aud", json!(null)), Reason::AudienceWrong)]
#[case::an_audience_that_is_no_text(with("aud", json!(["authenticated", 1])), Reason::AudienceWrong)]
// A user named like a service is not a service.
#[case::a_service_as_user(with("sub", json!("gateway")), Reason::SubjectWrong)]
#[case::a_spiffe_id_as_user(with("sub", json!("spiffe://gaia.local/ns/shop/sa/gateway")), Reason::SubjectWrong)]
#[case::a_user_in_another_spelling(with("sub", json!(USER.to_uppercase())), Reason::SubjectWrong)]
#[case::no_user(with("sub", json!(null)), Reason::SubjectWrong)]
#[case::a_role_that_is_no_text(with("role", json!(["authenticated"])), Reason::ClaimRequired)]
#[case::an_empty_role(with("role", json!("")), Reason::ClaimRequired)]
#[case::a_time_before_1970(with("iat", json!(-0.5)), Reason::TimesMissing)]
#[case::a_time_beyond_all_times(with("exp", json!(1e300)), Reason::TimesMissing)]
#[case::a_time_that_is_true(with("exp", json!(true)), Reason::TimesMissing)]
#[case::a_life_of_a_fraction_too_long(with("exp", json!(1_800_086_400.5)), Reason::LifeTooLong)]
#[case::no_role(with("role", json!(null)), Reason::ClaimRequired)]
#[case::no_session(with("session_id", json!(null)), Reason::ClaimRequired)]
#[case::an_anonymity_in_text(with("is_anonymous", json!("false")), Reason::ClaimRequired)]
#[case::an_actor(with("act", json!({"sub": "x"})), Reason::KindNotAccepted)]
#[case::no_expiry(with("exp", json!(null)), Reason::TimesMissing)]
#[case::a_week(with("exp", json!(now().as_second() + 7 * 86_400)), Reason::LifeTooLong)]
#[case::bound_to_a_leaf_that_nobody_shows(with("cnf", json!({"x5t#S256": "AAAA"})), Reason::ConfirmationDiffers)]
fn a_user_token_that_breaks_a_rule_is_refused(#[case] claims: Value, #[case] reason: Reason) {
    assert_eq!(judged(&claims), Err(reason));
}

#[test]
fn the_kinds_of_token_cannot_stand_in_for_each_other() {
    let rules = UserTokenRules { issuer: &user_issuer(), denied: &Denied::default() };
    let own = KeySet::parse(json!({ "keys": [RSA_SIGNER.jwk()] }).to_string().as_bytes()).unwrap();
    let service = RSA_SIGNER.sign(&service_claims()).unwrap();
    assert_eq!(rules.verify(&own, &service, None, now()).unwrap_err().reason, Reason::IssuerWrong);
    assert_eq!(verify(&user_issuer(), &service), Err(Reason::KidUnknown), "and keys belong to one issuer");
}

fn with_header(header: &Value) -> String {
    USER_SIGNER.sign_parts(header.to_string().as_bytes(), user_claims().to_string().as_bytes()).unwrap()
}

#[test]
fn header_parameters_that_are_not_critical_are_ignored() {
    let plain = json!({"alg": "ES256", "kid": USER_SIGNER.kid()});
    let certificate = "A".repeat(2000);
    for (name, value) in [
        ("typ", json!("JWT")),
        ("typ", json!("jwt")),
        ("typ", json!("at+jwt")),
        ("typ", json!("application/at+jwt")),
        ("x5t", json!("AA")),
        ("x5t#S256", json!("AA")),
        ("cat", json!("cl_B7d4PD111AAA")),
        ("nonce", json!("n")),
        ("cty", json!(["any"])),
        ("later", json!({"of": [1, null]})),
        // References to keys are never followed.
        ("jku", json!("https://evil.example")),
        ("x5u", json!("https://evil.example")),
        ("x5c", json!([certificate])),
    ] {
        let mut header = plain.clone();
        header[name] = value;
        assert!(verify(&user_issuer(), &with_header(&header)).is_ok(), "{header}");
    }
    assert!(verify(&user_issuer(), &with_header(&plain)).is_ok());
}

#[test]
fn header_parameters_that_change_the_meaning_are_refused() {
    let kid = USER_SIGNER.kid();
    for (header, reason) in [
        (json!({"alg": "ES256", "kid": kid, "crit": ["exp"]}), Reason::HeaderFieldRefused),
        (json!({"alg": "ES256", "kid": kid, "crit": []}), Reason::HeaderFieldRefused),
        (json!({"alg": "ES256", "kid": kid, "jwk": {}}), Reason::HeaderFieldRefused),
        (json!({"alg": "ES256", "kid": kid, "zip": "DEF"}), Reason::HeaderFieldRefused),
        (json!({"alg": "ES256", "kid": kid, "b64": true}), Reason::HeaderFieldRefused),
        (json!({"alg": "none", "kid": kid}), Reason::AlgorithmWrong),
        // The shared secret of a project, known to each of its servers.
        (json!({"alg": "HS256", "kid": kid}), Reason::AlgorithmWrong),
        (json!({"alg": "RS256", "kid": kid}), Reason::AlgorithmWrong),
        (json!({"alg": "ES256", "kid": kid, "typ": "id+jwt"}), Reason::TypeWrong),
        (json!({"alg": "ES256", "kid": kid, "typ": "dpop+jwt"}), Reason::TypeWrong),
        (json!({"alg": "ES256", "kid": kid, "typ": "logout+jwt"}), Reason::TypeWrong),
        (json!({"alg": "ES256", "kid": kid, "typ": ""}), Reason::TypeWrong),
        (json!({"alg": "ES256", "kid": kid, "typ": 1}), Reason::HeaderFieldRefused),
        (json!({"alg": "ES256", "kid": kid, "x5c": ["A".repeat(4000)]}), Reason::TokenHeaderTooLong),
        (json!({"alg": "ES256"}), Reason::KidMissing),
    ] {
        assert_eq!(verify(&user_issuer(), &with_header(&header)), Err(reason), "{header}");
    }
    let only_rsa = UserTokenIssuer { algorithms: vec!["RS256".into()], ..user_issuer() };
    assert_eq!(verify(&only_rsa, &user_token(&user_claims())), Err(Reason::AlgorithmWrong));
}

#[test]
fn an_issuer_has_its_own_audiences_clients_claims_and_times() {
    let issuer = UserTokenIssuer {
        audiences: vec!["app".into()],
        client_ids: vec!["partner".into()],
        required_claims: [("aal".to_owned(), "aal2".to_owned())].into(),
        max_ttl_seconds: Some(7200),
        ..user_issuer()
    };
    let mut claims = with("aud", json!("app"));
    claims["client_id"] = json!("partner");
    assert_eq!(verify(&issuer, &user_token(&claims)), Err(Reason::ClaimRequired), "it signed in with one factor");
    claims["aal"] = json!("aal2");
    assert!(verify(&issuer, &user_token(&claims)).is_ok());
    claims["exp"] = json!(now().as_second() + 7201);
    assert_eq!(verify(&issuer, &user_token(&claims)), Err(Reason::LifeTooLong));
    assert_eq!(verify(&issuer, &user_token(&user_claims())), Err(Reason::AudienceWrong), "the default is replaced");
}

#[test]
fn an_issuer_of_another_kind_needs_no_session_and_no_uuid() {
    let issuer = UserTokenIssuer { profile: UserTokenProfile::Generic, ..user_issuer() };
    let mut claims = with("session_id", json!(null));
    claims["sub"] = json!("auth0|42");
    assert_eq!(verify(&issuer, &user_token(&claims)).unwrap().identity().to_string(), "user:supabase:auth0|42");
    claims["sub"] = json!("two words");
    assert_eq!(verify(&issuer, &user_token(&claims)), Err(Reason::SubjectWrong));
}

#[test]
fn nobody_signed_in_is_said_of_the_user() {
    assert!(judged(&with("is_anonymous", json!(true))).unwrap().is_anonymous);
}

#[test]
fn clocks_may_differ_by_a_minute_and_no_more() {
    let rules = UserTokenRules { issuer: &user_issuer(), denied: &Denied::default() };
    let reason = |seconds| {
        let now = now() + SignedDuration::from_secs(seconds);
        rules.verify(&user_key_set(), &user_token(&user_claims()), None, now).err().map(|refusal| refusal.reason)
    };
    assert_eq!(reason(-60), None);
    assert_eq!(reason(-61), Some(Reason::IssuedInFuture));
    assert_eq!(reason(3600 + 59), None);
    assert_eq!(reason(3600 + 61), Some(Reason::Expired));
}

#[test]
fn a_user_and_a_key_of_the_issuer_can_be_revoked() {
    let judged = |denylist: &Denylist| {
        let denied = Denied::from(denylist);
        let issuer = user_issuer();
        let rules = UserTokenRules { issuer: &issuer, denied: &denied };
        rules.verify(&user_key_set(), &user_token(&user_claims()), None, now()).err().map(|refusal| refusal.reason)
    };
    let subjects = vec![DeniedSubject { sub: format!("user:supabase:{USER}"), not_before: at(1_800_000_001) }];
    assert_eq!(judged(&Denylist { subjects, ..Denylist::empty() }), Some(Reason::SubjectRevoked));
    let kids = vec![USER_SIGNER.kid().to_owned()];
    assert_eq!(judged(&Denylist { kids, ..Denylist::empty() }), Some(Reason::KidRevoked));
}

#[test]
fn a_token_the_issuer_is_asked_about_is_judged_by_the_same_rules() {
    let rules = UserTokenRules { issuer: &user_issuer(), denied: &Denied::default() };
    let token = |header: &str, claims: &Value| {
        USER_SIGNER.sign_parts(header.as_bytes(), claims.to_string().as_bytes()).unwrap()
    };
    let hs256 = r#"{"alg":"HS256","typ":"JWT"}"#;
    assert_eq!(rules.read_unverified(&token(hs256, &user_claims())).unwrap().sub, USER);
    let reason = |header, claims: &Value| rules.read_unverified(&token(header, claims)).unwrap_err().reason;
    assert_eq!(reason(r#"{"alg":"none"}"#, &user_claims()), Reason::AlgorithmWrong);
    assert_eq!(reason(r#"{"alg":"HS256","crit":["x"]}"#, &user_claims()), Reason::HeaderFieldRefused);
    assert_eq!(reason(hs256, &with("role", json!("anon"))), Reason::ProjectKey);
}

#[test]
fn fractions_of_a_second_are_compared_exactly() {
    let rules = UserTokenRules { issuer: &user_issuer(), denied: &Denied::default() };
    let mut claims = with("iat", json!(1_800_000_000.5));
    claims["exp"] = json!(1_800_003_600.5);
    let reason = |claims: &Value, milliseconds| {
        let now = at(1_800_000_000) + SignedDuration::from_millis(milliseconds);
        rules.verify(&user_key_set(), &user_token(claims), None, now).err().map(|refusal| refusal.reason)
    };
    assert_eq!(reason(&claims, -59_500), None);
    assert_eq!(reason(&claims, -59_501), Some(Reason::IssuedInFuture));
    assert_eq!(reason(&claims, 3_660_499), None);
    assert_eq!(reason(&claims, 3_660_500), Some(Reason::Expired));
    claims["nbf"] = json!(1_800_000_100.25);
    assert_eq!(reason(&claims, 40_249), Some(Reason::NotYetValid));
    assert_eq!(reason(&claims, 40_250), None);
    // RFC 7159 has one type of number.
    claims["nbf"] = json!(1.8e9);
    assert_eq!(reason(&claims, 0), None);
}

#[test]
fn names_in_a_token_that_the_issuer_has_not_confirmed_are_claims() {
    let rules = UserTokenRules { issuer: &user_issuer(), denied: &Denied::default() };
    let token = |claims: &Value| USER_SIGNER.sign_parts(br#"{"alg":"HS256"}"#, claims.to_string().as_bytes()).unwrap();
    let refused = rules.read_unverified(&token(&with("aud", json!("x")))).unwrap_err().trace;
    let read = rules.read_unverified(&token(&user_claims())).unwrap();
    for trace in [&refused, &read.trace] {
        assert_eq!((trace.sub.as_deref(), trace.claimed_sub()), (None, Some(USER)));
    }
    let confirmed = read.confirmed().trace;
    assert_eq!((confirmed.sub.as_deref(), confirmed.claimed_sub()), (Some(USER), None));
}
