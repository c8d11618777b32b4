//! Events of users and pods during rotations.

use gaia_api::Span;
use gaia_api::crd::{DistrustMode, DistrustedCa, DistrustedKey, TokenAlgorithm};
use gaia_api::names::{self, annotation, key};
use gaia_plan::object::ObjectKey;
use gaia_plan::trust_domain::Abilities;

use super::pods::{Pod, Reload, Sight};
use super::tamper::SERVICES;
use super::{OPERATOR_NAMESPACE, Stored, TD, World};

/// Numbers select among the objects that exist at that time; `true` is the CA.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Turmoil {
    Rotate(bool),
    Distrust(bool, usize, DistrustMode),
    /// Entries of `distrusted` are removed from the spec.
    Forgive,
    Abort(bool, usize),
    AdvanceWithout(bool, usize),
    Restore(bool),
    /// An administrator restores a copy that was kept.
    KeepCopy(bool),
    PutCopy(bool),
    Algorithm,
    MaxTtl(u64),
    RotationPeriod(u64),
    RequireAcknowledgement(bool),
    Start(usize, Reload, Sight, bool),
    Restart(usize),
    Stop(usize),
    /// It stops reloading, or starts again.
    Deaf(usize, bool),
    /// Clients of that CA stay connected.
    Connect(usize, usize),
    PodsKnown(bool),
    Abilities(bool, bool),
    Revoke(usize),
    Wave(usize, i32),
}

impl World {
    pub(crate) fn stir(&mut self, turmoil: Turmoil) {
        use Turmoil as T;
        match turmoil {
            T::Rotate(ca) => self.edit_domain(TD, |found| {
                let spec = &mut found.spec;
                *(if ca { &mut spec.ca.rotation_revision } else { &mut spec.tokens.rotation_revision }) += 1;
            }),
            T::Distrust(true, which, mode) => {
                let Some(fingerprint) = self.name_of(true, which) else { return };
                self.edit_domain(TD, |found| {
                    let listed = &mut found.spec.ca.distrusted;
                    listed.retain(|entry| entry.fingerprint != fingerprint);
                    listed.push(DistrustedCa { fingerprint, mode });
                });
            }
            T::Distrust(false, which, mode) => {
                let Some(kid) = self.name_of(false, which) else { return };
                self.edit_domain(TD, |found| {
                    let listed = &mut found.spec.tokens.distrusted;
                    listed.retain(|entry| entry.kid != kid);
                    listed.push(DistrustedKey { kid, mode });
                });
            }
            T::Forgive => self.edit_domain(TD, |found| {
                found.spec.ca.distrusted.clear();
                found.spec.tokens.distrusted.clear();
            }),
            T::Abort(ca, which) => self.ask(annotation::ABORT, ca, which),
            T::AdvanceWithout(ca, which) => self.ask(annotation::ADVANCE_WITHOUT, ca, which),
            T::Restore(ca) => {
                let Some(stored) = self.objects.get(&copy(ca)) else { return };
                let ring = stored.content.get(key::RING).and_then(|text| serde_json::from_str(text).ok());
                let epoch = ring.and_then(|ring: serde_json::Value| ring["epoch"].as_u64()).unwrap_or_default();
                self.annotate(annotation::RESTORE, format!("{}@{epoch}", if ca { "ca" } else { "signing" }));
            }
            T::KeepCopy(ca) => {
                if let Some(stored) = self.objects.get(&copy(ca)).cloned() {
                    self.kept.insert(copy(ca), stored);
                }
            }
            T::PutCopy(ca) => {
                if let Some(mut stored) = self.kept.get(&copy(ca)).cloned() {
                    // A careful administrator erases generations that were compromised since.
                    let leaked =
                        |text: &String| text.strip_prefix("KEY ").is_some_and(|name| self.leaked.contains(name));
                    stored.content.retain(|_, text| !leaked(text));
                    stored.touch(self.fresh());
                    self.objects.insert(copy(ca), stored);
                }
            }
            T::Algorithm => self.edit_domain(TD, |found| {
                let tokens = &mut found.spec.tokens;
                tokens.algorithm = match tokens.algorithm {
                    TokenAlgorithm::RS256 => TokenAlgorithm::ES256,
                    TokenAlgorithm::ES256 => TokenAlgorithm::RS256,
                };
            }),
            T::MaxTtl(minutes) => self.edit_domain(TD, |found| found.spec.tokens.max_ttl = Span::minutes(minutes)),
            T::RotationPeriod(hours) => self.edit_domain(TD, |found| {
                found.spec.tokens.rotation_period = Span::hours(hours);
                if found.spec.ca.existing_secret_ref.is_none() {
                    found.spec.ca.rotation_period = Some(Span::hours(hours));
                }
            }),
            T::RequireAcknowledgement(yes) => {
                self.edit_domain(TD, |found| found.spec.propagation.require_acknowledgement = yes);
            }
            T::Start(which, reload, sight, required) => {
                let (namespace, service) = SERVICES[which % SERVICES.len()];
                let name = format!("{service}-{}", self.pods.len());
                if self.pods.iter().any(|pod| pod.name == name) || self.pods.len() > 5 {
                    return;
                }
                let pod = Pod::of(namespace, service, &name).seen_by(sight).of_deployment(service);
                let pod = Pod { reload, signer: which == 0, ..pod };
                self.start(if required { pod } else { pod.best_effort() });
            }
            T::Restart(which) => {
                if let Some(name) = self.pod_name(which) {
                    self.restart(&name);
                }
            }
            T::Stop(which) => {
                if let Some(name) = self.pod_name(which) {
                    self.stop(&name);
                }
            }
            T::Deaf(which, deaf) => {
                if let Some(name) = self.pod_name(which) {
                    self.pod(&name).reload = if deaf { Reload::Never } else { Reload::After(30) };
                }
            }
            T::Connect(which, generation) => {
                if let (Some(name), Some(root)) = (self.pod_name(which), self.name_of(true, generation)) {
                    self.pod(&name).connections = [(root, 1)].into();
                }
            }
            T::PodsKnown(known) => self.pods_unknown = (!known).then(|| "pods are not watched".to_owned()),
            T::Abilities(nudge, restart) => self.abilities = Abilities { nudge, restart },
            T::Revoke(which) => {
                let serials: Vec<u64> = self.leaves.keys().copied().collect();
                if let Some(leaf) = serials.get(which % serials.len().max(1)).and_then(|serial| self.leaves.get(serial))
                {
                    let leaf = leaf.fingerprint.clone();
                    self.edit_domain(TD, |found| found.spec.revoked.leaves = vec![leaf]);
                }
            }
            T::Wave(which, wave) => {
                let (namespace, service) = SERVICES[which % SERVICES.len()];
                self.edit_service(&(namespace.to_owned(), service.to_owned()), |found| found.spec.rotation_wave = wave);
            }
        }
    }

