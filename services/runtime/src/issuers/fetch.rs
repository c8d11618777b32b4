//! HTTP requests to external servers: one response, no proxy, no redirect, and short timeouts.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use http::header::{HOST, HeaderMap};
use http::uri::Scheme;
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// A complete response.
#[derive(Debug)]
pub struct Fetched {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, at most 64 KiB.
    pub body: Bytes,
}

/// Reason why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL is neither `https` nor `http` on a loopback address.
    #[error("the URL must be https, or http on loopback")]
    Address,
    /// The root certificates cannot be loaded.
    #[error("no usable root certificates: {0}")]
    Roots(String),
    /// The request timed out.
    #[error("no response within the time limit")]
    Timeout,
    /// Name resolution, connection or TLS failed.
    #[error("connection failed: {0}")]
    Connect(#[from] io::Error),
    /// The response is larger than 64 KiB.
    #[error("the response is larger than 64 KiB")]
    TooLarge,
    /// The response is not valid HTTP.
    #[error("transfer failed: {0}")]
    Transfer(Box<dyn std::error::Error + Send + Sync>),
}

/// Returns true for an external URL that may be called: `https`, or `http` on a loopback address. Requests may contain
/// secrets, and responses are trusted.
#[must_use]
pub fn is_outside_address(uri: &Uri) -> bool {
    let host = uri.host().map(|host| host.trim_start_matches('[').trim_end_matches(']'));
    let is_tls = uri.scheme() == Some(&Scheme::HTTPS);
    let is_own_machine = uri.scheme() == Some(&Scheme::HTTP) && host.is_some_and(|host| LOOPBACK.contains(&host));
    host.is_some() && (is_tls || is_own_machine)
}

/// Fetches `url`; `roots` are the PEM root certificates of the server, none for those of the system.
pub(crate) async fn get(url: &str, headers: HeaderMap, roots: Option<&str>) -> Result<Fetched, FetchError> {
    let mut request = Request::new(Bytes::new());
    *request.uri_mut() = url.parse().map_err(|_| FetchError::Address)?;
    *request.headers_mut() = headers;
    send(request, roots).await
}

/// Sends a request to an absolute URI, and returns the response if it is complete within five seconds. `roots` are the
/// PEM root certificates of the server, none for those of the system.
///
/// # Errors
/// [`FetchError`] if there is no response, or one that is too large. It contains no part of the request.
pub async fn send(request: Request<Bytes>, roots: Option<&str>) -> Result<Fetched, FetchError> {
    timeout(TOTAL_TIMEOUT, connect(request, roots)).await.map_err(|_| FetchError::Timeout)?
}

async fn connect(request: Request<Bytes>, roots: Option<&str>) -> Result<Fetched, FetchError> {
    let uri = request.uri().clone();
    let host = uri.host().ok_or(FetchError::Address)?.trim_start_matches('[').trim_end_matches(']');
    if !is_outside_address(&uri) {
        return Err(FetchError::Address);
    }
    let is_tls = uri.scheme() == Some(&Scheme::HTTPS);
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let connecting = timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port)));
    let tcp = connecting.await.map_err(|_| FetchError::Timeout)??;
    if !is_tls {
        return exchange(tcp, &uri, request).await;
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|_| FetchError::Address)?;
    let tls = TlsConnector::from(config(roots).await?).connect(name, tcp).await?;
    exchange(tls, &uri, request).await
}

async fn exchange<IO>(io: IO, uri: &Uri, request: Request<Bytes>) -> Result<Fetched, FetchError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let transfer = |error: Box<dyn std::error::Error + Send + Sync>| FetchError::Transfer(error);
    let authority = uri.authority().ok_or(FetchError::Address)?;
    let mut request = request.map(Body::from);
    *request.uri_mut() = uri.path_and_query().map_or_else(|| Uri::from_static("/"), |path| Uri::from(path.clone()));
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| FetchError::Address)?;
    request.headers_mut().insert(HOST, host);
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(|error| transfer(error.into()))?;
    let answering = async {
        let response = sender.send_request(request).await.map_err(|error| transfer(error.into()))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_BODY_BYTES)
            .collect()
            .await
            .map_err(|error| if error.is::<LengthLimitError>() { FetchError::TooLarge } else { transfer(error) })?;
        Ok(Fetched { status: head.status, headers: head.headers, body: body.to_bytes() })
    };
    tokio::pin!(answering);
    tokio::select! {
        answer = &mut answering => answer,
        // The connection may end after the response is complete.
        _ = connection => answering.await,
    }
}

async fn config(roots: Option<&str>) -> Result<Arc<ClientConfig>, FetchError> {
    match roots {
        Some(pem) => trusting(pem.as_bytes()),
        None => SYSTEM.get_or_try_init(system).await.cloned(),
    }
}

/// The configuration with the system's roots. There are more than a hundred, so they are read once on a blocking
/// thread.
async fn system() -> Result<Arc<ClientConfig>, FetchError> {
    let reading = tokio::task::spawn_blocking(|| {
        let found = SYSTEM_ROOTS.iter().find_map(|path| std::fs::read(path).ok());
        trusting(&found.ok_or_else(|| FetchError::Roots("the system has no root certificates".to_owned()))?)
    });
    reading.await.map_err(|error| FetchError::Roots(error.to_string()))?
}

fn trusting(pem: &[u8]) -> Result<Arc<ClientConfig>, FetchError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|error| FetchError::Roots(error.to_string()))?;
    let mut store = RootCertStore::empty();
    if store.add_parsable_certificates(certificates).0 == 0 {
        return Err(FetchError::Roots("none of them is usable as a trust anchor".to_owned()));
    }
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| FetchError::Roots(error.to_string()))
        .map(|builder| Arc::new(builder.with_root_certificates(store).with_no_client_auth()))
}

static SYSTEM: OnceCell<Arc<ClientConfig>> = OnceCell::const_new();

const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit for a complete response of an external server.
pub(crate) const TOTAL_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_BODY_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_systems_roots_are_read_once() {
        let (first, second) = (config(None).await.unwrap(), config(None).await.unwrap());
        assert!(Arc::ptr_eq(&first, &second));
        assert!(config(Some("no certificate")).await.is_err(), "those of an issuer are its own");
    }
}
