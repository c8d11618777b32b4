//! Public keys for token verification, validated when loaded.

use std::collections::HashMap;
use std::fmt;

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gaia_api::mount::SCHEMA_VERSION;
use serde_json::{Map, Value};

use super::header::MAX_KID_BYTES;
use super::roca;
use crate::hash::sha256;
use crate::tokens::strict_json;

/// A signature algorithm that platform tokens may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518, section 3.3).
    RS256,
    /// ECDSA on P-256 with SHA-256 (RFC 7518, section 3.4).
    ES256,
}

impl Algorithm {
    /// All supported algorithms.
    pub const ALL: [Self; 2] = [Self::RS256, Self::ES256];

    /// Returns the `alg` value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RS256 => "RS256",
            Self::ES256 => "ES256",
        }
    }

    /// Returns the `kty` value of its keys (RFC 7518, section 3.1).
    fn key_type(self) -> &'static str {
        match self {
            Self::RS256 => "RSA",
            Self::ES256 => "EC",
        }
    }
}

/// The keys of one issuer: a map from `kid` to a key that is bound to one algorithm.
pub struct KeySet {
    keys: HashMap<String, Key>,
    hash: [u8; 32],
}

/// One verification key, prepared when loaded.
pub(super) struct Key {
    pub(super) algorithm: Algorithm,
    prepared: ParsedPublicKey,
}

impl Key {
    /// Returns true if `signature` is a valid signature of `signed` by this key.
    pub(super) fn has_signed(&self, signed: &[u8], signature: &[u8]) -> bool {
        self.prepared.verify_sig(signed, signature).is_ok()
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.keys.keys()).finish()
    }
}

/// Reason why a JWK set was rejected as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Not a JWK set: not JSON, a repeated name, or no keys.
    #[error("not a JWK set: {0}")]
    NotASet(&'static str),
    /// One key is invalid.
    #[error("key {index} of the JWK set ({kid}): {problem}")]
    Key {
        /// Index of the key, from 0.
        index: usize,
        /// The `kid`, if it has one.
        kid: String,
        /// Description of the fault.
        problem: &'static str,
    },
}

impl KeySet {
    /// Parses a JWK set (RFC 7517, section 5). One invalid key rejects the whole set: these are the platform's own
    /// keys, and the operator never writes a partially valid set.
    ///
    /// # Errors
    /// [`KeySetError`] if the set is too large, malformed, or has an invalid key.
    pub fn parse(text: &[u8]) -> Result<Self, KeySetError> {
        let mut keys = HashMap::new();
        let mut set = set(text)?;
        // The operator writes it. Sets fetched over HTTP or written by earlier operators have none.
        if set.remove("schemaVersion").is_some_and(|version| version != SCHEMA_VERSION) {
            return Err(KeySetError::NotASet("unsupported schemaVersion"));
        }
        for (index, jwk) in jwks(set)?.iter().enumerate() {
            let kid = jwk.get("kid").and_then(Value::as_str).unwrap_or_default();
            let wrong = |problem| KeySetError::Key { index, kid: kid.chars().take(MAX_KID_BYTES).collect(), problem };
            let key = key(jwk, KeyRules::Platform).map_err(wrong)?;
            if keys.insert(kid.to_owned(), key).is_some() {
                return Err(wrong("kid is not unique"));
            }
        }
        Ok(Self { keys, hash: sha256(text) })
    }

