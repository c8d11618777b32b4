//! Instances that use everything that was published (`PODS-UPDATED`), and those to probe soon.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use gaia_api::crd::{Counts, Laggard};
use gaia_api::names::annotation;
use jiff::Timestamp;

use super::Context;
use crate::instances::instance::{Instance, Instances, Need};
use crate::keyring::ring::Ring;
use crate::object::ObjectKind;
use crate::pacing::backoff::saturating_add;
use crate::trust_domain::{LeafView, Observed};

/// The progress of instances.
#[derive(Debug, Default)]
pub(crate) struct Currency {
    pub(crate) counts: Counts,
    /// Instances that do not use everything yet, as far as is known, by UID, with the time after which a container must
    /// have started to use it for certain.
    pub(crate) behind: BTreeMap<String, Timestamp>,
    /// Those of them that do not serve a certificate that replaced another one.
    pub(crate) unserved: BTreeSet<String>,
    /// Those of them that had time to load everything: it was written longer ago than P.
    pub(crate) late: Vec<Laggard>,
    /// The time when the next of them is late.
    pub(crate) late_from: Option<Timestamp>,
}

/// The leaves, each with the instances that use its Secret: matched once for all who ask.
pub(crate) struct UsedLeaves<'a, 'o> {
    leaves: &'a [LeafView<'o>],
    users: Vec<Vec<&'o Instance>>,
}

impl<'a, 'o> UsedLeaves<'a, 'o> {
    pub(crate) fn of(observed: &'a Observed<'o>) -> Self {
        let mut by_secret: HashMap<(&str, &str), Vec<&'o Instance>> = HashMap::new();
        for instance in observed.instances.iter() {
            for object in instance.uses.iter().filter(|object| object.kind == ObjectKind::Secret) {
                by_secret.entry((object.namespace.as_str(), object.name.as_str())).or_default().push(instance);
            }
        }
        let users = |view: &LeafView<'_>| by_secret.get(&(view.secret_namespace, view.secret_name)).cloned();
        let users = observed.leaves.iter().map(|view| users(view).unwrap_or_default()).collect();
        Self { leaves: &observed.leaves, users }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'a LeafView<'o>, &[&'o Instance])> {
        self.leaves.iter().zip(self.users.iter().map(Vec::as_slice))
    }

    /// Those of each leaf that is used, one after the other.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&'a LeafView<'o>, &'o Instance)> {
        self.iter().flat_map(|(view, users)| users.iter().map(move |instance| (view, *instance)))
    }
}

/// Checks every instance for every published part.
pub(crate) fn currency(context: &Context<'_, '_>) -> Currency {
    let Context { observed, leaves, ca, signing, bundle_hash, denylist_hash, now, .. } = context;
    let Instances::Known(all) = &observed.instances else {
        return Currency { counts: Counts { summary: "-".to_owned(), ..Counts::default() }, ..Currency::default() };
    };
    let p = observed.domain.spec.propagation.min_delay.value();
    let newest = |times: &mut dyn Iterator<Item = Timestamp>| times.max().unwrap_or(Timestamp::MIN);
    let bundled = newest(&mut published(ca));
    let keyed = newest(&mut published(signing));
    let kids: Vec<&str> = signing.trusted().map(|generation| generation.material.jwk.kid()).collect();
    let mut behind: BTreeMap<String, Timestamp> = BTreeMap::new();
    let (mut late, mut late_from): (BTreeMap<String, Laggard>, Option<Timestamp>) = (BTreeMap::new(), None);
    let mut note = |instance: &Instance, need: &Need<'_>, written: Timestamp| {
        let Err(why) = instance.check(need, written, p) else { return true };
        let due = saturating_add(written, p);
        let from = behind.entry(instance.uid.clone()).or_insert(Timestamp::MIN);
        *from = due.max(*from);
        if due <= *now {
            late.entry(instance.uid.clone()).or_insert_with(|| instance.laggard(&why));
        } else {
            late_from = late_from.into_iter().chain([due]).min();
        }
        false
    };
    for instance in all {
        note(instance, &Need::Bundle(bundle_hash), bundled);
        for kid in &kids {
            note(instance, &Need::Kid(kid), keyed);
        }
        for gone in signing.generations.iter().filter(|generation| !generation.state.is_trusted()) {
            let is_awaited = gone.distrust.is_some_and(|mark| mark.refused_time.is_none());
            if is_awaited || instance.report().is_some() {
                note(instance, &Need::NoKid(gone.material.jwk.kid()), gone.since);
            }
        }
        if instance.report().is_some_and(|report| report.denylist_hash.is_some()) {
            note(instance, &Need::Denylist(denylist_hash), keyed);
        }
    }
    let mut unserved = BTreeSet::new();
    for (view, instance) in leaves.pairs() {
        let Some(leaf) = view.leaf else { continue };
        let is_current = note(instance, &Need::Leaf(&leaf.fingerprint), view.issued_at());
        let revision = view.secret.and_then(|facts| facts.number(annotation::REVISION));
        if !is_current && revision.is_some_and(|revision| revision > 1) {
            unserved.insert(instance.uid.clone());
        }
    }
    let total = all.len();
    let current = total - behind.len().min(total);
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let summary = if total == 0 { "-".to_owned() } else { format!("{current}/{total}") };
    let counts = Counts { current: count(current), total: count(total), summary };
    Currency { counts, behind, unserved, late: late.into_values().collect(), late_from }
}

/// Returns the times when the trusted generations were published; the first generation counts from its activation.
fn published<M>(ring: &Ring<M>) -> impl Iterator<Item = Timestamp> {
    ring.trusted().map(|generation| generation.published_time.or(generation.activated_time).unwrap_or(generation.since))
}
