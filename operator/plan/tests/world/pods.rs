//! Pods: the files that each has loaded, and the part of its state that the operator can see. Time advances for them
//! whatever clocks show.

use std::collections::{BTreeMap, BTreeSet};

use gaia_api::SpiffeId;
use gaia_api::crd::{Acknowledgement, RestartKind};
use gaia_api::identity::{IdentityReport, LeafReport};
use gaia_api::ledger::{LedgerEntry, LedgerReport};
use gaia_api::mount::{AuthMode, Grants, SCHEMA_VERSION, ServiceIdentity};
use gaia_api::names::{self, key};
use gaia_plan::instances::instance::{Instance, Probe, Shown, Target};
use gaia_plan::object::{ObjectKey, ObjectKind};
use jiff::{SignedDuration, Timestamp};

use super::{Name, World};

/// The part of a pod's state that the operator can see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    /// It reports what it has loaded.
    Reports,
    /// A handshake presents its leaf, and there is no report.
    Handshake,
    /// There is no port to probe.
    NoPort,
    /// It refuses connections.
    Refuses,
}

/// The way in which a pod loads changed files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reload {
    /// So many seconds after the write.
    After(i64),
    /// Not before its containers start again: subPath, environment, or a program that reads once.
    Never,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) domain: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    /// The leaf Secret it mounts.
    pub(crate) secret: Option<String>,
    /// True if it mounts the trust bundle's ConfigMap.
    pub(crate) trust: bool,
    /// True if it mounts the signer and the grants.
    pub(crate) signer: bool,
    /// The service whose policy it mounts.
    pub(crate) enforces: Option<String>,
    pub(crate) reload: Reload,
    pub(crate) sight: Sight,
    /// One of its containers does not stay up.
    pub(crate) crashes: bool,
    /// The time when all its containers were up.
    pub(crate) started: Option<Timestamp>,
    /// True if a container of it has ever started.
    pub(crate) ran: bool,
    pub(crate) acknowledgement: Acknowledgement,
    pub(crate) wave: i32,
    pub(crate) targets: Vec<Target>,
    pub(crate) connections: BTreeMap<String, u64>,
    /// Parts of its files that it refuses.
    pub(crate) refused: BTreeMap<String, String>,
    pub(crate) nudged: Option<String>,
    pub(crate) probe: Option<Probe>,
    /// The uses of API keys of its service.
    pub(crate) ledger: Vec<LedgerEntry>,
    /// Requests accepted without a client certificate; none: the instance is too old to count them.
    pub(crate) plain: Option<Vec<LedgerEntry>>,
    /// The report that the operator has read, and when.
    pub(crate) read: Option<(Timestamp, LedgerReport)>,
    /// The time since which it could not be read.
    pub(crate) failing: Option<Timestamp>,
    /// True if its termination has started.
    pub(crate) ends: bool,
    /// The loaded files.
    pub(crate) has: Loaded,
    /// The files that it will load, and when.
    pub(super) coming: Vec<(i64, Loaded)>,
}

/// The files of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Loaded {
    /// The serial of its leaf.
    pub(crate) leaf: Option<u64>,
    pub(crate) roots: String,
    pub(crate) kids: BTreeSet<String>,
    pub(crate) denylist: Option<String>,
    pub(crate) policy: Option<String>,
    pub(crate) signing: Option<String>,
    max_ttl: i64,
}

impl Pod {
    /// One of a service, as most are: it mounts the leaf and the bundle, reloads after a minute, and reports.
    pub(crate) fn of(namespace: &str, service: &str, name: &str) -> Self {
        Self {
            domain: super::TD.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: String::new(),
            secret: Some(names::leaf_secret(service)),
            trust: true,
            signer: false,
            enforces: None,
            reload: Reload::After(60),
            sight: Sight::Reports,
            crashes: false,
            started: None,
            ran: true,
            acknowledgement: Acknowledgement::Required,
            wave: 0,
            targets: vec![],
            connections: BTreeMap::new(),
            refused: BTreeMap::new(),
            nudged: None,
            probe: None,
            ledger: vec![],
            plain: Some(vec![]),
            read: None,
            failing: None,
            ends: false,
            has: Loaded::default(),
            coming: vec![],
        }
    }

