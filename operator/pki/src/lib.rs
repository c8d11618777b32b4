//! Keys, CAs, leaves, bundles and JWK sets, with time, entropy and serials as arguments.
//!
//! No function here reads a clock or draws randomness of its own. The one exception is [`PrivateKey::generate`] (and
//! the nonce inside an ECDSA signature), which aws-lc-rs does inside its own module boundary.
//!
//! Guarantees of this crate:
//! - A leaf that [`issue_leaf`] returns chains: the issuer name is the CA's subject byte for byte, the signature
//!   verifies, and webpki builds the path. Otherwise there is an error with the reason, never a leaf.
//! - A private key never appears in `Debug`, in an error or in a panic message, and its PEM and DER are wiped on drop.
//! - The same inputs give the same bundle and the same JWK set, byte for byte.

mod bundle;
mod ca;
mod chain;
mod jwk;
mod key;
mod leaf;
mod peers;
mod public_key;
mod sign;
mod x509;

pub use bundle::{bundle_pem, sha256_hex};
pub use ca::{Ca, CaRequest};
pub use chain::CaError;
pub use jwk::{Jwk, JwkError, JwkSet, SigningAlgorithm};
pub use key::{KeyError, KeySpec, PrivateKey};
pub use leaf::{Leaf, LeafError, LeafRequest, Usage, issue_leaf, issue_leaf_to};
pub use public_key::PublicKey;
pub use sign::SignError;
pub use x509::certificate::{Certificate, CertificateError, key_matches};
pub use x509::constraints::NameConstraints;
pub use x509::key_usage::KeyUsageError;
pub use x509::name::NameError;
pub use x509::path::{PathError, verify_path};
pub use x509::pem::ArmorError;
pub use x509::serial::Serial;
pub use x509::validity::{Validity, ValidityError};
