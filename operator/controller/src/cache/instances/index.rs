//! The index of pods, of what they refer to, and of the instances that follow from it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use gaia_plan::instances::endpoint::Addresses;
use gaia_plan::object::ObjectKey;

use super::{DirtyKeys, Entry};
use crate::cache::Place;
use crate::cache::instances::pods::{PodFacts, Reference};

/// The index of pods and their uses.
#[derive(Default)]
pub(in crate::cache) struct InstanceIndex {
    pub(super) pods: HashMap<Place, PodFacts>,
    /// The references of pods, each combination stored once.
    pub(super) shapes: HashSet<Arc<[Reference]>>,
    /// Names of the pods that refer to an object, whether that is there or not.
    pub(super) users: HashMap<ObjectKey, BTreeSet<String>>,
    /// UIDs of the pods that have an address: several where they are on the network of a node.
    pub(super) addresses: HashMap<IpAddr, BTreeSet<String>>,
    /// By TrustDomain and UID.
    pub(super) found: BTreeMap<String, BTreeMap<String, Entry>>,
    /// Watches of pods by namespace (none: all namespaces), with the cause if one is broken.
    pub(super) watches: BTreeMap<Option<String>, Result<(), String>>,
    /// The addresses of the API server; none: they were not looked up yet.
    pub(super) api_server: Option<BTreeSet<IpAddr>>,
    /// The addresses of endpoints that are names, by the endpoint's UID.
    pub(super) resolved: BTreeMap<String, Addresses>,
    pub(super) dirty: DirtyKeys,
}

impl InstanceIndex {
    /// The reason why the instances in a namespace are unknown.
    pub(super) fn unknown(&self, namespace: &str) -> Option<&str> {
        let everywhere = self.watches.get(&None);
        match everywhere.or_else(|| self.watches.get(&Some(namespace.to_owned()))) {
            Some(Ok(())) => None,
            Some(Err(why)) => Some(why),
            None => Some(NOT_LISTED),
        }
    }

    pub(super) fn put_in(&mut self, place: &Place, mut facts: PodFacts) {
        facts.references = self.shape(facts.references);
        for key in objects(place, &facts) {
            self.users.entry(key).or_default().insert(place.1.clone());
        }
        if let Some(ip) = facts.ip {
            self.addresses.entry(ip).or_default().insert(facts.uid.clone());
        }
        self.pods.insert(place.clone(), facts);
    }

    pub(super) fn take_out(&mut self, place: &Place) -> Option<PodFacts> {
        let facts = self.pods.remove(place)?;
        for key in objects(place, &facts) {
            remove_from(&mut self.users, &key, &place.1);
        }
        if let Some(ip) = &facts.ip {
            remove_from(&mut self.addresses, ip, &facts.uid);
        }
        Some(facts)
    }

    pub(super) fn shape(&mut self, shape: Arc<[Reference]>) -> Arc<[Reference]> {
        if let Some(known) = self.shapes.get(&shape) {
            return Arc::clone(known);
        }
        self.shapes.insert(Arc::clone(&shape));
        shape
    }
}

fn objects<'a>(place: &'a Place, facts: &'a PodFacts) -> impl Iterator<Item = ObjectKey> + 'a {
    let key = |r: &Reference| ObjectKey { kind: r.kind, namespace: place.0.clone(), name: r.name.to_string() };
    facts.references.iter().map(key)
}

fn remove_from<K: Eq + Hash>(sets: &mut HashMap<K, BTreeSet<String>>, key: &K, name: &str) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(name);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}

pub(super) const NOT_LISTED: &str = "the pods are not listed yet";
