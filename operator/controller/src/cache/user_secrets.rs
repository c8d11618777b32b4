//! Secrets of users that services name (API keys, for example). They are not watched: whether they exist is looked up, and
//! the answer is kept for some time.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::{ClusterCache, Place};

/// The last answers, by service, at most one for each known service.
#[derive(Default)]
pub(super) struct UserSecrets(HashMap<Place, Answer>);

struct Answer {
    /// The names that were looked up.
    required: BTreeSet<String>,
    missing: BTreeSet<String>,
    until: Instant,
}

impl UserSecrets {
    pub(super) fn missing(&self, service: &Place) -> BTreeSet<String> {
        self.0.get(service).map(|answer| answer.missing.clone()).unwrap_or_default()
    }

    pub(super) fn forget(&mut self, service: &Place) {
        self.0.remove(service);
    }
}

impl ClusterCache {
    /// The Secrets of users that a service needs, by name.
    pub(crate) fn required_secrets(&self, place: &Place) -> BTreeSet<String> {
        let Some(service) = self.services.get(place) else { return BTreeSet::new() };
        let domain = self.trust_domains.get(&service.spec.trust_domain_ref.name);
        let required = gaia_plan::gaia_service::required_secrets(service, domain.map(AsRef::as_ref));
        required.into_iter().map(|(_, name, _)| name).collect()
    }

    /// Those that did not exist when they were looked up last.
    pub(crate) fn missing_secrets(&self, place: &Place) -> BTreeSet<String> {
        self.user_secrets.missing(place)
    }

    /// Returns true if the Secrets that a service needs are to be looked up: others are named than before, or the
    /// answer is old.
    pub(crate) fn must_look_up_secrets(&mut self, place: &Place) -> bool {
        let required = self.required_secrets(place);
        if required.is_empty() {
            self.user_secrets.forget(place);
            return false;
        }
        let known = self.user_secrets.0.get(place);
        known.is_none_or(|answer| answer.required != required || answer.until <= Instant::now())
    }

    /// Sets which of the `required` Secrets do not exist. Returns true if that has changed.
    pub(crate) fn take_missing_secrets(
        &mut self,
        place: &Place,
        required: BTreeSet<String>,
        missing: BTreeSet<String>,
    ) -> bool {
        if !self.services.contains_key(place) {
            return false;
        }
        let is_news = self.user_secrets.missing(place) != missing;
        let kept_for = if missing.is_empty() { FOUND_FOR } else { MISSING_FOR };
        self.user_secrets.0.insert(place.clone(), Answer { required, missing, until: Instant::now() + kept_for });
        is_news
    }
}

/// A missing Secret is about to be created. One that is found is rarely deleted.
const MISSING_FOR: Duration = Duration::from_secs(8);
const FOUND_FOR: Duration = Duration::from_secs(300);
