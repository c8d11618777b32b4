//! Checks of the invariants for rotations, without the planner's code: by the files that pods have loaded and the
//! tokens that were signed.

use std::collections::{BTreeMap, BTreeSet};

use gaia_api::names::{self, annotation, key};
use gaia_plan::keyring::ring::{CaRing, Generation, Material, Ring, SigningRing, State};
use gaia_plan::keyring::transition::{Restore, Transition};
use gaia_plan::object::{ObjectKey, ObjectKind};
use jiff::{SignedDuration, Timestamp};

use super::observe::{is_labelled, is_leaf_of};
use super::pods::{Pod, kids_in};
use super::{OPERATOR_NAMESPACE, Stored, TD, World};

impl World {
    pub(super) fn against(&mut self, invariant: u8, what: String) {
        self.violations.push((invariant, what));
    }

    /// Invariants 3 and 4 for the CA.
    pub(super) fn check_ca_ring(&mut self, transition: &Transition, before: &CaRing, after: &CaRing) {
        self.check_states(transition, before, after);
        self.check_begun(&transition.to_string(), Some(before), after);
        if let Some(new) = begins_to_sign(before, after) {
            let root = &new.material.root;
            for (key, text) in self.bundles() {
                if !text.contains(root) {
                    self.against(3, format!("{transition}, but {key} does not hold its root"));
                }
            }
            self.check_switch(transition, before, new, |pod| {
                pod.secret.is_none() && !pod.trust || pod.has.roots.contains(root)
            });
        }
        for old in leaves_trust(before, after) {
            let fingerprint = &old.material.fingerprint;
            for (key, issuer, end) in self.stored_leaves() {
                if issuer == *fingerprint && end > self.now && self.needs(&key) {
                    self.against(4, format!("{transition}, but {key} was signed by it until {end}"));
                }
            }
            if self.waits(&[&old.id, after.active().map_or("", |active| &active.id)]) {
                for pod in self.pods.iter().filter(|pod| pod.is_waited_for()).cloned().collect::<Vec<_>>() {
                    let leaf = pod.has.leaf.and_then(|serial| self.leaves.get(&serial)).cloned();
                    if let Some(leaf) = leaf.filter(|leaf| leaf.issuer == *fingerprint && leaf.not_after > self.now) {
                        let (name, end) = (&pod.name, leaf.not_after);
                        self.against(4, format!("{transition} at {}, but pod {name} serves until {end}", self.now));
                    }
                }
            }
            let is_new = matches!(old.state, State::Staged | State::Published);
            if is_new && self.leaves.values().any(|leaf| leaf.issuer == *fingerprint && leaf.not_after > self.now) {
                self.against(4, format!("{transition}: it was not used yet, but has signed"));
            }
        }
    }

    /// Invariant 7: no CA becomes Active before its notBefore.
    pub(super) fn check_begun(&mut self, what: &str, before: Option<&CaRing>, after: &CaRing) {
        let Some(active) = after.active() else { return };
        let signed_before = before.and_then(Ring::active).is_some_and(|before| before.id == active.id);
        if !signed_before && active.material.not_before > self.now {
            let (id, begins, now) = (&active.id, active.material.not_before, self.now);
            self.against(7, format!("{what}: CA {id} is Active at {now}, and valid only from {begins}"));
        }
    }

    /// Invariants 3 and 4 for signing keys.
    pub(super) fn check_signing_ring(&mut self, transition: &Transition, before: &SigningRing, after: &SigningRing) {
        self.check_states(transition, before, after);
        if let Some(new) = begins_to_sign(before, after) {
            let kid = new.material.jwk.kid();
            for (key, stored) in self.trust_maps() {
                if !kids_in(stored.content.get(key::JWKS).map_or("", String::as_str)).contains(kid) {
                    self.against(3, format!("{transition}, but {key} does not hold it"));
                }
            }
            self.check_switch(transition, before, new, |pod| !pod.trust || pod.has.kids.contains(kid));
        }
        for old in leaves_trust(before, after) {
            let kid = old.material.jwk.kid();
            let skew = SignedDuration::try_from(self.domains[TD].spec.propagation.clock_skew.value()).unwrap();
            let waits = self.waits(&[&old.id, after.active().map_or("", |active| &active.id)]);
            if waits
                && let Some(end) = self.tokens.get(kid).filter(|end| **end > self.now.saturating_sub(skew).unwrap())
            {
                self.against(4, format!("{transition} at {}, but a token of it ends at {end}", self.now));
            }
            if waits && let Some(pod) = self.pods.iter().find(|pod| pod.is_waited_for() && signs(pod, kid)) {
                let name = pod.name.clone();
                self.against(4, format!("{transition}, but {name} signs with it"));
            }
        }
    }

