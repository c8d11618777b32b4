//! One probe of one instance: the leaf that it presents, and its report.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use gaia_api::Clock;
use gaia_api::identity::{IDENTITY_PATH, IdentityReport, MAX_REPORT_BYTES};
use gaia_api::ledger::{LEDGER_PATH, MAX_LEDGER_BYTES};
use gaia_api::mount::{self, MountError};
use gaia_pki::{Certificate, Usage, sha256_hex, verify_path};
use gaia_plan::instances::instance::Shown;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, ServerName};
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::identity::Client;
use crate::cache::{Reading, Subject};

/// The result of a probe.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) seen: Result<Shown, String>,
    /// Its ledger, if that was to be read.
    pub(super) ledger: Option<Reading>,
    /// The notAfter of the presented leaf.
    pub(super) not_after: Option<Timestamp>,
    pub(super) failure: Option<Failure>,
    /// True if it presented a certificate with another SPIFFE ID.
    pub(super) is_other: bool,
}

/// The cause of a failed probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Failure {
    Refused,
    TimedOut,
    Unreachable,
    Tls,
    NotVerified,
    NoReport,
    /// Any of these, of an endpoint.
    Endpoint,
}

/// Dials, shakes hands and asks for the report. No name is resolved, no redirect is followed and no proxy is used.
pub(super) async fn look(subject: &Subject, address: SocketAddr, client: &Client, clock: &dyn Clock) -> Look {
    let deadline = Instant::now() + TOTAL;
    let unread = |why: &str| subject.has_ledger.then(|| Err(why.to_owned()));
    let nothing = |failure, why: String| Look {
        ledger: unread(&why),
        seen: Err(why),
        not_after: None,
        failure: Some(failure),
        is_other: false,
    };
    let stream = match shake_hands(subject, address, client, deadline).await {
        Ok(stream) => stream,
        Err((failure, why)) => return nothing(failure, why),
    };
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
    let Some(shown) = chain.first() else {
        // TLS 1.3 has no servers without one.
        return nothing(Failure::Tls, "TLS: no certificate".to_owned());
    };
    let leaf = Certificate::from_der(shown).ok();
    let verified = verify(subject, leaf.as_ref(), &chain, clock.now());
    let (report, ledger, failure) = match verified {
        Err(why) => (Err(why.to_owned()), unread(why), Some(Failure::NotVerified)),
        Ok(()) if !client.is_operator => (Err(UNKNOWN_HERE.to_owned()), unread(UNKNOWN_HERE), Some(Failure::NoReport)),
        Ok(()) => {
            let (report, ledger) = ask(stream, subject, deadline).await;
            let failure = (report.is_err() || matches!(ledger, Some(Err(_)))).then_some(Failure::NoReport);
            (report, ledger, failure)
        }
    };
    let seen = Ok(Shown { fingerprint: sha256_hex(shown), is_verified: verified.is_ok(), report });
    let is_other = leaf.as_ref().is_none_or(|leaf| leaf.uris() != [subject.expected.as_str()]);
    Look { seen, ledger, not_after: leaf.map(|leaf| leaf.not_after()), failure, is_other }
}

/// A client completes the handshake before the server has verified its certificate: the leaf is known even if the
/// server rejects the operator's.
async fn shake_hands(
    subject: &Subject,
    address: SocketAddr,
    client: &Client,
    deadline: Instant,
) -> Result<TlsStream<TcpStream>, (Failure, String)> {
    let port = address.port();
    let tcp = match timeout(CONNECT, TcpStream::connect(address)).await {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(error)) => return Err(no_connection(&error, port)),
        Err(_) => return Err((Failure::TimedOut, format!("timed out :{port}"))),
    };
    let name = ServerName::try_from(subject.server_name.clone());
    let name = name.map_err(|_| (Failure::Tls, "TLS: the server name is not a DNS name".to_owned()))?;
    match timeout_at(deadline, TlsConnector::from(client.config.clone()).connect(name, tcp)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err((Failure::Tls, format!("TLS: {} :{port}", tls_reason(&error)))),
        Err(_) => Err((Failure::TimedOut, format!("timed out :{port}"))),
    }
}

fn no_connection(error: &io::Error, port: u16) -> (Failure, String) {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => (Failure::Refused, format!("connection refused :{port}")),
        io::ErrorKind::TimedOut => (Failure::TimedOut, format!("timed out :{port}")),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            (Failure::Unreachable, format!("no route :{port}"))
        }
        io::ErrorKind::ConnectionReset => (Failure::Unreachable, format!("connection reset :{port}")),
        _ => (Failure::Unreachable, format!("no connection :{port}")),
    }
}

/// The reason of a failed handshake, independent of the peer's data.
fn tls_reason(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(alert)) => format!("alert {alert:?}"),
        Some(rustls::Error::InvalidMessage(_)) => "not TLS".to_owned(),
        Some(rustls::Error::PeerIncompatible(_)) => "no common version or cipher".to_owned(),
        Some(rustls::Error::NoApplicationProtocol) => "no common protocol".to_owned(),
        Some(_) => "failed".to_owned(),
        None => "closed".to_owned(),
    }
}

