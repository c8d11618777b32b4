//! The engine on a directory: the operator's workers on a [`DirStore`], and what takes the place of its watches.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gaia_api::Clock;
use gaia_api::crd::{GaiaService, ServiceCertificate, TrustDomain};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::changes::{CHANGES, Changes};
use super::disk::dir::{Access, Dir, FileMark};
use super::disk::error::DirectoryError;
use super::disk::lock::Lock;
pub(crate) use super::disk::objects::FOLDER as FOLDERS;
use super::disk::objects::Objects;
use super::events::LocalEvents;
use super::manifests::{self, Manifest};
use super::projection::Projection;
use super::store::DirStore;
use crate::api_server::object::{Reading, read};
use crate::api_server::{Answer, Resource};
use crate::cache::{ClusterCache, NamespaceFacts, SharedCache, Surroundings, lock};
use crate::observability::events::Events;
use crate::observability::metrics::Metrics;
use crate::process::workers::{Parts, Workers};
use crate::schedule::scheduler::Scheduler;
use crate::watch::Watched;

/// Settings of an [`Engine`].
#[derive(Clone)]
pub struct EngineSettings {
    /// The time source of all decisions.
    pub clock: Arc<dyn Clock>,
    /// False: instances are not probed, as when a directory is set up.
    pub probes: bool,
    /// The group that may read the service directories; none: the group of this user.
    pub group: Option<u32>,
    /// Endpoints of services that replace those of `gaia.yaml`, by the service's name.
    pub endpoints: BTreeMap<String, Vec<String>>,
    /// Issuers of user tokens in place of those of `gaia.yaml`; none: those.
    pub user_token_issuers: Option<Vec<Value>>,
    /// A program that gets each event as one line of JSON on its standard input; it has no shell.
    pub on_event: Option<PathBuf>,
    /// Maximum re-issuance rate per second during a rotation; 0: unlimited.
    pub reissue_per_second: u32,
}

impl EngineSettings {
    /// Probes, no group, the endpoints of `gaia.yaml`, 50 re-issues a second.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            probes: true,
            group: None,
            endpoints: BTreeMap::new(),
            user_token_issuers: None,
            on_event: None,
            reissue_per_second: 50,
        }
    }
}

/// The engine. It holds the lock of its directory until it is dropped.
pub struct Engine {
    root: Dir,
    pub(super) hidden: Dir,
    pub(super) store: DirStore,
    pub(super) world: SharedCache,
    pub(super) scheduler: Scheduler,
    pub(super) metrics: Metrics,
    pub(super) settings: EngineSettings,
    workers: Option<Workers>,
    sending: JoinHandle<()>,
    /// The time at which each answer to a request was first seen.
    pub(super) answered: BTreeMap<String, Timestamp>,
    lock: Lock,
    manifests: Loaded,
}

/// The state of `gaia.yaml`.
#[derive(Default)]
struct Loaded {
    marks: Option<(Option<FileMark>, Option<FileMark>)>,
    /// Marks that were seen once: a file that is being saved is not read.
    pending: Option<(Option<FileMark>, Option<FileMark>)>,
    /// The names of the accepted objects.
    accepted: BTreeSet<(&'static str, String)>,
    fault: Option<String>,
    /// The same as an error, until it is taken.
    refusal: Option<DirectoryError>,
}

impl Engine {
    /// Takes the directory and starts the workers on the accepted objects.
    ///
    /// # Errors
    /// The directory is not safe to use, another process holds it, or the disk cannot be read or written. A fault in
    /// `gaia.yaml` is none: the last accepted objects stay in force.
    pub async fn start(path: &Path, settings: EngineSettings) -> Result<Self, DirectoryError> {
        let root = Dir::open(path)?;
        if root.kind(HIDDEN)?.is_none() {
            return Err(DirectoryError::Missing {
                path: path.to_owned(),
                what: HIDDEN.to_owned(),
                next: "run `gaia local init`, or name the directory with --dir".to_owned(),
            });
        }
        Self::start_in(root, settings).await
    }

