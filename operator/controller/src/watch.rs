//! Watches: each updates its part of the cluster snapshot and returns the keys to plan again.

mod kinds;
mod pods;

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use gaia_api::crd::{GaiaService, ServiceCertificate, TrustDomain};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Client;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::api_server::{ApiServer, Change, Object, Reading, Resource, Selection, Unreadable, Watch};
use crate::cache::{ClusterCache, Place, SharedCache, lock, place};
use crate::observability::metrics::Metrics;
use crate::schedule::scheduler::Scheduler;
use crate::store::ObjectRef;

pub(crate) use kinds::NamespaceView;

/// Starts and counts the watches.
#[derive(Clone)]
pub(crate) struct Watches {
    world: SharedCache,
    scheduler: Scheduler,
    metrics: Metrics,
    /// Watches that have not completed their first list.
    unsynced: Arc<AtomicUsize>,
    /// Watches of pods that are not known to be allowed or forbidden yet. Only the state of instances depends on them.
    unsettled: Arc<AtomicUsize>,
    running: Arc<Mutex<Vec<AbortHandle>>>,
}

/// A kind of object that is watched, and its entry in the cluster snapshot.
pub(crate) trait Watched: Object + Send + 'static {
    const RESOURCE: Resource;
    /// Which of them are watched.
    const LABELS: Option<&'static str>;
    /// Takes one in.
    fn apply(self, world: &SharedCache) -> BTreeSet<ObjectRef>;
    /// Applies an object of which only the metadata can be parsed: it exists, and its content is unknown.
    fn apply_unreadable(unreadable: &Unreadable, world: &mut ClusterCache) -> BTreeSet<ObjectRef>;
    /// Takes one out; `version` is that of its deletion.
    fn remove(world: &mut ClusterCache, place: &Place, version: Option<&str>) -> BTreeSet<ObjectRef>;
    /// The names of all known objects.
    fn places(world: &ClusterCache) -> Vec<Place>;
}

impl Watches {
    pub(crate) fn new(world: SharedCache, scheduler: Scheduler, metrics: Metrics) -> Self {
        let none = || Arc::new(AtomicUsize::new(0));
        Self { world, scheduler, metrics, unsynced: none(), unsettled: none(), running: Arc::default() }
    }

    /// Starts all watches. `namespaces` empty: the whole cluster; the operator's own namespace is always included.
    pub(crate) fn start(&self, client: &Client, operator_namespace: &str, namespaces: &[String]) {
        let api = ApiServer::new(client.clone());
        self.spawn::<TrustDomain>(&api, None);
        self.spawn::<NamespaceView>(&api, None);
        self.everywhere::<ServiceCertificate>(&api, namespaces);
        self.everywhere::<GaiaService>(&api, namespaces);
        self.everywhere::<ConfigMap>(&api, namespaces);
        self.everywhere::<Secret>(&api, namespaces);
        self.pods(&api, namespaces);
        if !namespaces.is_empty() && !namespaces.iter().any(|namespace| namespace == operator_namespace) {
            self.spawn::<Secret>(&api, Some(operator_namespace));
        }
    }

    /// Returns true if every watch has completed its first list.
    pub(crate) fn are_synced(&self) -> bool {
        self.unsynced.load(Ordering::Acquire) == 0
    }

    /// Returns true if pods have been listed once, or may not be.
    pub(crate) fn are_pods_settled(&self) -> bool {
        self.unsettled.load(Ordering::Acquire) == 0
    }

