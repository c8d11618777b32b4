//! Metrics of gateway. Label values are bounded: none comes from request data.

use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Metrics of gateway.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    forwarded: Family<ForwardedLabels, Counter>,
    refused: Family<ReasonLabels, Counter>,
    retried: Family<UpstreamLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ForwardedLabels {
    upstream: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamLabels {
    upstream: &'static str,
}

impl Metrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        // The encoder appends `_total` to the names of counters.
        registry.register(
            "gaia_gateway_forwarded",
            "Requests forwarded to upstreams, by status",
            self.forwarded.clone(),
        );
        registry.register("gaia_gateway_refused", "Requests that were refused and not forwarded", self.refused.clone());
        registry.register("gaia_gateway_retried", "Requests that were retried", self.retried.clone());
    }

    pub(crate) fn forwarded(&self, upstream: &'static str, status: StatusCode) {
        self.forwarded.get_or_create(&ForwardedLabels { upstream, status: status.as_u16() }).inc();
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabels { reason }).inc();
    }

    pub(crate) fn retried(&self, upstream: &'static str) {
        self.retried.get_or_create(&UpstreamLabels { upstream }).inc();
    }
}
