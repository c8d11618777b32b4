//! The mesh listener: TLS 1.3 with the current credentials snapshot, HTTP version by ALPN; and plain HTTP/1.1 on the
//! same port while the policy is `Permissive`.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use gaia_api::Clock;
use gaia_api::mount::TlsMode;
use gaia_auth::{Connection, Listener, PeerIdentity, Transport};
use ipnet::IpNet;
use prometheus_client::metrics::counter::Counter;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::credentials::peer::Seen;
use crate::credentials::presented::{Presented, Verdict};
use crate::credentials::snapshot::{CredentialsSnapshot, SnapshotReceiver};
use crate::limits::Limits;
use crate::observability::metrics::Metrics;
use crate::random::{jittered, random};
use crate::server::connection::{self, Ends, LAST_CALL, Stop, Terms};
use crate::server::handshake::{Accepted, Handshakes};
use crate::server::hardening::heads::{ConnectionHeads, HeadBudget};
use crate::server::hardening::inbound::UnderTls;
use crate::server::protocol::Protocol;
use crate::server::slots::{Slot, SlotState, Slots};
use crate::server::tracking::{Connections, Counted};

/// State shared by all connections of the mesh listener.
#[derive(Clone)]
pub(crate) struct Mesh {
    pub(crate) app: Router,
    /// Routes for the operator.
    pub(crate) operator_app: Router,
    pub(crate) connections: Connections,
    pub(crate) heads: HeadBudget,
    pub(crate) limits: Limits,
    pub(crate) generations: SnapshotReceiver,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) handshakes: Handshakes,
    /// Sources without a handshake rate.
    pub(crate) proxies: Arc<[IpNet]>,
    pub(crate) stop: Stop,
}

