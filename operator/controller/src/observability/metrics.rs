//! The operator's metrics.

mod objects;

use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use gaia_api::crd::reason;
use gaia_api::{Clock as _, SystemClock};
use gaia_plan::keyring::ring::RingKind;
use gaia_plan::keyring::transition::Transition;
use http::header::{DATE, HeaderMap};
use http::{Method, Request, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tower::{Layer, Service};

pub(crate) use self::objects::Measured;
use self::objects::Objects;
use crate::store::ObjectRef;

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

/// Labels of `gaia_probe_failures_total`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ProbeLabels {
    reason: &'static str,
}

/// Labels of `gaia_status_cut_total` and `gaia_unreadable_objects`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

/// All metrics; cloned handles share their values.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    pub(crate) requests: Family<RequestLabels, Counter>,
    issuance: Family<IssuanceLabels, Counter>,
    pub(crate) issuance_seconds: Histogram,
    pub(crate) leader: Gauge,
    pub(crate) events_dropped: Counter,
    pub(crate) watch_failures: Counter,
    probe_failures: Family<ProbeLabels, Counter>,
    statuses_cut: Family<KindLabels, Counter>,
    clock_drift: Gauge,
    unreadable_objects: Family<KindLabels, Gauge>,
    objects: Arc<Objects>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("gaia");
        let requests = Family::default();
        registry.register("api_requests", "Requests to the API server", requests.clone());
        let issuance = Family::default();
        registry.register("issuance", "Certificates issued, and failed attempts", issuance.clone());
        let issuance_seconds = Histogram::new(exponential_buckets(0.001, 2.0, 14));
        registry.register("issuance_duration_seconds", "Time to issue one certificate", issuance_seconds.clone());
        let leader = Gauge::default();
        registry.register("leader", "1 if this replica is the leader", leader.clone());
        let events_dropped = Counter::default();
        registry.register("events_dropped", "Events that were not sent", events_dropped.clone());
        let watch_failures = Counter::default();
        registry.register("watch_failures", "Watches that broke and were restarted", watch_failures.clone());
        let probe_failures = Family::default();
        registry.register(
            "probe_failures",
            "Probes of instances that failed or were incomplete",
            probe_failures.clone(),
        );
        let statuses_cut = Family::default();
        registry.register("status_cut", "Statuses that were cut to the bounds of their schema", statuses_cut.clone());
        let clock_drift = Gauge::default();
        registry.register(
            "clock_drift_seconds",
            "Time by which this clock is ahead of the API server's",
            clock_drift.clone(),
        );
        let unreadable_objects = Family::default();
        registry.register(
            "unreadable_objects",
            "Objects that cannot be read, and are not changed until they can",
            unreadable_objects.clone(),
        );
        let objects = Arc::new(Objects::default());
        registry.register_collector(Box::new(Arc::clone(&objects)));
        Self {
            registry: Arc::new(registry),
            requests,
            issuance,
            issuance_seconds,
            leader,
            events_dropped,
            watch_failures,
            probe_failures,
            statuses_cut,
            clock_drift,
            unreadable_objects,
            objects,
        }
    }

    /// Sets the number of unreadable objects of a kind.
    pub(crate) fn count_unreadable(&self, kind: &'static str, count: usize) {
        self.unreadable_objects.get_or_create(&KindLabels { kind }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts a probe that saw less than it should.
    pub(crate) fn count_probe_failure(&self, reason: &'static str) {
        self.probe_failures.get_or_create(&ProbeLabels { reason }).inc();
    }

    /// Counts a rotation that was completed or aborted.
    pub(crate) fn count_rotation(&self, transition: &Transition) {
        for event in &transition.events {
            let result = match event.reason {
                reason::ROTATION_COMPLETED => "completed",
                reason::ROTATION_ABORTED => "aborted",
                reason::DISTRUSTED => "distrusted",
                _ => continue,
            };
            let key = ObjectRef::TrustDomain(transition.trust_domain.clone());
            let ring = ring_label(transition.kind);
            self.objects.measure(&key, |measured| *measured.rotations.entry((ring, result)).or_default() += 1);
        }
    }

    /// Changes the measurements of a custom resource.
    pub(crate) fn measure(&self, key: &ObjectRef, change: impl FnOnce(&mut Measured)) {
        self.objects.measure(key, change);
    }

    /// The ServiceCertificates whose stored certificate has expired: the first by name, and how many they are.
    pub(crate) fn expired(&self, most: usize) -> (Vec<String>, usize) {
        self.objects.expired(most)
    }

    /// Removes all series of a custom resource.
    pub(crate) fn forget(&self, key: &ObjectRef) {
        self.objects.forget(key);
    }

    /// A status was written with fewer or shorter fields than planned.
    pub(crate) fn count_status_cut(&self, kind: &'static str) {
        self.statuses_cut.get_or_create(&KindLabels { kind }).inc();
    }

    /// Counts one attempt at a certificate.
    pub(crate) fn count_issuance(&self, result: &'static str, reason: &'static str) {
        self.issuance.get_or_create(&IssuanceLabels { result, reason }).inc();
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

fn ring_label(ring: RingKind) -> &'static str {
    match ring {
        RingKind::Ca => "ca",
        RingKind::SigningKeys => "signing-keys",
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
        let clock_drift = self.metrics.clock_drift.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            if let Some(drift) = answer.as_ref().ok().and_then(|answer| drift(answer.headers())) {
                clock_drift.set(drift);
            }
            let code =
                answer.as_ref().map_or_else(|_| "error".to_owned(), |answer| answer.status().as_u16().to_string());
            requests.get_or_create(&RequestLabels { verb: verb.to_owned(), resource, code }).inc();
            answer
        })
    }
}

/// The difference between the operator's clock and that of the server, in seconds; positive if the operator's is ahead.
fn drift(headers: &HeaderMap) -> Option<i64> {
    let theirs = jiff::fmt::rfc2822::parse(headers.get(DATE)?.to_str().ok()?).ok()?;
    Some(SystemClock.now().as_second() - theirs.timestamp().as_second())
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
