//! Public keys as certificates and JWK sets carry them: SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7).

use std::fmt;

use rustls_pki_types::pem::SectionKind;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_PKCS1_RSAENCRYPTION,
    OID_SIG_ED448, OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

use crate::bundle;
use crate::key::{KeyError, KeySpec};
use crate::x509::{der, pem};

/// A public key of any kind, kept as the DER of its SubjectPublicKeyInfo. Two are equal when these bytes are.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey {
    spki: Vec<u8>,
    /// The start of the key bits in `spki`; they reach to the end.
    bits_at: usize,
}

impl PublicKey {
    /// Reads the DER of a SubjectPublicKeyInfo. Kinds this crate does not issue for are read too; [`Self::spec`] is
    /// `None` for them.
    ///
    /// # Errors
    /// [`KeyError::PublicKey`] if this is not exactly one SubjectPublicKeyInfo.
    pub fn from_spki_der(spki: &[u8]) -> Result<Self, KeyError> {
        let parts = der::only(spki).filter(|outer| outer.tag == der::SEQUENCE).and_then(|o| der::elements(o.content));
        let Some([algorithm, bits]) = parts.as_deref() else {
            return Err(KeyError::PublicKey);
        };
        // The first octet of a BIT STRING counts unused bits, of which a key has none.
        if algorithm.tag != der::SEQUENCE || bits.tag != der::BIT_STRING || bits.content.first() != Some(&0) {
            return Err(KeyError::PublicKey);
        }
        SubjectPublicKeyInfo::from_der(spki).map_err(|_| KeyError::PublicKey)?;
        Ok(Self { spki: spki.to_vec(), bits_at: spki.len() - (bits.content.len() - 1) })
    }

    /// Reads one PEM block labelled `PUBLIC KEY` (RFC 7468 section 13).
    ///
    /// # Errors
    /// [`KeyError::Armor`] for text that is not PEM, [`KeyError::Count`] for none or several blocks,
    /// [`KeyError::PublicKey`] for a block that is no public key.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let blocks = pem::blocks(pem.as_bytes(), &[SectionKind::PublicKey], &[])?;
        let [block] = blocks.as_slice() else {
            return Err(KeyError::Count { found: blocks.len() });
        };
        Self::from_spki_der(&block.der)
    }

    /// One PEM block labelled `PUBLIC KEY`.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem::encode("PUBLIC KEY", &self.spki).to_string()
    }

    /// The DER of the SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of the SubjectPublicKeyInfo, 64 lowercase hex digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        bundle::sha256_hex(&self.spki)
    }

    /// The kind of this key, or `None` if Gaia issues for no such key (it does for RFC 8017 with an odd exponent of at
    /// least 65537, and for ECDSA on P-256 or P-384).
    #[must_use]
    pub fn spec(&self) -> Option<KeySpec> {
        match self.kind() {
            Kind::Rsa { bits: 2048, exponent_ok: true } => Some(KeySpec::Rsa2048),
            Kind::Rsa { bits: 3072, exponent_ok: true } => Some(KeySpec::Rsa3072),
            Kind::Rsa { bits: 4096, exponent_ok: true } => Some(KeySpec::Rsa4096),
            Kind::Ec { curve: Some("P-256") } => Some(KeySpec::Ecdsa256),
            Kind::Ec { curve: Some("P-384") } => Some(KeySpec::Ecdsa384),
            _ => None,
        }
    }

    /// The kind of key as text, for errors and conditions: `RSA 1024`, `ECDSA P-521`, `Ed25519`.
    #[must_use]
    pub fn describe(&self) -> String {
        match self.kind() {
            Kind::Rsa { bits, exponent_ok: true } => format!("RSA {bits}"),
            Kind::Rsa { bits, exponent_ok: false } => format!("RSA {bits} with a public exponent below 65537"),
            Kind::Ec { curve: Some(curve) } => format!("ECDSA {curve}"),
            Kind::Ec { curve: None } => "ECDSA on another curve".to_owned(),
            Kind::Other(name) => name,
        }
    }

    /// The key itself, without its algorithm: an RSAPublicKey (RFC 8017 appendix A.1.1) or a point (SEC 1 section 2.3).
    pub(crate) fn bits(&self) -> &[u8] {
        &self.spki[self.bits_at..]
    }

    /// Modulus and exponent of an RSA key, big-endian without leading zeros.
    pub(crate) fn rsa_parts(&self) -> Option<(&[u8], &[u8])> {
        let outer = der::only(self.bits()).filter(|outer| outer.tag == der::SEQUENCE)?;
        match der::elements(outer.content)?.as_slice() {
            [n, e] if n.tag == der::INTEGER && e.tag == der::INTEGER => {
                Some((without_zeros(n.content), without_zeros(e.content)))
            }
            _ => None,
        }
    }

    /// Strong enough for a CA above the one that signs: what webpki verifies, RSA from 2048 to 8192 bits.
    pub(crate) fn is_strong(&self) -> bool {
        match self.kind() {
            Kind::Rsa { bits, exponent_ok } => (2048..=8192).contains(&bits) && exponent_ok,
            Kind::Ec { curve } => curve.is_some(),
            Kind::Other(name) => name == "Ed25519",
        }
    }

    /// Returns true if this is the same key, even if one of the two writes its algorithm parameters differently.
    pub(crate) fn is_same_key(&self, other: &Self) -> bool {
        self == other || (self.spec().is_some() && self.spec() == other.spec() && self.bits() == other.bits())
    }

    fn kind(&self) -> Kind {
        let algorithm = der::only(&self.spki)
            .and_then(|outer| der::elements(outer.content))
            .and_then(|parts| parts.first().map(|algorithm| algorithm.whole));
        let Some(Ok((_, algorithm))) = algorithm.map(AlgorithmIdentifier::from_der) else {
            return Kind::Other("an unreadable key".to_owned());
        };
        if algorithm.algorithm == OID_PKCS1_RSAENCRYPTION {
            return self.rsa_parts().map_or(Kind::Other("an unreadable RSA key".to_owned()), |(n, e)| Kind::Rsa {
                bits: bit_length(n),
                exponent_ok: e.last().is_some_and(|last| last & 1 == 1) && bit_length(e) >= 17,
            });
        }
        algorithm_kind(&algorithm)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({}, {})", self.describe(), self.fingerprint())
    }
}

