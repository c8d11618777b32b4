//! Verifies chains with webpki, as rustls does (RFC 5280 section 6).

use std::time::Duration;

use jiff::Timestamp;
use rustls_pki_types::UnixTime;
use webpki::{EndEntityCert, KeyUsage};

use crate::leaf::Usage;
use crate::x509::certificate::Certificate;

/// The reason why a certificate does not chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// webpki cannot parse the root, for example because of an unknown extension.
    #[error("the root {root} cannot be a trust anchor: {reason}")]
    Anchor {
        /// Subject of the root.
        root: String,
        /// webpki's reason.
        reason: String,
    },
    /// No path from the certificate to the root.
    ///
    /// Serial and time are not in the text: it stays the same from one attempt to the next.
    #[error("the certificate does not chain to {root} for {usage}: {reason}")]
    Path {
        /// Serial of the certificate.
        serial: String,
        /// Subject of the root.
        root: String,
        /// The usage for which it was checked.
        usage: Usage,
        /// The time when it was checked for.
        at: Timestamp,
        /// webpki's reason, such as `NameConstraintViolation`.
        reason: String,
    },
}

/// Checks that `leaf` chains over `intermediates` to `root` for `usage` at the moment `at`: signatures, validity,
/// basic and name constraints, extended key usages; and keyUsage, which webpki does not read: that of the leaf is one of
/// a leaf, and intermediates that have one may sign certificates. The root is a trust anchor, and its keyUsage is not read.
/// Peer names are the peer's to check.
///
/// # Errors
/// [`PathError`], with the reason.
pub fn verify_path(
    leaf: &Certificate,
    intermediates: &[Certificate],
    root: &Certificate,
    usage: Usage,
    at: Timestamp,
) -> Result<(), PathError> {
    let root_der = root.as_pki();
    let anchor = webpki::anchor_from_trusted_cert(&root_der)
        .map_err(|error| PathError::Anchor { root: root.subject(), reason: error.to_string() })?;
    let refuse = |error: &dyn std::error::Error| PathError::Path {
        serial: leaf.serial(),
        root: root.subject(),
        usage,
        at,
        reason: error.to_string(),
    };
    leaf.check_leaf_key_usage().map_err(|error| refuse(&error))?;
    let leaf_der = leaf.as_pki();
    let end_entity = EndEntityCert::try_from(&leaf_der).map_err(|error| refuse(&error))?;
    let signing = intermediates.iter().filter(|above| above.may_sign_certificates());
    let intermediates: Vec<_> = signing.map(Certificate::as_pki).collect();
    let purpose = match usage {
        Usage::ServerAuth => KeyUsage::server_auth(),
        Usage::ClientAuth => KeyUsage::client_auth(),
    };
    let seconds = u64::try_from(at.as_second()).unwrap_or(0);
    end_entity
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &[anchor],
            &intermediates,
            UnixTime::since_unix_epoch(Duration::from_secs(seconds)),
            purpose,
            None,
            None,
        )
        .map(|_| ())
        .map_err(|error| refuse(&error))
}
