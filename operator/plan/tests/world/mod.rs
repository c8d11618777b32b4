//! A cluster in memory: custom resources, namespaces, Secrets and ConfigMaps with uids and resource versions, a
//! settable clock, and an operator that observes, plans and executes as the real one does. Key material is fake, but
//! its metadata is consistent: serials, fingerprints and kids are never reused, a key belongs to one certificate.
//!
//! While actions are executed, the world checks the invariants by its own code (see [`invariants`]) and records violations
//! in [`World::violations`].
//!
//! `events`: what users, crashes and clocks do; `operator`: observes, plans and executes; `checks`: the invariants.

#![allow(dead_code, unused_imports, reason = "each test program uses a part of it")]
#![expect(clippy::unwrap_used, reason = "what a test program makes itself is as it made it")]

#[path = "events/custom.rs"]
mod custom;
mod endpoints;
#[path = "operator/execute.rs"]
mod execute;
#[path = "events/generate.rs"]
mod generate;
#[path = "checks/invariants.rs"]
mod invariants;
mod ledgers;
#[path = "operator/observe.rs"]
mod observe;
#[path = "operator/observe_service.rs"]
mod observe_service;
mod pods;
#[path = "operator/reconcile.rs"]
mod reconcile;
#[path = "operator/rings.rs"]
mod rings;
#[path = "checks/rotation_invariants.rs"]
mod rotation_invariants;
#[path = "events/specs.rs"]
mod specs;
#[path = "operator/status.rs"]
mod status;
#[path = "events/tamper.rs"]
mod tamper;
#[path = "events/turmoil.rs"]
mod turmoil;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use gaia_api::crd::{GaiaService, ServiceCertificate, TrustDomain};
use gaia_api::ledger::LedgerReport;
use gaia_plan::Action;
use gaia_plan::instances::instance::Target;
use gaia_plan::keyring::ring::{CaRing, RingError, SigningRing};
use gaia_plan::object::{ObjectFacts, ObjectKey, OwnerRef, Version};
use gaia_plan::pacing::backoff::Failures;
use gaia_plan::pacing::budget::IssuanceBudget;
use gaia_plan::trust_domain::{Abilities, ExternalCa, Rollout, WriteRefusal};
use jiff::{SignedDuration, Timestamp};

pub(crate) use self::execute::WriteError;
pub(crate) use self::generate::{Seed, history, possible_history, rotating_history};
pub(crate) use self::pods::{Pod, Reload, Sight};
pub(crate) use self::specs::plain_domain;
pub(crate) use self::status::Status;
pub(crate) use self::tamper::{Edit, Step, TD, Tamper};
pub(crate) use self::turmoil::Turmoil;

/// Namespace and name.
pub(crate) type Name = (String, String);

pub(crate) struct World {
    pub(crate) now: Timestamp,
    pub(crate) domains: BTreeMap<String, TrustDomain>,
    pub(crate) certificates: BTreeMap<Name, ServiceCertificate>,
    pub(crate) services: BTreeMap<Name, GaiaService>,
    /// Labels by name.
    pub(crate) namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pub(crate) objects: BTreeMap<ObjectKey, Stored>,
    /// The state in the memory of the operator's process. A crash empties it.
    pub(crate) memory: Memory,
    /// The CA in the Secret of `existingSecretRef`.
    pub(crate) external_ca: Option<Result<ExternalCa, String>>,
    /// Chain and root (PEM) of CAs that have real certificates, by fingerprint.
    pub(crate) pems: BTreeMap<String, (String, String)>,
    /// The executed actions.
    pub(crate) log: Vec<Done>,
    /// Invariant number (0: a rule without one) and the violation.
    pub(crate) violations: Vec<(u8, String)>,
    /// Namespaces in which no object can be created.
    pub(crate) quotas: BTreeSet<String>,
    /// Objects that cannot take any change, as their annotations are full.
    pub(crate) full: BTreeSet<ObjectKey>,
    /// Selected namespaces that the operator does not watch.
    pub(crate) unwatched: Vec<String>,
    /// True if every write into a namespace is refused by a webhook that does not answer.
    pub(crate) webhook_down: bool,
    /// The number of next writes that the API server refuses.
    pub(crate) fail_next: u32,
    /// The content of the operator's cache, if it lags behind.
    pub(crate) view: Option<BTreeMap<ObjectKey, Stored>>,
    /// Every certificate ever issued, by serial.
    pub(crate) leaves: BTreeMap<u64, Leaf>,
    pub(crate) pods: Vec<Pod>,
    /// The reason why the operator does not know the pods.
    pub(crate) pods_unknown: Option<String>,
    pub(crate) abilities: Abilities,
    /// The annotation on each workload's pod template.
    pub(crate) templates: BTreeMap<Target, String>,
    /// The start of the operator's process, and the last time at which another one was seen before.
    pub(crate) began: Timestamp,
    pub(crate) before: Option<Timestamp>,
    /// The time when it last did something.
    alive: Timestamp,
    /// Seconds since the start, whatever clocks show.
    pub(crate) elapsed: i64,
    /// The expiry of the last token of each kid.
    pub(crate) tokens: BTreeMap<String, Timestamp>,
    /// Fingerprints and kids that were compromised, and those of them that are no longer trusted.
    pub(crate) leaked: BTreeSet<String>,
    pub(crate) distrusted: BTreeSet<String>,
    /// Copies of rings that an administrator kept.
    pub(crate) kept: BTreeMap<ObjectKey, Stored>,
    /// The operator dies after so many writes.
    pub(crate) writes_left: Option<usize>,
    counter: u64,
}