    /// Parses the JWK set of an external issuer whose configured algorithms are `algorithms` (none: all). Invalid keys
    /// are skipped: the issuer may have keys for other purposes and of other kinds. Two valid keys with one `kid`
    /// reject the set, and so does a set without valid keys.
    ///
    /// # Errors
    /// [`KeySetError`] if the set is too large, malformed, ambiguous, or without a valid key.
    pub fn parse_outside(text: &[u8], algorithms: &[String]) -> Result<Self, KeySetError> {
        let mut keys = HashMap::new();
        let mut first_problem = None;
        for (index, jwk) in jwks(set(text)?)?.iter().enumerate() {
            let kid = jwk.get("kid").and_then(Value::as_str).unwrap_or_default();
            let wrong = |problem| KeySetError::Key { index, kid: kid.chars().take(MAX_KID_BYTES).collect(), problem };
            match key(jwk, KeyRules::External(algorithms)) {
                Ok(_) if keys.contains_key(kid) => return Err(wrong("kid is not unique")),
                Ok(key) => drop(keys.insert(kid.to_owned(), key)),
                Err(problem) => drop(first_problem.get_or_insert(wrong(problem))),
            }
        }
        match first_problem {
            Some(problem) if keys.is_empty() => Err(problem),
            _ => Ok(Self { keys, hash: sha256(text) }),
        }
    }

    /// Returns the SHA-256 of the source text.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// Returns true if the set has a key with that ID.
    #[must_use]
    pub fn contains(&self, kid: &str) -> bool {
        self.keys.contains_key(kid)
    }

    /// Returns all key IDs, sorted.
    #[must_use]
    pub fn kids(&self) -> Vec<&str> {
        let mut kids: Vec<&str> = self.keys.keys().map(String::as_str).collect();
        kids.sort_unstable();
        kids
    }

    pub(super) fn get(&self, kid: &str) -> Option<&Key> {
        self.keys.get(kid)
    }
}

/// Parses the JSON object of a JWK set.
fn set(text: &[u8]) -> Result<Map<String, Value>, KeySetError> {
    if text.len() > MAX_SET_BYTES {
        return Err(KeySetError::NotASet("larger than 64 KiB"));
    }
    strict_json::object(text).map_err(|error| {
        KeySetError::NotASet(match error {
            strict_json::StrictJsonError::NameRepeated => "a name is repeated",
            _ => "not a JSON object",
        })
    })
}

/// Returns the keys of a JWK set, not yet validated.
fn jwks(mut set: Map<String, Value>) -> Result<Vec<Value>, KeySetError> {
    let Some(Value::Array(jwks)) = set.remove("keys") else {
        return Err(KeySetError::NotASet("no array \"keys\""));
    };
    if jwks.is_empty() || jwks.len() > MAX_KEYS {
        return Err(KeySetError::NotASet("must hold 1 to 32 keys"));
    }
    Ok(jwks)
}

/// Validation rules by the owner of the keys.
#[derive(Clone, Copy)]
enum KeyRules<'a> {
    /// Platform keys: each has an `alg`.
    Platform,
    /// Keys of an external issuer with these configured algorithms (none: all). `alg` is optional (RFC 7517, section
    /// 4.4); Entra ID omits it.
    External(&'a [String]),
}

impl KeyRules<'_> {
    /// Returns the algorithm of a key.
    fn algorithm<'a>(self, kty: &str, jwk: &'a Map<String, Value>) -> Result<&'a str, &'static str> {
        let Self::External(accepted) = self else { return text(jwk, "alg") };
        if jwk.contains_key("alg") {
            return text(jwk, "alg");
        }
        let fits = Algorithm::ALL.into_iter().find(|algorithm| algorithm.key_type() == kty);
        let fits = fits.map(Algorithm::as_str).ok_or("alg is missing, and no accepted algorithm has this kty")?;
        let is_accepted = accepted.is_empty() || accepted.iter().any(|name| name == fits);
        if is_accepted { Ok(fits) } else { Err("alg is missing, and the issuer's algorithms have none for this kty") }
    }
}

