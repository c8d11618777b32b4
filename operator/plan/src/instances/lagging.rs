//! Instances that have not loaded a part within P of its publication, as the status of their service names them.
//!
//! A healthy rotation names none: a probe before P has passed is no evidence.

use std::collections::BTreeSet;
use std::time::Duration;

use gaia_api::crd::{LaggingInstance, PublishedPart, TrustDomain};
use gaia_api::names::annotation;
use gaia_pki::sha256_hex;
use jiff::Timestamp;

use crate::domain::DomainView;
use crate::instances::instance::{Instance, Need};
use crate::keyring::ring::{CaRing, Generation, SigningRing};
use crate::leaf::{LeafFacts, LeafRecord, issued_as_noted};
use crate::object::ObjectKey;
use crate::pacing::backoff::saturating_add;
use crate::published::Published;
use crate::{projection, published};

/// The certificate that instances are to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedLeaf {
    /// The Secret that holds it.
    pub secret: ObjectKey,
    /// Lower-case hex SHA-256 of its DER.
    pub fingerprint: String,
    /// The time when it was issued.
    pub issued_at: Timestamp,
}

impl ServedLeaf {
    /// The certificate that a Secret holds.
    #[must_use]
    pub fn of(secret: ObjectKey, record: &dyn LeafRecord, leaf: &LeafFacts) -> Self {
        let issued_at = issued_as_noted(record.annotation(annotation::ISSUED_AT), leaf);
        Self { secret, fingerprint: leaf.fingerprint.clone(), issued_at }
    }
}

/// The instances that lag.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Lagging {
    /// At most [`NAMED`], by name.
    pub(crate) named: Vec<LaggingInstance>,
    /// The number of all lagging instances; none: no instance lags.
    pub(crate) count: Option<i32>,
    /// The time when another may lag by time alone.
    pub(crate) next: Option<Timestamp>,
}

/// A part that is published.
struct Part<'a> {
    part: PublishedPart,
    need: Need<'a>,
    expected: &'a str,
    /// A container that started P after this time has it.
    published: Timestamp,
    /// The time when its content changed last.
    changed: Timestamp,
}

/// The policy that instances of a service are to enforce.
pub(crate) struct PolicyFile {
    /// The ConfigMap that holds it.
    pub(crate) object: ObjectKey,
    pub(crate) file: Published,
}

/// The instances that lag.
pub(crate) fn of(
    instances: &[&Instance],
    domain: &DomainView<'_>,
    leaf: Option<&ServedLeaf>,
    policy: Option<&PolicyFile>,
    now: Timestamp,
) -> Lagging {
    let (Some(object), Some(ca), Some(signing)) = (domain.object, domain.ca, domain.signing) else {
        return Lagging::default();
    };
    if instances.is_empty() {
        return Lagging::default();
    }
    let p = object.spec.propagation.min_delay.value();
    let bundle = sha256_hex(projection::bundle(ca, now).as_bytes());
    let mut parts = vec![];
    if let Some(leaf) = leaf {
        let (need, issued) = (Need::Leaf(&leaf.fingerprint), leaf.issued_at);
        let expected = leaf.fingerprint.as_str();
        parts.push(Part { part: PublishedPart::Certificate, need, expected, published: issued, changed: issued });
    }
    let need = Need::Bundle(&bundle);
    let published = ca.trusted().map(published).max().unwrap_or(Timestamp::MIN);
    // A root that is removed changes the bundle, too.
    let removed = ca.generations.iter().filter(|found| !found.state.is_trusted()).map(|found| found.since);
    let changed = removed.fold(published, Timestamp::max);
    parts.push(Part { part: PublishedPart::TrustBundle, need, expected: &bundle, published, changed });
    for key in signing.trusted() {
        let (kid, published) = (key.material.jwk.kid(), self::published(key));
        let need = Need::Kid(kid);
        parts.push(Part { part: PublishedPart::SigningKeys, need, expected: kid, published, changed: published });
    }
    let denylist = published_denylist(domain, object, ca, signing, now);
    if let Some(Published { hash, since }) = &denylist {
        let need = Need::Denylist(hash);
        parts.push(Part { part: PublishedPart::Denylist, need, expected: hash, published: *since, changed: *since });
    }
    if let Some(PolicyFile { file: Published { hash, since }, .. }) = policy {
        let need = Need::Policy(hash);
        parts.push(Part { part: PublishedPart::Policy, need, expected: hash, published: *since, changed: *since });
    }
    let mut lagging = Lagging::default();
    let mut all = vec![];
    for instance in instances {
        match first(instance, &parts, (leaf, policy), p, now) {
            LagState::Current => {}
            LagState::Unknown(until) => lagging.next = lagging.next.into_iter().chain([until]).min(),
            LagState::Lags(found) => all.push(*found),
        }
    }
    all.sort_by(|one, other| one.pod.cmp(&other.pod));
    lagging.count = i32::try_from(all.len()).ok().filter(|count| *count > 0);
    all.truncate(NAMED);
    lagging.named = all;
    lagging
}