    pub(crate) async fn start_in(root: Dir, settings: EngineSettings) -> Result<Self, DirectoryError> {
        let hidden = root.create_sub(HIDDEN, FOLDERS)?;
        let lock = Lock::take(hidden.clone()).await?;
        hidden.remove_leftovers()?;
        root.remove_leftovers()?;
        let objects = Objects::open_for_writing(hidden.create_sub(OBJECTS, FOLDERS)?)?;
        let world = new_world();
        let metrics = Metrics::new();
        let scheduler = Scheduler::new(settings.reissue_per_second);
        let sink = LocalEvents::new(settings.on_event.clone(), Arc::clone(&settings.clock));
        let (events, sending) = Events::start_with(sink, metrics.clone());
        load(&objects, &world, &metrics)?;
        let projection = Projection::new(root.clone(), settings.group);
        let store = DirStore::new(objects, projection, Arc::clone(&settings.clock));
        let mut engine = Self {
            root,
            hidden,
            store,
            world,
            scheduler,
            metrics,
            settings,
            workers: None,
            sending,
            answered: BTreeMap::new(),
            lock,
            manifests: Loaded::default(),
        };
        engine.read_manifests(true);
        for failure in engine.store.repair() {
            tracing::warn!(error = %failure, "a service directory could not be written");
        }
        engine.work(events);
        Ok(engine)
    }

    fn work(&mut self, events: Events) {
        let parts = Parts {
            store: self.store.clone(),
            world: Arc::clone(&self.world),
            clock: Arc::clone(&self.settings.clock),
            scheduler: self.scheduler.clone(),
            events,
            metrics: self.metrics.clone(),
            probes: self.settings.probes,
            is_watched: false,
        };
        self.metrics.leader.set(1);
        self.workers = Some(Workers::start(parts, None));
    }

    /// The fault of `gaia.yaml` or `gaia.changes.yaml`, with file, line and field; none: both are accepted.
    #[must_use]
    pub fn manifest_fault(&self) -> Option<&str> {
        self.manifests.fault.as_deref()
    }

    /// The fault as an error. The second call returns none.
    pub(super) fn take_refusal(&mut self) -> Option<DirectoryError> {
        self.manifests.refusal.take()
    }

    /// The last failed access to the disk, if no write has succeeded since.
    #[must_use]
    pub fn disk_failure(&self) -> Option<String> {
        self.store.failure()
    }

    /// Reads the manifests if they changed. A file is read once it has not changed between two calls.
    pub(super) fn read_manifests(&mut self, is_first: bool) {
        let marks = self.root.mark(MANIFESTS).and_then(|mark| Ok((mark, self.root.mark(CHANGES)?)));
        let marks = match marks {
            Ok(marks) => marks,
            Err(error) => return self.manifests.fault = Some(error.to_string()),
        };
        if self.manifests.marks == Some(marks) {
            return;
        }
        if !is_first && self.manifests.pending.replace(marks) != Some(marks) {
            return;
        }
        self.manifests.marks = Some(marks);
        match self.accept() {
            Ok(()) => self.manifests.fault = None,
            Err(refusal) => {
                let error = refusal.to_string();
                tracing::warn!(error, "the manifests are refused; the last accepted objects stay in force");
                self.manifests.fault = Some(error);
                self.manifests.refusal = Some(refusal);
            }
        }
    }

    fn accept(&mut self) -> Result<(), DirectoryError> {
        let changes = Changes::read(&self.root)?;
        let accepted = self.check_manifests(&changes)?;
        self.manifests.accepted = accepted.iter().map(|it| (it.resource.kind, it.place.1.clone())).collect();
        accepted.iter().try_for_each(|manifest| self.apply(manifest))
    }

    /// The manifests with these changes, if all are accepted.
    pub(super) fn check_manifests(&self, changes: &Changes) -> Result<Vec<Manifest>, DirectoryError> {
        let endpoints = &self.settings.endpoints;
        let read = |objects: &Objects| manifests::read_from(&self.root, changes, endpoints, Some(objects));
        let mut accepted = self.store.with(|objects, _| read(objects))?;
        if let Some(issuers) = &self.settings.user_token_issuers {
            for domain in accepted.iter_mut().filter(|it| it.resource == Resource::TRUST_DOMAIN) {
                domain.value["spec"]["userTokenIssuers"] = issuers.clone().into();
            }
        }
        Ok(accepted)
    }

    /// Returns true if `gaia.yaml` has that object.
    pub(super) fn is_manifest(&self, kind: &str, name: &str) -> bool {
        self.manifests.accepted.iter().any(|(known, of)| *known == kind && of == name)
    }

    pub(super) fn root(&self) -> &Dir {
        &self.root
    }

    /// Applies the text of an object to the snapshot.
    pub(super) fn take(&self, resource: Resource, text: Answer) {
        let keys = take(resource, text, &self.world, &self.metrics);
        self.scheduler.push(&self.world, keys);
    }

    fn apply(&self, manifest: &Manifest) -> Result<(), DirectoryError> {
        let Manifest { resource, place, value } = manifest;
        if !place.0.is_empty() {
            let keys = lock(&self.world).apply_namespace(&place.0, namespace(&place.0));
            self.scheduler.push(&self.world, keys);
        }
        let Some(text) = self.store.apply(*resource, place, value)? else { return Ok(()) };
        self.take(*resource, text);
        Ok(())
    }