    /// A pod that loads nothing until it is restarted.
    pub(crate) fn never_reloads(self) -> Self {
        Self { reload: Reload::Never, ..self }
    }

    pub(crate) fn seen_by(self, sight: Sight) -> Self {
        Self { sight, ..self }
    }

    /// One that signs tokens.
    pub(crate) fn issuer(self) -> Self {
        Self { signer: true, ..self }
    }

    /// One that mounts the policy of a service.
    pub(crate) fn enforcing(self, service: &str) -> Self {
        Self { enforces: Some(service.to_owned()), ..self }
    }

    /// One that does not stay up.
    pub(crate) fn crashing(self) -> Self {
        Self { crashes: true, ..self }
    }

    pub(crate) fn best_effort(self) -> Self {
        Self { acknowledgement: Acknowledgement::BestEffort, ..self }
    }

    pub(crate) fn in_wave(self, wave: i32) -> Self {
        Self { wave, ..self }
    }

    /// One of a Deployment that may be restarted.
    pub(crate) fn of_deployment(mut self, name: &str) -> Self {
        let namespace = self.namespace.clone();
        self.targets = vec![Target { namespace, kind: RestartKind::Deployment, name: name.to_owned() }];
        self
    }

    fn uses(&self) -> BTreeSet<ObjectKey> {
        let at = &self.namespace;
        let secret = self.secret.iter().map(|name| ObjectKey::secret(at, name));
        let trust = self.trust.then(|| ObjectKey::config_map(at, names::trust(&self.domain)));
        let signer = self.signer.then(|| ObjectKey::secret(at, names::token_signer(&self.domain)));
        let grants = self.signer.then(|| ObjectKey::config_map(at, names::grants(&self.domain)));
        let policy = self.enforces.iter().map(|service| ObjectKey::config_map(at, names::policy(service)));
        secret.chain(trust).chain(signer).chain(grants).chain(policy).collect()
    }

    pub(crate) fn is_waited_for(&self) -> bool {
        self.ran && self.acknowledgement == Acknowledgement::Required
    }
}

impl World {
    /// A pod starts: its containers are up, with the current files.
    pub(crate) fn start(&mut self, pod: Pod) {
        let uid = format!("pod-{}", self.fresh());
        let mut pod = Pod { uid, started: None, coming: vec![], probe: None, nudged: None, ..pod };
        (pod.ledger, pod.read, pod.failing, pod.ends) = (vec![], None, None, false);
        pod.plain.iter_mut().for_each(Vec::clear);
        pod.has = self.mounted(&pod);
        // Without one of its volumes it does not start at all, and so is no instance.
        let is_there = pod.uses().iter().all(|key| self.objects.contains_key(key));
        pod.ran = is_there;
        pod.started = (is_there && !pod.crashes).then_some(self.now);
        self.pods.push(pod);
    }

    /// A pod is replaced by a new one of the same name.
    pub(crate) fn restart(&mut self, name: &str) {
        if let Some(index) = self.pods.iter().position(|pod| pod.name == name) {
            let pod = self.pods.remove(index);
            self.start(pod);
        }
    }

    pub(crate) fn stop(&mut self, name: &str) {
        self.pods.retain(|pod| pod.name != name);
    }

    pub(crate) fn pod(&mut self, name: &str) -> &mut Pod {
        self.pods.iter_mut().find(|pod| pod.name == name).unwrap()
    }

    /// The pods of a workload are replaced, as its template has changed.
    pub(super) fn roll_out(&mut self, target: &Target) {
        let names: Vec<String> =
            self.pods.iter().filter(|pod| pod.targets.contains(target)).map(|pod| pod.name.clone()).collect();
        for name in names {
            self.restart(&name);
        }
    }