enum LagState {
    Current,
    /// It may lag; the earliest time at which that is known.
    Unknown(Timestamp),
    Lags(Box<LaggingInstance>),
}

/// `denylist.json` in the namespace, if it is what the rings and the spec say.
fn published_denylist(
    domain: &DomainView<'_>,
    object: &TrustDomain,
    ca: &CaRing,
    signing: &SigningRing,
    now: Timestamp,
) -> Option<Published> {
    let file = published::DENYLIST.published(domain.trust?, now)?;
    let wanted = projection::json(&projection::denylist(&object.spec, ca, signing));
    (file.hash == sha256_hex(wanted.as_bytes())).then_some(file)
}

fn first(
    instance: &Instance,
    parts: &[Part<'_>],
    (leaf, policy): (Option<&ServedLeaf>, Option<&PolicyFile>),
    p: Duration,
    now: Timestamp,
) -> LagState {
    let mut unknown: Option<Timestamp> = None;
    for part in parts {
        let is_its = match part.part {
            PublishedPart::Certificate => leaf.is_some_and(|leaf| instance.uses.contains(&leaf.secret)),
            PublishedPart::TrustBundle | PublishedPart::SigningKeys => true,
            // These change often, and only a report shows them.
            PublishedPart::Denylist => instance.report().is_some_and(|report| report.denylist_hash.is_some()),
            PublishedPart::Policy => {
                instance.report().is_some() && policy.is_some_and(|policy| instance.uses.contains(&policy.object))
            }
        };
        if !is_its {
            continue;
        }
        let Err(why) = instance.check(&part.need, part.published, p) else { continue };
        let due = saturating_add(part.changed, p);
        // An earlier probe is no evidence of the parts loaded since.
        let is_seen = instance.probe.as_ref().map_or(!instance.can_be_probed, |probe| probe.at >= due);
        if due <= now && is_seen {
            return LagState::Lags(Box::new(described(instance, part, why)));
        }
        unknown = unknown.into_iter().chain([due.max(saturating_add(now, LOOK_AGAIN))]).min();
    }
    unknown.map_or(LagState::Current, LagState::Unknown)
}

fn described(instance: &Instance, part: &Part<'_>, why: String) -> LaggingInstance {
    let report = instance.report();
    let shown = instance.probe.as_ref().and_then(|probe| probe.seen.as_ref().ok());
    let loaded = match part.part {
        PublishedPart::Certificate => shown.map(|shown| shown.fingerprint.clone()),
        PublishedPart::TrustBundle => report.map(|report| report.bundle_hash.clone()),
        PublishedPart::SigningKeys => report.and_then(|report| report.jwks_kids.last().cloned()),
        PublishedPart::Denylist => report.and_then(|report| report.denylist_hash.clone()),
        PublishedPart::Policy => report.map(|report| report.policy_hash.clone()).filter(|hash| !hash.is_empty()),
    };
    let cut = |text: String, longest: usize| text.chars().filter(|c| !c.is_control()).take(longest).collect::<String>();
    LaggingInstance {
        pod: cut(instance.name.clone(), MAX_NAME),
        leaf_serial: report.map(|report| cut(report.leaf.serial.clone(), MAX_HASH)),
        leaf_not_after: report.map(|report| gaia_api::crd::whole_seconds(report.leaf.not_after)),
        part: part.part,
        expected: Some(part.expected.to_owned()),
        loaded: loaded.map(|text| cut(text, MAX_HASH)),
        reason: cut(why, MAX_REASON),
    }
}

/// Returns the time when a generation was published; the first one counts from its activation.
fn published<M>(found: &Generation<M>) -> Timestamp {
    found.published_time.or(found.activated_time).unwrap_or(found.since)
}

/// The union of two lists of instances.
pub(crate) fn both<'a>(one: &[&'a Instance], other: &[&'a Instance]) -> Vec<&'a Instance> {
    let known: BTreeSet<&str> = one.iter().map(|instance| instance.uid.as_str()).collect();
    one.iter().chain(other.iter().filter(|instance| !known.contains(instance.uid.as_str()))).copied().collect()
}

/// Instances that a status names.
const NAMED: usize = 16;
const MAX_NAME: usize = 320;
const MAX_HASH: usize = 64;
const MAX_REASON: usize = 512;
/// The time to wait for a probe after P before the instance is evaluated again.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
