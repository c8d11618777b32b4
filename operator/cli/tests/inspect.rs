//! `gaia inspect`: what it decodes, whom it trusts, and what it never prints.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod support;

use std::sync::Arc;

use gaia_api::ManualClock;
use jiff::{Timestamp, ToSpan as _};
use rstest::rstest;
use serde_json::{Value, json};
use support::platform::{Platform, authority, leaf, token};
use support::{Ended, gaia, run_with};

fn platform() -> Platform {
    Platform::new("2026-11-30T12:00:00Z".parse().unwrap())
}

fn inspect_at(platform: &Platform, now: Timestamp, input: &str, stdin: &str) -> Ended {
    let arguments = ["gaia", "inspect", input, &platform.option(), "-o", "json"];
    run_with(&arguments, stdin, Arc::new(ManualClock::new(now)))
}

fn inspect(platform: &Platform, input: &str, stdin: &str) -> Ended {
    inspect_at(platform, platform.now, input, stdin)
}

fn items(ended: &Ended) -> Vec<Value> {
    let document: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{}", ended.stderr));
    document["items"].as_array().unwrap().clone()
}

#[test]
fn a_certificate_is_trusted_by_the_generation_that_issued_it() {
    let platform = platform();
    let ended = inspect(&platform, "-", &platform.leaf);
    let item = &items(&ended)[0];
    assert_eq!((ended.code, &item["type"]), (0, &json!("Certificate")));
    assert_eq!(item["uris"], json!(["spiffe://gaia.local/ns/default/sa/gateway"]));
    assert_eq!((&item["daysLeft"], &item["trust"]["state"]), (&json!(90), &json!("Trusted")));
    assert!(item["trust"]["by"].as_str().unwrap().contains("generation ca-one (Active"), "{item}");
}

#[rstest]
#[case::expired("2027-03-01T00:00:00Z", "it expired at")]
#[case::not_yet_valid("2026-11-30T00:00:00Z", "it is not valid before")]
fn a_certificate_out_of_its_validity_is_not_trusted(#[case] now: Timestamp, #[case] reason: &str) {
    let platform = platform();
    let ended = inspect_at(&platform, now, "-", &platform.leaf);
    let trust = items(&ended)[0]["trust"].clone();
    assert_eq!((ended.code, &trust["state"]), (2, &json!("NotTrusted")));
    assert!(trust["reason"].as_str().unwrap().starts_with(reason), "{trust}");
}

#[test]
fn a_certificate_of_another_ca_is_not_trusted_and_names_its_issuer() {
    let platform = platform();
    let other = authority("Another CA", platform.now);
    let (foreign, _) = leaf(&other, "gateway", platform.now, platform.now + 24.hours());
    let ended = inspect(&platform, "-", &foreign);
    assert_eq!(ended.code, 2);
    assert!(items(&ended)[0]["trust"]["reason"].as_str().unwrap().contains("Another CA"));
    // The same certificate is trusted where its CA is named.
    let ca = platform.file("other.pem", &other.root().to_pem());
    let arguments = ["gaia", "inspect", "-", "--ca", &ca];
    assert_eq!(run_with(&arguments, &foreign, Arc::new(ManualClock::new(platform.now))).code, 0);
}

#[test]
fn without_a_platform_nothing_is_checked() {
    let platform = platform();
    let ended = run_with(&["gaia", "inspect", "-"], &platform.leaf, Arc::new(ManualClock::new(platform.now)));
    assert_eq!(ended.code, 0);
    assert!(ended.stdout.contains("not checked"), "{}", ended.stdout);
}

#[test]
fn a_revoked_certificate_and_one_below_a_distrusted_ca_are_not_trusted() {
    let platform = platform();
    let fingerprint = gaia_pki::Certificate::chain_from_pem(platform.leaf.as_bytes()).unwrap()[0].fingerprint();
    let denylist = json!({"schemaVersion": 1, "leaves": [fingerprint], "kids": [], "jtis": [], "subjects": []});
    let data = json!({"ca.crt": platform.ca.root().to_pem(), "denylist.json": denylist.to_string()});
    platform.put("configmaps", "default", "gaia-trust", &json!({ "data": data }));
    let ended = inspect(&platform, "secret/gateway-tls", "");
    assert_eq!(ended.code, 2);
    assert!(ended.stdout.contains("it is revoked"), "{}", ended.stdout);
}

#[test]
fn a_secret_is_decoded_without_its_key() {
    let platform = platform();
    let ended = inspect(&platform, "secret/gateway-tls", "");
    let kinds: Vec<Value> = items(&ended).iter().map(|item| item["type"].clone()).collect();
    assert_eq!((ended.code, kinds), (0, vec![json!("Certificate"), json!("Certificate")]));
    for wrong in ["secret/other", "secret/default/other", "configmap/gateway-tls"] {
        let ended = inspect(&platform, wrong, "");
        assert_eq!((ended.code, ended.stdout.as_str()), (64, ""), "{wrong}");
        assert!(ended.stderr.contains(wrong) && ended.stderr.contains("next: "), "{}", ended.stderr);
    }
    assert_eq!(gaia(&["inspect", "secret/gateway-tls"]).code, 64, "no platform is named");
}

#[test]
fn a_private_key_is_shown_by_its_public_half_only() {
    let platform = platform();
    let both = format!("{}{}", platform.leaf_key, platform.leaf);
    for format in ["table", "wide", "short", "json", "yaml"] {
        let arguments = ["gaia", "inspect", "-", "-o", format];
        let ended = run_with(&arguments, &both, Arc::new(ManualClock::new(platform.now)));
        assert_eq!(ended.code, 0);
        let body = platform.leaf_key.lines().nth(1).unwrap();
        assert!(!ended.stdout.contains(body) && !ended.stderr.contains(body), "{format}");
    }
    let key = items(&inspect(&platform, "-", &both))[1].clone();
    assert_eq!((&key["type"], &key["certificates"]), (&json!("PrivateKey"), &json!([1])));
}

