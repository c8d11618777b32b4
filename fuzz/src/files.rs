//! The mounted files.

use std::collections::BTreeSet;
use std::sync::Arc;

use gaia_api::SpiffeId;
use gaia_api::mount::{self, ApiKeys, Policy};
use gaia_auth::testing::connection;
use gaia_auth::tokens::KeySet;
use gaia_auth::{ApiKeyTable, Denied, Rules, check_policy};
use gaia_pki::{Certificate, PrivateKey, sha256_hex};
use http::HeaderMap;
use serde_json::Value;

use crate::oracle;
use crate::scene::{KEYS, id, now};

/// `jwks.json`, and the set of an external issuer.
pub(crate) fn jwks(data: &[u8]) {
    let (own, outside) = (KeySet::parse(data), KeySet::parse_outside(data, &[]));
    let entries = oracle::object(data).and_then(|set| set.get("keys")?.as_array().cloned()).unwrap_or_default();
    let kids: Vec<&str> = entries.iter().filter_map(|key| key["kid"].as_str()).collect();
    if let Ok(set) = &own {
        let unique: BTreeSet<&str> = kids.iter().copied().collect();
        assert_eq!(set.kids(), unique.iter().copied().collect::<Vec<_>>(), "every key is taken, and each once");
        assert_eq!(unique.len(), entries.len());
        let outside = outside.as_ref().expect("a set without fault is one for outside issuers too");
        assert_eq!(outside.kids(), set.kids());
        assert_eq!(set.hash(), outside.hash());
    }
    for set in [own, outside].into_iter().flatten() {
        assert!((1..=32).contains(&set.kids().len()) && entries.len() <= 32 && data.len() <= 64 * 1024);
        for kid in set.kids() {
            assert!(set.contains(kid) && (1..=128).contains(&kid.len()));
            assert!(entries.iter().any(|key| key["kid"] == kid && is_public(key)), "{kid:?} is no key to verify with");
        }
    }
}

/// The rules for members and their types.
fn is_public(key: &Value) -> bool {
    let has = |name: &str| key.get(name).is_some();
    let is_pair = matches!(
        (key["kty"].as_str(), key["alg"].as_str(), key["crv"].as_str()),
        (Some("RSA"), Some("RS256"), _) | (Some("EC"), Some("ES256"), Some("P-256"))
    );
    is_pair
        && !["d", "p", "q", "dp", "dq", "qi", "oth", "k"].into_iter().any(has)
        && key.get("use").is_none_or(|value| value == "sig")
        && key
            .get("key_ops")
            .is_none_or(|ops| ops.as_array().is_some_and(|ops| !ops.is_empty() && ops.iter().all(|op| op == "verify")))
}

/// A bundle or chain in PEM, or one certificate in DER.
pub(crate) fn certificates(data: &[u8]) {
    if let Ok(chain) = Certificate::chain_from_pem(data) {
        assert!(!chain.is_empty());
        let text: String = chain.iter().map(Certificate::to_pem).collect();
        let again = Certificate::chain_from_pem(text.as_bytes()).expect("a written bundle can be read");
        let fingerprints = |chain: &[Certificate]| chain.iter().map(Certificate::fingerprint).collect::<Vec<_>>();
        assert_eq!(fingerprints(&chain), fingerprints(&again));
        chain.iter().for_each(certificate);
    }
    if let Ok(one) = Certificate::from_der(data) {
        assert_eq!(one.der(), data, "nothing follows a certificate");
        certificate(&one);
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(key) = PrivateKey::from_pem(text)
    {
        assert!(PrivateKey::from_pem(&key.to_pem()).is_ok());
        assert!(!format!("{key:?}").contains("BEGIN"), "a key is printed");
    }
}

fn certificate(certificate: &Certificate) {
    assert_eq!(certificate.fingerprint(), sha256_hex(certificate.der()));
    assert!(certificate.serial().bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase()));
    for uri in certificate.uris() {
        if let Ok(id) = SpiffeId::parse(uri) {
            assert_eq!(id.as_str(), uri);
            let rest = uri.strip_prefix("spiffe://").and_then(|rest| rest.strip_prefix(id.trust_domain()));
            let rest = rest.expect("an id begins with its trust domain");
            match id.workload_parts() {
                Some((namespace, account)) => assert_eq!(rest, format!("/ns/{namespace}/sa/{account}")),
                None => assert_eq!(rest, "/gaia/operator"),
            }
            let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-./:".contains(&byte);
            assert!(uri.bytes().all(is_plain), "{uri:?}");
        }
    }
}

/// `api-keys.json`; the part after a zero byte is the presented key.
pub(crate) fn api_keys(data: &[u8]) {
    let (text, key) = data.split_at(data.iter().position(|&byte| byte == 0).unwrap_or(data.len()));
    let Ok(file) = mount::read::<ApiKeys>("api-keys.json", text) else { return };
    let records = file.keys.clone();
    let ids: BTreeSet<&str> = records.iter().map(|record| record.id.as_str()).collect();
    let hashes: BTreeSet<&str> = records.iter().map(|record| record.sha256.as_str()).collect();
    let is_good = ids.len() == records.len()
        && hashes.len() == records.len()
        && ids.iter().all(|id| (1..=128).contains(&id.len()) && id.bytes().all(|byte| (0x21..0x7f).contains(&byte)))
        && hashes.iter().all(|hash| hash.len() == 64 && hash.bytes().all(|byte| b"0123456789abcdef".contains(&byte)));
    let table = ApiKeyTable::try_from(file);
    assert_eq!(table.is_ok(), is_good, "{table:?}");
    let Ok(table) = table else { return };
    for record in &records {
        assert!(table.find_record(&record.sha256).is_none(), "a stored hash opens something");
    }
    if let Ok(key) = std::str::from_utf8(key.get(1..).unwrap_or_default()) {
        let hash = sha256_hex(key.as_bytes());
        let expected = records.iter().find(|record| record.sha256 == hash);
        assert_eq!(table.find_record(key), expected);
    }
}

/// `policy.json`.
pub(crate) fn policy(data: &[u8]) {
    let Ok(policy) = mount::read::<Policy>("policy.json", data) else { return };
    let text = serde_json::to_vec(&policy).expect("a parsed file can be written");
    let again: Policy = mount::read("policy.json", &text).expect("a written file can be parsed");
    let mut written = policy.clone();
    if written.user_tokens.issuers.is_empty() {
        // The scopes of users have no meaning where there are none, and are left out.
        written.user_tokens.scopes.clear();
    }
    assert_eq!(written, again);
    if check_policy(&policy).is_ok() {
        let issuers = &policy.user_tokens.issuers;
        let names: BTreeSet<&str> = issuers.iter().map(|issuer| issuer.name.as_str()).collect();
        let urls: BTreeSet<&str> = issuers.iter().map(|issuer| issuer.issuer.as_str()).collect();
        assert_eq!((names.len(), urls.len()), (issuers.len(), issuers.len()), "two issuers could be taken for one");
        assert!(!urls.contains(policy.tokens.issuer.as_str()), "an outside issuer could be taken for the platform");
    }
    let peers = [id("web"), id("cron"), id("nobody")];
    let rules = Rules::new(policy, Some(Arc::clone(&KEYS)), Denied::default(), ApiKeyTable::default());
    for peer in &peers {
        let verdict = rules.authenticate(&HeaderMap::new(), &connection(peer, now()), now());
        assert!(verdict.result.is_err(), "a certificate alone says who calls, not that it may");
    }
}
