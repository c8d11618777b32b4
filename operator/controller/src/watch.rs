//! Watches: each keeps its part of the world up to date and says what is to be decided anew.

mod pods;

use std::collections::{BTreeSet, HashSet};
use std::fmt::Debug;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use gaia_api::crd::{GaiaService, ServiceCertificate, TrustDomain};
use gaia_api::names::{MANAGED_BY, MANAGED_BY_LABEL};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::task::AbortHandle;

use crate::agenda::Agenda;
use crate::executor::{SharedWorld, lock};
use crate::facts;
use crate::metrics::Metrics;
use crate::store::Key;
use crate::world::{NamespaceFacts, Place, World, place};

/// Starts and counts the watches.
#[derive(Clone)]
pub(crate) struct Watches {
    world: SharedWorld,
    agenda: Agenda,
    metrics: Metrics,
    /// Watches that have not listed everything yet.
    unsynced: Arc<AtomicUsize>,
    /// Watches of pods of which it is not known yet whether they are allowed. Nothing but instances depends on them.
    unsettled: Arc<AtomicUsize>,
    running: Arc<Mutex<Vec<AbortHandle>>>,
}

/// A kind of object that is watched, and how it enters the world.
pub(crate) trait Watched:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static
{
    /// Which of them are watched.
    const LABELS: Option<&'static str>;
    /// Takes one in.
    fn apply(self, world: &SharedWorld) -> BTreeSet<Key>;
    /// Takes one out; `version` is that of its deletion.
    fn remove(world: &mut World, place: &Place, version: Option<&str>) -> BTreeSet<Key>;
    /// All that are known.
    fn places(world: &World) -> Vec<Place>;
}

impl Watches {
    pub(crate) fn new(world: SharedWorld, agenda: Agenda, metrics: Metrics) -> Self {
        let none = || Arc::new(AtomicUsize::new(0));
        Self { world, agenda, metrics, unsynced: none(), unsettled: none(), running: Arc::default() }
    }

    /// Starts everything. `namespaces` empty: the whole cluster; the operator's own namespace is always among them.
    pub(crate) fn start(&self, client: &Client, operator_namespace: &str, namespaces: &[String]) {
        self.spawn::<TrustDomain>(Api::all(client.clone()), None);
        self.spawn::<Namespace>(Api::all(client.clone()), None);
        self.everywhere::<ServiceCertificate>(client, namespaces);
        self.everywhere::<GaiaService>(client, namespaces);
        self.everywhere::<ConfigMap>(client, namespaces);
        self.everywhere::<Secret>(client, namespaces);
        self.pods(client, namespaces);
        if !namespaces.is_empty() && !namespaces.iter().any(|namespace| namespace == operator_namespace) {
            let own = Api::<Secret>::namespaced(client.clone(), operator_namespace);
            self.spawn(own, Some(operator_namespace.to_owned()));
        }
    }

    /// Whether everything has been listed once.
    pub(crate) fn are_synced(&self) -> bool {
        self.unsynced.load(Ordering::Acquire) == 0
    }

    /// Whether pods have been listed once, or may not be.
    pub(crate) fn are_pods_settled(&self) -> bool {
        self.unsettled.load(Ordering::Acquire) == 0
    }

    /// Ends all of them.
    pub(crate) fn stop(&self) {
        for watch in self.running.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            watch.abort();
        }
    }

    fn everywhere<K>(&self, client: &Client, namespaces: &[String])
    where
        K: Watched + Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    {
        if namespaces.is_empty() {
            self.spawn::<K>(Api::all(client.clone()), None);
        }
        for namespace in namespaces {
            self.spawn::<K>(Api::namespaced(client.clone(), namespace), Some(namespace.clone()));
        }
    }

    fn spawn<K: Watched>(&self, api: Api<K>, scope: Option<String>) {
        self.unsynced.fetch_add(1, Ordering::AcqRel);
        self.run(self.clone().follow(api, scope));
    }

    fn run(&self, watch: impl Future<Output = ()> + Send + 'static) {
        let watch = tokio::spawn(watch);
        self.running.lock().unwrap_or_else(PoisonError::into_inner).push(watch.abort_handle());
    }

    /// Never ends: a watch that breaks is begun again, after a while that grows; with a list, where the API server does
    /// not know any more what has happened since.
    async fn follow<K: Watched>(self, api: Api<K>, scope: Option<String>) {
        let config =
            K::LABELS.map_or_else(watcher::Config::default, |labels| watcher::Config::default().labels(labels));
        let begin = || watch(api.clone(), config.clone()).default_backoff().boxed();
        let mut stream = begin();
        let mut listing = Listing::default();
        let mut synced = false;
        while let Some(event) = stream.next().await {
            match event {
                Ok(event) => {
                    let done = matches!(event, Event::InitDone);
                    let keys = self.take(event, &mut listing, scope.as_deref());
                    self.agenda.push(&self.world, keys);
                    if done && !synced {
                        synced = true;
                        self.unsynced.fetch_sub(1, Ordering::AcqRel);
                    }
                }
                Err(error) => {
                    self.metrics.watch_failures.inc();
                    tracing::warn!(%error, kind = %K::kind(&()), "a watch broke and is begun again");
                    if is_too_long_ago(&error) {
                        tokio::time::sleep(BEFORE_A_LIST).await;
                        stream = begin();
                    }
                }
            }
        }
    }

    fn take<K: Watched>(&self, event: Event<K>, listing: &mut Listing, scope: Option<&str>) -> BTreeSet<Key> {
        match event {
            Event::Init => {
                let known = K::places(&lock(&self.world)).into_iter();
                let in_scope = |place: &Place| scope.is_none_or(|scope| place.0 == scope);
                *listing = Listing { before: known.filter(in_scope).collect(), seen: HashSet::new() };
                BTreeSet::new()
            }
            Event::InitApply(object) => {
                listing.seen.insert(place(object.meta()));
                object.apply(&self.world)
            }
            Event::InitDone => {
                let Listing { before, seen } = std::mem::take(listing);
                let mut world = lock(&self.world);
                before
                    .iter()
                    .filter(|place| !seen.contains(*place))
                    .flat_map(|gone| K::remove(&mut world, gone, None))
                    .collect()
            }
            Event::Apply(object) => object.apply(&self.world),
            Event::Delete(object) => {
                let version = object.meta().resource_version.clone();
                K::remove(&mut lock(&self.world), &place(object.meta()), version.as_deref())
            }
        }
    }
}

