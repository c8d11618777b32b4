//! The ingress listener for users. Plain HTTP behind an ingress controller, or TLS with a public certificate, never
//! with the platform's leaf. Clients present no certificate here, so platform tokens are refused.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use gaia_api::names::key;
use gaia_api::{Clock, Span};
use gaia_auth::{Connection, Listener, Transport};
use gaia_pki::Certificate;
use ipnet::IpNet;
use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::config::positive_span;
use crate::credentials::directory::{Directory, Files};
use crate::credentials::presented::Presented;
use crate::limits::Limits;
use crate::observability::metrics::Metrics;
use crate::random::{jittered, random};
use crate::server::connection::{self, Ends, Stop, Terms};
use crate::server::handshake::Handshakes;
use crate::server::hardening::heads::HeadBudget;
use crate::server::hardening::inbound::UnderTls;
use crate::server::mesh::{From, protocol};
use crate::server::protocol::Protocol;
use crate::server::slots::SlotState;

/// Configuration of services with an ingress listener.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct EdgeConfig {
    /// Address of the ingress listener [default: every address of the host, at the service's default port]
    #[arg(long, env = "GAIA_EDGE_ADDRESS")]
    pub edge_address: Option<SocketAddr>,
    /// Directory with tls.crt and tls.key, a public certificate; without it the ingress listener uses plain HTTP
    #[arg(long, env = "GAIA_EDGE_TLS_DIR")]
    pub edge_tls_dir: Option<PathBuf>,
    /// Idle timeout of ingress connections; must be longer than that of a load balancer in front [default: 75s]
    #[arg(long, env = "GAIA_EDGE_IDLE_TIMEOUT", value_parser = positive_span)]
    pub edge_idle_timeout: Option<Span>,
}

impl EdgeConfig {
    /// Returns the address to bind.
    pub(crate) fn address(&self, usual_port: u16) -> SocketAddr {
        self.edge_address.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, usual_port)))
    }

    /// Returns the idle timeout.
    pub(crate) fn idle_timeout(&self) -> Duration {
        self.edge_idle_timeout.as_ref().map_or(IDLE_TIMEOUT, Span::value)
    }
}

/// A bound ingress listener, served by [`Runtime::serve_with_edge`](crate::Runtime::serve_with_edge).
pub struct Edge {
    pub(crate) listener: TcpListener,
    pub(crate) tls: Option<EdgeTls>,
    pub(crate) idle_timeout: Duration,
    pub(crate) trusted_proxies: Arc<[IpNet]>,
}

impl std::fmt::Debug for Edge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Edge").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl Edge {
    /// Sets the proxies whose TLS handshakes are not limited by their address: many clients share it.
    #[must_use]
    pub fn with_trusted_proxies(self, proxies: &[IpNet]) -> Self {
        Self { trusted_proxies: proxies.into(), ..self }
    }

    /// Returns the address of the ingress listener.
    ///
    /// # Errors
    /// If the operating system cannot report it.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// State shared by all connections of the ingress listener.
#[derive(Clone)]
pub(crate) struct EdgeServing {
    pub(crate) app: Router,
    /// None for plain HTTP.
    pub(crate) tls: Option<watch::Receiver<Option<Arc<ServerConfig>>>>,
    pub(crate) heads: HeadBudget,
    pub(crate) limits: Limits,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) handshakes: Handshakes,
    pub(crate) trusted_proxies: Arc<[IpNet]>,
    pub(crate) stop: Stop,
}

impl EdgeServing {
    /// Serves one connection.
    pub(crate) async fn serve(self, tcp: TcpStream, from: IpAddr, slot: Arc<SlotState>) {
        let at_once = self.stop.at_once.clone();
        let from = From { address: from, heads: self.heads.connection(from), slot };
        tokio::select! {
            () = self.serve_to_its_end(tcp, from) => {}
            () = at_once.cancelled() => {}
        }
    }

    async fn serve_to_its_end(self, tcp: TcpStream, from: From) {
        let Some(newest) = &self.tls else {
            return Box::pin(self.serve_http(tcp, Protocol::Http1, Transport::Plain, from)).await;
        };
        let Some(config) = newest.borrow().clone() else {
            return self.handshakes.refused(INGRESS, "not_ready", "no TLS certificate loaded yet", from.address);
        };
        let tcp = UnderTls::new(tcp, from.heads.clone());
        let presented = Presented::default();
        let deadline = Instant::now() + self.limits.handshake;
        let proxies = &self.trusted_proxies;
        let tls = match self.handshakes.accept(config, tcp, deadline, presented.clone(), from.address, proxies).await {
            Ok(tls) => tls,
            Err(error) => return self.handshakes.failed(INGRESS, &error, &presented, from.address),
        };
        let protocol = protocol(&tls);
        Box::pin(self.serve_http(tls, protocol, Transport::Tls, from)).await;
    }

