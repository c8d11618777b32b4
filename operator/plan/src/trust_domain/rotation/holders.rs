//! Causes other than instances that hold a step of a rotation: projections that are not written, and their namespaces.

use std::collections::BTreeSet;

use gaia_api::crd::reason;
use gaia_api::names::annotation;
use jiff::Timestamp;

use super::{Context, Progress, name};
use crate::Event;
use crate::keyring::ring::{Generation, Ring, RingKind};
use crate::pacing::backoff::saturating_add;
use crate::trust_domain::{Unwritten, named_namespaces, unwatched_text};

impl Context<'_, '_> {
    /// Returns true if every projection matches the rings.
    pub(super) fn is_projected(&self) -> bool {
        self.projections.unwritten.is_empty()
    }

    /// The namespaces that the rotation to a generation leaves behind, in a step that waits for them since `since`. An
    /// emergency waits for no namespace that refuses a write for a local cause.
    pub(crate) fn left_behind(&self, rotation: &str, since: Timestamp) -> BTreeSet<String> {
        if self.may_advance_without(rotation) {
            return self.projections.all_refused();
        }
        if self.is_emergency() {
            return self.projections.local(self.observed);
        }
        self.projections.left_behind(self.observed, since, self.now)
    }

    /// Returns true if a generation that signs is distrusted.
    fn is_emergency(&self) -> bool {
        let ca = self.ca.active().is_some_and(|active| active.distrust.is_some());
        ca || self.signing.active().is_some_and(|active| active.distrust.is_some())
    }

    /// Returns true if an administrator lets the current rotation proceed without the lagging instances.
    pub(crate) fn is_advanced(&self) -> bool {
        fn rotations<M>(ring: &Ring<M>) -> [Option<&str>; 2] {
            let active = ring.active().filter(|_| ring.retiring().next().is_some());
            [ring.next(), active].map(|generation| generation.map(|generation| generation.id.as_str()))
        }
        let mut all = rotations(self.ca).into_iter().chain(rotations(self.signing)).flatten();
        all.any(|id| self.may_advance_without(id))
    }

    /// That a generation is being published, and which namespaces hold that step.
    pub(super) fn publishing<M>(&self, kind: RingKind, next: &Generation<M>, holders: &[&Unwritten]) -> Progress {
        let what = format!("{} is being published", name(kind, &next.id));
        let refused: Vec<&Unwritten> = holders.iter().copied().filter(|holder| holder.cause.is_some()).collect();
        if refused.is_empty() {
            return Progress::new(reason::PUBLISHING, what);
        }
        let is_late = self.now >= self.publishing_deadline(next);
        let reason = if is_late { reason::PAST_DEADLINE } else { reason::PUBLISHING };
        let message = format!(
            "{what}; held by {}. To proceed without them: annotate the TrustDomain with {}={}",
            named_namespaces(refused),
            annotation::ADVANCE_WITHOUT,
            next.id
        );
        Progress::new(reason, message)
    }

    /// The time until which a namespace that refuses a write for a local cause holds the publishing of a generation.
    pub(super) fn publishing_deadline<M>(&self, next: &Generation<M>) -> Timestamp {
        saturating_add(next.projected_since(), self.times().deadline)
    }

    /// That a generation stays trusted, as selected namespaces are not watched.
    pub(super) fn held_by_unwatched(&self, kind: RingKind, id: &str) -> Option<Progress> {
        let unwatched = &self.observed.unwatched;
        let rotation = match kind {
            RingKind::Ca => self.ca.active().map(|active| active.id.as_str()),
            RingKind::SigningKeys => self.signing.active().map(|active| active.id.as_str()),
        };
        let rotation = rotation.unwrap_or_default();
        if unwatched.is_empty() || self.may_advance_without(rotation) {
            return None;
        }
        let message = format!(
            "{} stays trusted: {}. Watch them (GAIA_WATCH_NAMESPACES) or narrow spec.namespaceSelector; to proceed \
             without them: annotate the TrustDomain with {}={rotation}",
            name(kind, id),
            unwatched_text(unwatched),
            annotation::ADVANCE_WITHOUT
        );
        Some(Progress::new(reason::HELD, message))
    }

    /// The event that names the namespaces without which a generation counts as published.
    pub(super) fn published_without<M>(
        &self,
        kind: RingKind,
        next: &Generation<M>,
        left: &BTreeSet<String>,
    ) -> Option<Event> {
        let without = self.projections.unwritten.iter().filter(|unwritten| left.contains(unwritten.namespace()));
        let mut without = without.peekable();
        without.peek()?;
        let message = format!("{} is published without {}", name(kind, &next.id), named_namespaces(without));
        Some(Event::warning(gaia_api::crd::condition::warning::NAMESPACE_LEFT_BEHIND, message))
    }
}