#[test]
fn a_token_is_verified_as_its_audience_does() {
    let platform = platform();
    let valid = token(&platform, |_| {});
    let ended = inspect(&platform, "-", &valid);
    let item = &items(&ended)[0];
    assert_eq!((ended.code, &item["claims"]["service"]), (0, &json!("gateway")), "{item}");
    assert!(item["trust"]["by"].as_str().unwrap().contains("generation key-one"), "{item}");
    assert!(!ended.stdout.contains(valid.split('.').nth(2).unwrap()), "the token itself is not printed");
    let broad = token(&platform, |claims| claims.aud = "gaia-services".to_owned());
    assert_eq!(inspect(&platform, "-", &broad).code, 0);
}

#[rstest]
#[case::expired(|claims: &mut gaia_auth::issue::ServiceClaims| { claims.iat -= 7200; claims.exp -= 7200; }, "expired")]
#[case::another_issuer(|claims: &mut gaia_auth::issue::ServiceClaims| claims.iss = "another".to_owned(), "issuer")]
#[case::another_subject(|claims: &mut gaia_auth::issue::ServiceClaims| claims.sub = "x".to_owned(), "subject")]
fn a_token_that_verifiers_refuse_is_not_trusted(
    #[case] change: fn(&mut gaia_auth::issue::ServiceClaims),
    #[case] reason: &str,
) {
    let platform = platform();
    let ended = inspect(&platform, "-", &token(&platform, change));
    assert_eq!(ended.code, 2, "{}", ended.stdout);
    assert!(items(&ended)[0]["trust"]["reason"].as_str().unwrap().contains(reason), "{}", ended.stdout);
}

#[test]
fn key_sets_and_api_keys_are_listed() {
    let platform = platform();
    let set = json!({"schemaVersion": 1, "keys": [platform.jwk]}).to_string();
    let jwk = items(&inspect(&platform, "-", &set))[0].clone();
    assert_eq!((&jwk["type"], &jwk["isKidThumbprint"]), (&json!("Jwk"), &json!(true)));
    assert!(jwk["generation"].as_str().unwrap().starts_with("key-one"));
    assert_eq!(items(&inspect(&platform, "-", &json!(platform.jwk).to_string()))[0]["type"], "Jwk");
    let hash = "ab".repeat(32);
    let keys = json!({"schemaVersion": 1, "keys": [
        {"id": "web", "sha256": hash, "principal": "web", "state": "active", "expires": "2026-01-01T00:00:00Z"},
    ]});
    let ended = inspect(&platform, "-", &keys.to_string());
    assert_eq!((ended.code, &items(&ended)[0]["state"]), (1, &json!("expired")));
    assert!(!ended.stdout.contains(&hash), "hashes are not printed");
}

#[rstest]
#[case::empty("")]
#[case::text("hello")]
#[case::json("{\"a\": 1}")]
#[case::broken_json("{\"keys\": [")]
#[case::unknown_block("-----BEGIN X-----\nAAAA\n-----END X-----\n")]
#[case::cut_block("-----BEGIN CERTIFICATE-----\nAAAA")]
#[case::two_parts("e30.e30")]
#[case::private_jwk(r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA","d":"c2VjcmV0LWRhdGE"}"#)]
fn anything_else_is_64_and_not_repeated(#[case] text: &str) {
    let ended = run_with(&["gaia", "inspect", "-"], text, Arc::new(ManualClock::new(platform().now)));
    assert_eq!((ended.code, ended.stdout.as_str()), (64, ""), "{}", ended.stderr);
    assert!(!ended.stderr.contains("c2VjcmV0LWRhdGE"), "{}", ended.stderr);
    assert!(ended.stderr.contains("next: "));
}

#[test]
fn inputs_are_bounded() {
    let ended = gaia(&["inspect", "/dev/zero"]);
    assert_eq!(ended.code, 64);
    assert!(ended.stderr.contains("larger than"), "{}", ended.stderr);
}

#[rstest]
#[case::closed_port("tls://127.0.0.1:1", 3)]
#[case::no_port("tls://localhost", 64)]
#[case::no_name("tls://a b:443", 64)]
fn a_server_that_does_not_answer_is_3_and_a_wrong_address_64(#[case] address: &str, #[case] code: u8) {
    assert_eq!(gaia(&["inspect", address]).code, code);
}

#[test]
fn a_server_is_inspected_by_its_handshake() {
    use rustls_pki_types::pem::PemObject as _;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    let platform = platform();
    let chain = CertificateDer::pem_slice_iter(platform.leaf.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(platform.leaf_key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tls://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut connection = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        while connection.is_handshaking() {
            connection.complete_io(&mut socket).unwrap();
        }
    });
    let ended = inspect(&platform, &address, "");
    server.join().unwrap();
    assert_eq!((ended.code, &items(&ended)[0]["dnsNames"]), (0, &json!(["gateway"])), "{}", ended.stderr);
}

#[test]
fn a_directory_without_gaia_is_64_and_names_init() {
    let empty = tempfile::tempdir().unwrap();
    let ended = gaia(&["inspect", "-", "--dir", &empty.path().display().to_string()]);
    assert_eq!(ended.code, 64);
    assert!(ended.stderr.contains("gaia local init --dir"), "{}", ended.stderr);
}
