//! What is counted. Labels are bounded: none holds a text from outside.

use std::sync::Arc;

use gaia_api::Clock;
use gaia_api::mount::AuthMode;
use gaia_auth::{Decision, Observer};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The metrics of one service.
pub(crate) struct Metrics {
    registry: Registry,
    clock: Arc<dyn Clock>,
    auth_requests: Family<AuthLabels, Counter>,
    legacy_last_used: Family<KeyLabels, Gauge>,
    would_deny: Family<ReasonLabels, Counter>,
    handshake_failures: Family<ReasonLabels, Counter>,
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
struct ReloadLabels {
    part: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartLabels {
    part: &'static str,
}

impl Metrics {
    /// The runtime's own metrics; `register` adds a service's.
    pub(crate) fn new(clock: Arc<dyn Clock>, register: impl FnOnce(&mut Registry)) -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            clock,
            auth_requests: Family::default(),
            legacy_last_used: Family::default(),
            would_deny: Family::default(),
            handshake_failures: Family::default(),
            reloads: Family::default(),
            refused: Family::default(),
            leaf_not_after: Gauge::default(),
            connections: Gauge::default(),
        };
        let registry = &mut metrics.registry;
        // Counters get their `_total` from the encoder.
        registry.register("gaia_auth_requests", "Decisions over requests", metrics.auth_requests.clone());
        registry.register(
            "gaia_auth_legacy_last_used_timestamp_seconds",
            "When an API key was last presented to this instance",
            metrics.legacy_last_used.clone(),
        );
        registry.register("gaia_auth_would_deny", "What JWTOnly would have refused", metrics.would_deny.clone());
        registry.register(
            "gaia_tls_handshake_failures",
            "Connections that did not complete TLS",
            metrics.handshake_failures.clone(),
        );
        registry.register(
            "gaia_mount_reloads",
            "Parts judged after a change of the mounted directory",
            metrics.reloads.clone(),
        );
        registry.register("gaia_mount_refused", "1 while a part is refused or missing", metrics.refused.clone());
        registry.register(
            "gaia_leaf_not_after_timestamp_seconds",
            "When the leaf that is served ends",
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

    /// The text Prometheus reads.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    pub(crate) fn handshake_failed(&self, reason: &'static str) {
        self.handshake_failures.get_or_create(&ReasonLabels { reason }).inc();
    }

    pub(crate) fn part_reloaded(&self, part: &'static str, is_taken: bool) {
        let result = if is_taken { "taken" } else { "refused" };
        self.reloads.get_or_create(&ReloadLabels { part, result }).inc();
        self.refused.get_or_create(&PartLabels { part }).set(i64::from(!is_taken));
    }

    pub(crate) fn serving_leaf_until(&self, not_after: jiff::Timestamp) {
        self.leaf_not_after.set(not_after.as_second());
    }

    /// Counts a connection for as long as the guard lives.
    pub(crate) fn connection(&self) -> ConnectionGuard {
        self.connections.inc();
        ConnectionGuard(self.connections.clone())
    }
}

/// One open connection.
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
            mode: decision.mode.map_or("none", mode),
            result: if decision.refused.is_some() { "refused" } else { "accepted" },
            reason: decision.refused.map_or("", gaia_auth::Reason::as_str),
            route: decision.route,
        };
        self.auth_requests.get_or_create(&labels).inc();
        if let Some(key_id) = decision.key_id {
            // Only ids of records get here, so there are as many as the service has keys.
            let labels = KeyLabels { key_id: key_id.to_owned() };
            self.legacy_last_used.get_or_create(&labels).set(self.clock.now().as_second());
        }
        if let Some(reason) = decision.would_deny {
            self.would_deny.get_or_create(&ReasonLabels { reason: reason.as_str() }).inc();
        }
    }
}

fn mode(mode: AuthMode) -> &'static str {
    match mode {
        AuthMode::APIKeyOnly => "APIKeyOnly",
        AuthMode::Dual => "Dual",
        AuthMode::JWTOnly => "JWTOnly",
    }
}
