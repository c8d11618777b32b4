//! The life cycle of one service.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::routing::get;
use gaia_api::Clock;
use gaia_auth::audit::AuditQueue;
use gaia_auth::{Access, Authenticator};
use http::Uri;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::calls::caller::{Caller, CallsConfig};
use crate::config::RuntimeConfig;
use crate::credentials::reload::{Refused, Reloader, ServiceFiles, Sinks};
use crate::credentials::snapshot::CredentialsSnapshot;
use crate::issuers::Outside;
use crate::limits::Limits;
use crate::observability::audit_metrics::AuditObserver;
use crate::observability::metrics::Metrics;
use crate::panics::essential;
use crate::random::random;
use crate::server::connection::Stop;
use crate::server::handshake::Handshakes;
use crate::server::handshake_limits::HandshakeLimits;
use crate::server::hardening::heads::HeadBudget;
use crate::server::ingress::{Edge, EdgeConfig, EdgeServing, EdgeTls};
use crate::server::mesh::{self, Mesh};
use crate::server::slots::Slots;
use crate::server::tracking::Connections;
use crate::service::admin::{self, Pulse};
use crate::service::health::{self, Health};
use crate::service::identity::{self, Identity};
use crate::service::memory;
use crate::service::routes::Routes;

/// A service with bound listeners and a loaded credential directory.
pub struct Runtime {
    config: RuntimeConfig,
    mesh: TcpListener,
    admin: TcpListener,
    reloader: Reloader,
    health: Health,
    identity: Identity,
    audit: Arc<AuditQueue>,
    /// Shortened by tests.
    pub(crate) limits: Limits,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Reason why a service did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is in use or not available.
    #[error("cannot listen on {address} ({variable}): {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The variable that configures it.
        variable: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// No randomness for the instance's name.
    #[error("the system has no random bytes")]
    Entropy,
    /// A thread cannot be started: its name, and the cause.
    #[error("failed to start the thread {0:?}: {1}")]
    Thread(&'static str, #[source] std::io::Error),
}

impl Runtime {
    /// Binds both listeners and loads the credential directory. Without usable certificates it starts anyway, and is
    /// not ready until they are loaded.
    ///
    /// `files` are the service's own in addition to the common ones; `register` adds its own metrics.
    ///
    /// # Errors
    /// [`StartError::Listen`] if an address cannot be bound, [`StartError::Entropy`] or [`StartError::Thread`] if the
    /// system lacks randomness or a thread.
    pub async fn start(
        config: RuntimeConfig,
        clock: Arc<dyn Clock>,
        files: Arc<dyn ServiceFiles>,
        register: impl FnOnce(&mut Registry),
    ) -> Result<Self, StartError> {
        let mesh = listen(config.mesh_address, "GAIA_MESH_ADDRESS").await?;
        let admin = listen(config.admin_address, "GAIA_ADMIN_ADDRESS").await?;
        let metrics = Arc::new(Metrics::new(Arc::clone(&clock), register));
        let (observer, audit) =
            AuditObserver::new(Arc::clone(&metrics)).map_err(|error| StartError::Thread("audit", error))?;
        let authenticator = Arc::new(Authenticator::new(Arc::clone(&clock), Arc::new(observer)));
        let (sender, generations) = watch::channel(None);
        let refused = Refused::default();
        let sinks = Sinks {
            service_files: Arc::clone(&files),
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
            authenticator: Arc::clone(&authenticator),
            generations: sender,
            refused: refused.clone(),
        };
        let mut reloader = Reloader::new(&config, sinks);
        reloader.look();
        let is_draining = Arc::new(AtomicBool::new(false));
        let identity = Identity {
            generations: generations.clone(),
            authenticator: Arc::clone(&authenticator),
            clock: Arc::clone(&clock),
            connections: Connections::default(),
            service_files: files,
            refused,
            instance: identity::name(random().ok_or(StartError::Entropy)?).into(),
            started_at: clock.now(),
        };
        let health = Health { pulse: Pulse::default(), generations, authenticator, metrics, clock, is_draining };
        Ok(Self { config, mesh, admin, reloader, health, identity, audit, limits: Limits::within(memory::limit()) })
    }