/// Validates and parses one JWK.
fn key(jwk: &Value, rules: KeyRules<'_>) -> Result<Key, &'static str> {
    let jwk = jwk.as_object().ok_or("not a JSON object")?;
    let kid = text(jwk, "kid")?;
    if kid.is_empty() || kid.len() > MAX_KID_BYTES {
        return Err("kid must have 1 to 128 bytes");
    }
    if PRIVATE_MEMBERS.iter().any(|name| jwk.contains_key(*name)) {
        return Err("must not hold private members");
    }
    if jwk.get("use").is_some_and(|value| value != "sig") {
        return Err("use must be \"sig\"");
    }
    if let Some(operations) = jwk.get("key_ops")
        && operations
            .as_array()
            .is_none_or(|operations| operations.iter().any(|o| o != "verify") || operations.is_empty())
    {
        return Err("key_ops must be [\"verify\"]");
    }
    let kty = text(jwk, "kty")?;
    if kty == "oct" {
        return Err("a shared secret is not a public key");
    }
    match (kty, rules.algorithm(kty, jwk)?) {
        ("RSA", "RS256") => rsa(jwk),
        ("EC", "ES256") => ec(jwk),
        _ => Err("kty and alg must be RSA with RS256 or EC with ES256"),
    }
}

fn rsa(jwk: &Map<String, Value>) -> Result<Key, &'static str> {
    let n = bytes(jwk, "n")?;
    let e = bytes(jwk, "e")?;
    let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
    if n.first() == Some(&0) || !(2048..=4096).contains(&bits) {
        return Err("the RSA modulus must have 2048 to 4096 bits");
    }
    // RFC 7518, section 6.3.1: no leading zero bytes. A small or even exponent allows forged signatures.
    let exponent = e.iter().try_fold(0u32, |value, &byte| value.checked_mul(256)?.checked_add(u32::from(byte)));
    match exponent {
        Some(exponent) if exponent >= 65_537 && exponent % 2 == 1 && e.first() != Some(&0) => {}
        _ => return Err("the RSA exponent must be odd and from 65537 to 4294967295"),
    }
    if n.last().is_none_or(|last| last % 2 == 0) {
        return Err("the RSA modulus must be odd");
    }
    if roca::is_vulnerable(&n) {
        return Err("the RSA modulus was created by a vulnerable generator (CVE-2017-15361, ROCA)");
    }
    let refused = "not an RSA key";
    let der: PublicKeyX509Der<'_> = RsaPublicKeyComponents { n, e }.as_der().map_err(|_| refused)?;
    prepared(Algorithm::RS256, &RSA_PKCS1_2048_8192_SHA256, der.as_ref()).ok_or(refused)
}

fn ec(jwk: &Map<String, Value>) -> Result<Key, &'static str> {
    if text(jwk, "crv")? != "P-256" {
        return Err("ES256 needs crv P-256");
    }
    let (x, y) = (bytes(jwk, "x")?, bytes(jwk, "y")?);
    if x.len() != 32 || y.len() != 32 {
        return Err("x and y must have 32 bytes each");
    }
    let point = [&[4], x.as_slice(), y.as_slice()].concat();
    prepared(Algorithm::ES256, &ECDSA_P256_SHA256_FIXED, &point).ok_or("the point is not on its curve")
}

fn prepared(algorithm: Algorithm, verification: &'static dyn VerificationAlgorithm, key: &[u8]) -> Option<Key> {
    ParsedPublicKey::new(verification, key).ok().map(|prepared| Key { algorithm, prepared })
}

fn text<'a>(jwk: &'a Map<String, Value>, name: &'static str) -> Result<&'a str, &'static str> {
    jwk.get(name).and_then(Value::as_str).ok_or(match name {
        "kid" => "kid is missing",
        "kty" => "kty is missing",
        "alg" => "alg is missing",
        _ => "a member is missing or not a string",
    })
}

