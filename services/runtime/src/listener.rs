//! The mesh listener: TLS 1.3 with the newest generation, HTTP version by ALPN.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use gaia_api::Clock;
use gaia_auth::{Connection, Transport};
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection::{self, Protocol, Stop};
use crate::generation::Generation;
use crate::metrics::Metrics;

/// The newest generation; `None` before the first.
pub(crate) type Generations = watch::Receiver<Option<Arc<Generation>>>;

/// What every connection of a listener shares.
#[derive(Clone)]
pub(crate) struct Mesh {
    pub(crate) app: Router,
    pub(crate) generations: Generations,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stop: Stop,
    pub(crate) tracker: TaskTracker,
}

impl Mesh {
    /// Accepts connections until told to stop. At most [`MAX_CONNECTIONS`] are open; more wait in the kernel's queue.
    pub(crate) async fn accept(self, listener: TcpListener) {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let permit = tokio::select! {
                permit = Arc::clone(&permits).acquire_owned() => permit,
                () = self.stop.gracefully.cancelled() => return,
            };
            let Some(tcp) = accept_one(&listener, &self.stop.gracefully).await else { return };
            let mesh = self.clone();
            self.tracker.spawn(async move {
                let _permit = permit;
                let _counted = mesh.metrics.connection();
                mesh.serve(tcp).await;
            });
        }
    }

    async fn serve(mut self, tcp: TcpStream) {
        // Seen from here on: a generation that comes during the handshake is news to `distrusted`.
        let Some(generation) = self.generations.borrow_and_update().clone() else {
            return self.metrics.handshake_failed("not_ready");
        };
        let accepting = TlsAcceptor::from(Arc::clone(&generation.server)).accept(tcp);
        let tls = match timeout(HANDSHAKE_TIMEOUT, accepting).await {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => return self.failed(reason(&error), &error.to_string()),
            Err(_) => return self.failed("timeout", "the handshake took too long"),
        };
        let chain = peer_chain(&tls);
        let peer = chain.first().and_then(|leaf| generation.identify(leaf));
        let transport = if peer.is_some() { Transport::Mtls } else { Transport::Tls };
        let protocol = match tls.get_ref().1.alpn_protocol() {
            Some(b"h2") => Protocol::Http2,
            _ => Protocol::Http1,
        };
        let app = self.app;
        let connection = Arc::new(Connection { transport, peer });
        let distrusted = distrusted(self.generations, chain, self.clock);
        connection::serve(tls, protocol, app, connection, distrusted, self.stop).await;
    }

    fn failed(&self, reason: &'static str, error: &str) {
        self.metrics.handshake_failed(reason);
        tracing::debug!(reason, error, "connection refused");
    }
}

/// Ends when the peer's chain, or having none, is no longer good enough for a new generation.
async fn distrusted(mut generations: Generations, chain: Vec<CertificateDer<'static>>, clock: Arc<dyn Clock>) {
    while generations.changed().await.is_ok() {
        let generation = generations.borrow_and_update().clone();
        if generation.is_some_and(|generation| !generation.admits(&chain, clock.now())) {
            tracing::info!("closing a connection whose peer is no longer trusted");
            return;
        }
    }
    // Nothing more to hear from: the service is stopping.
    std::future::pending::<()>().await;
}

/// The next connection; `None` when told to stop.
pub(crate) async fn accept_one(listener: &TcpListener, stop: &CancellationToken) -> Option<TcpStream> {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return None,
        };
        match accepted {
            Ok((tcp, _)) => {
                // Only a hint: a connection works without it.
                let _ = tcp.set_nodelay(true);
                return Some(tcp);
            }
            Err(error) => {
                // Out of file descriptors: accepting at once again would spin.
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn peer_chain(tls: &TlsStream<TcpStream>) -> Vec<CertificateDer<'static>> {
    let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
    chain.iter().map(|certificate| certificate.clone().into_owned()).collect()
}

/// A handshake error as a metric label.
fn reason(error: &std::io::Error) -> &'static str {
    use rustls::Error as Tls;
    match error.get_ref().and_then(|source| source.downcast_ref::<Tls>()) {
        Some(Tls::NoCertificatesPresented) => "no_client_certificate",
        Some(Tls::InvalidCertificate(
            rustls::CertificateError::Expired | rustls::CertificateError::ExpiredContext { .. },
        )) => "expired_client_certificate",
        Some(Tls::InvalidCertificate(_)) => "bad_client_certificate",
        Some(Tls::AlertReceived(_)) => "refused_by_client",
        Some(Tls::PeerIncompatible(_)) => "incompatible",
        Some(Tls::InvalidMessage(_)) => "not_tls",
        Some(_) => "protocol",
        None => "io",
    }
}

const MAX_CONNECTIONS: usize = 4096;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
