//! Refusals of this service itself: they are counted, and each source has a limited number of audit lines.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use gaia_api::Clock;
use gaia_api::sync::lock;
use gaia_auth::audit::{Origin, Sample};
use gaia_auth::{audit_line, request_id};
use http::HeaderMap;

use crate::metrics::Metrics;

/// The refusals of both listeners.
pub(crate) struct Refusals {
    metrics: Metrics,
    clock: Arc<dyn Clock>,
    sample: Mutex<Sample>,
}

impl fmt::Debug for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Refusals")
    }
}

impl Refusals {
    pub(crate) fn new(metrics: Metrics, clock: Arc<dyn Clock>) -> Self {
        Self { metrics, clock, sample: Mutex::default() }
    }

    /// Counts a refused request of this client.
    pub(crate) fn record(&self, client: Option<IpAddr>, headers: &HeaderMap, reason: &'static str) {
        self.metrics.refused(reason);
        let sampled = lock(&self.sample).admit(client, self.clock.now());
        let Some(skipped) = sampled else { return };
        audit_line!(
            Origin::new(client, request_id(headers)),
            event = "request",
            result = "refused",
            reason,
            skipped = (skipped > 0).then_some(skipped),
        );
    }
}
