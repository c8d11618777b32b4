//! Private keys: generated, read and written, and never printed.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair as _,
    RSA_PKCS1_SHA256, RsaKeyPair,
};
use rustls_pki_types::pem::SectionKind;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::AlgorithmIdentifier;
use zeroize::Zeroizing;

use crate::public_key::{PublicKey, bit_length, describe_algorithm, without_zeros};
use crate::x509::der;
use crate::x509::pem::{self, ArmorError};

/// The kinds of key that Gaia generates and accepts, for CAs, leaves and tokens. As text: `ecdsa-256`, `rsa-2048`, ….
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum KeySpec {
    /// ECDSA on P-256 (FIPS 186-5), signs with SHA-256.
    #[serde(rename = "ecdsa-256")]
    Ecdsa256,
    /// ECDSA on P-384, signs with SHA-384.
    #[serde(rename = "ecdsa-384")]
    Ecdsa384,
    /// RSA with 2048 bits (RFC 8017), signs PKCS #1 v1.5 with SHA-256.
    #[serde(rename = "rsa-2048")]
    Rsa2048,
    /// RSA with 3072 bits.
    #[serde(rename = "rsa-3072")]
    Rsa3072,
    /// RSA with 4096 bits.
    #[serde(rename = "rsa-4096")]
    Rsa4096,
}

impl KeySpec {
    /// Every kind there is.
    pub const ALL: [Self; 5] = [Self::Ecdsa256, Self::Ecdsa384, Self::Rsa2048, Self::Rsa3072, Self::Rsa4096];

    /// Its name, as in serde and `Display`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ecdsa256 => "ecdsa-256",
            Self::Ecdsa384 => "ecdsa-384",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa3072 => "rsa-3072",
            Self::Rsa4096 => "rsa-4096",
        }
    }

    /// Returns true if this is one of the RSA kinds.
    #[must_use]
    pub const fn is_rsa(self) -> bool {
        matches!(self, Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096)
    }
}

impl fmt::Display for KeySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for KeySpec {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::ALL.into_iter().find(|spec| spec.as_str() == text).ok_or_else(|| KeyError::UnknownSpec(text.to_owned()))
    }
}

/// Errors of keys. No variant carries key material.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is not PEM, or has a block that is not a key.
    #[error("reading a key: {0}")]
    Armor(#[from] ArmorError),
    /// Not exactly one key.
    #[error("expected exactly one key, found {found}")]
    Count {
        /// The number of keys.
        found: usize,
    },
    /// The key is encrypted, and no passphrase is configured.
    #[error("the private key is encrypted; give it without a passphrase")]
    Encrypted,
    /// A key, but of a kind Gaia does not use.
    #[error("{kind} keys are not supported: use RSA 2048, 3072 or 4096 or ECDSA P-256 or P-384")]
    Unsupported {
        /// The kind as text, such as `RSA 1024`.
        kind: String,
    },
    /// A supported kind, but its numbers do not make a key.
    #[error("the {kind} private key is damaged: {reason}")]
    Damaged {
        /// The kind as text.
        kind: String,
        /// aws-lc-rs's reason, one word.
        reason: String,
    },
    /// Not a SubjectPublicKeyInfo.
    #[error("the public key is not a SubjectPublicKeyInfo")]
    PublicKey,
    /// Not the name of a [`KeySpec`].
    #[error("unknown kind of key {0:?}")]
    UnknownSpec(String),
    /// aws-lc-rs could not make a key.
    #[error("generating a key of kind {0} failed")]
    Generate(KeySpec),
    /// aws-lc-rs could not serialize a key it just accepted.
    #[error("encoding a key of kind {0} failed")]
    Encode(KeySpec),
    /// aws-lc-rs could not sign.
    #[error("signing with the key {fingerprint} failed")]
    Sign {
        /// Fingerprint of the public key.
        fingerprint: String,
    },
}

/// A private key. Clones share it; its DER is wiped when the last clone is dropped. `Debug` prints the kind and the
/// fingerprint of the public key.
#[derive(Clone)]
pub struct PrivateKey(Arc<Inner>);