/// The kind of key that `algorithm` identifies, as text.
pub(crate) fn describe_algorithm(algorithm: &AlgorithmIdentifier<'_>) -> String {
    if algorithm.algorithm == OID_PKCS1_RSAENCRYPTION {
        return "RSA".to_owned();
    }
    match algorithm_kind(algorithm) {
        Kind::Ec { curve: Some(curve) } => format!("ECDSA {curve}"),
        Kind::Other(name) => name,
        Kind::Ec { curve: None } | Kind::Rsa { .. } => "ECDSA on another curve".to_owned(),
    }
}

/// The number of bits of a big-endian number without leading zero octets.
pub(crate) fn bit_length(number: &[u8]) -> usize {
    number.first().map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
}

/// A big-endian number without its leading zero octets.
pub(crate) fn without_zeros(number: &[u8]) -> &[u8] {
    &number[number.iter().take_while(|byte| **byte == 0).count()..]
}

enum Kind {
    Rsa { bits: usize, exponent_ok: bool },
    Ec { curve: Option<&'static str> },
    Other(String),
}

fn algorithm_kind(algorithm: &AlgorithmIdentifier<'_>) -> Kind {
    if algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
        let name = |oid| match curve.as_ref() {
            Some(curve) => *curve == oid,
            None => false,
        };
        return Kind::Ec {
            curve: if name(OID_EC_P256) {
                Some("P-256")
            } else if name(OID_NIST_EC_P384) {
                Some("P-384")
            } else if name(OID_NIST_EC_P521) {
                Some("P-521")
            } else {
                None
            },
        };
    }
    Kind::Other(if algorithm.algorithm == OID_SIG_ED25519 {
        "Ed25519".to_owned()
    } else if algorithm.algorithm == OID_SIG_ED448 {
        "Ed448".to_owned()
    } else {
        format!("a key of kind {}", algorithm.algorithm)
    })
}