    async fn serve_http<IO>(self, io: IO, protocol: Protocol, transport: Transport, from: From)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let From { address: from, heads, slot } = from;
        let connection =
            Arc::new(Connection { transport, peer: None, address: Some(from), listener: Listener::Ingress });
        let requests = Counter::default();
        let terms = Terms { protocol, app: self.app, connection, limits: self.limits, requests, heads, slot };
        let max_age = jittered(self.limits.age, random().unwrap_or_default());
        let ends = Ends { distrusted: std::future::pending(), max_age, stop: self.stop };
        if let Some(limit) = connection::serve(io, terms, ends).await {
            self.metrics.connection_ended(limit.as_str());
        }
    }
}

/// Reloads the certificate of the ingress listener.
pub(crate) struct EdgeTls {
    directory: Directory,
    provider: Arc<CryptoProvider>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    newest: watch::Sender<Option<Arc<ServerConfig>>>,
    last_hash: String,
    refused: Option<String>,
}

impl EdgeTls {
    pub(crate) fn new(path: &Path, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        let names = vec![key::TLS_CERT, key::TLS_KEY];
        Self {
            directory: Directory { path: path.to_owned(), names, overrides: BTreeMap::new() },
            provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
            clock,
            metrics,
            newest: watch::Sender::new(None),
            last_hash: String::new(),
            refused: None,
        }
    }

    pub(crate) fn newest(&self) -> watch::Receiver<Option<Arc<ServerConfig>>> {
        self.newest.subscribe()
    }

    /// Checks the directory every `period`, without end.
    pub(crate) async fn run(mut self, period: Duration) {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let directory = self.directory.clone();
            match tokio::task::spawn_blocking(move || directory.read()).await {
                Ok(Some(files)) => self.take(&files),
                Ok(None) => tracing::debug!(
                    "the directory of the ingress certificate is being written; reading it again at the next check"
                ),
                // The panic message is not logged, because it can contain data of the files.
                Err(_) => tracing::error!("failed to read the directory of the ingress certificate"),
            }
        }
    }

    /// Loads the certificate before the listener is served.
    pub(crate) fn look(&mut self) {
        if let Some(files) = self.directory.read() {
            self.take(&files);
        }
    }

    /// Loads a valid certificate; otherwise the previous one stays in use. A rejected one is retried, because it may
    /// become valid later.
    fn take(&mut self, files: &Files) {
        if self.last_hash == files.hash() && self.refused.is_none() {
            return;
        }
        files.hash().clone_into(&mut self.last_hash);
        match server(files, &self.provider, self.clock.now()) {
            Ok((config, leaf)) => {
                self.metrics.part_reloaded(PART, true);
                self.refused = None;
                tracing::info!(serial = leaf.serial(), not_after = %leaf.not_after(), "ingress TLS certificate loaded");
                self.newest.send_replace(Some(Arc::new(config)));
            }
            Err(reason) => {
                if self.refused.as_ref() != Some(&reason) {
                    self.metrics.part_reloaded(PART, false);
                    tracing::warn!(reason, "ingress TLS certificate rejected; the previous one stays in use");
                }
                self.refused = Some(reason);
            }
        }
    }
}

/// Returns the TLS configuration for these files, and its certificate.
fn server(
    files: &Files,
    provider: &Arc<CryptoProvider>,
    now: Timestamp,
) -> Result<(ServerConfig, Certificate), String> {
    let chain = Certificate::chain_from_pem(files.require(key::TLS_CERT)?).map_err(|error| error.to_string())?;
    let leaf = chain.first().ok_or("tls.crt is empty")?.clone();
    if let Some(platform) = leaf.uris().iter().find(|uri| uri.starts_with("spiffe://")) {
        return Err(format!(
            "tls.crt is the platform certificate of {platform}; the ingress listener requires a public one"
        ));
    }
    if now < leaf.not_before() || now > leaf.not_after() {
        return Err(format!("tls.crt is valid from {} until {} only", leaf.not_before(), leaf.not_after()));
    }
    let private = PrivateKeyDer::from_pem_slice(files.require(key::TLS_KEY)?)
        .map_err(|_| "tls.key is not a private key in PEM".to_owned())?;
    let chain = chain.iter().map(|certificate| CertificateDer::from(certificate.der().to_vec())).collect();
    let certified = CertifiedKey::from_der(chain, private, provider).map_err(|error| error.to_string())?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((config, leaf))
}

/// Load balancers close idle connections after 60 s (ALB, nginx); a server that closes first loses requests.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Listener name in reports.
const INGRESS: &str = "ingress";
/// Metric label.
const PART: &str = "edge_leaf";