impl PrivateKey {
    /// Generates a key from aws-lc-rs's own entropy. RSA 4096 takes a second or more: not for an async thread.
    ///
    /// # Errors
    /// [`KeyError::Generate`] if the library fails, which does not depend on the caller's input.
    pub fn generate(spec: KeySpec) -> Result<Self, KeyError> {
        let rsa = |size| RsaKeyPair::generate(size).map(Pair::Rsa);
        let ecdsa = |algorithm| EcdsaKeyPair::generate(algorithm).map(Pair::Ecdsa);
        let pair = match spec {
            KeySpec::Ecdsa256 => ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING),
            KeySpec::Ecdsa384 => ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING),
            KeySpec::Rsa2048 => rsa(KeySize::Rsa2048),
            KeySpec::Rsa3072 => rsa(KeySize::Rsa3072),
            KeySpec::Rsa4096 => rsa(KeySize::Rsa4096),
        };
        Self::from_pair(pair.map_err(|_| KeyError::Generate(spec))?)
    }

    /// Reads one private key: PKCS #8 (`PRIVATE KEY`, RFC 5958), PKCS #1 (`RSA PRIVATE KEY`, RFC 8017) or SEC 1 (`EC
    /// PRIVATE KEY`, RFC 5915). An additional `EC PARAMETERS` block, as OpenSSL writes it, is ignored.
    ///
    /// # Errors
    /// [`KeyError::Armor`], [`KeyError::Count`], [`KeyError::Encrypted`], [`KeyError::Unsupported`] (naming kind and
    /// size) or [`KeyError::Damaged`].
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        if pem.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || pem.contains("Proc-Type: 4,ENCRYPTED") {
            return Err(KeyError::Encrypted);
        }
        let accepted = [SectionKind::PrivateKey, SectionKind::RsaPrivateKey, SectionKind::EcPrivateKey];
        let blocks = pem::blocks(pem.as_bytes(), &accepted, &["EC PARAMETERS"])?;
        let [block] = blocks.as_slice() else {
            return Err(KeyError::Count { found: blocks.len() });
        };
        Self::from_pair(read(block.kind, &block.der)?)
    }

    /// One PEM block labelled `PRIVATE KEY` (PKCS #8), wiped on drop.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        pem::encode("PRIVATE KEY", &self.0.pkcs8)
    }

    /// The kind of this key.
    #[must_use]
    pub fn spec(&self) -> KeySpec {
        self.0.spec
    }

    /// Its public half.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.0.public.clone()
    }

    /// Signs `message` with the algorithm of the key's [`KeySpec`].
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let random = SystemRandom::new();
        match &self.0.pair {
            Pair::Ecdsa(pair) => pair.sign(&random, message).map(|signature| signature.as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).map(|()| signature)
            }
        }
        .map_err(|_| KeyError::Sign { fingerprint: self.0.public.fingerprint() })
    }

    fn from_pair(pair: Pair) -> Result<Self, KeyError> {
        let public = PublicKey::from_spki_der(&pair.spki().ok_or(KeyError::PublicKey)?)?;
        let spec = public.spec().ok_or_else(|| KeyError::Unsupported { kind: public.describe() })?;
        let pkcs8 = pair.pkcs8().ok_or(KeyError::Encode(spec))?;
        Ok(Self(Arc::new(Inner { pair, pkcs8, public, spec })))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({}, {})", self.0.spec, self.0.public.fingerprint())
    }
}

struct Inner {
    pair: Pair,
    pkcs8: Zeroizing<Vec<u8>>,
    public: PublicKey,
    spec: KeySpec,
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl Pair {
    fn spki(&self) -> Option<Vec<u8>> {
        let der = match self {
            Self::Ecdsa(pair) => pair.public_key().as_der(),
            Self::Rsa(pair) => pair.public_key().as_der(),
        };
        der.ok().map(|der| der.as_ref().to_vec())
    }

    fn pkcs8(&self) -> Option<Zeroizing<Vec<u8>>> {
        match self {
            Self::Ecdsa(pair) => pair.to_pkcs8v1().ok().map(|der| Zeroizing::new(der.as_ref().to_vec())),
            Self::Rsa(pair) => pair.as_der().ok().map(|der| Zeroizing::new(der.as_ref().to_vec())),
        }
    }
}

/// Reads the DER of a block labelled `kind`, saying which kind of key it is if that fails.
fn read(kind: SectionKind, bytes: &[u8]) -> Result<Pair, KeyError> {
    let name = describe(kind, bytes);
    let ecdsa = |algorithm: &'static EcdsaSigningAlgorithm| {
        EcdsaKeyPair::from_private_key_der(algorithm, bytes).map(Pair::Ecdsa)
    };
    let read = match (kind, name.as_deref()) {
        (SectionKind::RsaPrivateKey, Some(_)) => RsaKeyPair::from_der(bytes).map(Pair::Rsa),
        (SectionKind::PrivateKey, Some(name)) if name.starts_with("RSA") => {
            RsaKeyPair::from_pkcs8(bytes).map(Pair::Rsa)
        }
        (_, Some("ECDSA P-256")) => ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING),
        (_, Some("ECDSA P-384")) => ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING),
        (SectionKind::EcPrivateKey, None) => {
            ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING).or_else(|_| ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING))
        }
        (_, Some(name)) => return Err(KeyError::Unsupported { kind: name.to_owned() }),
        (_, None) => {
            return Err(KeyError::Damaged { kind: "PKCS #8".to_owned(), reason: "not a key structure".to_owned() });
        }
    };
    read.map_err(|rejected| {
        let kind = name.unwrap_or_else(|| "EC".to_owned());
        match rejected.to_string() {
            reason if matches!(reason.as_str(), "TooSmall" | "TooLarge") => KeyError::Unsupported { kind },
            reason => KeyError::Damaged { kind, reason },
        }
    })
}