    /// Invariants of both kinds: one rotation at a time, and a compromised generation stays so.
    fn check_states<M: Material>(&mut self, transition: &Transition, before: &Ring<M>, after: &Ring<M>) {
        let next = after.generations.iter().filter(|g| matches!(g.state, State::Staged | State::Published)).count();
        if next > 1 {
            self.against(0, format!("{transition}: {next} generations are to sign next"));
        }
        if after.epoch < before.epoch || after.revision < before.revision {
            self.against(0, format!("{transition}: epoch {} after {}", after.epoch, before.epoch));
        }
        for generation in &after.generations {
            let known = before.generation(&generation.id);
            if known.is_some_and(|known| known.distrust.is_some()) && generation.distrust.is_none()
                || self.distrusted.contains(generation.material.name()) && generation.state.is_trusted()
            {
                self.against(13, format!("{transition}: {} is trusted again", generation.id));
            }
        }
        for known in &before.generations {
            let gone = after.generation(&known.id).is_none();
            if gone && (known.state.is_trusted() || known.distrust.is_some()) {
                self.against(13, format!("{transition}: {} is forgotten", known.id));
            }
        }
    }

    /// Not before the floor, and not before all instances that hold the step.
    fn check_switch<M: Material>(
        &mut self,
        transition: &Transition,
        before: &Ring<M>,
        new: &Generation<M>,
        knows: impl Fn(&Pod) -> bool,
    ) {
        let times = &self.domains[TD].spec.propagation;
        let wait = SignedDuration::try_from(times.min_delay.value() + times.clock_skew.value()).unwrap();
        let published = before.generation(&new.id).and_then(|known| known.published_time);
        let floor = published.map(|published| published.saturating_add(wait).unwrap());
        let forced = transition.events.iter().any(|event| event.reason == gaia_api::crd::reason::ROTATION_FORCED);
        if floor.is_none_or(|floor| self.now < floor)
            && !(forced && published.is_none_or(|published| published > self.now))
        {
            self.against(3, format!("{transition} at {}, but its floor is {floor:?}", self.now));
        }
        if forced || !self.waits(&[&new.id]) {
            return;
        }
        if self.pods_unknown.is_some() {
            self.against(3, format!("{transition}, but the pods are unknown"));
        }
        let staged = before.generation(&new.id).map(|known| known.staged_time.unwrap_or(known.since));
        let left = self.left_behind(staged);
        let waited_for = |pod: &&Pod| pod.is_waited_for() && !left.contains(&pod.namespace);
        if let Some(pod) = self.pods.iter().filter(waited_for).find(|pod| !knows(pod)) {
            let name = pod.name.clone();
            self.against(3, format!("{transition}, but pod {name} does not know it"));
        }
    }

    /// The namespaces with an object that refuses every change, once the deadline after that time is over: at most one of
    /// them or 10 %, and never the token issuer's.
    fn left_behind(&self, staged: Option<Timestamp>) -> BTreeSet<String> {
        let spec = &self.domains[TD].spec;
        let deadline = SignedDuration::try_from(spec.propagation.deadline.value()).unwrap();
        if staged.is_none_or(|staged| self.now < staged.saturating_add(deadline).unwrap()) {
            return BTreeSet::new();
        }
        let issuer = spec.tokens.issued_by.as_ref().map(|issuer| issuer.namespace.as_str());
        let refusing = self.objects.iter().filter(|(_, stored)| stored.facts.immutable || stored.foreign);
        let refusing = refusing.map(|(key, _)| key.namespace.as_str());
        let of_tenants = |namespace: &&str| Some(*namespace) != issuer && *namespace != OPERATOR_NAMESPACE;
        let left: BTreeSet<String> = refusing.filter(of_tenants).map(str::to_owned).collect();
        if left.len() > (self.namespaces.len() / 10).max(1) { BTreeSet::new() } else { left }
    }

    /// Returns true if acknowledgement is required, and no annotation lets the rotation of one of these proceed without
    /// it.
    fn waits(&self, ids: &[&str]) -> bool {
        let domain = &self.domains[TD];
        let without = domain.metadata.annotations.as_ref().and_then(|all| all.get(annotation::ADVANCE_WITHOUT));
        domain.spec.propagation.require_acknowledgement && without.is_none_or(|id| !ids.contains(&id.as_str()))
    }

