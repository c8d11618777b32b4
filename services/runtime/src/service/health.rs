//! `/health` on the mesh listener, and the probes of the admin listener.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::{Extension, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use gaia_api::Clock;
use gaia_auth::{Authenticator, Connection};
use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;
use serde::Serialize;

use crate::credentials::snapshot::SnapshotReceiver;
use crate::observability::metrics::Metrics;
use crate::service::admin::Pulse;

/// State of the health endpoints.
#[derive(Clone)]
pub(crate) struct Health {
    pub(crate) pulse: Pulse,
    pub(crate) generations: SnapshotReceiver,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) is_draining: Arc<AtomicBool>,
}

#[derive(Debug, Serialize)]
struct Answer {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificates: Option<Certificates>,
}

#[derive(Debug, Serialize)]
struct Certificates {
    service_cert_expires: Timestamp,
    ca_cert_expires: Timestamp,
    days_until_expiry: i64,
}

impl Health {
    /// Returns "ready" unless the service is draining or no usable certificates are loaded yet. A rejected part of the
    /// credential directory or an expired leaf does not change it: all replicas have the same files and would be taken
    /// out of service at once.
    fn status(&self) -> &'static str {
        if self.is_draining.load(Ordering::Relaxed) {
            "draining"
        } else if self.generations.borrow().is_some() {
            "healthy"
        } else {
            "not ready"
        }
    }

    /// Returns the expiry of the own leaf if it has expired.
    fn expired(&self) -> Option<Timestamp> {
        let generation = self.generations.borrow().clone()?;
        (!generation.is_in_date(self.clock.now())).then(|| generation.parts.leaf.certificate.not_after())
    }

    fn certificates(&self) -> Option<Certificates> {
        let generation = self.generations.borrow().clone()?;
        let leaf = &generation.parts.leaf;
        let service_cert_expires = leaf.certificate.not_after();
        Some(Certificates {
            service_cert_expires,
            ca_cert_expires: leaf.root.not_after(),
            days_until_expiry: service_cert_expires.duration_since(self.clock.now()).as_hours() / 24,
        })
    }
}

/// Handles `/health`: authenticated callers see the expiry of certificates, others only the status.
pub(crate) async fn health(
    State(health): State<Health>,
    Extension(connection): Extension<Arc<Connection>>,
    headers: HeaderMap,
) -> Json<Answered> {
    let is_known = health.authenticator.recognises(&headers, &connection);
    let certificates = if is_known { health.certificates() } else { None };
    Json(Answered(Answer { status: health.status(), certificates }))
}

/// Handles `/health` on the ingress listener, with the status only.
pub(crate) async fn edge_health(State(health): State<Health>) -> Json<Answered> {
    Json(Answered(Answer { status: health.status(), certificates: None }))
}

/// Wrapper that hides the type of the response from the handler's signature.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Answered(Answer);

/// Routes of the admin listener: `/livez`, `/readyz` and `/metrics`.
pub(crate) fn admin(health: Health) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(health)
}

async fn livez(State(health): State<Health>) -> (StatusCode, &'static str) {
    if health.pulse.is_alive() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "no task of the service has run for 30 s\n")
    }
}

/// Handles `/readyz`. An expired leaf is shown but does not fail the probe.
async fn readyz(State(health): State<Health>) -> (StatusCode, String) {
    let (code, status) = match health.status() {
        "healthy" => (StatusCode::OK, "ok"),
        other => (StatusCode::SERVICE_UNAVAILABLE, other),
    };
    let expired = health.expired().map(|at| format!("warning: the TLS certificate (tls.crt) expired at {at}\n"));
    (code, format!("{status}\n{}", expired.unwrap_or_default()))
}

async fn metrics(State(health): State<Health>) -> Response {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], health.metrics.text()).into_response()
}