/// The kind of a private key as text, from the parts of its DER that are not secret.
fn describe(kind: SectionKind, bytes: &[u8]) -> Option<String> {
    let parts = der::elements(der::only(bytes).filter(|outer| outer.tag == der::SEQUENCE)?.content)?;
    match kind {
        // RSAPrivateKey ::= SEQUENCE { version, modulus, publicExponent, … }
        SectionKind::RsaPrivateKey => {
            let modulus = parts.get(1).filter(|part| part.tag == der::INTEGER)?;
            Some(format!("RSA {}", bit_length(without_zeros(modulus.content))))
        }
        // ECPrivateKey ::= SEQUENCE { version, privateKey, [0] parameters OPTIONAL, [1] publicKey OPTIONAL }
        SectionKind::EcPrivateKey => {
            let parameters = parts.iter().find(|part| part.tag == 0xa0)?;
            let algorithm = der::encode(der::SEQUENCE, &[EC_PUBLIC_KEY, parameters.content]);
            let (_, algorithm) = AlgorithmIdentifier::from_der(&algorithm).ok()?;
            Some(describe_algorithm(&algorithm))
        }
        // PrivateKeyInfo ::= SEQUENCE { version, privateKeyAlgorithm, privateKey, … }
        _ => {
            let (_, algorithm) = AlgorithmIdentifier::from_der(parts.get(1)?.whole).ok()?;
            let name = describe_algorithm(&algorithm);
            let inner = parts.get(2).filter(|part| name == "RSA" && part.tag == der::OCTET_STRING);
            Some(inner.and_then(|inner| describe(SectionKind::RsaPrivateKey, inner.content)).unwrap_or(name))
        }
    }
}

/// The DER of the object identifier id-ecPublicKey (RFC 5480 section 2.1.1).
const EC_PUBLIC_KEY: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_one_name_in_display_parsing_and_serde() {
        for spec in KeySpec::ALL {
            assert_eq!(spec.to_string().parse(), Ok(spec));
            assert_eq!(serde_json::to_string(&spec).unwrap(), format!("\"{spec}\""));
        }
        assert_eq!("rsa-1024".parse::<KeySpec>(), Err(KeyError::UnknownSpec("rsa-1024".to_owned())));
    }

    #[test]
    fn a_key_survives_its_pem() {
        for spec in [KeySpec::Ecdsa256, KeySpec::Ecdsa384, KeySpec::Rsa2048] {
            let key = PrivateKey::generate(spec).unwrap();
            let read = PrivateKey::from_pem(&key.to_pem()).unwrap();
            assert_eq!(read.spec(), spec);
            assert_eq!(read.public_key(), key.public_key());
            assert_eq!(*read.to_pem(), *key.to_pem());
            assert_eq!(PublicKey::from_pem(&key.public_key().to_pem()).unwrap(), key.public_key());
        }
    }

    #[test]
    fn debug_shows_the_fingerprint_and_nothing_of_the_key() {
        let key = PrivateKey::generate(KeySpec::Ecdsa256).unwrap();
        let shown = format!("{key:?} {key:#?}");
        assert!(shown.contains(&key.public_key().fingerprint()));
        assert_eq!(shown.len(), 2 * "PrivateKey(ecdsa-256, )".len() + 2 * 64 + 1);
    }

    #[test]
    fn two_keys_none_and_something_else_are_refused() {
        let key = PrivateKey::generate(KeySpec::Ecdsa256).unwrap().to_pem();
        let two = format!("{}{}", *key, *key);
        assert_eq!(PrivateKey::from_pem(&two).err(), Some(KeyError::Count { found: 2 }));
        assert_eq!(PrivateKey::from_pem("").err(), Some(KeyError::Count { found: 0 }));
        let public = PrivateKey::generate(KeySpec::Ecdsa256).unwrap().public_key().to_pem();
        assert!(matches!(PrivateKey::from_pem(&public), Err(KeyError::Armor(ArmorError::UnexpectedLabel { .. }))));
    }

    #[test]
    fn a_damaged_key_is_named_but_never_repeated() {
        let pem = PrivateKey::generate(KeySpec::Ecdsa256).unwrap().to_pem();
        let mut bytes = pem.as_bytes().to_vec();
        bytes[100] = if bytes[100] == b'A' { b'B' } else { b'A' };
        let text = String::from_utf8(bytes).unwrap();
        let error = PrivateKey::from_pem(&text).unwrap_err();
        let line = text.lines().nth(1).unwrap();
        assert!(!format!("{error:?} {error}").contains(&line[..16]));
    }
}
