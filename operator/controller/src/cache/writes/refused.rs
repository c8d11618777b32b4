//! Writes of projections and leaf Secrets that were refused: each delays its namespace alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use gaia_api::crd::reason;
use gaia_api::names;
use gaia_plan::object::ObjectKey;
use gaia_plan::pacing::backoff::Failures;
use gaia_plan::trust_domain::WriteRefusal;
use jiff::Timestamp;

use crate::cache::ClusterCache;
use crate::store::ObjectRef;

/// The last attempts to write objects.
#[derive(Debug, Default)]
pub(crate) struct RefusedWrites {
    refused: BTreeMap<ObjectKey, WriteRefusal>,
    /// The number of consecutive times that another writer changed an object before the operator could.
    contended: HashMap<ObjectKey, u32>,
}

impl ClusterCache {
    /// Records that the write of an object was refused. Returns the keys to plan again, if it is new.
    pub(crate) fn note_refusal(
        &mut self,
        by: &ObjectRef,
        object: &ObjectKey,
        message: String,
        is_local: bool,
        now: Timestamp,
    ) -> BTreeSet<ObjectRef> {
        let before = self.refused_writes.refused.get(object);
        let is_news = before.is_none_or(|before| before.is_local != is_local || before.failures.message != message);
        let attempts = before.map_or(0, |before| before.failures.attempts).saturating_add(1);
        let failures = Failures { attempts, last: now, generation: None, reason: reason::WRITE_FAILED, message };
        self.refused_writes.refused.insert(object.clone(), WriteRefusal { failures, is_local });
        if is_news { self.domain_of(by) } else { BTreeSet::new() }
    }

    /// Returns true if the last write of an object was refused with this message.
    pub(crate) fn is_refused(&self, object: &ObjectKey, message: &str) -> bool {
        self.refused_writes.refused.get(object).is_some_and(|refused| refused.failures.message == message)
    }

    /// Records that another writer changed an object before the operator could. Returns true if that happens each time:
    /// then it counts as refused in its namespace.
    pub(crate) fn note_contention(&mut self, by: &ObjectRef, object: &ObjectKey, now: Timestamp) -> bool {
        let attempts = self.refused_writes.contended.entry(object.clone()).or_default();
        *attempts = attempts.saturating_add(1);
        let is_each_time = *attempts >= CONTENDED;
        if is_each_time {
            let message = format!("{object}: another writer changes it before each write");
            self.note_refusal(by, object, message, true, now);
        }
        is_each_time
    }

    /// Records that an object was written. Returns the keys to plan again, if it was refused before.
    pub(crate) fn note_written(&mut self, by: &ObjectRef, object: &ObjectKey) -> BTreeSet<ObjectRef> {
        self.refused_writes.contended.remove(object);
        match self.refused_writes.refused.remove(object) {
            Some(_) => self.domain_of(by),
            None => BTreeSet::new(),
        }
    }

    /// Forgets the attempts in a namespace that is deleted.
    pub(crate) fn forget_refusals_in(&mut self, namespace: &str) {
        self.refused_writes.refused.retain(|object, _| object.namespace != namespace);
        self.refused_writes.contended.retain(|object, _| object.namespace != namespace);
    }

    /// Forgets the attempts to write objects that are no longer requested.
    pub(crate) fn forget_refusals(&mut self, is_gone: impl Fn(&ObjectKey) -> bool) {
        self.refused_writes.refused.retain(|object, _| !is_gone(object));
        self.refused_writes.contended.retain(|object, _| !is_gone(object));
    }

    /// Forgets the attempts to write the projections of a TrustDomain that is deleted.
    pub(crate) fn forget_projections(&mut self, domain: &str) {
        let of_domain = [names::trust(domain), names::grants(domain), names::token_signer(domain)];
        self.forget_refusals(|object| of_domain.contains(&object.name));
    }

    /// Refused writes in these namespaces.
    pub(crate) fn refused_in(&self, granted: &BTreeSet<String>) -> BTreeMap<ObjectKey, WriteRefusal> {
        let refused = self.refused_writes.refused.iter().filter(|(object, _)| granted.contains(&object.namespace));
        refused.map(|(object, refusal)| (object.clone(), refusal.clone())).collect()
    }

    /// The TrustDomain whose rotation waits for what a custom resource writes.
    fn domain_of(&self, by: &ObjectRef) -> BTreeSet<ObjectRef> {
        let certificate = match by {
            ObjectRef::Certificate(namespace, name) => self.certificates.get(&(namespace.clone(), name.clone())),
            ObjectRef::TrustDomain(_) | ObjectRef::Service(..) => None,
        };
        certificate.map(|found| ObjectRef::TrustDomain(found.spec.trust_domain_ref.name.clone())).into_iter().collect()
    }
}

/// After so many attempts in a row the other writer is the cause, and not chance.
const CONTENDED: u32 = 8;
