//! HTTP client for other services: mTLS with the current leaf, and verification of the server's identity.
//!
//! Proxies and redirects are not followed. TLS configuration and connection pool belong to one credentials snapshot.
//! Connections are closed before the server's age limit. Concurrent requests are spread over several connections.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _};
use h2::Reason;
use http::uri::Scheme;
use http::{Request, Response, StatusCode, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::pool::{AnswerBody, Shards};
use crate::client::target::UnexpectedIdentity;
use crate::limits::{CONNECTION_WINDOW_BYTES, MAX_SEND_BUFFER_BYTES, STREAM_WINDOW_BYTES};

/// An HTTP client of one credentials snapshot.
#[derive(Clone)]
pub struct MeshClient {
    connector: Connector,
    shards: Shards<Client<Connector, Body>>,
    max_age: Duration,
}

/// Addresses of hosts unknown to the system resolver, like `/etc/hosts`: by name, with a port that replaces the URI's.
/// The addresses of a host are used in turn; an unreachable one is skipped.
#[derive(Debug, Clone, Default)]
pub struct Hosts {
    addresses: Arc<BTreeMap<String, Vec<SocketAddr>>>,
    turn: Arc<AtomicUsize>,
}

impl FromIterator<(String, SocketAddr)> for Hosts {
    fn from_iter<T: IntoIterator<Item = (String, SocketAddr)>>(hosts: T) -> Self {
        let mut addresses: BTreeMap<String, Vec<SocketAddr>> = BTreeMap::new();
        for (name, address) in hosts {
            addresses.entry(name).or_default().push(address);
        }
        Self { addresses: Arc::new(addresses), turn: Arc::default() }
    }
}

impl Hosts {
    /// Parses comma-separated entries `name=address:port`.
    ///
    /// # Errors
    /// A description of the first invalid entry.
    pub fn parse(text: &str) -> Result<Self, String> {
        let entry = |entry: &str| {
            let (name, address) = entry.split_once('=').ok_or_else(|| format!("{entry:?} is not name=address:port"))?;
            let address = address.parse().map_err(|_| format!("{address:?} is not an IP address and a port"))?;
            Ok((name.to_owned(), address))
        };
        text.split(',').map(str::trim).filter(|text| !text.is_empty()).map(entry).collect()
    }

    async fn connect(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let Some(known) = self.addresses.get(host) else { return TcpStream::connect((host, port)).await };
        let mut addresses = known.clone();
        addresses.rotate_left(self.turn.fetch_add(1, Ordering::Relaxed) % known.len());
        TcpStream::connect(addresses.as_slice()).await
    }
}

impl fmt::Debug for MeshClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MeshClient")
    }
}

/// Reason why a call to another service failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// There was no response.
    #[error("call to {uri} failed: {source}")]
    Failed {
        /// The URL without its query.
        uri: String,
        /// The cause.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The server is not the intended target. Nothing was sent.
    #[error("call to {uri} refused: {reason}")]
    WrongServer {
        /// The URL without its query.
        uri: String,
        /// The actual and the expected identity.
        reason: String,
    },
    /// The response status is not a success.
    #[error("{uri} responded with {status}")]
    Refused {
        /// The URL without its query.
        uri: String,
        /// The response status.
        status: StatusCode,
    },
    /// No usable certificates are loaded yet.
    #[error("no client certificate loaded yet")]
    NotReady,
    /// There is no token, because auth-service does not respond.
    #[error("auth-service at {uri} does not respond: {source}")]
    AuthUnavailable {
        /// The URL.
        uri: String,
        /// The cause.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The token from auth-service is malformed.
    #[error("the response of auth-service has no valid token")]
    NoToken,
    /// The API key file is not a valid header value.
    #[error("the file in GAIA_API_KEY_FILE has no valid API key")]
    BadKey,
    /// auth-service rejected the credential of the subject.
    #[error("auth-service rejected the credential on whose behalf {target} is called")]
    SubjectRefused {
        /// The target of the call.
        target: String,
        /// Set if a retry with the same credential would fail too.
        is_definitive: bool,
    },
    /// Credentials are not sent over plain HTTP.
    #[error("{uri} is plain HTTP, over which no token is sent: set GAIA_API_KEY_FILE or use https")]
    Unprotected {
        /// The URL without its query.
        uri: String,
    },
}

impl CallError {
    /// Returns true if no part of the request can have reached a server, because there was no connection.
    #[must_use]
    pub fn was_never_sent(&self) -> bool {
        let source = match self {
            Self::Failed { source, .. } => source,
            Self::WrongServer { .. } => return true,
            _ => return false,
        };
        source
            .downcast_ref::<hyper_util::client::legacy::Error>()
            .is_some_and(hyper_util::client::legacy::Error::is_connect)
    }

    /// Returns the error of a call without a response.
    pub(crate) fn failed(uri: &Uri, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let source: Arc<dyn std::error::Error + Send + Sync> = Arc::from(error.into());
        match unexpected_identity(source.as_ref()) {
            Some(unexpected) => Self::WrongServer { uri: loggable_uri(uri), reason: unexpected.to_string() },
            None => Self::Failed { uri: loggable_uri(uri), source },
        }
    }
}

impl MeshClient {
    /// Creates a client with a custom TLS configuration. Services use the clients of their
    /// [`CredentialsSnapshot`](crate::CredentialsSnapshot), which know the identity of each target.
    #[must_use]
    pub fn new(config: ClientConfig, hosts: Hosts) -> Self {
        Self::with(Connector { tls: Some(TlsConnector::from(Arc::new(config))), hosts })
    }

    /// Creates a client for plain HTTP only, for a platform that has no certificates yet.
    #[must_use]
    pub fn plain(hosts: Hosts) -> Self {
        Self::with(Connector { tls: None, hosts })
    }

    /// Returns a client of the same snapshot with separate connections.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self::with(self.connector.clone())
    }

    fn with(connector: Connector) -> Self {
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            // Servers close an idle HTTP/1 connection after their header timeout; close ours earlier.
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
            .http2_initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_max_send_buf_size(MAX_SEND_BUFFER_BYTES);
        let shards = Shards::new(|| builder.build(connector.clone()));
        Self { connector, shards, max_age: MAX_AGE }
    }

    /// Returns the client with another maximum connection age.
    #[cfg(test)]
    pub(crate) fn with_max_age(self, max_age: Duration) -> Self {
        Self { max_age, ..self }
    }

    /// Sends a request to an absolute `https` URI. A request without a body is retried if a server that closes the
    /// connection reports that it did not process it.
    ///
    /// # Errors
    /// [`CallError::Failed`] if there is no response, because of name resolution, connection, TLS, or transfer.
    pub async fn request(&self, request: Request<Body>) -> Result<Response<AnswerBody>, CallError> {
        if request.body().is_end_stream() {
            self.send_with_retry(request.map(|_| Bytes::new())).await
        } else {
            self.send(request).await
        }
    }

    /// Sends a buffered request, and retries it while servers report that they did not process it.
    pub(crate) async fn send_with_retry(&self, request: Request<Bytes>) -> Result<Response<AnswerBody>, CallError> {
        for _ in 1..MAX_ATTEMPTS {
            match self.send(request.clone().map(Body::from)).await {
                Err(CallError::Failed { source, .. }) if was_not_looked_at(source.as_ref()) => {}
                settled => return settled,
            }
        }
        self.send(request.map(Body::from)).await
    }

    async fn send(&self, mut request: Request<Body>) -> Result<Response<AnswerBody>, CallError> {
        let uri = request.uri().clone();
        let used = capture_connection(&mut request);
        let (pool, slot) = self.shards.enter();
        let answer = pool.request(request).await;
        let answer = answer.map_err(|error| CallError::failed(&uri, error))?;
        let began = answer.extensions().get::<Began>();
        if began.is_some_and(|Began(began)| began.elapsed() >= self.max_age)
            && let Some(connection) = used.connection_metadata().as_ref()
        {
            // The pool starts no further request on it; those in progress continue.
            connection.poison();
        }
        Ok(answer.map(|body| AnswerBody::new(body, slot)))
    }
}