    /// The operator asks every pod.
    pub(crate) fn probe(&mut self) {
        self.kubelet();
        for index in 0..self.pods.len() {
            let probe = self.look_at(&self.pods[index]);
            self.pods[index].probe = probe;
            self.read_ledger(index);
        }
    }

    fn look_at(&self, pod: &Pod) -> Option<Probe> {
        let leaf = pod.has.leaf.and_then(|serial| Some((serial, self.leaves.get(&serial)?)));
        let seen = match (pod.sight, leaf) {
            (Sight::NoPort, _) => return None,
            (Sight::Refuses, _) => Err("connection refused".to_owned()),
            _ if pod.started.is_none() => Err("connection refused".to_owned()),
            (_, None) => Err("it shows no certificate".to_owned()),
            (sight, Some((serial, leaf))) => {
                let spiffe_id = SpiffeId::workload("gaia.local", &pod.namespace, &pod.name);
                let report = IdentityReport {
                    enforces: vec![gaia_api::identity::ENFORCES_ISSUERS.to_owned()],
                    schema_version: SCHEMA_VERSION,
                    instance: pod.uid.clone(),
                    started_at: pod.started.unwrap_or(self.now),
                    service: ServiceIdentity { spiffe_id, namespace: pod.namespace.clone(), name: pod.name.clone() },
                    leaf: LeafReport {
                        serial: serial.to_string(),
                        fingerprint: leaf.fingerprint.clone(),
                        not_after: leaf.not_after,
                    },
                    bundle_hash: gaia_pki::sha256_hex(pod.has.roots.as_bytes()),
                    jwks_kids: pod.has.kids.iter().cloned().collect(),
                    signing_kid: pod.has.signing.clone(),
                    denylist_hash: pod.has.denylist.as_ref().map(|text| gaia_pki::sha256_hex(text.as_bytes())),
                    policy_hash: gaia_pki::sha256_hex(pod.has.policy.as_deref().unwrap_or_default().as_bytes()),
                    mode: AuthMode::Dual,
                    refused: pod.refused.clone(),
                    connections: pod.connections.clone(),
                };
                let report = if sight == Sight::Reports { Ok(report) } else { Err("404".to_owned()) };
                Ok(Shown { fingerprint: leaf.fingerprint.clone(), is_verified: true, report })
            }
        };
        Some(Probe { at: self.now, seen })
    }

    /// Every pod's files follow the stored objects, each with its own delay.
    pub(super) fn kubelet(&mut self) {
        for index in 0..self.pods.len() {
            let Reload::After(lag) = self.pods[index].reload else { continue };
            let mounted = self.mounted(&self.pods[index]);
            let due = self.elapsed + lag;
            let pod = &mut self.pods[index];
            if pod.coming.last().map_or(&pod.has, |(_, coming)| coming) != &mounted {
                pod.coming.push((due, mounted));
            }
        }
        self.take_up(self.elapsed);
    }

    fn take_up(&mut self, until: i64) {
        for pod in &mut self.pods {
            while pod.coming.first().is_some_and(|(due, _)| *due <= until) {
                pod.has = pod.coming.remove(0).1;
            }
        }
    }

    /// Time advances: pods load arrived files, and issuers keep signing tokens.
    pub(super) fn pass(&mut self, seconds: i64) {
        self.kubelet();
        let end = self.elapsed + seconds;
        let mut times: Vec<i64> = self.pods.iter().flat_map(|pod| pod.coming.iter().map(|(due, _)| *due)).collect();
        times.retain(|due| *due > self.elapsed && *due < end);
        times.push(end);
        times.sort_unstable();
        for time in times {
            let at = self.now.checked_add(SignedDuration::from_secs(time - self.elapsed)).unwrap_or(self.now);
            self.sign_tokens(at);
            self.take_up(time);
        }
        self.elapsed = end;
    }

