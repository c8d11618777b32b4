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

use crate::admin::Pulse;
use crate::generation::Generations;
use crate::metrics::Metrics;

/// What the health endpoints look at.
#[derive(Clone)]
pub(crate) struct Health {
    pub(crate) pulse: Pulse,
    pub(crate) generations: Generations,
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
    /// Ready unless draining, or before the first usable certificates. Neither a refused part of the mounted directory nor an
    /// expired leaf is a reason: all replicas have the same, and would be taken out of service at once.
    fn status(&self) -> &'static str {
        if self.is_draining.load(Ordering::Relaxed) {
            "draining"
        } else if self.generations.borrow().is_some() {
            "healthy"
        } else {
            "not ready"
        }
    }

    /// When the own leaf expired, if it has.
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

/// `/health`: who is known sees when certificates end, everyone else that the service is there.
pub(crate) async fn health(
    State(health): State<Health>,
    Extension(connection): Extension<Arc<Connection>>,
    headers: HeaderMap,
) -> Json<Answered> {
    let is_known = health.authenticator.recognises(&headers, &connection);
    let certificates = if is_known { health.certificates() } else { None };
    Json(Answered(Answer { status: health.status(), certificates }))
}

/// `/health` at the edge: that the service is there.
pub(crate) async fn edge_health(State(health): State<Health>) -> Json<Answered> {
    Json(Answered(Answer { status: health.status(), certificates: None }))
}

/// Hides the shape of the answer from the handler's signature.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Answered(Answer);

/// `/livez`, `/readyz` and `/metrics`, and nothing else.
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

/// An expired leaf is shown, and fails nothing.
async fn readyz(State(health): State<Health>) -> (StatusCode, String) {
    let (code, status) = match health.status() {
        "healthy" => (StatusCode::OK, "ok"),
        other => (StatusCode::SERVICE_UNAVAILABLE, other),
    };
    let expired = health.expired().map(|at| format!("warning: the own certificate (tls.crt) expired at {at}\n"));
    (code, format!("{status}\n{}", expired.unwrap_or_default()))
}

async fn metrics(State(health): State<Health>) -> Response {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], health.metrics.text()).into_response()
}
