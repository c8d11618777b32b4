//! The work of the operator: reconciles, probes and look-ups, shared fairly over namespaces, and the pace of re-issues.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cache::{InstanceKey, Probing};
use crate::cache::{SharedWorld, lock};
use crate::queue::work_queue::Queue;
use crate::schedule::pacer::Pacer;
use crate::store::Key;

/// The queues, and the pacer; clones share them.
#[derive(Clone)]
pub(crate) struct Agenda {
    pub(crate) decisions: Arc<Queue<Key>>,
    pub(crate) probes: Arc<Queue<InstanceKey>>,
    /// Services whose Secrets of users are to be looked up.
    pub(crate) lookups: Arc<Queue<Key>>,
    pub(crate) pacer: Arc<Pacer>,
    /// Only the leader probes.
    probing: Arc<AtomicBool>,
}

impl Agenda {
    /// `reissue_per_second`: the pace of re-issues; 0: none.
    pub(crate) fn new(reissue_per_second: u32) -> Self {
        Self {
            decisions: Arc::new(Queue::new(RECONCILES)),
            probes: Arc::new(Queue::new(PROBES)),
            lookups: Arc::new(Queue::new(LOOKUPS)),
            pacer: Arc::new(Pacer::new(reissue_per_second)),
            probing: Arc::default(),
        }
    }

    /// Queues these keys now, and those marked dirty by the last change soon.
    pub(crate) fn push(&self, world: &SharedWorld, keys: impl IntoIterator<Item = Key>) {
        self.decisions.push_all(keys);
        let probing = if self.probing.load(Ordering::Acquire) { Probing::Leader } else { Probing::Nobody };
        let stirred = lock(world).take_stirred(probing);
        for domain in stirred.domains {
            self.decisions.push_soon(Key::TrustDomain(domain));
        }
        self.probes.push_all(stirred.probes);
    }

    /// From now on, instances are probed.
    pub(crate) fn begin_probing(&self, world: &SharedWorld) {
        self.probing.store(true, Ordering::Release);
        self.push(world, BTreeSet::new());
    }

    /// Queues every key and probes every instance, now.
    pub(crate) fn look_again(&self, world: &SharedWorld) {
        let (keys, instances) = {
            let world = lock(world);
            (world.all_keys(), world.all_instances())
        };
        if self.probing.load(Ordering::Acquire) {
            self.probes.push_all(instances);
        }
        self.push(world, keys);
    }

    pub(crate) fn is_quiet(&self) -> bool {
        // Either leads to the other.
        let are_quiet = || self.probes.is_quiet() && self.lookups.is_quiet();
        are_quiet() && self.pacer.is_quiet() && self.decisions.is_quiet() && are_quiet()
    }

    pub(crate) fn close(&self) {
        self.decisions.close();
        self.probes.close();
        self.lookups.close();
        self.pacer.close();
    }
}

/// Reconciles at a time.
const RECONCILES: usize = 16;
/// Probes at a time.
const PROBES: usize = 64;
/// Services at a time whose Secrets are looked up.
const LOOKUPS: usize = 4;
