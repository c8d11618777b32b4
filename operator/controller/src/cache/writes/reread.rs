//! Custom resources that are read again because a write of their status met another version than the known one.
//!
//! The response enters the index as a watch event would. An object under another UID is left to its watch: here it only
//! marks the deletion of the known one, so that an object that no watch reports is never added.

use std::collections::BTreeSet;

use crate::cache::ClusterCache;
use crate::store::{Found, ObjectRef};

impl ClusterCache {
    /// Applies the response of a read. `seen`: the UID that was known before the read began.
    #[must_use = "dependent objects would not be planned again"]
    pub(crate) fn take_found(
        &mut self,
        key: &ObjectRef,
        found: Option<Found>,
        seen: Option<&str>,
    ) -> BTreeSet<ObjectRef> {
        if seen.is_none() || self.uid_of(key) != seen {
            // The watch has reported more in the meantime.
            return BTreeSet::new();
        }
        let meta = found.as_ref().map(|found| match found {
            Found::Object(object) => object.metadata(),
            Found::Unreadable(unreadable) => &unreadable.meta,
        });
        let uid = meta.and_then(|meta| meta.uid.clone());
        match found {
            Some(found) if uid.as_deref() == seen => match found {
                Found::Object(object) => self.take_reported(object),
                Found::Unreadable(unreadable) => match key {
                    ObjectRef::TrustDomain(_) => self.apply_unreadable_trust_domain(&unreadable),
                    ObjectRef::Certificate(..) => self.apply_unreadable_certificate(&unreadable),
                    ObjectRef::Service(..) => self.apply_unreadable_service(&unreadable),
                },
            },
            _ => self.remove_resource(key),
        }
    }

    /// The UID of a known custom resource.
    pub(crate) fn uid_of(&self, key: &ObjectRef) -> Option<&str> {
        let read = self.metadata(key).and_then(|meta| meta.uid.as_deref());
        read.or_else(|| Some(&self.unreadable(key)?.version.uid))
    }

    fn remove_resource(&mut self, key: &ObjectRef) -> BTreeSet<ObjectRef> {
        let (namespace, name) = key.names();
        let place = (namespace.to_owned(), name.to_owned());
        self.forget_unreadable(key.resource(), &place);
        match key {
            ObjectRef::TrustDomain(name) => self.remove_trust_domain(name),
            ObjectRef::Certificate(..) => self.remove_certificate(&place),
            ObjectRef::Service(..) => self.remove_service(&place),
        }
    }
}
