//! A CA rotation on a directory, with a clock that the test sets.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gaia_api::ManualClock;
use gaia_pki::Certificate;
use jiff::{SignedDuration, Timestamp};

use super::{Scratch, init, options};
use crate::directory::disk::dir::{Budget, Dir};
use crate::directory::{Directory, Engine, EngineSettings, InitOptions};

/// Two services without instances, whose rotations go by time alone. ECDSA keys are generated quickly.
pub(super) const MANIFESTS: &str = "\
apiVersion: gaia.dev/v1alpha1
kind: TrustDomain
metadata: {name: gaia}
spec:
  trustDomain: gaia.local
  namespaceSelector: {}
  tokens: {algorithm: ES256, issuedBy: {namespace: gaia, name: auth-service}}
  propagation: {minDelay: 15s}
---
apiVersion: gaia.dev/v1alpha1
kind: GaiaService
metadata: {name: auth-service}
spec: {tls: {mode: Strict}}
---
apiVersion: gaia.dev/v1alpha1
kind: GaiaService
metadata: {name: web}
spec: {tls: {mode: Strict}}
";

pub(super) struct Rehearsal {
    pub(super) scratch: Scratch,
    pub(super) clock: Arc<ManualClock>,
}

impl Rehearsal {
    pub(super) async fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let clock = Arc::new(ManualClock::new(start()));
        let rehearsal = Self { scratch, clock };
        let from = vec![("gaia.yaml".into(), MANIFESTS.to_owned())];
        let done = init(&rehearsal.certs(), InitOptions { from, engine: rehearsal.settings(), ..options() }).await;
        assert_eq!(done.unwrap().issued.len(), 2);
        rehearsal
    }

    pub(super) fn certs(&self) -> std::path::PathBuf {
        self.scratch.certs()
    }

    pub(super) fn settings(&self) -> EngineSettings {
        EngineSettings { probes: false, ..EngineSettings::new(self.clock.clone()) }
    }

    pub(super) fn ask_for_rotation(&self) {
        let text = MANIFESTS.replace("propagation:", "ca: {rotationRevision: 2}\n  propagation:");
        std::fs::write(self.certs().join("gaia.yaml"), text).unwrap();
    }

    /// Advances the clock in steps until the end of a rotation; an engine whose budget is spent stops early.
    pub(super) async fn drive(&self, budget: Option<Budget>, steps: std::ops::Range<i64>) {
        let root = Dir::open(&self.certs()).unwrap();
        let root = budget.map_or(root.clone(), |budget| root.with_budget(budget));
        let Ok(engine) = Engine::start_in(root, self.settings()).await else { return };
        for step in steps {
            self.clock.set(start() + SignedDuration::from_secs(60 * step));
            engine.requeue_all();
            // With a spent budget, retries never end.
            let within = if engine.disk_failure().is_some() { 20 } else { 5000 };
            engine.settle(Duration::from_millis(within)).await;
            if engine.disk_failure().is_some() {
                return;
            }
        }
        engine.stop().await;
    }
}

/// The parts of a directory that do not depend on random keys.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct State {
    objects: BTreeSet<String>,
    /// The states of the generations, and the subjects that the leaves have as issuer count as the active one.
    active_issued: BTreeMap<String, bool>,
    roots: usize,
    revision: i64,
}

pub(super) fn state(certs: &Path) -> State {
    let directory = Directory::open(certs).unwrap();
    let domain = directory.trust_domains().unwrap().remove(0);
    let active = domain.status.as_ref().and_then(|status| status.ca.clone()?.active).unwrap();
    let mut active_issued = BTreeMap::new();
    for service in directory.service_directories().unwrap() {
        let file = |name: &str| directory.file(&service.name, name).unwrap().unwrap();
        let leaf = Certificate::chain_from_pem(&file("tls.crt")).unwrap().remove(0);
        let roots = Certificate::chain_from_pem(&file("ca.crt")).unwrap();
        let issuer = roots.iter().find(|root| leaf.is_issued_by(root)).expect("a leaf chains to the bundle");
        active_issued.insert(service.name.clone(), Some(issuer.fingerprint()) == active.fingerprint);
        let key = gaia_pki::PrivateKey::from_pem(std::str::from_utf8(&file("tls.key")).unwrap()).unwrap();
        assert!(gaia_pki::key_matches(&leaf, &key), "{}: key and certificate match", service.name);
    }
    let objects = super::tree(&certs.join(".gaia/objects")).into_iter();
    State {
        objects: objects.map(|(path, _)| path.strip_prefix(certs).unwrap().display().to_string()).collect(),
        active_issued,
        roots: Certificate::chain_from_pem(&std::fs::read(certs.join("ca.pem")).unwrap()).unwrap().len(),
        revision: domain.spec.ca.rotation_revision,
    }
}

pub(super) fn start() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ca_rotation_ends_with_one_root_and_new_leaves() {
    let rehearsal = Rehearsal::new("rotation").await;
    let old = std::fs::read(rehearsal.certs().join("ca.pem")).unwrap();
    rehearsal.ask_for_rotation();
    rehearsal.drive(None, 1..4).await;
    let between = state(&rehearsal.certs());
    assert!(between.roots == 2 || between.active_issued.values().all(|is| *is), "{between:?}");
    rehearsal.drive(None, 4..16).await;
    let after = state(&rehearsal.certs());
    assert_eq!((after.roots, after.revision), (1, 2));
    assert!(after.active_issued.values().all(|is| *is), "{after:?}");
    assert_ne!(std::fs::read(rehearsal.certs().join("ca.pem")).unwrap(), old);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_400_days_off_one_run_renews_everything() {
    let rehearsal = Rehearsal::new("off").await;
    rehearsal.clock.set(start() + SignedDuration::from_hours(400 * 24));
    let engine = Engine::start(&rehearsal.certs(), rehearsal.settings()).await.unwrap();
    let settled = engine.settled(Duration::from_secs(20)).await.unwrap();
    engine.stop().await;
    assert_eq!(settled.failing, [] as [&str; 0]);
    let directory = Directory::open(&rehearsal.certs()).unwrap();
    for name in ["auth-service", "web"] {
        let leaf = Certificate::chain_from_pem(&directory.file(name, "tls.crt").unwrap().unwrap()).unwrap().remove(0);
        assert!(leaf.not_after() > start() + SignedDuration::from_hours(500 * 24), "{name}");
    }
}
