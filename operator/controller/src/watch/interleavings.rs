//! Responses to own writes and watch events are one stream: in whatever order they arrive, the cluster snapshot ends in
//! the state of the last change, or a look-up of an unconfirmed object brings it there.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gaia_plan::object::{ObjectKey, ObjectKind};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::cache::Surroundings;
use crate::store::{Found, Reported, Stored};

/// A state of the object: its UID and resource version.
type State = Option<(usize, usize)>;

/// One change of the object in the API server.
#[derive(Debug, Clone, Copy)]
struct Made {
    /// The state after it.
    state: State,
    /// UID and version of the object that it deleted.
    deleted: Option<(usize, usize)>,
    /// True if the operator created it, so that a response reports it.
    is_own: bool,
}

/// The changes of an object: it is created, and then changed or deleted, again and again.
fn history(choices: &[(bool, bool)]) -> Vec<Made> {
    let mut state: State = None;
    let changes = choices.iter().enumerate().map(|(index, (deletes, is_own))| {
        let version = index + 1;
        let (before, deletes) = (state, *deletes && state.is_some());
        state = if deletes { None } else { Some((before.map_or(version, |(uid, _)| uid), version)) };
        let deleted = before.filter(|_| deletes).map(|(uid, _)| (uid, version));
        Made { state, deleted, is_own: *is_own }
    });
    changes.collect()
}

/// A kind of object, as watch and answers bring it.
trait Brought: Watched + serde::de::DeserializeOwned + Clone {
    /// The kind of what the operator creates and deletes. Of the others it writes the status alone.
    const KIND: Option<ObjectKind>;
    /// Applies the response to a write.
    fn answer(self, world: &mut ClusterCache);
    fn spec() -> Value;
    /// As a custom resource: its key, and the answer to a read.
    fn key() -> Option<ObjectRef> {
        None
    }
    fn found(self) -> Option<Found> {
        None
    }
}

impl Brought for Secret {
    const KIND: Option<ObjectKind> = Some(ObjectKind::Secret);
    fn answer(self, world: &mut ClusterCache) {
        let _ = world.take_stored(Stored::Secret(self));
    }
    fn spec() -> Value {
        json!({ "type": "kubernetes.io/tls" })
    }
}

impl Brought for ConfigMap {
    const KIND: Option<ObjectKind> = Some(ObjectKind::ConfigMap);
    fn answer(self, world: &mut ClusterCache) {
        let _ = world.take_stored(Stored::ConfigMap(self));
    }
    fn spec() -> Value {
        json!({})
    }
}

impl Brought for ServiceCertificate {
    const KIND: Option<ObjectKind> = Some(ObjectKind::ServiceCertificate);
    fn answer(self, world: &mut ClusterCache) {
        let _ = world.take_stored(Stored::Certificate(Box::new(self)));
    }
    fn spec() -> Value {
        json!({ "apiVersion": "gaia.dev/v1alpha1", "kind": "ServiceCertificate",
            "spec": { "trustDomainRef": { "name": "gaia" } } })
    }
    fn key() -> Option<ObjectRef> {
        Some(ObjectRef::Certificate("shop".to_owned(), "web".to_owned()))
    }
    fn found(self) -> Option<Found> {
        Some(Found::Object(Reported::Certificate(Box::new(self))))
    }
}

impl Brought for GaiaService {
    const KIND: Option<ObjectKind> = None;
    fn answer(self, world: &mut ClusterCache) {
        let _ = world.take_reported(Reported::Service(Box::new(self)));
    }
    fn spec() -> Value {
        json!({ "apiVersion": "gaia.dev/v1alpha1", "kind": "GaiaService",
            "spec": { "trustDomainRef": { "name": "gaia" } } })
    }
    fn key() -> Option<ObjectRef> {
        Some(ObjectRef::Service("shop".to_owned(), "web".to_owned()))
    }
    fn found(self) -> Option<Found> {
        Some(Found::Object(Reported::Service(Box::new(self))))
    }
}

impl Brought for TrustDomain {
    const KIND: Option<ObjectKind> = None;
    fn answer(self, world: &mut ClusterCache) {
        let _ = world.take_reported(Reported::TrustDomain(Box::new(self)));
    }
    fn spec() -> Value {
        json!({ "apiVersion": "gaia.dev/v1alpha1", "kind": "TrustDomain", "spec": { "trustDomain": "gaia.local" } })
    }
    fn key() -> Option<ObjectRef> {
        Some(ObjectRef::TrustDomain("web".to_owned()))
    }
    fn found(self) -> Option<Found> {
        Some(Found::Object(Reported::TrustDomain(Box::new(self))))
    }
}

