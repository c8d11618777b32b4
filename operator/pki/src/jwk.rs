//! Public signing keys as JWK and JWK set (RFC 7517, RFC 7518 section 6), named by their thumbprint (RFC 7638).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::key::KeySpec;
use crate::public_key::PublicKey;

/// Signature algorithm of service tokens (RFC 7518 section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SigningAlgorithm {
    /// RSA PKCS #1 v1.5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
}

impl SigningAlgorithm {
    /// The kind of key to make for it.
    #[must_use]
    pub const fn key_spec(self) -> KeySpec {
        match self {
            Self::Rs256 => KeySpec::Rsa2048,
            Self::Es256 => KeySpec::Ecdsa256,
        }
    }

    /// Its name in `alg`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
        }
    }
}

impl std::fmt::Display for SigningAlgorithm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The reason why something is not a public signing key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwkError {
    /// The key cannot be used with the algorithm: RS256 takes RSA from 2048 to 4096 bits, ES256 takes P-256.
    #[error("a {kind} key cannot sign {algorithm}")]
    WrongKey {
        /// The kind of key as text.
        kind: String,
        /// The algorithm.
        algorithm: SigningAlgorithm,
    },
    /// A private or symmetric member is in it. It is not repeated here.
    #[error("the JWK {kid:?} has a private member")]
    PrivateMember {
        /// Which key.
        kid: String,
    },
    /// Members are missing, superfluous, or do not fit each other.
    #[error("the JWK {kid:?} {reason}")]
    Malformed {
        /// Which key.
        kid: String,
        /// The cause.
        reason: &'static str,
    },
    /// Two keys of one set have the same `kid`.
    #[error("two keys have the kid {kid:?}")]
    DuplicateKid {
        /// The `kid`.
        kid: String,
    },
}

/// One public key for signatures: `use` is always `sig`, and there is no room for a private member. Reading one with
/// such a member is an error; other members that are unknown are ignored (RFC 7517 section 4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct Jwk {
    kid: String,
    numbers: Numbers,
}

impl Jwk {
    /// The JWK of `key` for `algorithm`, with its thumbprint for a `kid`.
    ///
    /// # Errors
    /// [`JwkError::WrongKey`] if the key does not fit the algorithm.
    pub fn from_public_key(key: &PublicKey, algorithm: SigningAlgorithm) -> Result<Self, JwkError> {
        let numbers = match (algorithm, key.spec()) {
            (SigningAlgorithm::Rs256, Some(spec)) if spec.is_rsa() => {
                key.rsa_parts().map(|(n, e)| Numbers::Rsa { n: encode(n), e: encode(e) })
            }
            (SigningAlgorithm::Es256, Some(KeySpec::Ecdsa256)) => match key.bits().split_first() {
                // 4: an uncompressed point (SEC 1 section 2.3.3)
                Some((4, point)) if point.len() == 2 * P256_OCTETS => {
                    let (x, y) = point.split_at(P256_OCTETS);
                    Some(Numbers::P256 { x: encode(x), y: encode(y) })
                }
                _ => None,
            },
            _ => None,
        };
        let numbers = numbers.ok_or_else(|| JwkError::WrongKey { kind: key.describe(), algorithm })?;
        Ok(Self { kid: numbers.thumbprint(), numbers })
    }

    /// The key's id. For generated keys it is the thumbprint.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The algorithm that the key signs with.
    #[must_use]
    pub fn algorithm(&self) -> SigningAlgorithm {
        match self.numbers {
            Numbers::Rsa { .. } => SigningAlgorithm::Rs256,
            Numbers::P256 { .. } => SigningAlgorithm::Es256,
        }
    }

    /// SHA-256 of the required members in canonical form, base64url without padding: 43 characters (RFC 7638).
    #[must_use]
    pub fn thumbprint(&self) -> String {
        self.numbers.thumbprint()
    }
}

/// A set of public keys (RFC 7517 section 5), as `jwks.json` and the JWKS endpoint publish it. The order is the
/// caller's and is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WireSet")]
pub struct JwkSet {
    keys: Vec<Jwk>,
}

impl JwkSet {
    /// A set of `keys`, in their order.
    ///
    /// # Errors
    /// [`JwkError::DuplicateKid`].
    pub fn new(keys: Vec<Jwk>) -> Result<Self, JwkError> {
        for (index, key) in keys.iter().enumerate() {
            if keys[..index].iter().any(|earlier| earlier.kid == key.kid) {
                return Err(JwkError::DuplicateKid { kid: key.kid.clone() });
            }
        }
        Ok(Self { keys })
    }

    /// The keys.
    #[must_use]
    pub fn keys(&self) -> &[Jwk] {
        &self.keys
    }

    /// The key with this `kid`.
    #[must_use]
    pub fn find(&self, kid: &str) -> Option<&Jwk> {
        self.keys.iter().find(|key| key.kid == kid)
    }
}

/// The numbers of a key in base64url.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Numbers {
    Rsa { n: String, e: String },
    P256 { x: String, y: String },
}