/// Returns the URL of a request without its query, for logs.
pub(crate) fn loggable_uri(uri: &Uri) -> String {
    format!("{}://{}{}", uri.scheme_str().unwrap_or(""), uri.authority().map_or("", |a| a.as_str()), uri.path())
}

/// Finds the refused identity of a server among the causes of an error.
fn unexpected_identity<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a UnexpectedIdentity> {
    let of_tls = |cause: &'a (dyn std::error::Error + 'static)| {
        // An I/O error does not return the error it was created from as its source.
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let tls = inner.and_then(|inner| inner.downcast_ref()).or_else(|| cause.downcast_ref::<rustls::Error>());
        match tls? {
            rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) => other.0.downcast_ref(),
            _ => None,
        }
    };
    std::iter::successors(Some(error), |error| error.source()).find_map(of_tls)
}

/// Returns true if a server refused a request without processing it (RFC 9113, section 8.7): the server sent GOAWAY
/// while it was in transit.
fn was_not_looked_at(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    let Some(error) = causes.find_map(|cause| cause.downcast_ref::<h2::Error>()) else { return false };
    error.is_remote()
        && match error.reason() {
            // Streams that the server still processes end with another error.
            Some(Reason::NO_ERROR) => error.is_go_away(),
            Some(Reason::REFUSED_STREAM) => error.is_reset(),
            _ => false,
        }
}

/// Connector for TCP to the URI's host, with TLS always or never.
#[derive(Clone)]
struct Connector {
    tls: Option<TlsConnector>,
    hosts: Hosts,
}

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { tls, hosts } = self.clone();
        Box::pin(async move {
            let (scheme, port) = if tls.is_some() { (Scheme::HTTPS, 443) } else { (Scheme::HTTP, 80) };
            if uri.scheme() != Some(&scheme) {
                let only = format!("this client supports {scheme} only");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, only));
            }
            let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
            let tcp = timeout(CONNECT_TIMEOUT, hosts.connect(&host, uri.port_u16().unwrap_or(port))).await??;
            tcp.set_nodelay(true)?;
            let io = match tls {
                None => Io::Plain(TokioIo::new(tcp)),
                Some(tls) => {
                    let name = ServerName::try_from(host).map_err(io::Error::other)?;
                    let stream = timeout(HANDSHAKE_TIMEOUT, tls.connect(name, tcp)).await??;
                    Io::Tls(Box::new(TokioIo::new(stream)))
                }
            };
            Ok(Stream { io, began: Instant::now() })
        })
    }
}

/// A connection in the form that hyper requires.
struct Stream {
    io: Io,
    began: Instant,
}

enum Io {
    Plain(TokioIo<TcpStream>),
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

/// Start time of the connection that a response arrived on.
#[derive(Debug, Clone, Copy)]
struct Began(Instant);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let connected = Connected::new().extra(Began(self.began));
        match &self.io {
            Io::Tls(tls) if tls.inner().get_ref().1.alpn_protocol() == Some(b"h2") => connected.negotiated_h2(),
            _ => connected,
        }
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Io::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Io::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Io::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Io::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// Below the server's limit (eight minutes and more), so that the client closes first and no request is lost.
const MAX_AGE: Duration = Duration::from_secs(7 * 60);
const MAX_ATTEMPTS: u32 = 3;