fn object<K: Brought>((uid, version): (usize, usize)) -> K {
    let mut object = K::spec();
    object["metadata"] = json!({ "name": "web", "uid": format!("u{uid}"),
        "resourceVersion": version.to_string(), "labels": { "app.kubernetes.io/managed-by": "gaia-operator" } });
    if !matches!(K::key(), Some(ObjectRef::TrustDomain(_))) {
        object["metadata"]["namespace"] = json!("shop");
    }
    serde_json::from_value(object).unwrap()
}

/// The snapshot between an API server with a history and the sources of changes.
struct Scene {
    watches: Watches,
    history: Vec<Made>,
    /// The length of the history that has happened, and the part of it that the watch has reported.
    happened: usize,
    reported: usize,
    /// Own changes whose responses have not arrived.
    answers: Vec<usize>,
    /// The state that a pending read found, and the UID that was known when it started. Reconciles of one object are
    /// serial.
    read: Option<(State, Option<String>)>,
    listing: Option<Listing>,
}

impl Scene {
    fn new(history: Vec<Made>) -> Self {
        let [operator_namespace, cluster_domain] = ["gaia-system", "cluster.local"].map(str::to_owned);
        let world = Arc::new(Mutex::new(ClusterCache::new(Surroundings {
            operator_namespace,
            cluster_domain,
            watch_namespaces: vec![],
        })));
        let watches = Watches::new(world, Scheduler::new(0), Metrics::new());
        Self { watches, history, happened: 0, reported: 0, answers: vec![], read: None, listing: None }
    }

    fn key<K: Brought>() -> Option<ObjectKey> {
        Some(ObjectKey { kind: K::KIND?, namespace: "shop".to_owned(), name: "web".to_owned() })
    }

    fn state(&self) -> State {
        self.happened.checked_sub(1).and_then(|last| self.history[last].state)
    }

    fn happens<K: Brought>(&mut self) {
        if self.happened < self.history.len() {
            let made = self.history[self.happened];
            // A status is written of an object that is there, and not while the object is read.
            let is_status = made.state.is_some() && self.read.is_none() && self.answers.is_empty();
            let is_status =
                is_status && self.state().is_some_and(|(uid, _)| self.known::<K>() == Some(format!("u{uid}")));
            if made.is_own && (K::KIND.is_some() || is_status) {
                self.answers.push(self.happened);
            }
            self.happened += 1;
        }
    }

    fn reports<K: Brought>(&mut self) {
        if self.listing.is_some() || self.reported == self.happened {
            return;
        }
        let made = self.history[self.reported];
        self.reported += 1;
        let change = match (made.state, made.deleted) {
            (Some(state), _) => Change::Applied(Reading::Object(object::<K>(state))),
            (None, Some(deleted)) => Change::Deleted(Reading::Object(object::<K>(deleted))),
            (None, None) => return,
        };
        self.watches.take(change, &mut Listing::default(), None);
    }

    /// The watch restarts with a list, or ends that list: earlier changes are in no event.
    fn lists<K: Brought>(&mut self) {
        let Some(mut listing) = self.listing.take() else {
            let mut listing = Listing::default();
            self.watches.take::<K>(Change::Init, &mut listing, None);
            self.listing = Some(listing);
            return;
        };
        if let Some(state) = self.state() {
            self.watches.take(Change::Listed(Reading::Object(object::<K>(state))), &mut listing, None);
        }
        self.watches.take::<K>(Change::Done { complete: true }, &mut listing, None);
        self.reported = self.happened;
    }

    fn answers<K: Brought>(&mut self, which: usize) {
        if self.answers.is_empty() {
            return;
        }
        let made = self.history[self.answers.remove(which % self.answers.len())];
        let mut world = lock(&self.watches.world);
        match (made.state, made.deleted, Self::key::<K>()) {
            (Some(state), _, _) => object::<K>(state).answer(&mut world),
            (None, Some((uid, version)), Some(key)) => {
                let seen = gaia_plan::object::Version { uid: format!("u{uid}"), resource_version: version.to_string() };
                let _ = world.forget(&key, Some(&seen));
            }
            _ => {}
        }
    }

    /// A write of the status met another version, so the object is read; or the answer to that arrives.
    fn reads<K: Brought>(&mut self) {
        let Some(key) = K::key() else { return };
        match self.read.take() {
            Some((state, seen)) => {
                let found = state.and_then(|state| object::<K>(state).found());
                let _ = lock(&self.watches.world).take_found(&key, found, seen.as_deref());
            }
            None if K::KIND.is_none() && !self.answers.is_empty() => {}
            None => self.read = Some((self.state(), self.known::<K>())),
        }
    }