/// Whether a watch may not even begin, by 410 Gone in place of an answer. Where the answer says it, the library lists
/// everything anew; here it would ask for ever for what is gone.
fn is_too_long_ago(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 410)
}

/// What was known when a list began, and what it has shown so far.
#[derive(Default)]
struct Listing {
    before: Vec<Place>,
    seen: HashSet<Place>,
}

impl Watched for TrustDomain {
    const LABELS: Option<&'static str> = None;

    fn apply(self, world: &SharedWorld) -> BTreeSet<Key> {
        lock(world).apply_trust_domain(self)
    }

    fn remove(world: &mut World, place: &Place, _: Option<&str>) -> BTreeSet<Key> {
        world.remove_trust_domain(&place.1)
    }

    fn places(world: &World) -> Vec<Place> {
        world.trust_domain_places()
    }
}

impl Watched for ServiceCertificate {
    const LABELS: Option<&'static str> = None;

    fn apply(self, world: &SharedWorld) -> BTreeSet<Key> {
        lock(world).apply_certificate(self)
    }

    fn remove(world: &mut World, place: &Place, _: Option<&str>) -> BTreeSet<Key> {
        world.remove_certificate(place)
    }

    fn places(world: &World) -> Vec<Place> {
        world.certificate_places()
    }
}

impl Watched for GaiaService {
    const LABELS: Option<&'static str> = None;

    fn apply(self, world: &SharedWorld) -> BTreeSet<Key> {
        lock(world).apply_service(self)
    }

    fn remove(world: &mut World, place: &Place, _: Option<&str>) -> BTreeSet<Key> {
        world.remove_service(place)
    }

    fn places(world: &World) -> Vec<Place> {
        world.service_places()
    }
}

impl Watched for Namespace {
    const LABELS: Option<&'static str> = None;

    fn apply(self, world: &SharedWorld) -> BTreeSet<Key> {
        let facts = NamespaceFacts {
            terminating: self.metadata.deletion_timestamp.is_some(),
            labels: self.metadata.labels.unwrap_or_default(),
        };
        lock(world).apply_namespace(self.metadata.name.as_deref().unwrap_or_default(), facts)
    }

    fn remove(world: &mut World, place: &Place, _: Option<&str>) -> BTreeSet<Key> {
        world.remove_namespace(&place.1)
    }

    fn places(world: &World) -> Vec<Place> {
        world.namespace_places()
    }
}

impl Watched for Secret {
    const LABELS: Option<&'static str> = Some(OURS);

    /// Reading a key takes a while, so it is done outside the lock.
    fn apply(self, world: &SharedWorld) -> BTreeSet<Key> {
        let at = place(&self.metadata);
        let (cas, operator_namespace) = {
            let world = lock(world);
            if world.knows_secret(&at, &self.metadata) {
                return BTreeSet::new();
            }
            (world.known_cas(), world.operator_namespace().to_owned())
        };
        let facts = facts::read_secret(self, &operator_namespace, &cas);
        lock(world).apply_secret(at, facts)
    }

    fn remove(world: &mut World, place: &Place, version: Option<&str>) -> BTreeSet<Key> {
        world.remove_secret(place, version)
    }

    fn places(world: &World) -> Vec<Place> {
        world.secret_places()
    }
}

impl Watched for ConfigMap {
    const LABELS: Option<&'static str> = Some(OURS);

    fn apply(self, world: &SharedWorld) -> BTreeSet<Key> {
        let (facts, ledger) = (facts::config_map_facts(&self), facts::ledger_record(&self));
        lock(world).apply_config_map(place(&self.metadata), facts, ledger)
    }

    fn remove(world: &mut World, place: &Place, version: Option<&str>) -> BTreeSet<Key> {
        world.remove_config_map(place, version)
    }

    fn places(world: &World) -> Vec<Place> {
        world.config_map_places()
    }
}

impl World {
    /// Whether this very state of a Secret is known already: our own write comes back by the watch.
    fn knows_secret(&self, place: &Place, meta: &ObjectMeta) -> bool {
        let key = gaia_plan::object::ObjectKey::secret(&place.0, place.1.clone());
        self.version(&key).is_some_and(|known| {
            Some(&known.uid) == meta.uid.as_ref() && Some(&known.resource_version) == meta.resource_version.as_ref()
        })
    }
}

/// A list costs the API server more than a watch.
const BEFORE_A_LIST: Duration = Duration::from_secs(1);
const OURS: &str = "app.kubernetes.io/managed-by=gaia-operator";
const _: () = assert!(OURS.len() == MANAGED_BY_LABEL.len() + 1 + MANAGED_BY.len());