#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) failures: BTreeMap<Resource, Failures>,
    pub(crate) budgets: BTreeMap<Name, IssuanceBudget>,
    /// Objects found by a POST that have no label: they are read one by one.
    pub(crate) probed: BTreeSet<ObjectKey>,
    /// Writes that were refused at the last attempt.
    pub(crate) refused: BTreeMap<ObjectKey, WriteRefusal>,
    /// Objects that another writer deleted while the operator watched.
    pub(crate) lost: BTreeSet<ObjectKey>,
    /// Secrets of users that were found not to exist, by name.
    pub(crate) missing_secrets: BTreeSet<String>,
    /// The last rollout state of each TrustDomain.
    pub(crate) rollout: BTreeMap<String, Rollout>,
    /// The last restart of each workload.
    pub(crate) restarted: BTreeMap<Target, String>,
    /// The final reports of terminating pods about API keys, by process, with their namespace.
    pub(crate) last_words: BTreeMap<String, (String, LedgerReport)>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Resource {
    Domain(String),
    Certificate(Name),
    Service(Name),
}

/// A Secret or ConfigMap as the API server has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) facts: ObjectFacts,
    /// The content itself; `facts.data` has its hashes.
    pub(crate) content: BTreeMap<String, String>,
    /// Created by another owner and not handed over.
    pub(crate) foreign: bool,
    /// The copy of a ring.
    pub(crate) is_copy: bool,
    /// The parsed `ring.json`.
    pub(crate) rings: Option<Rc<Rings>>,
    /// The key of the MACs over epochs in a ring.
    pub(crate) mac: Option<FakeMac>,
}

/// The MACs of a ring in this world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FakeMac(String);

impl gaia_plan::keyring::epoch::EpochMac for FakeMac {
    fn of(&self, ring: gaia_plan::keyring::ring::RingKind, object: &ObjectKey, epoch: u64) -> String {
        gaia_pki::sha256_hex(format!("{} {ring} {object} {epoch}", self.0).as_bytes())
    }
}

/// A ring Secret read as either kind of ring.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rings {
    pub(crate) ca: Result<CaRing, RingError>,
    pub(crate) signing: Result<SigningRing, RingError>,
}

#[derive(Debug, Clone)]
pub(crate) struct Leaf {
    pub(crate) issued_at: Timestamp,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    pub(crate) fingerprint: String,
    pub(crate) issuer: String,
    pub(crate) names_hash: String,
    pub(crate) dns: Vec<String>,
    /// True if the rate limit of re-issues delayed it.
    pub(crate) paced: bool,
}

/// An action that was done.
#[derive(Debug, Clone)]
pub(crate) struct Done {
    pub(crate) at: Timestamp,
    pub(crate) by: Resource,
    pub(crate) action: Action,
}

/// A plan for any of the three kinds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Planned {
    pub(crate) actions: Vec<Action>,
    pub(crate) status: Status,
    pub(crate) next_check: Timestamp,
    pub(crate) rollout: Option<Rollout>,
}

impl World {
    /// Only namespaces.
    pub(crate) fn new() -> Self {
        let env = |value: &str| BTreeMap::from([("env".to_owned(), value.to_owned())]);
        let namespaces = [("auth", "prod"), ("shop", "prod"), ("other", "test"), (OPERATOR_NAMESPACE, "prod")];
        Self {
            now: start(),
            domains: BTreeMap::new(),
            certificates: BTreeMap::new(),
            services: BTreeMap::new(),
            namespaces: namespaces.iter().map(|(name, value)| ((*name).to_owned(), env(value))).collect(),
            objects: BTreeMap::new(),
            memory: Memory::default(),
            external_ca: None,
            pems: BTreeMap::new(),
            log: vec![],
            violations: vec![],
            quotas: BTreeSet::new(),
            full: BTreeSet::new(),
            unwatched: vec![],
            webhook_down: false,
            fail_next: 0,
            view: None,
            leaves: BTreeMap::new(),
            pods: vec![],
            pods_unknown: None,
            abilities: Abilities::default(),
            templates: BTreeMap::new(),
            began: start(),
            before: None,
            alive: start(),
            elapsed: 0,
            tokens: BTreeMap::new(),
            leaked: BTreeSet::new(),
            distrusted: BTreeSet::new(),
            kept: BTreeMap::new(),
            writes_left: None,
            counter: 0,
        }
    }

