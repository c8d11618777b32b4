//! Epochs in projections: the claims of objects, and their validation.
//!
//! Every projection carries the epoch of the ring from which it was written. A writer of the projection can write the
//! epoch, too, so an epoch above the ring's proves a newer ring only with a MAC that the ring's own key verifies.

use std::collections::BTreeMap;
use std::fmt;

use gaia_api::names::annotation;

use crate::keyring::ring::RingKind;
use crate::object::ObjectKey;

/// Computes the MAC of an epoch for one object. The key stays with the implementation.
pub trait EpochMac: fmt::Debug {
    /// The MAC over ring, object and epoch, as the annotation holds it.
    fn of(&self, ring: RingKind, object: &ObjectKey, epoch: u64) -> String;
}

/// The MACs of both rings; none: the ring has no key for them yet, as rings of earlier versions have none.
#[derive(Debug, Clone, Copy, Default)]
pub struct EpochMacs<'a> {
    /// By the key in the CA's ring.
    pub ca: Option<&'a dyn EpochMac>,
    /// By the key in the signing ring.
    pub signing: Option<&'a dyn EpochMac>,
}

impl<'a> EpochMacs<'a> {
    /// The MACs of one ring.
    #[must_use]
    pub fn of(&self, ring: RingKind) -> Option<&'a dyn EpochMac> {
        match ring {
            RingKind::Ca => self.ca,
            RingKind::SigningKeys => self.signing,
        }
    }
}

/// The annotation of a ring's epoch, and that of its MAC.
#[must_use]
pub fn annotations_of(ring: RingKind) -> (&'static str, &'static str) {
    match ring {
        RingKind::Ca => (annotation::CA_EPOCH, annotation::CA_EPOCH_MAC),
        RingKind::SigningKeys => (annotation::SIGNING_EPOCH, annotation::SIGNING_EPOCH_MAC),
    }
}

/// The annotations that an object of that epoch carries.
pub(crate) fn annotations(
    ring: RingKind,
    object: &ObjectKey,
    epoch: u64,
    mac: Option<&dyn EpochMac>,
) -> BTreeMap<String, String> {
    let (name, mac_name) = annotations_of(ring);
    let mac = mac.map(|mac| (mac_name.to_owned(), mac.of(ring, object, epoch)));
    [(name.to_owned(), epoch.to_string())].into_iter().chain(mac).collect()
}

/// An epoch that an object carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) epoch: u64,
    /// True if its MAC is valid; none: the ring has no key to verify it with.
    pub(crate) is_proven: Option<bool>,
}

impl Claim {
    /// The epoch of a ring that an object carries. One beyond [`MAX_EPOCH`] was written by no operator.
    pub(crate) fn read<'v>(
        ring: RingKind,
        object: impl Fn() -> ObjectKey,
        value: impl Fn(&str) -> Option<&'v str>,
        mac: Option<&dyn EpochMac>,
    ) -> Option<Self> {
        let (name, mac_name) = annotations_of(ring);
        let epoch = value(name)?.parse().ok().filter(|epoch| *epoch <= MAX_EPOCH)?;
        let is_proven = mac.map(|mac| value(mac_name) == Some(&mac.of(ring, &object(), epoch)));
        Some(Self { epoch, is_proven })
    }

    /// Returns true if it shows that the ring of that epoch is an older one. Without a key to verify it, the epoch
    /// alone decides.
    pub(crate) fn is_newer_than(self, ring_epoch: u64) -> bool {
        self.epoch > ring_epoch && self.is_proven != Some(false)
    }
}

/// No ring gets there: one transition a second would take a hundred million years.
pub(crate) const MAX_EPOCH: u64 = 1 << 52;
