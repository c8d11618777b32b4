//! One service from start to stop.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::routing::get;
use gaia_api::Clock;
use gaia_auth::{Access, Authenticator, Connection};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::RuntimeConfig;
use crate::connection::{self, Protocol, Stop};
use crate::generation::Generation;
use crate::health::{self, Health};
use crate::listener::{Mesh, accept_one};
use crate::metrics::Metrics;
use crate::reload::{Reloader, ServiceFiles, Sinks};
use crate::routes::Routes;

/// A service that has its addresses and has looked at its mounted directory.
pub struct Runtime {
    config: RuntimeConfig,
    mesh: TcpListener,
    admin: TcpListener,
    reloader: Reloader,
    health: Health,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Why a service did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is taken, or not ours.
    #[error("listening on {address} ({variable}) failed: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Where it is configured.
        variable: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

impl Runtime {
    /// Binds both addresses and takes what is mounted. Without usable certificates it starts all the same, and is not
    /// ready until there are some.
    ///
    /// `files` are the service's own beside the common ones; `register` adds its own metrics.
    ///
    /// # Errors
    /// [`StartError::Listen`] if an address cannot be had.
    pub async fn start(
        config: RuntimeConfig,
        clock: Arc<dyn Clock>,
        files: Arc<dyn ServiceFiles>,
        register: impl FnOnce(&mut Registry),
    ) -> Result<Self, StartError> {
        let mesh = listen(config.mesh_address, "GAIA_MESH_ADDRESS").await?;
        let admin = listen(config.admin_address, "GAIA_ADMIN_ADDRESS").await?;
        let metrics = Arc::new(Metrics::new(Arc::clone(&clock), register));
        let observer = Arc::clone(&metrics);
        let authenticator = Arc::new(Authenticator::new(Arc::clone(&clock), observer));
        let (sender, generations) = watch::channel(None);
        let sinks = Sinks {
            service_files: files,
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
            authenticator: Arc::clone(&authenticator),
            generations: sender,
        };
        let mut reloader = Reloader::new(&config, sinks);
        reloader.look();
        let is_draining = Arc::new(AtomicBool::new(false));
        let health = Health { generations, authenticator, metrics, clock, is_draining };
        Ok(Self { config, mesh, admin, reloader, health })
    }

    /// Where other services reach this one.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn mesh_address(&self) -> std::io::Result<SocketAddr> {
        self.mesh.local_addr()
    }

    /// Where the probes are.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn admin_address(&self) -> std::io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// The newest generation, now and after each change: it holds the client for calls to other services.
    #[must_use]
    pub fn generations(&self) -> watch::Receiver<Option<Arc<Generation>>> {
        self.health.generations.clone()
    }

    /// An empty set of routes for [`Runtime::serve`].
    #[must_use]
    pub fn routes(&self) -> Routes {
        Routes::new(Arc::clone(&self.health.authenticator))
    }

    /// Serves until `stop` ends, then stops in order: not ready, a pause for that to be seen, no new connections and
    /// GOAWAY on the old ones, time for what is under way, the end.
    pub async fn serve(self, routes: Routes, stop: impl Future<Output = ()>) {
        let Self { config, mesh, admin, reloader, health } = self;
        let stopping = Stop::default();
        let tracker = TaskTracker::new();
        let app = routes.route("/health", Access::Public, get(health::health).with_state(health.clone())).into_router();
        let listener = Mesh {
            app,
            generations: health.generations.clone(),
            clock: Arc::clone(&health.clock),
            metrics: Arc::clone(&health.metrics),
            stop: stopping.clone(),
            tracker: tracker.clone(),
        };
        let accepting = tokio::spawn(listener.accept(mesh));
        let probes = tokio::spawn(serve_admin(admin, health::admin(health.clone())));
        let reloading = tokio::spawn(reloader.run(config.reload_interval.value()));
        tracing::info!(mesh = %config.mesh_address, admin = %config.admin_address, "serving");

        stop.await;
        tracing::info!("stopping: not ready from now on");
        health.is_draining.store(true, Ordering::Relaxed);
        sleep(config.shutdown_delay.value()).await;
        stopping.gracefully.cancel();
        // The task ends by itself once told to; it can fail only by a panic, which has been printed.
        let _ = accepting.await;
        tracker.close();
        if timeout(config.drain_timeout.value(), tracker.wait()).await.is_err() {
            tracing::warn!(connections = tracker.len(), "stopping: not everything finished in time");
        }
        stopping.at_once.cancel();
        tracker.wait().await;
        reloading.abort();
        probes.abort();
        tracing::info!("stopped");
    }
}

/// Ends when the process is asked to stop: SIGTERM, or SIGINT from a terminal.
///
/// # Errors
/// If the handlers cannot be installed.
pub fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

async fn listen(address: SocketAddr, variable: &'static str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, variable, source })
}

/// Plain HTTP for probes, as long as the process lives.
async fn serve_admin(listener: TcpListener, app: Router) {
    let never = CancellationToken::new();
    while let Some(tcp) = accept_one(&listener, &never).await {
        let connection = Arc::new(Connection::default());
        let (app, stop) = (app.clone(), Stop::default());
        tokio::spawn(async move {
            connection::serve(tcp, Protocol::Http1, app, connection, std::future::pending(), stop).await;
        });
    }
}