    fn ask(&mut self, annotation: &str, ca: bool, which: usize) {
        if let Some(name) = self.name_of(ca, which) {
            self.annotate(annotation, name.chars().take(8).collect());
        }
    }

    pub(crate) fn annotate(&mut self, annotation: &str, value: String) {
        self.edit_domain(TD, |found| {
            found.metadata.annotations.get_or_insert_default().insert(annotation.to_owned(), value);
        });
    }

    /// The fingerprint or kid of a generation, counted from the newest.
    fn name_of(&self, ca: bool, which: usize) -> Option<String> {
        let mut names: Vec<String> = if ca {
            self.ca_ring(TD)?.generations.iter().map(|generation| generation.material.fingerprint.clone()).collect()
        } else {
            self.signing_ring(TD)?.generations.iter().map(|g| g.material.jwk.kid().to_owned()).collect()
        };
        names.reverse();
        names.get(which % names.len()).cloned()
    }

    fn pod_name(&self, which: usize) -> Option<String> {
        self.pods.get(which % self.pods.len().max(1)).map(|pod| pod.name.clone())
    }

    /// All instances become ready for rotations: pods reload and report, clients reconnect, and refused writes are
    /// possible.
    pub(crate) fn calm(&mut self) {
        (self.fail_next, self.view, self.writes_left, self.pods_unknown) = (0, None, None, None);
        self.stir(Turmoil::RequireAcknowledgement(true));
        self.edit_domain(TD, |found| {
            for asked in [annotation::ABORT, annotation::RESTORE] {
                found.metadata.annotations.get_or_insert_default().remove(asked);
            }
            found.spec.tokens.rotation_period = Span::hours(99_999);
            if found.spec.ca.existing_secret_ref.is_none() {
                found.spec.ca.rotation_period = None;
            }
        });
        let fresh = self.fresh();
        for stored in self.objects.values_mut().filter(|stored| stored.facts.immutable || is_newer(stored)) {
            stored.facts.immutable = false;
            stored.facts.annotations.remove(annotation::CA_EPOCH);
            stored.touch(fresh);
        }
        self.settle();
        for name in self.pods.iter().map(|pod| pod.name.clone()).collect::<Vec<_>>() {
            let pod = self.pod(&name);
            (pod.reload, pod.sight) = (Reload::After(30), Sight::Reports);
            pod.connections.clear();
            self.restart(&name);
        }
        // A pod without its volume does not start.
        self.pods.retain(|pod| pod.started.is_some());
    }
}

fn is_newer(stored: &Stored) -> bool {
    stored.facts.number(annotation::CA_EPOCH).is_some_and(|epoch| epoch >= 999)
}

fn copy(ca: bool) -> ObjectKey {
    let ring = if ca { names::ca_ring(TD) } else { names::signing_ring(TD) };
    ObjectKey::secret(OPERATOR_NAMESPACE, names::previous(&ring))
}
