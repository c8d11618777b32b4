//! What is measured of each custom resource whenever it was looked at.

use gaia_api::crd::condition::{CA_ROTATING, SIGNING_KEYS_ROTATING};
use gaia_api::crd::reason;
use gaia_plan::ring::RingKind;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde_json::Value;
use tokio::time::Instant;

use super::{Planned, Reconciler, report};
use crate::executor::lock;
use crate::metrics::{CertificateLabels, TrustDomainLabels};
use crate::store::{Key, Store};
use crate::world::Census;

impl<S: Store> Reconciler<S> {
    pub(super) fn measure(&self, key: &Key, planned: &Planned, now: Timestamp) {
        let seconds = |value: &Value| value.as_str()?.parse::<Timestamp>().ok().map(Timestamp::as_second);
        match key {
            Key::Certificate(namespace, name) => {
                let labels = CertificateLabels { namespace: namespace.clone(), name: name.clone() };
                if let Some(end) = seconds(&planned.status["notAfter"]) {
                    self.metrics.not_after.get_or_create(&labels).set(end);
                }
                if let Some(renewal) = seconds(&planned.status["renewalTime"]) {
                    self.metrics.renewal.get_or_create(&labels).set(renewal);
                }
                match planned.served_until {
                    Some(end) => drop(self.metrics.served_not_after.get_or_create(&labels).set(end.as_second())),
                    None => drop(self.metrics.served_not_after.remove(&labels)),
                }
            }
            Key::TrustDomain(name) => {
                let labels = TrustDomainLabels { trust_domain: name.clone() };
                if let Some(end) = seconds(&planned.status["ca"]["active"]["notAfter"]) {
                    self.metrics.ca_not_after.get_or_create(&labels).set(end);
                }
                if let Some(since) = seconds(&planned.status["signingKeys"]["active"]["since"]) {
                    self.metrics.signing_key_age.get_or_create(&labels).set(now.as_second() - since);
                }
                for (type_, ring) in [(CA_ROTATING, RingKind::Ca), (SIGNING_KEYS_ROTATING, RingKind::SigningKeys)] {
                    let found = report::condition(&planned.status, type_);
                    let waits = found.is_some_and(|c| {
                        c["reason"] == reason::WAITING_FOR_INSTANCES || c["reason"] == reason::PAST_DEADLINE
                    });
                    self.metrics.rotation_waits(name, ring, waits.then(Instant::now));
                }
                let census: Census = lock(&self.executor.world).census(name);
                self.metrics.count_instances(name, census);
            }
            Key::Service(namespace, name) => {
                let day = planned.status["legacy"]["lastUsedDate"].as_str().and_then(|day| day.parse::<Date>().ok());
                let day = day.and_then(|day| day.to_zoned(TimeZone::UTC).ok());
                self.metrics.legacy_was_used(namespace, name, day.map(|day| day.timestamp().as_second()));
            }
        }
    }
}