/// Checks that the chain leads to a CA of the ring, and that the leaf is the instance's.
fn verify(
    subject: &Subject,
    leaf: Option<&Certificate>,
    chain: &[CertificateDer<'_>],
    now: Timestamp,
) -> Result<(), &'static str> {
    let leaf = leaf.ok_or("its certificate cannot be read")?;
    let others: Vec<Certificate> = chain.iter().skip(1).filter_map(|der| Certificate::from_der(der).ok()).collect();
    let roots = subject.roots.iter().filter_map(|root| Certificate::chain_from_pem(root.as_bytes()).ok());
    let leads_home = roots.flatten().any(|root| verify_path(leaf, &others, &root, Usage::ServerAuth, now).is_ok());
    if !leads_home {
        return Err("its certificate does not verify");
    }
    if leaf.uris() != [subject.expected.as_str()] {
        return Err("unexpected SPIFFE ID in the peer certificate");
    }
    Ok(())
}

/// The report, and the ledger if it is to be read; or a short reason why there is none.
async fn ask(
    stream: TlsStream<TcpStream>,
    subject: &Subject,
    deadline: Instant,
) -> (Result<IdentityReport, String>, Option<Reading>) {
    let timed_out = || "timed out".to_owned();
    let line = timeout_at(deadline, Line::open(stream, &subject.server_name)).await;
    let mut line = match line.unwrap_or_else(|_| Err(timed_out())) {
        Ok(line) => line,
        Err(why) => return (Err(why.clone()), subject.has_ledger.then_some(Err(why))),
    };
    let report = timeout_at(deadline, line.get(IDENTITY_PATH, MAX_REPORT_BYTES)).await;
    let report = report.unwrap_or_else(|_| Err(timed_out()));
    if !subject.has_ledger {
        return (report, None);
    }
    let ledger = timeout_at(deadline, line.get(LEDGER_PATH, MAX_LEDGER_BYTES)).await;
    (report, Some(ledger.unwrap_or_else(|_| Err(timed_out()))))
}

/// A connection for several requests in sequence.
struct Line {
    sender: Sender,
    host: String,
    _driver: Driver,
}

enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Line {
    async fn open(stream: TlsStream<TcpStream>, host: &str) -> Result<Self, String> {
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let io = TokioIo::new(stream);
        let (sender, driver) = if is_h2 {
            let shaken = http2::handshake(TokioExecutor::new(), io).await;
            let (sender, connection) = shaken.map_err(|error| no_answer(&error))?;
            (Sender::Http2(sender), Driver::drive(connection))
        } else {
            let (sender, connection) = http1::handshake(io).await.map_err(|error| no_answer(&error))?;
            (Sender::Http1(sender), Driver::drive(connection))
        };
        Ok(Self { sender, host: host.to_owned(), _driver: driver })
    }

    async fn get<T: DeserializeOwned>(&mut self, path: &str, max_bytes: usize) -> Result<T, String> {
        let host = &self.host;
        let response = match &mut self.sender {
            Sender::Http2(sender) => sender.send_request(request(&format!("https://{host}{path}"), None)?).await,
            Sender::Http1(sender) => {
                sender.ready().await.map_err(|error| no_answer(&error))?;
                sender.send_request(request(path, Some(host))?).await
            }
        };
        read(response.map_err(|error| no_answer(&error))?, max_bytes).await
    }
}

fn request(uri: &str, host: Option<&str>) -> Result<Request<Empty<Bytes>>, String> {
    let request = Request::get(uri).header(header::ACCEPT, "application/json");
    let request = match host {
        Some(host) => request.header(header::HOST, host),
        None => request,
    };
    request.body(Empty::new()).map_err(|_| "the server name is not a host name".to_owned())
}

async fn read<T: DeserializeOwned>(response: Response<Incoming>, max_bytes: usize) -> Result<T, String> {
    if response.status() != StatusCode::OK {
        return Err(response.status().as_u16().to_string());
    }
    let body = Limited::new(response.into_body(), max_bytes).collect().await;
    let body = body.map_err(|error| {
        let too_long = error.is::<http_body_util::LengthLimitError>();
        if too_long { "the report is too long".to_owned() } else { "the response was cut off".to_owned() }
    })?;
    mount::read("the report", &body.to_bytes()).map_err(|error| match error {
        MountError::TooNew { found, .. } => format!("the report has schemaVersion {found}"),
        MountError::Invalid { .. } => "the response is not a report".to_owned(),
    })
}

fn no_answer(error: &hyper::Error) -> String {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(found) = source {
        let io = found.downcast_ref::<io::Error>();
        let inner = io.and_then(|io| io.get_ref()?.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::AlertReceived(alert)) = inner {
            return format!("refuses the operator's certificate: alert {alert:?}");
        }
        source = found.source();
    }
    "no answer".to_owned()
}

/// The task that drives a connection; it is aborted when this is dropped.
struct Driver(AbortHandle);

impl Driver {
    fn drive<C: Future + Send + 'static>(connection: C) -> Self
    where
        C::Output: Send,
    {
        Self(tokio::spawn(connection).abort_handle())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

const CONNECT: Duration = Duration::from_secs(2);
pub(super) const TOTAL: Duration = Duration::from_secs(5);
const UNKNOWN_HERE: &str = "the operator has no client certificate";

#[cfg(test)]
pub(super) mod tests;