fn bytes(jwk: &Map<String, Value>, name: &'static str) -> Result<Vec<u8>, &'static str> {
    URL_SAFE_NO_PAD.decode(text(jwk, name)?).map_err(|_| "a member is not base64url")
}

/// Members of private keys only (RFC 7518, sections 6.2.2, 6.3.2 and 6.4.1).
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
const MAX_SET_BYTES: usize = 64 * 1024;
const MAX_KEYS: usize = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::fixtures::{EC_SIGNER, RSA_SIGNER};

    fn problem(change: impl FnOnce(&mut Map<String, Value>)) -> String {
        problem_of(RSA_SIGNER.jwk(), change)
    }

    fn problem_of(mut jwk: Value, change: impl FnOnce(&mut Map<String, Value>)) -> String {
        change(jwk.as_object_mut().unwrap());
        match KeySet::parse(json!({ "keys": [jwk] }).to_string().as_bytes()) {
            Ok(_) => "accepted".to_owned(),
            Err(KeySetError::Key { problem, .. }) => problem.to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn good_keys_are_accepted() {
        assert_eq!(problem(|_| ()), "accepted");
        assert_eq!(problem_of(EC_SIGNER.jwk(), |_| ()), "accepted");
        assert_eq!(problem(|jwk| drop(jwk.remove("use"))), "accepted");
        assert_eq!(problem(|jwk| drop(jwk.insert("key_ops".into(), json!(["verify"])))), "accepted");
        assert_eq!(problem(|jwk| drop(jwk.insert("x-later".into(), json!(1)))), "accepted");
    }

    #[test]
    fn a_key_that_breaks_a_rule_refuses_the_set() {
        let set = |name: &'static str, value: Value| problem(move |jwk| drop(jwk.insert(name.into(), value)));
        assert_eq!(set("use", json!("enc")), "use must be \"sig\"");
        assert_eq!(set("key_ops", json!(["sign", "verify"])), "key_ops must be [\"verify\"]");
        assert_eq!(set("key_ops", json!([])), "key_ops must be [\"verify\"]");
        // A published private key.
        assert_eq!(set("d", json!("AQAB")), "must not hold private members");
        // A published HMAC secret.
        let oct = json!({"kty": "oct", "alg": "HS256", "kid": "k"});
        assert_eq!(problem_of(oct, |_| ()), "a shared secret is not a public key");
        // A key that would also verify signatures of another algorithm.
        assert_eq!(set("alg", json!("PS256")), "kty and alg must be RSA with RS256 or EC with ES256");
        assert_eq!(set("alg", json!("ES256")), "kty and alg must be RSA with RS256 or EC with ES256");
        assert_eq!(problem(|jwk| drop(jwk.remove("alg"))), "alg is missing");
        assert_eq!(problem(|jwk| drop(jwk.remove("kid"))), "kid is missing");
        assert_eq!(set("kid", json!("k".repeat(129))), "kid must have 1 to 128 bytes");
        let small = URL_SAFE_NO_PAD.encode([0xff; 128]);
        assert_eq!(set("n", json!(small)), "the RSA modulus must have 2048 to 4096 bits");
        let huge = URL_SAFE_NO_PAD.encode([0xff; 513]);
        assert_eq!(set("n", json!(huge)), "the RSA modulus must have 2048 to 4096 bits");
        for exponent in [&[3][..], &[1, 0, 0], &[0, 1, 0, 1], &[1, 0, 0, 0, 1], &[]] {
            let exponent = URL_SAFE_NO_PAD.encode(exponent);
            assert_eq!(set("e", json!(exponent)), "the RSA exponent must be odd and from 65537 to 4294967295");
        }
        let ec =
            |name: &'static str, value: Value| problem_of(EC_SIGNER.jwk(), |jwk| drop(jwk.insert(name.into(), value)));
        assert_eq!(ec("crv", json!("P-384")), "ES256 needs crv P-256");
        assert_eq!(ec("x", json!("AQAB")), "x and y must have 32 bytes each");
        assert_eq!(ec("x", json!(URL_SAFE_NO_PAD.encode([1; 32]))), "the point is not on its curve");
    }

    #[test]
    fn a_set_must_be_a_set_of_unique_kids() {
        let jwk = RSA_SIGNER.jwk();
        let refused = |text: &str| KeySet::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(refused(&json!({ "keys": [jwk, jwk] }).to_string()).contains("kid is not unique"));
        assert!(refused(r#"{"keys":[]}"#).contains("1 to 32 keys"));
        assert!(refused(&json!({ "schemaVersion": 2, "keys": [jwk] }).to_string()).contains("schemaVersion"));
        for known in [json!({ "schemaVersion": 1, "keys": [jwk] }), json!({ "keys": [jwk] })] {
            assert!(KeySet::parse(known.to_string().as_bytes()).is_ok(), "{known}");
        }
        assert!(refused(r#"{"keys":[],"keys":[]}"#).contains("repeated"));
        assert!(refused(r#"{"keys":{}}"#).contains("no array"));
        assert!(refused(&" ".repeat(65 * 1024)).contains("64 KiB"));
    }

    #[test]
    fn of_an_outside_issuer_the_good_keys_are_taken_and_the_others_left_out() {
        let secret = json!({"kty": "oct", "alg": "HS256", "kid": "secret", "k": "AA"});
        let set = |jwks: Value| KeySet::parse_outside(json!({ "keys": jwks }).to_string().as_bytes(), &[]);
        let kids = set(json!([secret, EC_SIGNER.jwk()])).map(|keys| keys.kids().join(" "));
        assert_eq!(kids.as_deref(), Ok(EC_SIGNER.kid()));
        assert!(set(json!([secret])).unwrap_err().to_string().contains("private members"));
        assert!(set(json!([EC_SIGNER.jwk(), EC_SIGNER.jwk()])).unwrap_err().to_string().contains("not unique"));
    }

    #[test]
    fn an_external_key_without_alg_has_the_configured_algorithm_of_its_type() {
        let set = |jwks: [&Value; 2], algorithms: &[&str]| {
            let algorithms: Vec<String> = algorithms.iter().map(|&name| name.to_owned()).collect();
            KeySet::parse_outside(json!({ "keys": jwks }).to_string().as_bytes(), &algorithms)
        };
        let without_alg = |jwk: &Value| {
            let mut jwk = jwk.clone();
            jwk.as_object_mut().unwrap().remove("alg");
            jwk
        };
        let (rsa, ec) = (without_alg(&json!(RSA_SIGNER.jwk())), without_alg(&json!(EC_SIGNER.jwk())));
        let algorithm = |keys: &KeySet, kid: &str| keys.get(kid).map(|key| key.algorithm);
        for (accepted, expected) in [
            (&[][..], (Some(Algorithm::RS256), Some(Algorithm::ES256))),
            (&["RS256", "ES256"], (Some(Algorithm::RS256), Some(Algorithm::ES256))),
            (&["RS256"], (Some(Algorithm::RS256), None)),
            (&["ES256"], (None, Some(Algorithm::ES256))),
        ] {
            let keys = set([&rsa, &ec], accepted).unwrap();
            assert_eq!((algorithm(&keys, RSA_SIGNER.kid()), algorithm(&keys, EC_SIGNER.kid())), expected);
        }
        assert!(set([&rsa, &rsa], &["ES256"]).unwrap_err().to_string().contains("alg is missing"));
        let own = json!({ "keys": [rsa] }).to_string();
        assert!(KeySet::parse(own.as_bytes()).unwrap_err().to_string().contains("alg is missing"));
        // An explicit `alg` is not replaced by the configured one.
        let mut other = rsa.clone();
        other["alg"] = json!("RS512");
        assert!(set([&other, &other], &[]).is_err());
    }

    #[test]
    fn a_key_of_a_vulnerable_generator_is_refused() {
        let modulus = include_str!("roca/modulus.txt").trim();
        let mut jwk = json!(RSA_SIGNER.jwk());
        jwk["n"] = json!(modulus);
        let set = json!({ "keys": [jwk] }).to_string();
        assert!(KeySet::parse(set.as_bytes()).unwrap_err().to_string().contains("ROCA"));
        assert!(KeySet::parse_outside(set.as_bytes(), &[]).unwrap_err().to_string().contains("ROCA"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = KeySet::parse(&bytes);
        }

        #[test]
        fn any_member_is_answered_without_a_panic(name in "(n|e|x|y|kid|alg|kty|use|key_ops|crv)", value in "[A-Za-z0-9_=-]{0,16}") {
            let _ = problem_of(EC_SIGNER.jwk(), |jwk| drop(jwk.insert(name.clone(), json!(value))));
            let _ = problem(|jwk| drop(jwk.insert(name, json!(value))));
        }
    }
}