    /// Invariants 4 and 13: a restore loses nothing, and restores nothing that was distrusted.
    pub(super) fn check_restored<M: Material>(
        &mut self,
        restore: &Restore,
        current: Option<&Ring<M>>,
        restored: &Ring<M>,
    ) {
        let kind = restore.kind;
        for known in current.into_iter().flat_map(|ring| &ring.generations) {
            let now = restored.generation(&known.id);
            let is_trusted = now.is_some_and(|now| now.state.is_trusted());
            if known.state.is_trusted() && known.activated_time.is_some() && known.distrust.is_none() && !is_trusted {
                self.against(4, format!("{kind}: {} is lost by a restore", known.id));
            }
            if known.state == State::Distrusted && now.is_none_or(|now| now.state != State::Distrusted) {
                self.against(13, format!("{kind}: {} is trusted again by a restore", known.id));
            }
        }
        for generation in restored.generations.iter().filter(|generation| generation.state.is_trusted()) {
            if self.distrusted.contains(generation.material.name()) {
                self.against(13, format!("{kind}: a restore makes {} trusted again", generation.id));
            }
        }
        if let (Some(current), Some(active)) = (current, restored.active())
            && current.generation(&active.id).is_none_or(|known| !known.state.is_trusted())
        {
            self.against(3, format!("{kind}: a restore activates {}, which is not trusted", active.id));
        }
        if current.is_some_and(|current| current.epoch >= restored.epoch) {
            self.against(0, format!("{kind}: a restored ring has an older epoch"));
        }
    }

    /// Records the generations that a written ring marks as compromised, and those that it no longer trusts.
    pub(super) fn note_leaks<M: Material>(&mut self, after: &Ring<M>) {
        for generation in after.generations.iter().filter(|generation| generation.distrust.is_some()) {
            self.leaked.insert(generation.material.name().to_owned());
            if generation.state == State::Distrusted {
                self.distrusted.insert(generation.material.name().to_owned());
            }
        }
    }

    /// Invariant 13: the copy from before a leak is without what leaked.
    pub(super) fn check_copy<M: Material>(&mut self, after: &Ring<M>, content: &BTreeMap<String, String>) {
        for generation in after.generations.iter().filter(|generation| generation.distrust.is_some()) {
            let key = format!("KEY {}", generation.material.name());
            if content.values().any(|text| *text == key) {
                self.against(13, format!("the copy keeps the key of {}", generation.id));
            }
        }
    }

    /// Invariant 13: no key of what leaked is kept, in a ring or in its copy.
    pub(super) fn check_content(&mut self, key: &ObjectKey, content: &BTreeMap<String, String>) {
        let leaked = if key.name.ends_with("-previous") { &self.leaked } else { &self.distrusted };
        let kept = content.values().find_map(|text| text.strip_prefix("KEY ").filter(|name| leaked.contains(*name)));
        if let Some(kept) = kept {
            let what = format!("{key} keeps the key of {kept}");
            self.against(13, what);
        }
    }

    /// Invariant 13: no compromised material is in the files of pods.
    pub(super) fn check_projected(&mut self, object: &ObjectKey, data: &BTreeMap<String, Option<String>>) {
        let mut found = None;
        for text in data.iter().filter(|(name, _)| *name != key::DENYLIST).filter_map(|(_, text)| text.as_ref()) {
            let leaked = |name: &&String| text.contains(name.as_str());
            found = found.or_else(|| self.distrusted.iter().find(leaked).cloned());
        }
        if let Some(name) = found {
            self.against(13, format!("{object} is to hold {name}"));
        }
    }

    /// The trust ConfigMaps that the operator must keep.
    fn trust_maps(&self) -> Vec<(ObjectKey, Stored)> {
        let domain = &self.domains[TD];
        let granted: BTreeSet<String> =
            self.consumers(TD).into_iter().filter(|namespace| self.selects(domain, namespace)).collect();
        let name = names::trust(TD);
        let is_one = |key: &ObjectKey| key.kind == ObjectKind::ConfigMap && key.name == name;
        let all = self.seen().iter().filter(|(key, _)| is_one(key) && granted.contains(&key.namespace));
        let all = all.filter(|(_, stored)| is_labelled(stored) && !stored.facts.immutable && !stored.foreign);
        all.map(|(key, stored)| (key.clone(), stored.clone())).collect()
    }