/// Accepts connections until shutdown, and serves each one that gets a slot. Connections in the kernel's queue at
/// shutdown are served too: their clients are connected, and closing the listener would reset them with a request in
/// transit.
pub(crate) async fn accept<F>(
    listener: TcpListener,
    slots: Slots,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    tracker: TaskTracker,
    mut serve: impl FnMut(TcpStream, IpAddr, Arc<SlotState>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut begin = |slot: Slot, tcp: TcpStream, from: SocketAddr| {
        // An optimization only, so the error is ignored.
        let _ = tcp.set_nodelay(true);
        let state = slot.state();
        let serving = serve(tcp, from.ip(), Arc::clone(&state));
        let metrics = Arc::clone(&metrics);
        tracker.spawn(async move {
            let _slot = slot;
            tokio::select! {
                () = serving => {}
                () = state.displaced.cancelled() => metrics.connection_ended("displaced"),
            }
        });
    };
    while let Some((tcp, from)) = accept_one(&listener, &stop).await {
        match slots.take(from.ip()) {
            Some(slot) => begin(slot, tcp, from),
            None => metrics.connection_ended("share"),
        }
    }
    // Uses the system call directly, because tokio's readiness state may be outdated.
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((tcp, from)) = listener.accept() {
        let Some(slot) = slots.take_free(from.ip()) else { continue };
        if let Ok(tcp) = tcp.set_nonblocking(true).and_then(|()| TcpStream::from_std(tcp)) {
            begin(slot, tcp, from);
        }
    }
}

impl Mesh {
    /// Serves one connection: with TLS or, if the policy is `Permissive`, in plain HTTP, depending on its first byte.
    pub(crate) async fn serve(self, tcp: TcpStream, from: IpAddr, slot: Arc<SlotState>) {
        let _counted = self.metrics.connection();
        let at_once = self.stop.at_once.clone();
        let from = From { address: from, heads: self.heads.connection(from), slot };
        tokio::select! {
            () = self.serve_to_its_end(tcp, from) => {}
            () = at_once.cancelled() => {}
        }
    }

    async fn serve_to_its_end(mut self, tcp: TcpStream, from: From) {
        const MESH: &str = "mesh";
        let deadline = Instant::now() + self.limits.handshake;
        let first = tokio::select! {
            first = timeout_at(deadline, first_byte(&tcp)) => first,
            () = last_call(&self.stop.gracefully) => return,
        };
        let first = match first {
            Ok(Ok(Some(first))) => first,
            // A port check without data.
            Ok(Ok(None)) => return,
            // No data was received, so no handshake failed.
            Ok(Err(_)) => return self.handshakes.metrics.handshake_failed("io"),
            Err(_) => return self.handshakes.metrics.handshake_failed("timeout"),
        };
        // Marked as seen here, so that `distrusted` notices a snapshot that arrives during the handshake.
        let Some(generation) = self.generations.borrow_and_update().clone() else {
            return self.handshakes.refused(MESH, "not_ready", "no TLS certificate loaded yet", from.address);
        };
        if first == TLS_HANDSHAKE {
            let tcp = UnderTls::new(tcp, from.heads.clone());
            let presented = Presented::default();
            let config = Arc::clone(&generation.server);
            let tls = match self
                .handshakes
                .accept(config, tcp, deadline, presented.clone(), from.address, &self.proxies)
                .await
            {
                Ok(tls) => tls,
                Err(error) => return self.handshakes.failed(MESH, &error, &presented, from.address),
            };
            Box::pin(self.serve_tls(tls, presented.verdict(), generation, from)).await;
        } else if generation.policy().tls_mode == TlsMode::Permissive {
            let peer = Peer { transport: Transport::Plain, chain: Vec::new(), identity: None, root: None };
            Box::pin(self.serve_http(tcp, Protocol::Http1, peer, generation, from)).await;
        } else {
            self.handshakes.refused(MESH, "not_tls", "plain HTTP is not served in Strict mode", from.address);
        }
    }

    /// The identity is read only from a chain that was verified in the handshake.
    async fn serve_tls(
        self,
        tls: Accepted,
        verdict: Option<Verdict>,
        generation: Arc<CredentialsSnapshot>,
        from: From,
    ) {
        let (chain, Seen { identity, root, .. }) = match verdict {
            Some(Verdict::Peer(seen)) => (peer_chain(&tls), seen.as_ref().clone()),
            Some(Verdict::NoPeer { reason, presented }) => {
                self.handshakes.no_peer(reason, presented, from.address);
                (Vec::new(), Seen::default())
            }
            None => (Vec::new(), Seen::default()),
        };
        let transport = if identity.is_some() { Transport::Mtls } else { Transport::Tls };
        let protocol = protocol(&tls);
        Box::pin(self.serve_http(tls, protocol, Peer { transport, chain, identity, root }, generation, from)).await;
    }

    /// Boxed, so that an open connection does not keep the memory of the handshake.
    async fn serve_http<IO>(
        self,
        io: IO,
        protocol: Protocol,
        peer: Peer,
        generation: Arc<CredentialsSnapshot>,
        from: From,
    ) where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Peer { transport, chain, identity, root } = peer;
        let From { address: from, heads, slot } = from;
        let is_operator = identity.as_ref().is_some_and(|peer| generation.is_operator(peer));
        let (app, root, requests) = if is_operator {
            (self.operator_app, None, Counter::default())
        } else {
            let caller = identity.as_ref().map(|peer| generation.declares(&peer.spiffe_id).then_some(&peer.spiffe_id));
            (self.app, root, self.metrics.requests_of(transport, caller, from))
        };
        let counted = root.map(|root| self.connections.count(root));
        let connection =
            Arc::new(Connection { transport, peer: identity, address: Some(from), listener: Listener::Mesh });
        let distrusted = distrusted(self.generations, chain, counted, self.clock);
        let max_age = jittered(self.limits.age, random().unwrap_or_default());
        // The connection must not keep the snapshot alive, nor its client's connections.
        drop(generation);
        let terms = Terms { protocol, app, connection, limits: self.limits, requests, heads, slot };
        let ends = Ends { distrusted, max_age, stop: self.stop };
        if let Some(limit) = connection::serve(io, terms, ends).await {
            self.metrics.connection_ended(limit.as_str());
        }
    }
}

