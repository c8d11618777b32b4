//! TLS handshakes: the presented certificate, and reports of failures.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use gaia_api::Clock;
use gaia_auth::audit::{AuditQueue, By, FailedHandshake};
use ipnet::IpNet;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::credentials::presented::Presented;
use crate::observability::metrics::Metrics;
use crate::server::handshake_limits::{HandshakeLimits, HandshakeRefused};
use crate::server::hardening::inbound::UnderTls;

/// A connection after its handshake.
pub(crate) type Accepted = Box<TlsStream<UnderTls<TcpStream>>>;

/// The handshakes of all listeners: limits them, and reports failed ones, all of them in metrics, a sample per source in the
/// log and the audit log.
#[derive(Clone)]
pub(crate) struct Handshakes {
    pub(crate) limits: HandshakeLimits,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) audit: Arc<AuditQueue>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Handshakes {
    /// Performs the server's side of a handshake. The future is boxed so that open connections do not keep its memory.
    ///
    /// # Errors
    /// The cause; [`io::ErrorKind::TimedOut`] if it took too long.
    pub(crate) fn accept(
        &self,
        config: Arc<ServerConfig>,
        tcp: UnderTls<TcpStream>,
        deadline: Instant,
        presented: Presented,
        from: IpAddr,
        trusted_proxies: &[IpNet],
    ) -> Pin<Box<impl Future<Output = io::Result<Accepted>> + use<>>> {
        let (begun, limits) = (self.limits.begin(from, trusted_proxies), self.limits.clone());
        Box::pin(async move {
            begun.map_err(io::Error::other)?;
            let accepting = presented.scope(limits.run(from, TlsAcceptor::from(config).accept(tcp)));
            let tls = timeout_at(deadline, accepting).await;
            Ok(Box::new(tls.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake timed out"))??))
        })
    }

    /// Reports a failed TLS handshake.
    pub(crate) fn failed(&self, listener: &'static str, error: &io::Error, presented: &Presented, from: IpAddr) {
        self.report(listener, reason(error), by(error), &error.to_string(), presented.unverified(), from);
    }

    /// Reports a client that was refused before or without TLS.
    pub(crate) fn refused(&self, listener: &'static str, reason: &'static str, error: &str, from: IpAddr) {
        self.report(listener, reason, By::Local, error, None, from);
    }

    /// Reports a client certificate that does not verify, on a connection that continues without a peer.
    pub(crate) fn no_peer(&self, reason: &'static str, presented: Option<String>, from: IpAddr) {
        self.metrics.no_peer(reason);
        let time = self.clock.now();
        let record = FailedHandshake {
            time,
            listener: "mesh",
            result: "unverified",
            by: By::Local,
            reason,
            presented,
            address: from,
            skipped: 0,
        };
        if let Some(record) = self.put(record) {
            tracing::warn!(
                reason = record.reason,
                presented_unverified = record.presented,
                address = %record.address,
                skipped = record.skipped,
                "a client certificate does not verify; the connection has no peer"
            );
        }
    }

    fn report(
        &self,
        listener: &'static str,
        reason: &'static str,
        by: By,
        error: &str,
        presented: Option<String>,
        from: IpAddr,
    ) {
        self.metrics.handshake_failed(reason);
        let time = self.clock.now();
        let record =
            FailedHandshake { time, listener, result: "failed", by, reason, presented, address: from, skipped: 0 };
        if let Some(record) = self.put(record) {
            tracing::warn!(
                listener,
                by = by.as_str(),
                reason,
                error,
                presented_unverified = record.presented,
                address = %record.address,
                skipped = record.skipped,
                "TLS handshake failed"
            );
        }
    }

    /// Writes an audit line; returns none if the line is not in the sample of its source.
    fn put(&self, record: FailedHandshake) -> Option<FailedHandshake> {
        match self.audit.put_handshake(record) {
            Ok(sampled) => sampled,
            Err(_) => {
                self.metrics.audit_dropped();
                None
            }
        }
    }
}

/// Returns the metric label of a handshake error.
fn reason(error: &io::Error) -> &'static str {
    use rustls::Error as Tls;
    if let Some(refused) = refused(error) {
        return refused.as_str();
    }
    match error.get_ref().and_then(|source| source.downcast_ref::<Tls>()) {
        Some(Tls::NoCertificatesPresented) => "no_client_certificate",
        Some(Tls::InvalidCertificate(
            rustls::CertificateError::Expired | rustls::CertificateError::ExpiredContext { .. },
        )) => "expired_client_certificate",
        Some(Tls::InvalidCertificate(rustls::CertificateError::Revoked)) => "revoked_client_certificate",
        Some(Tls::InvalidCertificate(_) | Tls::General(_)) => "bad_client_certificate",
        Some(Tls::AlertReceived(_)) => "refused_by_client",
        Some(Tls::PeerIncompatible(_)) => "incompatible",
        Some(Tls::InvalidMessage(_)) => "not_tls",
        Some(_) => "protocol",
        None if error.kind() == io::ErrorKind::TimedOut => "timeout",
        None => "io",
    }
}

/// Returns the limit that refused a handshake, if one did.
fn refused(error: &io::Error) -> Option<HandshakeRefused> {
    error.get_ref().and_then(|source| source.downcast_ref().copied())
}

/// Returns the side that ended a handshake.
fn by(error: &io::Error) -> By {
    match error.get_ref().and_then(|source| source.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(_)) => By::Peer,
        Some(_) => By::Local,
        None if error.kind() == io::ErrorKind::TimedOut || refused(error).is_some() => By::Local,
        None => By::Peer,
    }
}
