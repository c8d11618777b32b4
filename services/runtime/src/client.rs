//! Calls to other services: mTLS with the newest leaf, to a server whose name is verified.
//!
//! No proxy and no redirect is ever followed. Configuration and pool belong to one generation and go with it.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use http::{Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// An HTTP client of one generation.
#[derive(Clone)]
pub struct MeshClient(Client<Connector, Body>);

impl fmt::Debug for MeshClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MeshClient")
    }
}

/// Why a call to another service failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No answer.
    #[error("calling {uri} failed: {source}")]
    Failed {
        /// Which address, without its query.
        uri: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An answer other than was hoped for.
    #[error("{uri} answered {status}")]
    Refused {
        /// Which address, without its query.
        uri: String,
        /// The answer.
        status: StatusCode,
    },
}

impl MeshClient {
    pub(crate) fn new(config: ClientConfig) -> Self {
        let connector = Connector { tls: TlsConnector::from(Arc::new(config)) };
        // Servers close an idle HTTP/1 connection after their header timeout: let go of ours before.
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .build(connector);
        Self(client)
    }

    /// Sends a request. Its URI must be absolute and `https`.
    ///
    /// # Errors
    /// [`CallError::Failed`] if no answer comes back: name resolution, connection, TLS, or the transfer.
    pub async fn request(&self, request: Request<Body>) -> Result<Response<Incoming>, CallError> {
        let uri = place(request.uri());
        self.0.request(request).await.map_err(|error| CallError::Failed { uri, source: error.into() })
    }

    /// Asks auth-service for a service token.
    ///
    /// # Errors
    /// [`CallError`] if it does not answer, refuses, or answers with something else.
    pub async fn service_token(&self, auth_url: &Uri, wanted: &TokenRequest<'_>) -> Result<ServiceToken, CallError> {
        let failed =
            |source: Box<dyn std::error::Error + Send + Sync>| CallError::Failed { uri: place(auth_url), source };
        let body = serde_json::to_vec(wanted).map_err(|error| failed(error.into()))?;
        let uri = format!("{}/internal/service-token", auth_url.to_string().trim_end_matches('/'));
        let request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body))
            .map_err(|error| failed(error.into()))?;
        let response = self.request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(CallError::Refused { uri: place(auth_url), status: response.status() });
        }
        let body = Limited::new(response.into_body(), MAX_TOKEN_ANSWER_BYTES).collect().await.map_err(&failed)?;
        // The parser's message could quote the token.
        serde_json::from_slice(&body.to_bytes()).map_err(|_| failed("the answer holds no token".into()))
    }
}

/// What auth-service is asked for.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct TokenRequest<'a> {
    /// The caller's own service name.
    pub service_name: &'a str,
    /// The service to call, `name` or `namespace/name`; none: a broad token of the dual phases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_service: Option<&'a str>,
    /// The scopes, one space apart; none: all that are granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<&'a str>,
}

/// A service token. `Debug` does not print it.
#[derive(Clone, Deserialize)]
pub struct ServiceToken {
    /// The token.
    pub access_token: String,
    /// How long it is good for, in seconds.
    pub expires_in: u64,
}

impl fmt::Debug for ServiceToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceToken").field("expires_in", &self.expires_in).finish_non_exhaustive()
    }
}

/// Where a request went, as much of it as may be logged.
fn place(uri: &Uri) -> String {
    format!("{}://{}{}", uri.scheme_str().unwrap_or(""), uri.authority().map_or("", |a| a.as_str()), uri.path())
}

/// TCP and TLS to the host a URI names.
#[derive(Clone)]
struct Connector {
    tls: TlsConnector,
}

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let tls = self.tls.clone();
        Box::pin(async move {
            if uri.scheme() != Some(&http::uri::Scheme::HTTPS) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "other services are called with https only"));
            }
            let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
            let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
            let tcp = timeout(CONNECT_TIMEOUT, TcpStream::connect((host, uri.port_u16().unwrap_or(443)))).await??;
            tcp.set_nodelay(true)?;
            let stream = timeout(HANDSHAKE_TIMEOUT, tls.connect(name, tcp)).await??;
            Ok(Stream(TokioIo::new(stream)))
        })
    }
}

/// A TLS connection as hyper takes it.
struct Stream(TokioIo<TlsStream<TcpStream>>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let is_h2 = self.0.inner().get_ref().1.alpn_protocol() == Some(b"h2");
        if is_h2 { Connected::new().negotiated_h2() } else { Connected::new() }
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(20);
const MAX_TOKEN_ANSWER_BYTES: usize = 16 * 1024;
