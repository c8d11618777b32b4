//! JWKs against the RFCs and against OpenSSL.

use gaia_pki::{Jwk, JwkError, JwkSet, KeySpec, SigningAlgorithm};
use rstest::rstest;
use serde_json::{Value, json};

use crate::openssl::OpenSsl;
use crate::samples::{For, key};

const RFC_7638_N: &str = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCi\
     FV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";

fn example() -> Value {
    json!({"kty": "RSA", "use": "sig", "n": RFC_7638_N, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"})
}

#[test]
fn the_thumbprint_is_that_of_rfc_7638_section_3_1() {
    let jwk: Jwk = serde_json::from_value(example()).unwrap();
    assert_eq!(jwk.thumbprint(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    assert_eq!(jwk.kid(), "2011-04-29");
}

#[rstest]
#[case(SigningAlgorithm::Rs256, &["kty", "use", "alg", "kid", "n", "e"])]
#[case(SigningAlgorithm::Es256, &["kty", "use", "alg", "kid", "crv", "x", "y"])]
fn a_key_becomes_a_jwk_with_these_members(#[case] algorithm: SigningAlgorithm, #[case] members: &[&str]) {
    let jwk = Jwk::from_public_key(&key(algorithm.key_spec(), For::Leaf).public_key(), algorithm).unwrap();
    let text = serde_json::to_string(&jwk).unwrap();
    let mut at = 0;
    for member in members {
        at += text[at..].find(&format!("\"{member}\":")).unwrap_or_else(|| panic!("{member} is not next in {text}"));
    }
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value.as_object().unwrap().len(), members.len());
    assert_eq!(value["use"], "sig");
    assert_eq!(value["alg"], algorithm.as_str());
    assert_eq!(value["kid"], jwk.thumbprint());
    assert_eq!(jwk.thumbprint().len(), 43);
    assert_eq!(serde_json::from_value::<Jwk>(value).unwrap(), jwk);
}

#[test]
fn n_is_the_modulus_that_openssl_prints() {
    let Some(openssl) = OpenSsl::find() else { return };
    let key = key(KeySpec::Rsa2048, For::Leaf);
    openssl.write("key.pem", &key.to_pem());
    let printed = openssl.run(&["rsa", "-in", "key.pem", "-noout", "-modulus"]);
    let value =
        serde_json::to_value(Jwk::from_public_key(&key.public_key(), SigningAlgorithm::Rs256).unwrap()).unwrap();
    let hex: String = decode(value["n"].as_str().unwrap()).iter().map(|byte| format!("{byte:02X}")).collect();
    assert_eq!(printed.trim(), format!("Modulus={hex}"));
    assert_eq!(value["e"], "AQAB");
}

#[test]
fn a_key_that_does_not_fit_the_algorithm_is_refused() {
    let p384 = key(KeySpec::Ecdsa384, For::Leaf).public_key();
    let rsa = key(KeySpec::Rsa2048, For::Leaf).public_key();
    for (key, algorithm) in
        [(&p384, SigningAlgorithm::Es256), (&p384, SigningAlgorithm::Rs256), (&rsa, SigningAlgorithm::Es256)]
    {
        assert!(matches!(Jwk::from_public_key(key, algorithm), Err(JwkError::WrongKey { .. })));
    }
}

#[rstest]
#[case::a_private_exponent("d", json!("AQAB"), "private member")]
#[case::a_prime("p", json!("AQAB"), "private member")]
#[case::a_symmetric_key("k", json!("AQAB"), "private member")]
#[case::other_primes("oth", json!([]), "private member")]
#[case::a_key_for_encryption("use", json!("enc"), "not for signatures")]
#[case::no_algorithm("alg", json!("none"), "do not go together")]
#[case::another_algorithm("alg", json!("HS256"), "do not go together")]
#[case::another_kind("kty", json!("oct"), "do not go together")]
#[case::a_curve_on_rsa("crv", json!("P-256"), "do not go together")]
#[case::a_short_modulus("n", json!("AQAB"), "outside 2048 to 4096")]
#[case::padding("n", json!("AQAB=="), "not base64url")]
#[case::a_quote("n", json!("AQ\"AB"), "not base64url")]
#[case::an_even_exponent("e", json!("AQAA"), "even or below")]
#[case::a_small_exponent("e", json!("Aw"), "even or below")]
#[case::leading_zeros("e", json!("AAEAAQ"), "leading zeros")]
#[case::no_kid("kid", json!(""), "no kid")]
fn a_jwk_is_refused_with(#[case] member: &str, #[case] value: Value, #[case] reason: &str) {
    let mut jwk = example();
    jwk[member] = value;
    let error = serde_json::from_value::<Jwk>(jwk).unwrap_err().to_string();
    assert!(error.contains(reason), "{error}");
}

#[test]
fn members_nobody_knows_are_ignored() {
    let mut jwk = example();
    jwk["x-note"] = json!("kept by hand");
    assert!(serde_json::from_value::<Jwk>(jwk).is_ok());
}

#[test]
fn a_set_keeps_its_order_and_refuses_a_kid_twice() {
    let jwk = |spec, algorithm| Jwk::from_public_key(&key(spec, For::Leaf).public_key(), algorithm).unwrap();
    let rsa = jwk(KeySpec::Rsa2048, SigningAlgorithm::Rs256);
    let ec = jwk(KeySpec::Ecdsa256, SigningAlgorithm::Es256);
    let set = JwkSet::new(vec![rsa.clone(), ec.clone()]).unwrap();
    let text = serde_json::to_string(&set).unwrap();
    assert_eq!(serde_json::from_str::<JwkSet>(&text).unwrap(), set);
    assert_eq!(set.keys(), [rsa.clone(), ec.clone()]);
    assert_eq!(set.find(ec.kid()), Some(&ec));
    assert_eq!(set.find("none"), None);
    let twice = JwkSet::new(vec![rsa.clone(), ec, rsa.clone()]);
    assert_eq!(twice, Err(JwkError::DuplicateKid { kid: rsa.kid().to_owned() }));
}

fn decode(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap()
}