    /// Returns the address of the mesh listener.
    ///
    /// # Errors
    /// If the operating system cannot report it.
    pub fn mesh_address(&self) -> std::io::Result<SocketAddr> {
        self.mesh.local_addr()
    }

    /// Returns the address of the admin listener.
    ///
    /// # Errors
    /// If the operating system cannot report it.
    pub fn admin_address(&self) -> std::io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// Returns a receiver of credentials snapshots, which contain the client for calls to other services.
    #[must_use]
    pub fn generations(&self) -> watch::Receiver<Option<Arc<CredentialsSnapshot>>> {
        self.health.generations.clone()
    }

    /// Binds the ingress listener, at `usual_port` unless it is configured otherwise, and loads its certificate if it
    /// has one. [`Runtime::serve_with_edge`] serves it.
    ///
    /// # Errors
    /// [`StartError::Listen`] if the address cannot be bound.
    pub async fn edge(&self, config: &EdgeConfig, usual_port: u16) -> Result<Edge, StartError> {
        let listener = listen(config.address(usual_port), "GAIA_EDGE_ADDRESS").await?;
        let tls = config.edge_tls_dir.as_ref().map(|path| {
            let mut tls = EdgeTls::new(path, Arc::clone(&self.health.clock), Arc::clone(&self.health.metrics));
            tls.look();
            tls
        });
        Ok(Edge { listener, tls, idle_timeout: config.idle_timeout(), trusted_proxies: Arc::default() })
    }

    /// Returns a client that calls other services with this service's certificate and a token per target.
    #[must_use]
    pub fn caller(&self, config: &CallsConfig) -> Caller {
        Caller::new(self.generations(), self.auth_url(config), config, &self.config)
    }

    /// Returns the URL of auth-service: the configured one, otherwise its name in the namespace of the policy.
    #[must_use]
    pub fn auth_url(&self, config: &CallsConfig) -> Uri {
        let default = || {
            let generation = self.health.generations.borrow();
            let namespace = generation.as_ref().map(|generation| generation.policy().service.namespace.as_str());
            namespace.and_then(|namespace| format!("https://auth-service.{namespace}.svc:8443").parse().ok())
        };
        let configured = config.auth_url.clone().or_else(default);
        configured.unwrap_or_else(|| Uri::from_static("https://auth-service:8443"))
    }

    /// Returns the authenticator with the loaded policy and keys, for a service that validates credentials other than
    /// those of the request.
    #[must_use]
    pub fn authenticator(&self) -> Arc<Authenticator> {
        Arc::clone(&self.health.authenticator)
    }

    /// Returns an empty set of routes for [`Runtime::serve`].
    #[must_use]
    pub fn routes(&self) -> Routes {
        Routes::new(Arc::clone(&self.health.authenticator))
    }

    /// Serves until `stop` resolves, then shuts down in order: reports not ready, waits until that is noticed, closes
    /// the listener and sends GOAWAY on open connections, waits for requests in progress, and ends.
    pub async fn serve(self, routes: Routes, stop: impl Future<Output = ()>) {
        self.serve_all(routes, None, stop).await;
    }

    /// Like [`Runtime::serve`], with other routes on the ingress listener.
    pub async fn serve_with_edge(
        self,
        routes: Routes,
        edge: Edge,
        edge_routes: Routes,
        stop: impl Future<Output = ()>,
    ) {
        self.serve_all(routes, Some((edge, edge_routes)), stop).await;
    }