    /// Every bundle that the operator must update: in trust ConfigMaps, and in requested leaf Secrets.
    fn bundles(&self) -> Vec<(ObjectKey, String)> {
        let bundle = |stored: &Stored| stored.content.get(key::CA_CERT).cloned().unwrap_or_default();
        let mut all: Vec<_> = self.trust_maps().into_iter().map(|(key, stored)| (key, bundle(&stored))).collect();
        let domain = &self.domains[TD];
        let epoch = self.ca_ring(TD).map_or(0, |ring| ring.epoch);
        for (key, stored) in self.seen() {
            let is_kept = is_leaf_of(key, stored, TD)
                && !stored.facts.immutable
                && stored.facts.type_.as_deref() == Some("kubernetes.io/tls")
                && stored.facts.number(annotation::CA_EPOCH).is_none_or(|found| found <= epoch)
                && self.selects(domain, &key.namespace)
                && self.is_asked_for(key);
            if is_kept {
                all.push((key.clone(), bundle(stored)));
            }
        }
        all
    }

    fn is_asked_for(&self, key: &ObjectKey) -> bool {
        self.certificates.iter().any(|(name, certificate)| {
            name.0 == key.namespace
                && certificate.secret_name() == key.name
                && certificate.spec.trust_domain_ref.name == TD
        })
    }

    /// Returns true if a leaf Secret is in use.
    fn needs(&self, key: &ObjectKey) -> bool {
        self.is_asked_for(key) || self.is_used(key)
    }

    /// Every stored leaf: its Secret, its issuer and its expiry.
    fn stored_leaves(&self) -> Vec<(ObjectKey, String, Timestamp)> {
        let leaves = self.seen().iter().filter(|(key, stored)| is_leaf_of(key, stored, TD));
        leaves
            .filter_map(|(key, stored)| {
                let (leaf, _) = self.leaf(stored)?;
                Some((key.clone(), leaf.issuer.clone(), leaf.not_after))
            })
            .collect()
    }

    /// Returns the time when something is due in the rings by time alone.
    pub(super) fn rotation_thresholds(&self, domain: &str) -> Vec<(&'static str, Timestamp)> {
        let times = &self.domains[domain].spec.propagation;
        let (p, s) = (times.min_delay.value(), times.clock_skew.value());
        let after = |time: Timestamp, span: std::time::Duration| gaia_plan::pacing::backoff::saturating_add(time, span);
        let mut found = vec![];
        if let Some(ring) = self.ca_ring(domain) {
            let published = ring.next().and_then(|next| next.published_time);
            found.extend(published.map(|published| ("the floor of a CA", after(published, p + s))));
            let leaked = ring.retiring().filter_map(|old| old.distrust);
            found.extend(leaked.map(|mark| ("the last moment of a leaked CA", after(mark.since, FIVE_MINUTES))));
        }
        if let Some(ring) = self.signing_ring(domain) {
            let life = std::time::Duration::from_secs(ring.max_ttl_high_water_seconds.unwrap_or_default());
            let switched = ring.retiring().filter_map(|old| old.switched_time);
            found.extend(switched.map(|switched| ("the end of a key's tokens", after(switched, p + life + s))));
            let leaked = ring.retiring().filter_map(|old| old.distrust);
            found.extend(leaked.map(|mark| ("the last moment of a leaked key", after(mark.since, FIVE_MINUTES))));
        }
        found
    }

    /// The state of each generation of a ring, oldest first: `Retiring, Active`.
    pub(crate) fn states(&self, ca: bool) -> String {
        fn list<M>(ring: Option<&Ring<M>>) -> String {
            let all = ring.into_iter().flat_map(|ring| &ring.generations);
            all.map(|generation| generation.state.as_str()).collect::<Vec<_>>().join(", ")
        }
        if ca { list(self.ca_ring(TD)) } else { list(self.signing_ring(TD)) }
    }
}

/// The generation that signs after a transition and did not before, unless it is an emergency or signed before that.
fn begins_to_sign<'a, M: Material>(before: &Ring<M>, after: &'a Ring<M>) -> Option<&'a Generation<M>> {
    let (old, new) = (before.active()?, after.active()?);
    let replaced = after.generation(&old.id).is_none_or(|old| old.distrust.is_some());
    let signed = before.generation(&new.id).is_some_and(|known| known.activated_time.is_some());
    (old.id != new.id && !replaced && !signed).then_some(new)
}

/// The generations that are no longer trusted, except compromised ones.
fn leaves_trust<'a, M: Material>(before: &'a Ring<M>, after: &'a Ring<M>) -> Vec<&'a Generation<M>> {
    let still = |known: &&Generation<M>| {
        after.generation(&known.id).is_none_or(|now| !now.state.is_trusted() && now.distrust.is_none())
    };
    before.trusted().filter(still).collect()
}

fn signs(pod: &Pod, kid: &str) -> bool {
    pod.has.signing.as_deref() == Some(kid)
}

const FIVE_MINUTES: std::time::Duration = std::time::Duration::from_secs(300);
