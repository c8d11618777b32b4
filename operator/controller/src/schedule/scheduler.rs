//! The work of the operator: reconciles, probes and look-ups, shared fairly over namespaces, and the pace of re-issues.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cache::{InstanceKey, Probing, SharedCache, lock};
use crate::queue::work_queue::Queue;
use crate::schedule::pacer::Pacer;
use crate::store::ObjectRef;

/// The queues, and the pacer; clones share them.
#[derive(Clone)]
pub(crate) struct Scheduler {
    pub(crate) decisions: Arc<Queue<ObjectRef>>,
    pub(crate) probes: Arc<Queue<InstanceKey>>,
    /// Services whose Secrets of users are to be looked up.
    pub(crate) lookups: Arc<Queue<ObjectRef>>,
    pub(crate) pacer: Arc<Pacer>,
    /// Only the leader probes.
    probing: Arc<AtomicBool>,
}

impl Scheduler {
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
    pub(crate) fn push(&self, world: &SharedCache, keys: impl IntoIterator<Item = ObjectRef>) {
        self.decisions.push_all(keys);
        let probing = if self.probing.load(Ordering::Acquire) { Probing::Leader } else { Probing::Nobody };
        let dirty = lock(world).take_dirty(probing);
        for domain in dirty.domains {
            self.decisions.push_soon(ObjectRef::TrustDomain(domain));
        }
        self.probes.push_all(dirty.probes);
    }

    /// From now on, instances are probed.
    pub(crate) fn begin_probing(&self, world: &SharedCache) {
        self.probing.store(true, Ordering::Release);
        self.push(world, BTreeSet::new());
    }

    /// Queues every key and probes every instance, now.
    pub(crate) fn requeue_all(&self, world: &SharedCache) {
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
