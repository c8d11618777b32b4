//! A cluster in memory: custom resources, namespaces, Secrets and ConfigMaps with uids and resource versions, a
//! settable clock, and an operator that observes, plans and executes as the real one does. Key material is fake, but
//! its metadata is consistent: serials, fingerprints and kids are never reused, a key belongs to one certificate.
//!
//! While actions are executed, the world checks the invariants by its own code (see [`judge`]) and records violations
//! in [`World::violations`].

#![allow(dead_code, unused_imports, reason = "each test program uses a part of it")]
#![expect(clippy::unwrap_used, reason = "what a test program makes itself is as it made it")]

mod custom;
mod endpoints;
mod execute;
mod generate;
mod judge;
mod judge_rotation;
mod observe;
mod pods;
mod rings;
mod tamper;
mod turmoil;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use gaia_api::crd::{
    GaiaService, GaiaServiceStatus, ServiceCertificate, ServiceCertificateStatus, TrustDomain, TrustDomainStatus,
};
use gaia_api::ledger::LedgerReport;
use gaia_plan::Action;
use gaia_plan::instances::instance::Target;
use gaia_plan::keyring::ring::{CaRing, RingError, SigningRing};
use gaia_plan::object::{ObjectFacts, ObjectKey, OwnerRef, Version};
use gaia_plan::pacing::backoff::Failures;
use gaia_plan::pacing::budget::IssuanceBudget;
use gaia_plan::trust_domain::{Abilities, BroughtCa, Guidance, WriteRefusal};
use jiff::{SignedDuration, Timestamp};

pub(crate) use self::execute::WriteError;
pub(crate) use self::generate::{Seed, history, plain_domain, possible_history, rotating_history};
pub(crate) use self::pods::{Pod, Reload, Sight};
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
    pub(crate) brought: Option<Result<BroughtCa, String>>,
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
    pub(crate) guidance: BTreeMap<String, Guidance>,
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
    pub(crate) guidance: Option<Guidance>,
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[expect(clippy::large_enum_variant, reason = "there are few of them")]
pub(crate) enum Status {
    Domain(TrustDomainStatus),
    Certificate(ServiceCertificateStatus),
    Service(GaiaServiceStatus),
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
            brought: None,
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

    /// Plans and executes until there is nothing to do at this time. Returns the number of rounds.
    pub(crate) fn settle(&mut self) -> usize {
        (self.view, self.writes_left) = (None, None);
        self.probe();
        for round in 0..ROUNDS {
            let mut moved = false;
            for resource in self.resources() {
                moved |= self.reconcile(&resource);
            }
            if !moved {
                return round;
            }
        }
        let doing: Vec<String> =
            self.log.iter().rev().take(6).map(|done| format!("{:?}: {}", done.by, done.action)).collect();
        self.violations.push((2, format!("not settled after {ROUNDS} rounds: {doing:#?}")));
        ROUNDS
    }

    /// The same, and through all waiting: retries and budgets.
    pub(crate) fn settle_and_wait(&mut self) {
        for _ in 0..WAITS {
            self.settle();
            let plans: Vec<Planned> = self.resources().iter().map(|resource| self.plan(resource)).collect();
            if !self.is_waiting() {
                return;
            }
            self.now = plans.iter().map(|planned| planned.next_check).min().unwrap_or(self.now);
        }
        self.violations.push((2, format!("still waiting after {WAITS} waits")));
    }

    /// Returns true if there were actions without the recorded failures and the issuance budgets.
    fn is_waiting(&mut self) -> bool {
        let failures = std::mem::take(&mut self.memory.failures);
        let budgets = std::mem::take(&mut self.memory.budgets);
        let refused = std::mem::take(&mut self.memory.refused);
        let waiting = self.resources().iter().any(|resource| !self.plan(resource).actions.is_empty());
        (self.memory.failures, self.memory.budgets, self.memory.refused) = (failures, budgets, refused);
        waiting
    }

    /// One reconcile of one resource. Returns true if anything changed.
    pub(crate) fn reconcile(&mut self, resource: &Resource) -> bool {
        self.alive = self.now;
        let planned = self.plan(resource);
        self.judge_plan(resource, &planned);
        let told = self.take_guidance(resource, &planned);
        let acted = if planned.actions.is_empty() {
            self.report(resource, planned.status)
        } else {
            self.run(resource, &planned)
        };
        told || acted
    }

    /// Sets the rollout state; returns true if it differs.
    fn take_guidance(&mut self, resource: &Resource, planned: &Planned) -> bool {
        let (Resource::Domain(name), Some(guidance)) = (resource, &planned.guidance) else { return false };
        let before = self.memory.guidance.insert(name.clone(), guidance.clone());
        let cut = before.as_ref().map(|before| before.cut.clone()).unwrap_or_default();
        before.map_or(0, |before| before.open_wave) != guidance.open_wave || cut != guidance.cut
    }

