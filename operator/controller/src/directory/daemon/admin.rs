//! `/livez`, `/readyz` and `/metrics` of a directory.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use gaia_api::Clock;
use jiff::SignedDuration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::directory::disk::error::DirectoryError;
use crate::directory::engine::Engine;
use crate::directory::view::Directory;
use crate::observability::metrics::Metrics;

/// The state that the endpoints report.
#[derive(Clone)]
pub(super) struct Health {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    state: Arc<Mutex<HealthState>>,
}

struct HealthState {
    beat: Instant,
    faults: Vec<String>,
    is_draining: bool,
}

impl Health {
    pub(super) fn new(engine: &Engine) -> Self {
        let state = HealthState { beat: Instant::now(), faults: faults(engine), is_draining: false };
        Self {
            path: engine.root().path().to_owned(),
            clock: Arc::clone(&engine.settings.clock),
            metrics: engine.metrics.clone(),
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Records a turn of the main loop.
    pub(super) fn update(&self, engine: &Engine) {
        let mut state = self.lock();
        state.beat = Instant::now();
        state.faults = faults(engine);
    }

    pub(super) fn drain(&self) {
        self.lock().is_draining = true;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HealthState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reasons why it is not ready: a manifest with a fault, a disk that fails, or a renewal that is overdue.
    fn not_ready(&self) -> Vec<String> {
        let (mut faults, is_draining) = {
            let state = self.lock();
            (state.faults.clone(), state.is_draining)
        };
        if is_draining {
            faults.push("stopping".to_owned());
        }
        match Directory::open(&self.path).and_then(|directory| directory.certificates()) {
            Err(error) => faults.push(error.to_string()),
            Ok(certificates) => {
                let now = self.clock.now();
                for certificate in certificates {
                    let due = certificate.status.and_then(|status| status.renewal_time);
                    if let Some(due) = due.filter(|due| now.duration_since(*due) > OVERDUE) {
                        let name = certificate.metadata.name.unwrap_or_default();
                        faults.push(format!("the renewal of {name} has been due since {due}"));
                    }
                }
            }
        }
        faults
    }
}

fn faults(engine: &Engine) -> Vec<String> {
    engine.manifest_fault().map(str::to_owned).into_iter().chain(engine.disk_failure()).collect()
}

/// Listens, and serves until the task is aborted.
pub(super) async fn serve(address: SocketAddr, health: Health) -> Result<JoinHandle<()>, DirectoryError> {
    let listener = tokio::net::TcpListener::bind(address).await;
    let listener = listener.map_err(|error| {
        let next = "name a free address with --admin-address";
        DirectoryError::hazard(&health.path, format!("cannot listen on {address}: {error}"), next)
    })?;
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(health);
    Ok(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the admin listener ended");
        }
    }))
}

async fn livez(State(health): State<Health>) -> impl IntoResponse {
    let age = health.lock().beat.elapsed();
    if age < STUCK {
        (StatusCode::OK, "ok".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("no heartbeat for {} s", age.as_secs()))
    }
}

async fn readyz(State(health): State<Health>) -> impl IntoResponse {
    let faults = health.not_ready();
    if faults.is_empty() {
        (StatusCode::OK, "ok".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, faults.join("\n"))
    }
}

async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], health.metrics.text())
}

const STUCK: Duration = Duration::from_secs(30);
/// A renewal takes seconds; retries after a failure take at most ten minutes.
const OVERDUE: SignedDuration = SignedDuration::from_mins(10);