/// The source of a connection, and its reservations at the listener.
pub(crate) struct From {
    pub(crate) address: IpAddr,
    pub(crate) heads: ConnectionHeads,
    pub(crate) slot: Arc<SlotState>,
}

/// The peer of a connection, as far as its transport identifies it.
struct Peer {
    transport: Transport,
    chain: Vec<CertificateDer<'static>>,
    identity: Option<PeerIdentity>,
    /// The fingerprint of the root of the chain.
    root: Option<String>,
}

/// Peeks at the first byte; `None` at the end of the stream.
pub(crate) async fn first_byte(tcp: &TcpStream) -> io::Result<Option<u8>> {
    let mut first = [0];
    Ok((tcp.peek(&mut first).await? > 0).then_some(first[0]))
}

/// Resolves [`LAST_CALL`] after shutdown: data sent before may still be in transit.
async fn last_call(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(LAST_CALL).await;
}

/// Resolves when a new snapshot no longer accepts the peer's chain, or its absence. Until this future is dropped, the
/// connection is counted under the root of its peer's chain.
async fn distrusted(
    mut generations: SnapshotReceiver,
    chain: Vec<CertificateDer<'static>>,
    mut counted: Option<Counted>,
    clock: Arc<dyn Clock>,
) {
    while generations.changed().await.is_ok() {
        let Some(generation) = generations.borrow_and_update().clone() else { continue };
        let now = clock.now();
        if !generation.admits(&chain, now) {
            tracing::info!("closing a connection whose peer is no longer trusted");
            return;
        }
        if let (Some(counted), Some(root)) = (&mut counted, &generation.see(&chain, now).root) {
            counted.move_to(root);
        }
    }
    // The service is stopping, so there are no further snapshots.
    std::future::pending::<()>().await;
}

/// Returns the next connection; `None` at shutdown.
async fn accept_one(listener: &TcpListener, stop: &CancellationToken) -> Option<(TcpStream, SocketAddr)> {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return None,
        };
        match accepted {
            Ok(accepted) => return Some(accepted),
            Err(error) => {
                // Out of file descriptors: an immediate retry would spin.
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn peer_chain<IO>(tls: &TlsStream<IO>) -> Vec<CertificateDer<'static>> {
    let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
    chain.iter().map(|certificate| certificate.clone().into_owned()).collect()
}

/// Returns the HTTP version negotiated by ALPN.
pub(crate) fn protocol<IO>(tls: &TlsStream<IO>) -> Protocol {
    match tls.get_ref().1.alpn_protocol() {
        Some(b"h2") => Protocol::Http2,
        _ => Protocol::Http1,
    }
}

/// The first byte of every TLS connection, a handshake record (RFC 8446, section 5.1); no HTTP method starts with it.
const TLS_HANDSHAKE: u8 = 22;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::io::Read as _;

    use gaia_api::SystemClock;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    // On one thread, so that nothing is accepted between connecting and shutdown.
    #[tokio::test]
    async fn whoever_is_connected_when_the_listener_stops_is_served() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
        let accepting = tokio::spawn(accept(
            listener,
            Slots::new(3),
            Arc::new(Metrics::new(Arc::new(SystemClock), |_| ())),
            stop.clone(),
            tracker.clone(),
            |mut tcp, _, _| async move { tcp.write_all(b"served").await.unwrap() },
        ));
        tokio::task::yield_now().await;
        let connect = || std::net::TcpStream::connect(address).unwrap();
        let (mut waiting, beyond_the_limit) = ([connect(), connect(), connect()], connect());
        stop.cancel();
        accepting.await.unwrap();
        tracker.close();
        tracker.wait().await;
        for client in &mut waiting {
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "served");
        }
        assert!(matches!((&beyond_the_limit).read(&mut [0]), Ok(0) | Err(_)), "the limit holds");
        assert!(std::net::TcpStream::connect(address).is_err(), "and no further connection is accepted");
    }
}
