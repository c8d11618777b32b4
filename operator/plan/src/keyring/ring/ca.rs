//! CAs in a ring: their certificates, and the public keys that these certify.

use gaia_pki::{Certificate, KeySpec, NameConstraints};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Material, short_id};

/// A CA's public part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CaMaterial {
    /// Lower-case hex SHA-256 of the signing certificate's DER.
    pub fingerprint: String,
    /// The earliest notAfter in its chain.
    pub not_after: Timestamp,
    /// The latest notBefore in its chain.
    pub not_before: Timestamp,
    /// The signing certificate, and the intermediates above it (PEM).
    pub chain: String,
    /// The trust anchor of its chain (PEM).
    pub root: String,
    /// Lower-case hex SHA-256 of the root's DER; none: it is the signing certificate itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_fingerprint: Option<String>,
    /// The id in the common name of its subject, if the operator generated it; other CAs have the id of their
    /// fingerprint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject_id: Option<String>,
    /// Its key.
    pub key: KeySpec,
    /// True if it is a bring-your-own CA (`spec.ca.existingSecretRef`).
    #[serde(default, rename = "brought")]
    pub is_external: bool,
    /// Its certificates, parsed from `chain` and `root`.
    #[serde(skip)]
    pub path: CaPath,
}

/// The certificates of a CA, from the one that signs up to the root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaPath {
    /// The signing certificate first, the root last. Empty if they cannot be read.
    pub certificates: Vec<PathCertificate>,
    /// Their name constraints.
    pub constraints: NameConstraints,
}

/// One certificate of a CA's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathCertificate {
    /// Lower-case hex SHA-256 of its DER.
    pub fingerprint: String,
    /// Lower-case hex SHA-256 of its public key (SubjectPublicKeyInfo).
    pub key: String,
}

impl CaPath {
    /// The path of these certificates.
    #[must_use]
    pub fn of(certificates: &[Certificate]) -> Self {
        let read = |certificate: &Certificate| PathCertificate {
            fingerprint: certificate.fingerprint(),
            key: certificate.public_key().fingerprint(),
        };
        Self { certificates: certificates.iter().map(read).collect(), constraints: NameConstraints::of(certificates) }
    }

    /// The public key that signs leaves.
    #[must_use]
    pub fn signing_key(&self) -> Option<&str> {
        self.certificates.first().map(|first| first.key.as_str())
    }

    /// Returns true if one of its certificates has that public key.
    #[must_use]
    pub fn has_key(&self, key: &str) -> bool {
        self.certificates.iter().any(|certificate| certificate.key == key)
    }

    /// The public key of its certificate of that fingerprint.
    #[must_use]
    pub fn key_of(&self, fingerprint: &str) -> Option<&str> {
        let certificate = self.certificates.iter().find(|certificate| certificate.fingerprint == fingerprint)?;
        Some(&certificate.key)
    }
}

impl Material for CaMaterial {
    const ACTIVE_IS_PUBLISHED: bool = false;
    const MAY_HAVE_NO_SIGNER: bool = true;

    fn name(&self) -> &str {
        &self.fingerprint
    }

    fn id(&self) -> String {
        self.subject_id.clone().unwrap_or_else(|| short_id(&self.fingerprint))
    }

    fn complete(&mut self) {
        let read = |pem: &str| Certificate::chain_from_pem(pem.as_bytes()).ok();
        let (Some(mut path), Some(root)) = (read(&self.chain), read(&self.root)) else { return };
        // A root that signs leaves directly is its own chain.
        path.extend(root.into_iter().filter(|root| !path.contains(root)).collect::<Vec<_>>());
        self.path = CaPath::of(&path);
    }
}

impl CaMaterial {
    /// Lower-case hex SHA-256 of the root's DER.
    #[must_use]
    pub fn root_fingerprint(&self) -> &str {
        self.root_fingerprint.as_deref().unwrap_or(&self.fingerprint)
    }

    /// Returns true if certificates of this CA may verify under the root of `other`.
    #[must_use]
    pub fn shares_root_with(&self, other: &Self) -> bool {
        let (own, others) = (&self.path.certificates, &other.path.certificates);
        self.root_fingerprint() == other.root_fingerprint()
            || own.iter().skip(1).any(|above| others.last().is_some_and(|root| root.key == above.key))
    }
}
