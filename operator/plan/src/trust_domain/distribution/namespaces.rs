//! Projections that do not match the rings, and the namespaces that a rotation leaves behind because of them.
//!
//! A rotation waits until everything it publishes is written. A namespace that refuses a write for a local cause (a
//! quota, an object of another owner, an object that cannot take the change) holds a rotation at most until
//! `propagation.deadline` after its generation was staged. Then the namespace is left behind. Any other cause, such as
//! a webhook, missing rights or an error of the API server, holds the step until it is resolved or an administrator
//! lets the rotation proceed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gaia_api::crd::condition::warning;
use gaia_api::crd::{Laggard, LaggardKind, reason};
use jiff::Timestamp;

use crate::Refusal;
use crate::object::ObjectKey;
use crate::outcome::conditions::Warning;
use crate::pacing::backoff::saturating_add;
use crate::trust_domain::{LeafView, Observed, WriteRefusal};

/// A projection that does not match the rings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unwritten {
    pub(crate) object: ObjectKey,
    /// The cause; none: its write is pending.
    pub(crate) cause: Option<Cause>,
}

/// The cause for which a projection cannot be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) refusal: Refusal,
    pub(crate) is_local: bool,
}

/// The projections that do not match the rings.
#[derive(Debug, Default)]
pub(crate) struct Projections {
    /// Trust bundles, grants and signers, and leaf Secrets without the newest bundle.
    pub(crate) unwritten: Vec<Unwritten>,
    /// Leaf Secrets with the newest bundle that refuse a new certificate.
    unissued: Vec<Unwritten>,
    /// The time when refused writes are tried again.
    pub(crate) retries: Vec<Timestamp>,
}

impl Unwritten {
    pub(crate) fn namespace(&self) -> &str {
        &self.object.namespace
    }

    fn is_local(&self) -> bool {
        self.cause.as_ref().is_some_and(|cause| cause.is_local)
    }

    /// `ConfigMap shop/gaia-trust: …`.
    fn text(&self) -> String {
        match &self.cause {
            Some(cause) if cause.refusal.message.contains(&self.object.to_string()) => cause.refusal.message.clone(),
            Some(cause) => format!("{}: {}", self.object, cause.refusal.message),
            None => format!("{} is being written", self.object),
        }
    }
}

impl Projections {
    /// Returns true if a write is pending.
    pub(crate) fn are_pending(&self) -> bool {
        self.unwritten.iter().any(|unwritten| unwritten.cause.is_none())
    }

    /// The first projection that cannot be written for a cause outside its namespace.
    pub(crate) fn refused(&self) -> Option<String> {
        self.unwritten.iter().find(|unwritten| unwritten.cause.is_some() && !unwritten.is_local()).map(Unwritten::text)
    }

    /// Adds a leaf Secret whose last write was refused. Returns true if it was.
    pub(crate) fn note_leaf(&mut self, observed: &Observed<'_>, view: &LeafView<'_>, lacks_bundle: bool) -> bool {
        if observed.refused.is_empty() {
            return false;
        }
        let object = ObjectKey::secret(view.secret_namespace, view.secret_name);
        let Some(refused) = observed.refused.get(&object) else { return false };
        let unwritten = Unwritten { object, cause: Some(cause_of(refused)) };
        if lacks_bundle { &mut self.unwritten } else { &mut self.unissued }.push(unwritten);
        true
    }

    /// The namespaces that a rotation leaves behind in a step that waits for them since `since`: those with a local
    /// cause, at most max(1, 10 %) of the granted ones, never the token issuer's, and none where there are fewer than
    /// two.
    pub(crate) fn left_behind(&self, observed: &Observed<'_>, since: Timestamp, now: Timestamp) -> BTreeSet<String> {
        let granted = observed.granted.len();
        let deadline = observed.domain.spec.propagation.deadline.value();
        if granted < 2 || now < saturating_add(since, deadline) {
            return BTreeSet::new();
        }
        let local = self.local(observed);
        if local.len() > (granted / SHARE).max(1) { BTreeSet::new() } else { local }
    }

