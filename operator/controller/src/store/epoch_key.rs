//! The key of the MACs over epochs. It is read from a ring, and no part of it leaves this file.

use std::fmt;

use aws_lc_rs::hmac;
use gaia_plan::keyring::epoch::EpochMac;
use gaia_plan::keyring::ring::RingKind;
use gaia_plan::object::ObjectKey;
use zeroize::Zeroizing;

use crate::store::error::ExecuteError;

/// The key of one ring.
#[derive(Clone)]
pub(crate) struct EpochKey(hmac::Key);

impl EpochKey {
    /// The key in a ring's Secret; none: it has not the length of a key from [`generate`].
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == KEY_BYTES).then(|| Self(hmac::Key::new(hmac::HMAC_SHA256, bytes)))
    }
}

/// A new key.
pub(crate) fn generate() -> Result<Zeroizing<Vec<u8>>, ExecuteError> {
    let mut bytes = Zeroizing::new(vec![0; KEY_BYTES]);
    #[expect(clippy::disallowed_methods, reason = "this is the edge where keys are drawn")]
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| ExecuteError::Entropy)?;
    Ok(bytes)
}

impl EpochMac for EpochKey {
    /// HMAC-SHA256, cut to 128 bits (RFC 2104 section 5), as hex.
    fn of(&self, ring: RingKind, object: &ObjectKey, epoch: u64) -> String {
        // No part but the last can hold a line break.
        let text = format!("{ring}\n{:?}\n{}\n{}\n{epoch}", object.kind, object.namespace, object.name);
        let tag = hmac::sign(&self.0, text.as_bytes());
        tag.as_ref().iter().take(MAC_BYTES).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for EpochKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EpochKey")
    }
}

const KEY_BYTES: usize = 32;
const MAC_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> EpochKey {
        EpochKey::read(&[byte; KEY_BYTES]).unwrap()
    }

    #[test]
    fn a_mac_is_bound_to_key_ring_object_and_epoch() {
        let object = ObjectKey::config_map("shop", "gaia-trust");
        let mac = key(1).of(RingKind::Ca, &object, 7);
        assert_eq!(mac.len(), 32);
        assert_eq!(mac, key(1).of(RingKind::Ca, &object, 7));
        let others = [
            key(2).of(RingKind::Ca, &object, 7),
            key(1).of(RingKind::SigningKeys, &object, 7),
            key(1).of(RingKind::Ca, &object, 8),
            key(1).of(RingKind::Ca, &ObjectKey::config_map("other", "gaia-trust"), 7),
            key(1).of(RingKind::Ca, &ObjectKey::secret("shop", "gaia-trust"), 7),
            key(1).of(RingKind::Ca, &ObjectKey::config_map("shop", "gaia-trust2"), 7),
        ];
        assert!(!others.contains(&mac), "{others:?}");
    }

    #[test]
    fn a_key_is_not_shown() {
        assert_eq!(format!("{:?}", key(1)), "EpochKey");
        assert!(EpochKey::read(b"too short").is_none());
    }
}