impl Numbers {
    fn thumbprint(&self) -> String {
        // Base64url contains no character that JSON escapes, so the canonical form needs no escaping.
        let canonical = match self {
            Self::Rsa { n, e } => format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#),
            Self::P256 { x, y } => format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#),
        };
        encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, canonical.as_bytes()).as_ref())
    }
}

/// A JWK in JSON, in the order in which its members are written.
#[derive(Serialize, Deserialize)]
struct Wire {
    kty: String,
    #[serde(rename = "use", default)]
    usage: String,
    #[serde(default)]
    alg: String,
    #[serde(default)]
    kid: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crv: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(flatten, skip_serializing)]
    private: Private,
}

/// The private members of RFC 7518 sections 6.2.2, 6.3.2 and 6.4, which are looked for and never kept.
#[derive(Default, Deserialize)]
struct Private {
    d: Option<IgnoredAny>,
    p: Option<IgnoredAny>,
    q: Option<IgnoredAny>,
    dp: Option<IgnoredAny>,
    dq: Option<IgnoredAny>,
    qi: Option<IgnoredAny>,
    oth: Option<IgnoredAny>,
    k: Option<IgnoredAny>,
}

impl Private {
    fn any(&self) -> bool {
        [&self.d, &self.p, &self.q, &self.dp, &self.dq, &self.qi, &self.oth, &self.k].iter().any(|m| m.is_some())
    }
}

#[derive(Deserialize)]
struct WireSet {
    keys: Vec<Jwk>,
}

impl TryFrom<WireSet> for JwkSet {
    type Error = JwkError;

    fn try_from(wire: WireSet) -> Result<Self, JwkError> {
        Self::new(wire.keys)
    }
}

impl From<Jwk> for Wire {
    fn from(jwk: Jwk) -> Self {
        let alg = jwk.algorithm().as_str().to_owned();
        let (kty, n, e, crv, x, y) = match jwk.numbers {
            Numbers::Rsa { n, e } => ("RSA", Some(n), Some(e), None, None, None),
            Numbers::P256 { x, y } => ("EC", None, None, Some("P-256".to_owned()), Some(x), Some(y)),
        };
        let (kty, usage, private) = (kty.to_owned(), "sig".to_owned(), Private::default());
        Self { kty, usage, alg, kid: jwk.kid, n, e, crv, x, y, private }
    }
}

impl TryFrom<Wire> for Jwk {
    type Error = JwkError;

    fn try_from(wire: Wire) -> Result<Self, JwkError> {
        let kid = wire.kid;
        if wire.private.any() {
            return Err(JwkError::PrivateMember { kid });
        }
        let numbers = match (wire.kty.as_str(), wire.alg.as_str(), wire.crv.as_deref()) {
            ("RSA", "RS256", None) => rsa(wire.n, wire.e),
            ("EC", "ES256", Some("P-256")) => p256(wire.x, wire.y),
            _ => Err("has a kty, alg and crv that do not go together"),
        };
        let malformed = |reason| JwkError::Malformed { kid: kid.clone(), reason };
        let numbers = numbers.map_err(malformed)?;
        if wire.usage != "sig" {
            return Err(malformed("is not for signatures (use)"));
        }
        if kid.is_empty() || kid.len() > MAX_KID {
            return Err(JwkError::Malformed { kid: String::new(), reason: "has no kid, or one over 128 bytes" });
        }
        Ok(Self { kid, numbers })
    }
}

fn rsa(n: Option<String>, e: Option<String>) -> Result<Numbers, &'static str> {
    let (n, e) = n.zip(e).ok_or("lacks n or e")?;
    let modulus = decode(&n).ok_or("has an n that is not base64url")?;
    let exponent = decode(&e).ok_or("has an e that is not base64url")?;
    if modulus.first().is_none_or(|first| *first == 0) || exponent.first().is_none_or(|first| *first == 0) {
        return Err("has an n or e with leading zeros");
    }
    if !(2048..=4096).contains(&crate::public_key::bit_length(&modulus)) {
        return Err("has an n outside 2048 to 4096 bits");
    }
    let odd = exponent.last().is_some_and(|last| last & 1 == 1);
    if !odd || crate::public_key::bit_length(&exponent) < 17 {
        return Err("has an e that is even or below 65537");
    }
    Ok(Numbers::Rsa { n, e })
}

fn p256(x: Option<String>, y: Option<String>) -> Result<Numbers, &'static str> {
    let (x, y) = x.zip(y).ok_or("lacks x or y")?;
    let fits = |number: &str| decode(number).is_some_and(|octets| octets.len() == P256_OCTETS);
    if fits(&x) && fits(&y) { Ok(Numbers::P256 { x, y }) } else { Err("has an x or y that is not 32 octets") }
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// Octets of a coordinate on P-256 (RFC 7518 section 6.2.1.2).
const P256_OCTETS: usize = 32;
/// The longest `kid` that readers accept.
const MAX_KID: usize = 128;