    pub(crate) fn resources(&self) -> Vec<Resource> {
        let domains = self.domains.keys().cloned().map(Resource::Domain);
        let certificates = self.certificates.keys().cloned().map(Resource::Certificate);
        let services = self.services.keys().cloned().map(Resource::Service);
        domains.chain(services).chain(certificates).collect()
    }

    pub(crate) fn advance(&mut self, seconds: i64) {
        self.pass(seconds.max(0));
        if seconds < 0 {
            // A signature by a clock that ran fast expires too late by as much, and that cannot be detected later.
            for end in self.tokens.values_mut() {
                *end = end.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(*end);
            }
        }
        self.now = self.now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(self.now);
    }

    /// The operator's process ends, and its memory is lost.
    pub(crate) fn crash(&mut self) {
        self.memory = Memory::default();
        (self.view, self.writes_left) = (None, None);
        (self.began, self.before) = (self.now, Some(self.alive));
        for pod in &mut self.pods {
            (pod.read, pod.failing) = (None, None);
        }
    }

    /// Returns true if the operator knows an object only from a read: it lost its label, and cannot be repaired now.
    pub(crate) fn knows_by_a_look(&self) -> bool {
        let met = self.memory.probed.iter().filter_map(|key| self.objects.get(key));
        met.into_iter().any(|stored| !stored.foreign && !observe::is_labelled(stored))
    }

    /// The operator's own write is in its cache at once.
    fn remember(&mut self, key: &ObjectKey) {
        if let Some(view) = &mut self.view {
            match self.objects.get(key) {
                Some(stored) => drop(view.insert(key.clone(), stored.clone())),
                None => drop(view.remove(key)),
            }
        }
    }

    /// A number that was never given before.
    pub(crate) fn fresh(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    pub(crate) fn fresh_version(&mut self) -> Version {
        Version { uid: format!("uid-{}", self.fresh()), resource_version: self.fresh().to_string() }
    }

    pub(crate) fn secret(&self, namespace: &str, name: &str) -> Option<&Stored> {
        self.objects.get(&ObjectKey::secret(namespace, name))
    }

    pub(crate) fn config_map(&self, namespace: &str, name: &str) -> Option<&Stored> {
        self.objects.get(&ObjectKey::config_map(namespace, name))
    }

    /// The leaf in a Secret, if its certificate and key can be read.
    pub(crate) fn leaf(&self, stored: &Stored) -> Option<(&Leaf, bool)> {
        let serial = number(stored, "tls.crt", "CERT ")?;
        let key = number(stored, "tls.key", "KEY ")?;
        Some((self.leaves.get(&serial)?, serial == key))
    }

    /// Actions done since the log had that length, as text.
    pub(crate) fn done_since(&self, length: usize) -> Vec<String> {
        self.log[length..].iter().map(|done| done.action.to_string()).collect()
    }

    /// Fails if anything was against the invariant.
    pub(crate) fn holds(&self, invariant: u8) -> Result<(), String> {
        match self.violations.iter().find(|(number, _)| *number == invariant) {
            None => Ok(()),
            Some((_, what)) => Err(format!("invariant {invariant}: {what}")),
        }
    }
}

impl Stored {
    /// Keeps the hashes true and raises the resource version.
    pub(crate) fn touch(&mut self, resource_version: u64) {
        let hash = |text: &String| gaia_pki::sha256_hex(text.as_bytes());
        self.facts.data = self.content.iter().map(|(key, value)| (key.clone(), hash(value))).collect();
        self.facts.resource_version = resource_version.to_string();
        self.rings = observe::read_rings(self).map(Rc::new);
        self.mac = self.content.get(gaia_api::names::key::EPOCH_MAC_KEY).cloned().map(FakeMac);
    }
}

fn number(stored: &Stored, key: &str, prefix: &str) -> Option<u64> {
    stored.content.get(key)?.strip_prefix(prefix)?.parse().ok()
}

/// The owner references of group gaia.dev.
pub(crate) fn owners(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Vec<OwnerRef> {
    let all = meta.owner_references.iter().flatten();
    all.map(|owner| OwnerRef { kind: owner.kind.clone(), name: owner.name.clone(), uid: owner.uid.clone() }).collect()
}

/// Returns the time when every story starts.
pub(crate) fn start() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

pub(crate) const OPERATOR_NAMESPACE: &str = "gaia-system";
pub(crate) const CLUSTER_DOMAIN: &str = "cluster.local";
pub(crate) const DAY: i64 = 86_400;
