//! Requests for the material of new generations.

use std::fmt;

use gaia_pki::KeySpec;
use serde::Serialize;

use crate::keyring::handled::Handled;
use crate::object::ObjectChange;

/// The content of a new ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RingRequest {
    /// `metadata.name` of the TrustDomain.
    pub trust_domain: String,
    /// The SPIFFE trust domain.
    pub spiffe_trust_domain: String,
    /// The material of its first generation.
    pub material: MaterialRequest,
    /// Its first epoch: 1, or later than the remains of an earlier ring.
    pub epoch: u64,
    /// The `rotationRevision` of the spec: a new ring is not rotated for it.
    pub revision: i64,
    /// The annotations that this ring is the answer to.
    #[serde(skip_serializing_if = "Handled::is_empty")]
    pub handled: Handled,
    /// The Secret without its content.
    pub object: ObjectChange,
}

/// The material of a ring's first generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum MaterialRequest {
    /// A new self-signed CA.
    NewCa {
        /// Its key.
        #[serde(serialize_with = "key_spec_text")]
        key: KeySpec,
        /// Its validity in seconds.
        life_seconds: u64,
    },
    /// A bring-your-own CA.
    ExistingCa {
        /// The Secret in the operator's namespace.
        secret: String,
        /// The certificate that was validated; another one is rejected.
        fingerprint: String,
    },
    /// A signing key.
    SigningKey {
        /// Its kind.
        #[serde(serialize_with = "key_spec_text")]
        key: KeySpec,
    },
    /// A signing key, and the next one.
    SigningKeys {
        /// The keys' kind.
        #[serde(serialize_with = "key_spec_text")]
        key: KeySpec,
        /// The first high-water mark.
        max_ttl_seconds: u64,
    },
}

impl fmt::Display for MaterialRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NewCa { key, .. } => write!(f, "CA ({key})"),
            Self::ExistingCa { secret, fingerprint } => write!(f, "copy of the CA {fingerprint} in Secret {secret}"),
            Self::SigningKey { key } => write!(f, "signing key ({key})"),
            Self::SigningKeys { key, .. } => write!(f, "signing key ({key}) and its successor"),
        }
    }
}

fn key_spec_text<S: serde::Serializer>(key: &KeySpec, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(key)
}
