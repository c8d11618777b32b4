//! The admin listener. It has its own thread, connection limit and head budget, so that it responds while the other
//! listeners are overloaded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::net::TcpListener;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::limits::Limits;
use crate::panics::essential_thread;
use crate::server::connection::{self, Ends, Stop, Terms};
use crate::server::hardening::heads::HeadBudget;
use crate::server::mesh;
use crate::server::protocol::Protocol;
use crate::server::slots::Slots;
use crate::service::health::{self, Health};

/// The last time at which the main tokio runtime ran a task. The admin thread answers `/livez` from it.
#[derive(Debug, Clone)]
pub(crate) struct Pulse(Arc<(Instant, AtomicU64)>);

impl Default for Pulse {
    fn default() -> Self {
        Self(Arc::new((Instant::now(), AtomicU64::new(0))))
    }
}

impl Pulse {
    /// Updates the time every second, without end.
    pub(crate) async fn run(self) {
        let mut ticks = interval(Duration::from_secs(1));
        loop {
            ticks.tick().await;
            let (start, last) = &*self.0;
            last.store(start.elapsed().as_secs(), Ordering::Relaxed);
        }
    }

    /// Returns true if the last update is recent.
    pub(crate) fn is_alive(&self) -> bool {
        let (start, last) = &*self.0;
        start.elapsed().as_secs().saturating_sub(last.load(Ordering::Relaxed)) < MAX_PULSE_AGE_SECONDS
    }
}

/// Serves until `stop` on a dedicated thread.
///
/// # Errors
/// If no thread or file descriptor is available.
pub(crate) fn start(
    listener: TcpListener,
    health: Health,
    limits: Limits,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let listener = listener.into_std()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let run = move || {
        essential_thread();
        runtime.block_on(async {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            tokio::select! {
                () = serve(listener, health, limits) => {}
                () = stop.cancelled() => {}
            }
        });
    };
    drop(thread::Builder::new().name("admin".to_owned()).spawn(run)?);
    Ok(())
}

/// Serves plain HTTP for probes.
async fn serve(listener: TcpListener, health: Health, limits: Limits) {
    let stop = Stop::default();
    let (never, tracker) = (stop.gracefully.clone(), TaskTracker::new());
    let slots = Slots::new(limits.admin_connections);
    let heads = HeadBudget::new(limits.admin_connections * HEAD_BYTES);
    let metrics = Arc::clone(&health.metrics);
    let app = health::admin(health);
    mesh::accept(listener, slots, metrics, never, tracker, move |tcp, from, slot| {
        let terms = Terms {
            protocol: Protocol::Http1,
            app: app.clone(),
            connection: Arc::default(),
            limits,
            requests: Counter::default(),
            heads: heads.connection(from),
            slot,
        };
        let ends = Ends { distrusted: std::future::pending(), max_age: limits.age, stop: stop.clone() };
        async move {
            connection::serve(tcp, terms, ends).await;
        }
    })
    .await;
}

/// Head budget in addition to the uncharged part of each connection.
const HEAD_BYTES: usize = 8 * 1024;
/// kubelet restarts the container after some failed probes.
const MAX_PULSE_AGE_SECONDS: u64 = 30;