    /// Waits until all decisions are made and all probes answered, at most that long; returns false at the time-out.
    pub async fn settle(&self, within: Duration) -> bool {
        let end = Instant::now() + within;
        let mut quiet = 0;
        while quiet < 3 {
            if Instant::now() >= end {
                return false;
            }
            quiet = if self.scheduler.is_quiet() { quiet + 1 } else { 0 };
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        true
    }

    /// Raises the heartbeat, reads changed manifests and carries out requests. Every two seconds.
    ///
    /// # Errors
    /// Another process has taken the directory: this one must stop.
    pub fn tick(&mut self) -> Result<(), DirectoryError> {
        self.lock.beat()?;
        self.read_manifests(false);
        self.answer_requests()
    }

    /// Restores service directories that were changed by hand. Every ten seconds.
    pub fn repair(&self) {
        for failure in self.store.repair() {
            tracing::warn!(error = %failure, "a service directory could not be restored");
        }
    }

    /// Plans every object and probes every instance again, as is necessary after the clock was set.
    pub fn requeue_all(&self) {
        self.scheduler.requeue_all(&self.world);
    }

    /// Stops after the running work is done, and gives the directory up.
    pub async fn stop(mut self) {
        if let Some(workers) = self.workers.take() {
            workers.finish().await;
        }
        let _ = tokio::time::timeout(crate::process::workers::GRACE, &mut self.sending).await;
    }
}

/// An empty snapshot of a directory: no pods exist, and every endpoint may be dialled.
fn new_world() -> SharedCache {
    let mut world = ClusterCache::new(Surroundings {
        operator_namespace: RINGS_NAMESPACE.to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        watch_namespaces: vec![],
    });
    world.allows_all_endpoints = true;
    let _ = world.pods_watched(None, Ok(()));
    let _ = world.set_api_server(BTreeSet::new());
    Arc::new(std::sync::Mutex::new(world))
}

/// Applies all stored objects, as the first lists of the watches do.
fn load(objects: &Objects, world: &SharedCache, metrics: &Metrics) -> Result<(), DirectoryError> {
    for name in objects.namespaces()? {
        lock(world).apply_namespace(&name, namespace(&name));
    }
    for resource in super::disk::objects::KINDS {
        for place in objects.places(resource)? {
            if let Some(text) = objects.read(resource, &place)? {
                take(resource, text, world, metrics);
            }
        }
    }
    Ok(())
}

/// Applies one object, as its watch does.
fn take(resource: Resource, text: Answer, world: &SharedCache, metrics: &Metrics) -> BTreeSet<crate::store::ObjectRef> {
    match resource {
        Resource::TRUST_DOMAIN => apply::<TrustDomain>(text, world, metrics),
        Resource::SERVICE => apply::<GaiaService>(text, world, metrics),
        Resource::CERTIFICATE => apply::<ServiceCertificate>(text, world, metrics),
        Resource::CONFIG_MAP => apply::<ConfigMap>(text, world, metrics),
        _ => apply::<Secret>(text, world, metrics),
    }
}

fn apply<K: Watched>(text: Answer, world: &SharedCache, metrics: &Metrics) -> BTreeSet<crate::store::ObjectRef> {
    let keys = match read::<K>(text) {
        Ok(Reading::Object(object)) => object.apply(world),
        Ok(Reading::Unreadable(unreadable)) => {
            let (namespace, name) = crate::cache::place(&unreadable.meta);
            let (kind, fault) = (K::RESOURCE.kind, &unreadable.fault);
            tracing::warn!(kind, namespace, name, %fault, "an object cannot be read");
            K::apply_unreadable(&unreadable, &mut lock(world))
        }
        Err(fault) => {
            tracing::warn!(kind = K::RESOURCE.kind, %fault, "an object cannot be identified");
            BTreeSet::new()
        }
    };
    metrics.count_unreadable(K::RESOURCE.kind, lock(world).count_unreadable(K::RESOURCE));
    keys
}

fn namespace(name: &str) -> NamespaceFacts {
    let labels = BTreeMap::from([("kubernetes.io/metadata.name".to_owned(), name.to_owned())]);
    NamespaceFacts { labels, terminating: false }
}

pub(crate) const HIDDEN: &str = ".gaia";
pub(crate) const OBJECTS: &str = "objects";
pub(crate) const MANIFESTS: &str = "gaia.yaml";
/// The namespace of the rings.
pub(crate) const RINGS_NAMESPACE: &str = "gaia-system";
/// Any user may read the names in the root.
pub(crate) const ROOT: Access = Access { mode: 0o755, group: None };
