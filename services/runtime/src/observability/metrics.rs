//! Metrics of the runtime. Label values are bounded: none comes from request data.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use gaia_api::mount::AuthMode;
use gaia_api::sync::lock;
use gaia_api::{Clock, SpiffeId};
use gaia_auth::{Decision, Observer, Transport};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::panics;

/// The metrics of one service.
pub(crate) struct Metrics {
    registry: Registry,
    clock: Arc<dyn Clock>,
    auth_requests: Family<AuthLabels, Counter>,
    legacy_last_used: Family<KeyLabels, Gauge>,
    would_deny: Family<ReasonLabels, Counter>,
    would_pass: Family<CredentialLabels, Counter>,
    auth_duration: Histogram,
    audit_dropped: Counter,
    handshake_failures: Family<ReasonLabels, Counter>,
    no_peer: Family<ReasonLabels, Counter>,
    server_identities: Family<ResultLabels, Counter>,
    requests: Family<CallerLabels, Counter>,
    /// The addresses that have a label of their own.
    addresses: Mutex<BTreeSet<IpAddr>>,
    ended: Family<ReasonLabels, Counter>,
    reloads: Family<ReloadLabels, Counter>,
    refused: Family<PartLabels, Gauge>,
    leaf_not_after: Gauge,
    connections: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AuthLabels {
    credential: &'static str,
    transport: &'static str,
    mode: &'static str,
    result: &'static str,
    reason: &'static str,
    route: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeyLabels {
    key_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallerLabels {
    transport: &'static str,
    caller: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CredentialLabels {
    credential: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    part: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartLabels {
    part: &'static str,
}

impl Metrics {
    /// Creates the runtime's metrics; `register` adds a service's.
    pub(crate) fn new(clock: Arc<dyn Clock>, register: impl FnOnce(&mut Registry)) -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            clock,
            auth_requests: Family::default(),
            legacy_last_used: Family::default(),
            would_deny: Family::default(),
            would_pass: Family::default(),
            auth_duration: Histogram::new(exponential_buckets(0.000_01, 4.0, 10)),
            audit_dropped: Counter::default(),
            handshake_failures: Family::default(),
            no_peer: Family::default(),
            server_identities: Family::default(),
            requests: Family::default(),
            addresses: Mutex::default(),
            ended: Family::default(),
            reloads: Family::default(),
            refused: Family::default(),
            leaf_not_after: Gauge::default(),
            connections: Gauge::default(),
        };
        let registry = &mut metrics.registry;
        registry.register(
            "gaia_panics",
            "Panics of this process; a request that panics gets status 500",
            panics::counter(),
        );
        // The encoder appends `_total` to the names of counters.
        registry.register("gaia_auth_requests", "Authentication decisions on requests", metrics.auth_requests.clone());
        registry.register(
            "gaia_auth_legacy_last_used_timestamp_seconds",
            "Unix time at which an API key was last presented to this instance",
            metrics.legacy_last_used.clone(),
        );
        registry.register(
            "gaia_auth_would_deny",
            "Accepted requests that the next stricter mode would refuse",
            metrics.would_deny.clone(),
        );
        registry.register(
            "gaia_auth_would_pass",
            "Tokens that did not decide the request and that the next stricter mode would accept",
            metrics.would_pass.clone(),
        );
        registry.register(
            "gaia_audit_dropped",
            "Audit lines dropped because the queue was full",
            metrics.audit_dropped.clone(),
        );
        registry.register(
            "gaia_auth_duration_seconds",
            "Duration of authentication decisions",
            metrics.auth_duration.clone(),
        );
        registry.register(
            "gaia_tls_handshake_failures",
            "Connections that failed the TLS handshake",
            metrics.handshake_failures.clone(),
        );
        registry.register(
            "gaia_tls_unverified_client_certificates",
            "Connections without a peer because the client certificate does not verify",
            metrics.no_peer.clone(),
        );
        registry.register(
            "gaia_tls_server_identities",
            "Server identity checks of calls, by result: spiffe_id, dns_name, or unexpected (refused)",
            metrics.server_identities.clone(),
        );
        registry.register(
            "gaia_mesh_requests",
            "Requests on the mesh listener, by transport and caller",
            metrics.requests.clone(),
        );
        registry.register(
            "gaia_connections_ended",
            "Connections closed because the client was idle or too slow",
            metrics.ended.clone(),
        );
        registry.register(
            "gaia_mount_reloads",
            "Parts loaded or rejected after a change of the credential directory",
            metrics.reloads.clone(),
        );
        registry.register(
            "gaia_mount_refused",
            "1 while a part of the credential directory is rejected or missing",
            metrics.refused.clone(),
        );
        registry.register(
            "gaia_leaf_not_after_timestamp_seconds",
            "Expiry of the served TLS certificate as Unix time",
            metrics.leaf_not_after.clone(),
        );
        registry.register(
            "gaia_mesh_connections",
            "Open connections of the mesh listener",
            metrics.connections.clone(),
        );
        register(registry);
        metrics
    }

    /// Returns the text that Prometheus scrapes.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    pub(crate) fn audit_dropped(&self) {
        self.audit_dropped.inc();
    }

    pub(crate) fn handshake_failed(&self, reason: &'static str) {
        self.handshake_failures.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// Counts a connection without a peer because its client certificate does not verify.
    pub(crate) fn no_peer(&self, reason: &'static str) {
        self.no_peer.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// Counts the check of a server's identity.
    pub(crate) fn server_identity(&self, result: &'static str) {
        self.server_identities.get_or_create(&ResultLabels { result }).inc();
    }

    /// Returns the counter of one caller's requests. A peer is named if it is declared (`Some(Some(…))`); callers
    /// without a certificate are labelled by their address, the first [`MAX_ADDRESSES`] of them.
    pub(crate) fn requests_of(&self, transport: Transport, caller: Option<Option<&SpiffeId>>, from: IpAddr) -> Counter {
        let caller = match caller {
            Some(Some(declared)) => declared.to_string(),
            Some(None) => "undeclared".to_owned(),
            None if self.has_label(from) => from.to_canonical().to_string(),
            None => "other".to_owned(),
        };
        self.requests.get_or_create(&CallerLabels { transport: transport.as_str(), caller }).clone()
    }

    fn has_label(&self, from: IpAddr) -> bool {
        let mut addresses = lock(&self.addresses);
        let from = from.to_canonical();
        addresses.contains(&from) || (addresses.len() < MAX_ADDRESSES && addresses.insert(from))
    }

    pub(crate) fn connection_ended(&self, reason: &'static str) {
        self.ended.get_or_create(&ReasonLabels { reason }).inc();
    }

    pub(crate) fn part_reloaded(&self, part: &'static str, is_taken: bool) {
        let result = if is_taken { "taken" } else { "refused" };
        self.reloads.get_or_create(&ReloadLabels { part, result }).inc();
        self.refused.get_or_create(&PartLabels { part }).set(i64::from(!is_taken));
    }

    pub(crate) fn serving_leaf_until(&self, not_after: jiff::Timestamp) {
        self.leaf_not_after.set(not_after.as_second());
    }

    /// Counts a connection until the guard is dropped.
    pub(crate) fn connection(&self) -> ConnectionGuard {
        self.connections.inc();
        ConnectionGuard(self.connections.clone())
    }
}

/// Guard of one open connection.
pub(crate) struct ConnectionGuard(Gauge);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Observer for Metrics {
    fn decided(&self, decision: &Decision<'_>) {
        let labels = AuthLabels {
            credential: decision.credential.as_str(),
            transport: decision.transport.as_str(),
            mode: decision.mode.map_or("none", AuthMode::as_str),
            result: if decision.refused.is_some() { "refused" } else { "accepted" },
            reason: decision.refused.map_or("", gaia_auth::Reason::as_str),
            route: decision.route,
        };
        self.auth_requests.get_or_create(&labels).inc();
        self.auth_duration.observe(decision.took.as_secs_f64());
        if let Some(key_id) = decision.key_id {
            self.key_used(key_id);
        }
        if let Some(reason) = decision.would_deny {
            self.would_deny.get_or_create(&ReasonLabels { reason: reason.as_str() }).inc();
        }
        if let Some(credential) = decision.would_pass {
            self.would_pass.get_or_create(&CredentialLabels { credential: credential.as_str() }).inc();
        }
    }

    fn key_used(&self, key_id: &str) {
        // Only IDs of records are labels, so their number is that of the service's keys.
        let labels = KeyLabels { key_id: key_id.to_owned() };
        self.legacy_last_used.get_or_create(&labels).set(self.clock.now().as_second());
    }
}

const MAX_ADDRESSES: usize = 64;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use gaia_api::SystemClock;

    use super::*;
    use crate::testing::spiffe_id;

    #[test]
    fn callers_are_counted_by_name_or_address_and_there_is_an_end_to_addresses() {
        let metrics = Metrics::new(Arc::new(SystemClock), |_| ());
        let address = |n: usize| IpAddr::from(Ipv4Addr::from(u32::try_from(n).unwrap()));
        for _ in 0..2 {
            for n in 0..MAX_ADDRESSES + 10 {
                metrics.requests_of(Transport::Plain, None, address(n)).inc();
            }
        }
        metrics.requests_of(Transport::Mtls, Some(Some(&spiffe_id("gateway"))), address(1000)).inc();
        metrics.requests_of(Transport::Mtls, Some(None), address(1001)).inc();
        let text = metrics.text();
        let has = |line: &str| assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
        has(r#"gaia_mesh_requests_total{transport="plain",caller="0.0.0.63"} 2"#);
        has(r#"gaia_mesh_requests_total{transport="plain",caller="other"} 20"#);
        has(r#"gaia_mesh_requests_total{transport="mtls",caller="spiffe://gaia.local/ns/shop/sa/gateway"} 1"#);
        has(r#"gaia_mesh_requests_total{transport="mtls",caller="undeclared"} 1"#);
    }
}