    fn sign_tokens(&mut self, at: Timestamp) {
        for pod in self.pods.iter().filter(|pod| pod.signer && pod.is_waited_for()) {
            let Some(kid) = &pod.has.signing else { continue };
            let end = at.checked_add(SignedDuration::from_secs(pod.has.max_ttl)).unwrap_or(at);
            let last = self.tokens.entry(kid.clone()).or_insert(end);
            *last = end.max(*last);
        }
    }

    /// The files that a pod would mount if it started now.
    fn mounted(&self, pod: &Pod) -> Loaded {
        let content = |key: &ObjectKey, name: &str| self.objects.get(key)?.content.get(name).cloned();
        let secret = pod.secret.as_ref().map(|name| ObjectKey::secret(&pod.namespace, name));
        let trust = ObjectKey::config_map(&pod.namespace, names::trust(&pod.domain));
        let signer = ObjectKey::secret(&pod.namespace, names::token_signer(&pod.domain));
        let grants = ObjectKey::config_map(&pod.namespace, names::grants(&pod.domain));
        let stored = secret.as_ref().and_then(|key| self.objects.get(key));
        let roots = match &secret {
            Some(secret) => content(secret, key::CA_CERT),
            None => content(&trust, key::CA_CERT),
        };
        let jwks = content(&trust, key::JWKS).filter(|_| pod.trust).unwrap_or_default();
        let rules = content(&grants, key::GRANTS).and_then(|text| serde_json::from_str::<Grants>(&text).ok());
        let ttl = rules.map_or(0, |grants| grants.tokens.max_ttl_seconds);
        Loaded {
            leaf: stored.and_then(|stored| super::number(stored, "tls.crt", "CERT ")),
            roots: roots.unwrap_or_default(),
            kids: kids_in(&jwks),
            denylist: content(&trust, key::DENYLIST).filter(|_| pod.trust),
            policy: pod.enforces.as_ref().and_then(|service| {
                content(&ObjectKey::config_map(&pod.namespace, names::policy(service)), key::POLICY)
            }),
            signing: content(&signer, key::KID).filter(|_| pod.signer),
            max_ttl: i64::try_from(ttl).unwrap_or(i64::MAX),
        }
    }

    /// The pods as the operator sees them.
    pub(super) fn instances(&self, domain: &str) -> Vec<Instance> {
        self.pods.iter().filter(|pod| pod.ran && pod.domain == domain).map(|pod| self.instance(pod)).collect()
    }

    /// The pods that use one Secret.
    pub(super) fn instances_of(&self, (namespace, secret): &Name) -> Vec<Instance> {
        let uses = |pod: &&Pod| pod.ran && pod.namespace == *namespace && pod.secret.as_ref() == Some(secret);
        self.pods.iter().filter(uses).map(|pod| self.instance(pod)).collect()
    }

    fn instance(&self, pod: &Pod) -> Instance {
        Instance {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            uses: pod.uses(),
            has_keys: pod.trust,
            reloads: pod.reload != Reload::Never,
            started: pod.started,
            acknowledgement: pod.acknowledgement,
            wave: pod.wave,
            restart_targets: pod.targets.clone(),
            can_be_probed: pod.sight != Sight::NoPort,
            nudged: pod.nudged.clone(),
            probe: pod.probe.clone(),
        }
    }

    /// Returns true if a pod that holds rotations uses that Secret.
    pub(super) fn is_used(&self, key: &ObjectKey) -> bool {
        key.kind == ObjectKind::Secret
            && self.pods.iter().any(|pod| {
                pod.is_waited_for() && pod.namespace == key.namespace && pod.secret.as_ref() == Some(&key.name)
            })
    }
}

/// The kids of a JWK set.
pub(super) fn kids_in(jwks: &str) -> BTreeSet<String> {
    let set: serde_json::Value = serde_json::from_str(jwks).unwrap_or_default();
    let keys = set["keys"].as_array().cloned().unwrap_or_default();
    keys.iter().filter_map(|key| Some(key["kid"].as_str()?.to_owned())).collect()
}