    async fn serve_all(self, routes: Routes, edge: Option<(Edge, Routes)>, stop: impl Future<Output = ()>) {
        let Self { config, mesh, admin, reloader, health, identity, audit, limits } = self;
        let stopping = Stop::default();
        let heads = HeadBudget::new(limits.head_bytes);
        let mesh_slots = Slots::new(limits.connections);
        let mut all_slots = vec![mesh_slots.clone()];
        let tracker = TaskTracker::new();
        let handshakes = Handshakes {
            limits: HandshakeLimits::new(config.handshake_rate),
            metrics: Arc::clone(&health.metrics),
            audit: Arc::clone(&audit),
            clock: Arc::clone(&health.clock),
        };
        let mut accepting = JoinSet::new();
        // Background tasks run until everything else has ended, and are aborted with this set.
        let mut background = JoinSet::new();
        if let Some((edge, routes)) = edge {
            let Edge { listener, tls, idle_timeout, trusted_proxies } = edge;
            let limits = Limits { keep_alive: idle_timeout, idle: idle_timeout, ..limits };
            let health_route = get(health::edge_health).with_state(health.clone());
            let serving = EdgeServing {
                app: routes.route("/health", Access::Public, health_route).into_router(),
                tls: tls.as_ref().map(EdgeTls::newest),
                heads: heads.clone(),
                limits,
                metrics: Arc::clone(&health.metrics),
                handshakes: handshakes.clone(),
                trusted_proxies,
                stop: stopping.clone(),
            };
            if let Some(tls) = tls {
                background.spawn(essential(tls.run(config.reload_interval.value())));
            }
            let (stop, tracker) = (stopping.gracefully.clone(), tracker.clone());
            let (slots, metrics) = (Slots::new(limits.connections), Arc::clone(&health.metrics));
            all_slots.push(slots.clone());
            let accept = mesh::accept(listener, slots, metrics, stop, tracker, move |tcp, from, slot| {
                serving.clone().serve(tcp, from, slot)
            });
            accepting.spawn(essential(accept));
        }
        let app = routes.route("/health", Access::Public, get(health::health).with_state(health.clone())).into_router();
        let listener = Mesh {
            app,
            heads,
            limits,
            connections: identity.connections.clone(),
            operator_app: identity::operator_app(identity),
            generations: health.generations.clone(),
            clock: Arc::clone(&health.clock),
            metrics: Arc::clone(&health.metrics),
            handshakes,
            proxies: config.mesh_proxies.into(),
            stop: stopping.clone(),
        };
        accepting.spawn(essential(mesh::accept(
            mesh,
            mesh_slots,
            Arc::clone(&health.metrics),
            stopping.gracefully.clone(),
            tracker.clone(),
            move |tcp, from, slot| listener.clone().serve(tcp, from, slot),
        )));
        background.spawn(memory::return_after_bursts(all_slots));
        background.spawn(essential(health.pulse.clone().run()));
        let admin_stop = CancellationToken::new();
        let _admin = admin_stop.clone().drop_guard();
        if let Err(error) = admin::start(admin, health.clone(), limits, admin_stop) {
            tracing::error!(%error, "failed to start the thread of the admin listener");
            return;
        }
        background.spawn(essential(reloader.run(config.reload_interval.value())));
        let outside =
            Outside::new(health.authenticator.user_keys().clone(), Arc::clone(&health.clock), config.dir.clone());
        health.authenticator.ask_through(Arc::new(outside.clone()));
        background.spawn(essential(outside.run(health.generations.clone())));
        tracing::info!(mesh = %config.mesh_address, admin = %config.admin_address, "serving");

        stop.await;
        tracing::info!("shutdown started: reporting not ready");
        health.is_draining.store(true, Ordering::Relaxed);
        stopping.soon.cancel();
        sleep(config.shutdown_delay.value()).await;
        stopping.gracefully.cancel();
        // These tasks end after shutdown; they fail only by a panic, which the hook has logged.
        while accepting.join_next().await.is_some() {}
        tracker.close();
        if timeout(config.drain_timeout.value(), tracker.wait()).await.is_err() {
            tracing::warn!(connections = tracker.len(), "shutdown: drain timeout reached with requests in progress");
        }
        stopping.at_once.cancel();
        tracker.wait().await;
        background.abort_all();
        // The last decisions are written to the audit log before the process ends.
        let _ = tokio::task::spawn_blocking(move || audit.flush(AUDIT_FLUSH_TIMEOUT)).await;
        tracing::info!("stopped");
    }
}

async fn listen(address: SocketAddr, variable: &'static str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, variable, source })
}

const AUDIT_FLUSH_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3);