    /// Looks up created objects that no watch has reported.
    fn looks_up(&mut self) {
        let is_gone = self.state().is_none();
        let mut world = lock(&self.watches.world);
        for key in world.due_unconfirmed(Duration::ZERO) {
            let seen = world.version(&key);
            if is_gone {
                let _ = world.forget(&key, seen.as_ref());
            }
        }
    }

    /// The known UID.
    fn known<K: Brought>(&self) -> Option<String> {
        let world = lock(&self.watches.world);
        match K::key() {
            Some(key) => world.uid_of(&key).map(str::to_owned),
            None => Some(world.version(&Self::key::<K>()?)?.uid),
        }
    }

    fn known_version<K: Brought>(&self) -> Option<(String, String)> {
        let uid = self.known::<K>()?;
        let world = lock(&self.watches.world);
        let version = match K::key() {
            Some(key) => world.metadata(&key)?.resource_version.clone()?,
            None => world.version(&Self::key::<K>()?)?.resource_version,
        };
        Some((uid, version))
    }

    fn plays<K: Brought>(mut self, steps: &[(u8, usize)]) -> Result<(), TestCaseError> {
        for (step, which) in steps {
            match step {
                0 => self.happens::<K>(),
                1 => self.reports::<K>(),
                2 => self.lists::<K>(),
                3 => self.answers::<K>(*which),
                4 => self.reads::<K>(),
                _ => self.looks_up(),
            }
        }
        while self.happened < self.history.len() {
            self.happens::<K>();
        }
        if self.listing.is_some() {
            self.lists::<K>();
        }
        while self.reported < self.happened {
            self.reports::<K>();
        }
        while !self.answers.is_empty() {
            self.answers::<K>(0);
        }
        if self.read.is_some() {
            self.reads::<K>();
        }
        self.looks_up();
        let expected = self.state().map(|(uid, version)| (format!("u{uid}"), version.to_string()));
        prop_assert_eq!(self.known_version::<K>(), expected);
        Ok(())
    }
}

proptest! {
    /// The kind: late responses restore deleted objects, and own creations hide that an object is deleted.
    #[test]
    fn every_interleaving_ends_in_the_last_state(
        choices in prop::collection::vec(any::<(bool, bool)>(), 1..8),
        steps in prop::collection::vec((0u8..6, 0usize..4), 0..40),
    ) {
        let history = history(&choices);
        Scene::new(history.clone()).plays::<Secret>(&steps)?;
        Scene::new(history.clone()).plays::<ConfigMap>(&steps)?;
        Scene::new(history.clone()).plays::<ServiceCertificate>(&steps)?;
        Scene::new(history.clone()).plays::<GaiaService>(&steps)?;
        Scene::new(history).plays::<TrustDomain>(&steps)?;
    }
}

/// Another UID under the same name is a removal and an addition: what the former object claimed is free.
#[test]
fn object_of_another_uid_is_a_removal_and_an_addition() {
    let scene = Scene::new(vec![]);
    let certificate = |uid: usize, secret: &str| {
        let mut found: ServiceCertificate = object((uid, uid));
        found.spec.secret_name = Some(secret.to_owned());
        found
    };
    let mut world = lock(&scene.watches.world);
    world.apply_certificate(certificate(1, "first"));
    world.apply_certificate(certificate(2, "second"));
    let place = |name: &str| ("shop".to_owned(), name.to_owned());
    assert!(!world.is_claimed(&place("first")) && world.is_claimed(&place("second")));
    world.remove_certificate(&place("web"));
    assert!(!world.is_claimed(&place("second")));
}

/// The kind: memory that grows with the number of deleted objects.
#[test]
fn deleted_objects_that_nothing_asks_for_are_not_remembered() {
    let scene = Scene::new(vec![]);
    let mut world = lock(&scene.watches.world);
    let place = ("shop".to_owned(), "web-tls".to_owned());
    let secret = |version: usize| {
        let mut secret: Secret = object((version, version));
        secret.metadata.name = Some("web-tls".to_owned());
        Stored::Secret(secret)
    };
    let _ = world.take_stored(secret(1));
    world.remove_secret(&place, None);
    assert_eq!(world.count_lost(), 0, "no certificate asks for it");
    world.apply_certificate(object((2, 2)));
    let _ = world.take_stored(secret(3));
    world.remove_secret(&place, None);
    assert_eq!(world.count_lost(), 1);
    world.remove_certificate(&("shop".to_owned(), "web".to_owned()));
    assert_eq!(world.count_lost(), 0);
}