    /// Stops all watches.
    pub(crate) fn stop(&self) {
        for watch in self.running.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            watch.abort();
        }
    }

    fn everywhere<K: Watched>(&self, api: &ApiServer, namespaces: &[String]) {
        if namespaces.is_empty() {
            self.spawn::<K>(api, None);
        }
        for namespace in namespaces {
            self.spawn::<K>(api, Some(namespace));
        }
    }

    fn spawn<K: Watched>(&self, api: &ApiServer, namespace: Option<&str>) {
        let namespace = namespace.map(str::to_owned);
        let selection = Selection { resource: K::RESOURCE, namespace, labels: K::LABELS, fields: None };
        self.unsynced.fetch_add(1, Ordering::AcqRel);
        self.run(self.clone().follow::<K>(api.clone(), selection));
    }

    fn run(&self, watch: impl Future<Output = ()> + Send + 'static) {
        let watch = tokio::spawn(watch);
        self.running.lock().unwrap_or_else(PoisonError::into_inner).push(watch.abort_handle());
    }

    /// Never ends: a broken watch is restarted after a growing delay; with a new list, if the API server no longer has
    /// the events since then.
    async fn follow<K: Watched>(self, api: ApiServer, selection: Selection) {
        let scope = selection.namespace.clone();
        let mut stream = std::pin::pin!(Watch::<K>::new(api, selection).stream());
        let mut listing = Listing::default();
        let mut pause = Pause::default();
        let mut synced = false;
        while let Some(change) = stream.next().await {
            match change {
                Ok(change) => {
                    let done = matches!(change, Change::Done { .. });
                    let keys = self.take(change, &mut listing, scope.as_deref());
                    self.scheduler.push(&self.world, keys);
                    if done && !synced {
                        synced = true;
                        self.unsynced.fetch_sub(1, Ordering::AcqRel);
                    }
                }
                Err(error) => {
                    self.metrics.watch_failures.inc();
                    tracing::warn!(%error, kind = K::RESOURCE.kind, "a watch broke; restarting it");
                    tokio::time::sleep(pause.next()).await;
                }
            }
        }
    }

    fn take<K: Watched>(&self, change: Change<K>, listing: &mut Listing, scope: Option<&str>) -> BTreeSet<ObjectRef> {
        let keys = self.take_change(change, listing, scope);
        self.metrics.count_unreadable(K::RESOURCE.kind, lock(&self.world).count_unreadable(K::RESOURCE));
        keys
    }

    fn take_change<K: Watched>(
        &self,
        change: Change<K>,
        listing: &mut Listing,
        scope: Option<&str>,
    ) -> BTreeSet<ObjectRef> {
        match change {
            Change::Init => {
                let world = lock(&self.world);
                let known = K::places(&world).into_iter().chain(world.unreadable_places(K::RESOURCE).cloned());
                let in_scope = |place: &Place| scope.is_none_or(|scope| place.0 == scope);
                let known = known.filter(in_scope).map(|place| (world.uid(K::RESOURCE, &place), place));
                *listing = Listing { before: known.collect(), seen: HashSet::new() };
                BTreeSet::new()
            }
            Change::Listed(reading) => {
                listing.seen.insert(place(reading.metadata()));
                self.read(reading)
            }
            Change::Done { complete } => {
                let Listing { before, seen } = std::mem::take(listing);
                if !complete {
                    tracing::warn!(
                        kind = K::RESOURCE.kind,
                        "a list was incomplete: objects that it did not contain \
                                                             are kept"
                    );
                    return BTreeSet::new();
                }
                let mut world = lock(&self.world);
                let gone = before.iter().filter(|(_, place)| !seen.contains(place));
                // An object that was created in between under the name is reported by the watch that follows the list.
                gone.flat_map(|(uid, place)| {
                    let is_same = world.uid(K::RESOURCE, place) == *uid;
                    if is_same { remove::<K>(&mut world, place, None) } else { BTreeSet::new() }
                })
                .collect()
            }
            Change::Applied(reading) => self.read(reading),
            Change::Deleted(reading) => {
                let meta = reading.metadata();
                let at = place(meta);
                let mut world = lock(&self.world);
                world.note_deleted(meta);
                world.confirm(K::RESOURCE, &at, meta);
                remove::<K>(&mut world, &at, meta.resource_version.as_deref())
            }
            Change::Unidentified(fault) => {
                tracing::warn!(kind = K::RESOURCE.kind, %fault, "an object cannot be identified");
                BTreeSet::new()
            }
        }
    }

    fn read<K: Watched>(&self, reading: Reading<K>) -> BTreeSet<ObjectRef> {
        let meta = reading.metadata();
        lock(&self.world).confirm(K::RESOURCE, &place(meta), meta);
        match reading {
            Reading::Object(object) => object.apply(&self.world),
            Reading::Unreadable(unreadable) => {
                let (namespace, name) = place(&unreadable.meta);
                let (kind, fault) = (K::RESOURCE.kind, &unreadable.fault);
                tracing::warn!(kind, namespace, name, %fault, "an object cannot be read");
                K::apply_unreadable(&unreadable, &mut lock(&self.world))
            }
        }
    }
}

fn remove<K: Watched>(world: &mut ClusterCache, place: &Place, version: Option<&str>) -> BTreeSet<ObjectRef> {
    world.forget_unreadable(K::RESOURCE, place);
    K::remove(world, place, version)
}

/// The delay before a broken watch is restarted. It grows with each failure, and is reset after a period without one.
#[derive(Default)]
struct Pause {
    last: Option<(Instant, Duration)>,
}

impl Pause {
    fn next(&mut self) -> Duration {
        let now = Instant::now();
        let next = match self.last {
            Some((at, pause)) if now - at < PAUSE_FORGOTTEN_AFTER => (pause * 2).min(LONGEST_PAUSE),
            _ => FIRST_PAUSE,
        };
        self.last = Some((now, next));
        next
    }
}

/// The objects that were known when a list started, and those that it has contained so far.
#[derive(Default)]
struct Listing {
    /// UIDs, where known, and names.
    before: Vec<(Option<String>, Place)>,
    seen: HashSet<Place>,
}

#[cfg(test)]
mod interleavings;

const FIRST_PAUSE: Duration = Duration::from_millis(800);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const PAUSE_FORGOTTEN_AFTER: Duration = Duration::from_secs(120);