    /// The namespaces that refuse a write for a local cause, except the token issuer's.
    pub(crate) fn local(&self, observed: &Observed<'_>) -> BTreeSet<String> {
        let issuer = observed.domain.spec.tokens.issued_by.as_ref().map(|issuer| issuer.namespace.as_str());
        let local = self.all().filter(|unwritten| unwritten.is_local()).map(Unwritten::namespace);
        local.filter(|namespace| Some(*namespace) != issuer).map(str::to_owned).collect()
    }

    /// Every namespace that refuses a write, for any cause.
    pub(crate) fn all_refused(&self) -> BTreeSet<String> {
        self.refusing().map(|unwritten| unwritten.namespace().to_owned()).collect()
    }

    /// Those outside these namespaces.
    pub(crate) fn outside(&self, left: &BTreeSet<String>) -> Vec<&Unwritten> {
        self.unwritten.iter().filter(|unwritten| !left.contains(unwritten.namespace())).collect()
    }

    /// The cause for which an object is not written, unless rotations have left its namespace behind.
    pub(crate) fn refusal(&self, left: &BTreeSet<String>) -> Option<Refusal> {
        self.outside(left).into_iter().find_map(|unwritten| Some(unwritten.cause.as_ref()?.refusal.clone()))
    }

    /// One warning for each namespace that is left behind.
    pub(crate) fn warnings(&self, left: &BTreeSet<String>) -> Vec<Warning> {
        let of_left = self.refusing().filter(|unwritten| left.contains(unwritten.namespace()));
        let warning = |(namespace, text): (&str, String)| {
            let message = format!(
                "namespace {namespace} refuses published objects, and rotations do not wait for it: {text}; remove \
                 the cause, or its services fail when their certificates and keys are no longer trusted"
            );
            Warning::new(warning::NAMESPACE_LEFT_BEHIND, message)
        };
        by_namespace(of_left).into_iter().map(warning).collect()
    }

    /// One laggard for each namespace that refuses a write.
    pub(crate) fn laggards(&self) -> Vec<Laggard> {
        let laggard = |(namespace, text): (&str, String)| Laggard {
            namespace: namespace.to_owned(),
            kind: Some(LaggardKind::Namespace),
            pod: String::new(),
            reason: text.chars().take(MAX_REASON).collect(),
        };
        by_namespace(self.refusing()).into_iter().map(laggard).collect()
    }

    fn all(&self) -> impl Iterator<Item = &Unwritten> {
        self.unwritten.iter().chain(&self.unissued)
    }

    fn refusing(&self) -> impl Iterator<Item = &Unwritten> {
        self.all().filter(|unwritten| unwritten.cause.is_some())
    }
}

/// `namespace shop (ConfigMap shop/gaia-trust: …)`, the first few.
pub(crate) fn named<'u>(unwritten: impl IntoIterator<Item = &'u Unwritten>) -> String {
    let all = by_namespace(unwritten);
    let more = all.len().saturating_sub(NAMED);
    let named: Vec<String> =
        all.into_iter().take(NAMED).map(|(namespace, text)| format!("namespace {namespace} ({text})")).collect();
    let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("{}{rest}", named.join("; "))
}

/// The last refusal of a write, and when the write is tried again; none: now.
pub(crate) fn last_refusal(
    observed: &Observed<'_>,
    object: &ObjectKey,
    now: Timestamp,
) -> Option<(Cause, Option<Timestamp>)> {
    let refused = observed.refused.get(object)?;
    let waits = refused.failures.holds_back(None, RETRY_CAP, now);
    Some((cause_of(refused), waits.then(|| refused.failures.retry_at(RETRY_CAP))))
}

fn cause_of(refused: &WriteRefusal) -> Cause {
    let refusal = Refusal::waiting(reason::WRITE_FAILED, refused.failures.message.clone());
    Cause { refusal, is_local: refused.is_local }
}

fn by_namespace<'u>(unwritten: impl IntoIterator<Item = &'u Unwritten>) -> BTreeMap<&'u str, String> {
    let mut by_namespace = BTreeMap::new();
    for unwritten in unwritten {
        by_namespace.entry(unwritten.namespace()).or_insert_with(|| unwritten.text());
    }
    by_namespace
}

/// One in this number of namespaces may be left behind.
const SHARE: usize = 10;
const NAMED: usize = 3;
const MAX_REASON: usize = 512;
/// The longest wait between two attempts to write a projection.
const RETRY_CAP: Duration = Duration::from_secs(30);
