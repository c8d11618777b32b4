//! Measurements of each custom resource, updated by every reconcile.

use gaia_api::crd::condition::{CA_ROTATING, READY, SIGNING_KEYS_ROTATING};
use gaia_api::crd::reason;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde_json::Value;
use tokio::time::Instant;

use super::{Planned, Reconciler, report};
use crate::cache::lock;
use crate::observability::metrics::Measured;
use crate::store::{ObjectRef, Store};

impl<S: Store> Reconciler<S> {
    pub(super) fn measure(&self, key: &ObjectRef, planned: &Planned, now: Timestamp) {
        let instances = match key {
            ObjectRef::TrustDomain(name) => lock(&self.executor.world).census(name),
            ObjectRef::Certificate(..) | ObjectRef::Service(..) => Default::default(),
        };
        let mut has_expired = false;
        self.metrics.measure(key, |measured| {
            let was_expired = measured.is_expired;
            let rotations = std::mem::take(&mut measured.rotations);
            let (ca, signing) = (measured.ca_waits_since, measured.signing_keys_wait_since);
            *measured = Measured { instances, rotations, ..of_status(key, planned, now) };
            // Since when it waits, if it waited already.
            measured.ca_waits_since = measured.ca_waits_since.map(|since| ca.unwrap_or(since));
            measured.signing_keys_wait_since = measured.signing_keys_wait_since.map(|since| signing.unwrap_or(since));
            has_expired = measured.is_expired && !was_expired;
        });
        if has_expired {
            let (secret, not_after) = (&planned.status["secretName"], &planned.status["notAfter"]);
            tracing::warn!(%key, %secret, %not_after, "the stored certificate has expired");
        }
    }
}

/// The measurements of a status. Values that are no longer in it are removed.
fn of_status(key: &ObjectRef, planned: &Planned, now: Timestamp) -> Measured {
    let status = &planned.status;
    let seconds = |value: &Value| value.as_str()?.parse::<Timestamp>().ok().map(Timestamp::as_second);
    let is_ready = report::condition(status, READY).is_some_and(|ready| ready["status"] == "True");
    let measured = Measured { is_ready, ..Measured::default() };
    match key {
        ObjectRef::Certificate(..) => Measured {
            not_after: seconds(&status["notAfter"]),
            is_expired: seconds(&status["notAfter"]).is_some_and(|end| end <= now.as_second()),
            renewal: seconds(&status["renewalTime"]),
            served_not_after: planned.served_until.map(Timestamp::as_second),
            ..measured
        },
        ObjectRef::TrustDomain(_) => {
            let waits = |type_: &str| {
                let found = report::condition(status, type_);
                let reasons = [reason::WAITING_FOR_INSTANCES, reason::PAST_DEADLINE];
                let waits = found.is_some_and(|found| reasons.iter().any(|reason| found["reason"] == *reason));
                waits.then(Instant::now)
            };
            Measured {
                ca_not_after: seconds(&status["ca"]["active"]["notAfter"]),
                signing_key_age: seconds(&status["signingKeys"]["active"]["since"])
                    .map(|since| now.as_second() - since),
                ca_waits_since: waits(CA_ROTATING),
                signing_keys_wait_since: waits(SIGNING_KEYS_ROTATING),
                ..measured
            }
        }
        ObjectRef::Service(..) => {
            let day = status["legacy"]["lastUsedDate"].as_str().and_then(|day| day.parse::<Date>().ok());
            let day = day.and_then(|day| day.to_zoned(TimeZone::UTC).ok());
            Measured { legacy_last_used: day.map(|day| day.timestamp().as_second()), ..measured }
        }
    }
}
