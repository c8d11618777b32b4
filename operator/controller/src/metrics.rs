//! The operator's metrics.

use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Method, Request, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tower::{Layer, Service};

/// Labels of `gaia_api_requests_total`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    verb: String,
    resource: String,
    code: String,
}

/// Labels of `gaia_issuance_total`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct IssuanceLabels {
    result: &'static str,
    reason: &'static str,
}

/// Labels of a certificate.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct CertificateLabels {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// Labels of a TrustDomain.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct TrustDomainLabels {
    pub(crate) trust_domain: String,
}

/// All metrics; cloned handles share their values.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    pub(crate) requests: Family<RequestLabels, Counter>,
    issuance: Family<IssuanceLabels, Counter>,
    pub(crate) issuance_seconds: Histogram,
    pub(crate) leader: Gauge,
    pub(crate) not_after: Family<CertificateLabels, Gauge>,
    pub(crate) renewal: Family<CertificateLabels, Gauge>,
    pub(crate) ca_not_after: Family<TrustDomainLabels, Gauge>,
    pub(crate) signing_key_age: Family<TrustDomainLabels, Gauge>,
    pub(crate) events_dropped: Counter,
    pub(crate) watch_failures: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("gaia");
        let requests = Family::default();
        registry.register("api_requests", "Requests to the API server", requests.clone());
        let issuance = Family::default();
        registry.register("issuance", "Certificates issued, and attempts that failed", issuance.clone());
        let issuance_seconds = Histogram::new(exponential_buckets(0.001, 2.0, 14));
        registry.register("issuance_duration_seconds", "Time to issue one certificate", issuance_seconds.clone());
        let leader = Gauge::default();
        registry.register("leader", "1 while this replica decides", leader.clone());
        let not_after = Family::default();
        registry.register(
            "certificate_not_after_timestamp_seconds",
            "End of the stored certificate",
            not_after.clone(),
        );
        let renewal = Family::default();
        registry.register("certificate_renewal_timestamp_seconds", "When it will be renewed", renewal.clone());
        let ca_not_after = Family::default();
        registry.register("ca_not_after_timestamp_seconds", "End of the active CA", ca_not_after.clone());
        let signing_key_age = Family::default();
        registry.register("signing_key_age_seconds", "Age of the active JWT signing key", signing_key_age.clone());
        let events_dropped = Counter::default();
        registry.register("events_dropped", "Events that were not sent", events_dropped.clone());
        let watch_failures = Counter::default();
        registry.register("watch_failures", "Watches that broke and were begun again", watch_failures.clone());
        Self {
            registry: Arc::new(registry),
            requests,
            issuance,
            issuance_seconds,
            leader,
            not_after,
            renewal,
            ca_not_after,
            signing_key_age,
            events_dropped,
            watch_failures,
        }
    }

    /// Counts one attempt at a certificate.
    pub(crate) fn count_issuance(&self, result: &'static str, reason: &'static str) {
        self.issuance.get_or_create(&IssuanceLabels { result, reason }).inc();
    }

    /// A certificate or TrustDomain that is gone is reported no more.
    pub(crate) fn forget(&self, namespace: &str, name: &str) {
        if namespace.is_empty() {
            let labels = TrustDomainLabels { trust_domain: name.to_owned() };
            self.ca_not_after.remove(&labels);
            self.signing_key_age.remove(&labels);
            return;
        }
        let labels = CertificateLabels { namespace: namespace.to_owned(), name: name.to_owned() };
        self.not_after.remove(&labels);
        self.renewal.remove(&labels);
    }

    /// The text format.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            let _ = writeln!(text, "# the metrics could not be written");
        }
        text
    }
}

/// Counts requests to the API server.
#[derive(Clone)]
pub(crate) struct CountRequests(pub(crate) Metrics);

impl<S> Layer<S> for CountRequests {
    type Service = Counting<S>;

    fn layer(&self, inner: S) -> Counting<S> {
        Counting { inner, metrics: self.0.clone() }
    }
}

/// See [`CountRequests`].
#[derive(Clone)]
pub(crate) struct Counting<S> {
    inner: S,
    metrics: Metrics,
}

impl<S, A, B> Service<Request<A>> for Counting<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let verb = verb(request.method(), request.uri().query().unwrap_or_default());
        let resource = resource(request.uri().path());
        let requests = self.metrics.requests.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let code =
                answer.as_ref().map_or_else(|_| "error".to_owned(), |answer| answer.status().as_u16().to_string());
            requests.get_or_create(&RequestLabels { verb: verb.to_owned(), resource, code }).inc();
            answer
        })
    }
}

fn verb(method: &Method, query: &str) -> &'static str {
    match *method {
        Method::GET if query.contains("watch=true") => "watch",
        Method::GET => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "other",
    }
}

/// The resource of an API path, `servicecertificates/status` for instance: no names, so that labels stay few.
fn resource(path: &str) -> String {
    let mut parts = path.split('/').skip(1);
    let rest: Vec<&str> = match parts.next() {
        Some("api") => parts.skip(1).collect(),
        Some("apis") => parts.skip(2).collect(),
        _ => return "other".to_owned(),
    };
    match rest.as_slice() {
        ["namespaces", _, resource, _, subresource] => format!("{resource}/{subresource}"),
        ["namespaces", _, resource, ..] => (*resource).to_owned(),
        [resource, _, subresource] => format!("{resource}/{subresource}"),
        [resource, ..] => (*resource).to_owned(),
        [] => "other".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_resources_without_names() {
        for (path, expected) in [
            ("/api/v1/namespaces/shop/secrets/a", "secrets"),
            ("/api/v1/secrets", "secrets"),
            ("/api/v1/namespaces", "namespaces"),
            ("/apis/gaia.dev/v1alpha1/namespaces/shop/servicecertificates/a/status", "servicecertificates/status"),
            ("/apis/gaia.dev/v1alpha1/trustdomains/gaia/status", "trustdomains/status"),
            ("/version", "other"),
        ] {
            assert_eq!(resource(path), expected, "{path}");
        }
    }

    #[test]
    fn the_names_of_metrics_are_those_of_the_reference() {
        let metrics = Metrics::new();
        metrics.count_issuance("issued", "CertificateIssued");
        let labels = RequestLabels { verb: "get".into(), resource: "secrets".into(), code: "200".into() };
        metrics.requests.get_or_create(&labels).inc();
        let text = metrics.text();
        for line in [
            "gaia_issuance_total{result=\"issued\",reason=\"CertificateIssued\"} 1",
            "gaia_api_requests_total{verb=\"get\",resource=\"secrets\",code=\"200\"} 1",
            "gaia_leader 0",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