    /// Executes a plan. A failure does not delay independent actions. Always returns true, as at least the memory
    /// changes.
    pub(crate) fn run(&mut self, resource: &Resource, planned: &Planned) -> bool {
        let mut failure = None;
        for action in &planned.actions {
            match self.execute(resource, action) {
                Ok(()) => {}
                // Another writer was faster in one namespace.
                Err(WriteError::Conflict) if is_projection(resource, action) => {}
                Err(WriteError::Conflict) => break,
                Err(WriteError::Died) => return true,
                Err(error @ (WriteError::Refused(_) | WriteError::RefusedHere(_))) => {
                    let is_local = matches!(error, WriteError::RefusedHere(_));
                    let (WriteError::Refused(message) | WriteError::RefusedHere(message)) = error else { continue };
                    if self.note_refusal(resource, action, &message, is_local) {
                        continue;
                    }
                    failure = failure.or(Some(message));
                    if matches!(action, Action::CreateRing(_) | Action::Transition(_) | Action::Restore(_)) {
                        break;
                    }
                }
            }
        }
        match failure {
            Some(message) => self.remember_failure(resource, message),
            None => drop(self.memory.failures.remove(resource)),
        }
        true
    }

    /// Records that a write was refused. Returns true if no other action of the resource depends on it.
    fn note_refusal(&mut self, resource: &Resource, action: &Action, message: &str, is_local: bool) -> bool {
        let is_projection = is_projection(resource, action);
        let Some(object) = action.object() else { return false };
        if is_projection || matches!(resource, Resource::Certificate(_)) {
            let attempts = self.memory.refused.get(object).map_or(0, |refused| refused.failures.attempts) + 1;
            let message = message.to_owned();
            let failures = Failures { attempts, last: self.now, generation: None, reason: "WriteFailed", message };
            self.memory.refused.insert(object.clone(), WriteRefusal { failures, is_local });
        }
        is_projection
    }

    fn remember_failure(&mut self, resource: &Resource, message: String) {
        let generation = self.generation(resource);
        let known = self.memory.failures.get(resource).filter(|failures| failures.generation == generation);
        let attempts = known.map_or(0, |failures| failures.attempts) + 1;
        let failures = Failures { attempts, last: self.now, generation, reason: "WriteFailed", message };
        self.memory.failures.insert(resource.clone(), failures);
    }

    /// Writes the status if it differs.
    pub(crate) fn report(&mut self, resource: &Resource, status: Status) -> bool {
        let slot: &mut dyn StatusSlot = match resource {
            Resource::Domain(name) => match self.domains.get_mut(name) {
                Some(domain) => domain,
                None => return false,
            },
            Resource::Certificate(name) => match self.certificates.get_mut(name) {
                Some(certificate) => certificate,
                None => return false,
            },
            Resource::Service(name) => match self.services.get_mut(name) {
                Some(service) => service,
                None => return false,
            },
        };
        slot.write(status)
    }

    /// The status that was last reported.
    pub(crate) fn reported(&self, resource: &Resource) -> Status {
        match resource {
            Resource::Domain(name) => Status::Domain(self.domains[name].status.clone().unwrap_or_default()),
            Resource::Certificate(name) => {
                Status::Certificate(self.certificates[name].status.clone().unwrap_or_default())
            }
            Resource::Service(name) => Status::Service(self.services[name].status.clone().unwrap_or_default()),
        }
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

impl Status {
    pub(crate) fn conditions(&self) -> &[gaia_api::crd::Condition] {
        match self {
            Self::Domain(status) => &status.conditions,
            Self::Certificate(status) => &status.conditions,
            Self::Service(status) => &status.conditions,
        }
    }

    pub(crate) fn condition(&self, type_: &str) -> (&str, &str, &str) {
        let found = gaia_api::crd::find_condition(self.conditions(), type_);
        found.map_or(("", "", ""), |c| (c.status.as_str(), c.reason.as_str(), c.message.as_str()))
    }

    /// Returns true if the cause is temporary.
    pub(crate) fn waits(&self) -> bool {
        let (status, reason, _) = self.condition("Reconciling");
        status == "True" && !["TrustDomainNotFound", "TrustDomainNotReady"].contains(&reason)
    }
}

trait StatusSlot {
    fn write(&mut self, status: Status) -> bool;
}

macro_rules! status_slot {
    ($kind:ty, $variant:ident) => {
        impl StatusSlot for $kind {
            fn write(&mut self, status: Status) -> bool {
                let Status::$variant(status) = status else { return false };
                let differs = self.status.as_ref() != Some(&status);
                self.status = Some(status);
                differs
            }
        }
    };
}

status_slot!(TrustDomain, Domain);
status_slot!(ServiceCertificate, Certificate);
status_slot!(GaiaService, Service);

/// Returns true if an action writes or deletes one object in one namespace on behalf of a TrustDomain.
fn is_projection(resource: &Resource, action: &Action) -> bool {
    let of_domain = matches!(resource, Resource::Domain(_));
    of_domain && action.object().is_some_and(|object| !object.name.ends_with("-ring"))
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
const ROUNDS: usize = 25;
const WAITS: usize = 40;
