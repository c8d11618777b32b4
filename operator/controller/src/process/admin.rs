//! `/livez`, `/readyz` and `/metrics`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::observability::metrics::Metrics;
use crate::process::leader::Pulse;
use crate::watch::Watches;

/// The state that the endpoints report.
#[derive(Clone)]
pub(crate) struct Health {
    pub(crate) watches: Watches,
    pub(crate) pulse: Pulse,
    pub(crate) draining: Arc<AtomicBool>,
    pub(crate) metrics: Metrics,
}

pub(crate) fn router(health: Health) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(health)
}

async fn livez(State(health): State<Health>) -> impl IntoResponse {
    if health.pulse.is_alive() {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "leader election is not making progress")
    }
}

/// Ready, as leader or as standby, once every watch has been listed.
async fn readyz(State(health): State<Health>) -> impl IntoResponse {
    if health.draining.load(Ordering::Acquire) {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping".to_owned())
    } else if health.watches.are_synced() {
        (StatusCode::OK, ready(&health.metrics))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not everything is listed yet".to_owned())
    }
}

/// `ok`, and the certificates that have expired: they are no reason to stop the operator.
fn ready(metrics: &Metrics) -> String {
    let (named, count) = metrics.expired(NAMED);
    if count == 0 {
        return "ok".to_owned();
    }
    let more = if count > named.len() { format!(" and {} more", count - named.len()) } else { String::new() };
    format!("ok\nexpired certificates: {}{more}", named.join(", "))
}

const NAMED: usize = 10;

async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], health.metrics.text())
}
