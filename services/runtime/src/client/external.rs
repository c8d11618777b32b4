//! HTTP client for external servers, such as a login server, a chat provider or an object store.
//!
//! It uses no proxy and follows no redirect, because requests may contain secrets. [`outside_client`] is for long
//! exchanges, whose callers limit their time; [`send`] is for short ones.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use axum::body::Bytes;
use gaia_api::sync::lock;
use gaia_auth::BoundedMap;
use http::header::HeaderMap;
use http::uri::Scheme;
use http::{Request, StatusCode, Uri};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, ClientBuilder};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::time::timeout;

/// Reason why the client cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum OutsideClientError {
    /// The file with root certificates is unusable.
    #[error("cannot load the root certificates in {path}: {source}")]
    Roots {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: BoxError,
    },
    /// TLS cannot be set up.
    #[error("cannot create the HTTP client for external servers: {0}")]
    Client(reqwest::Error),
}

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
    Roots(BoxError),
    /// The request timed out.
    #[error("no response within the time limit")]
    Timeout,
    /// The response is larger than 64 KiB.
    #[error("the response is larger than 64 KiB")]
    TooLarge,
    /// Name resolution, connection, TLS or the transfer failed.
    #[error("{}", error_chain(.0))]
    Failed(reqwest::Error),
}

/// The cause of an error.
type BoxError = Box<dyn Error + Send + Sync>;

/// Returns true for an external URL that may be called: `https`, or `http` on a loopback address. Requests may contain
/// secrets, and responses are trusted.
#[must_use]
pub fn is_outside_address(uri: &Uri) -> bool {
    let host = uri.host().map(|host| host.trim_start_matches('[').trim_end_matches(']'));
    let is_tls = uri.scheme() == Some(&Scheme::HTTPS);
    let is_own_machine = uri.scheme() == Some(&Scheme::HTTP) && host.is_some_and(|host| LOOPBACK.contains(&host));
    host.is_some() && (is_tls || is_own_machine)
}

/// Creates a client that verifies servers by the root certificates in `roots`, otherwise by those of the system. A call
/// ends if no data arrives for `silence`; without it, the caller limits the time. [`is_outside_address`] decides which
/// URLs may be called.
///
/// # Errors
/// [`OutsideClientError`] if there are no root certificates.
pub fn outside_client(roots: Option<&Path>, silence: Option<Duration>) -> Result<Client, OutsideClientError> {
    let mut builder =
        builder().connect_timeout(Duration::from_secs(5)).user_agent(concat!("gaia/", env!("CARGO_PKG_VERSION")));
    if let Some(silence) = silence {
        builder = builder.read_timeout(silence);
    }
    if let Some(path) = roots {
        let failed = |source| OutsideClientError::Roots { path: path.to_owned(), source };
        let pem = std::fs::read(path).map_err(|error| failed(error.into()))?;
        builder = builder.tls_certs_only(anchors(&pem).map_err(failed)?);
    }
    builder.build().map_err(OutsideClientError::Client)
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
    if !is_outside_address(request.uri()) {
        return Err(FetchError::Address);
    }
    timeout(TOTAL_TIMEOUT, exchange(request, roots)).await.map_err(|_| FetchError::Timeout)?
}

async fn exchange(request: Request<Bytes>, roots: Option<&str>) -> Result<Fetched, FetchError> {
    // The URL can contain a secret.
    let failed = |error: reqwest::Error| FetchError::Failed(error.without_url());
    let trust = match roots {
        _ if request.uri().scheme() == Some(&Scheme::HTTP) => Trust::Unused,
        None => Trust::System,
        Some(pem) => Trust::Pem(pem.to_owned()),
    };
    let request = reqwest::Request::try_from(request).map_err(|_| FetchError::Address)?;
    let mut response = short_client(trust).await?.execute(request).await.map_err(failed)?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > MAX_BODY_BYTES {
            return Err(FetchError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Fetched { status: response.status(), headers: std::mem::take(response.headers_mut()), body: body.into() })
}

/// Returns the client for short exchanges, one for each set of root certificates. It keeps no connections. The system has
/// more than a hundred root certificates, so they are read on a blocking thread.
async fn short_client(trust: Trust) -> Result<Client, FetchError> {
    if let Some(client) = lock(&CLIENTS).as_ref().and_then(|clients| clients.get(&trust)) {
        return Ok(client.clone());
    }
    let building = tokio::task::spawn_blocking(move || {
        let builder = builder().connect_timeout(CONNECT_TIMEOUT).http1_only().pool_max_idle_per_host(0);
        let builder = match &trust {
            Trust::Unused => builder.tls_certs_only([]),
            Trust::System => builder,
            Trust::Pem(pem) => builder.tls_certs_only(anchors(pem.as_bytes())?),
        };
        let client = builder.build()?;
        let mut clients = lock(&CLIENTS);
        clients.get_or_insert_with(|| BoundedMap::newest(MAX_CLIENTS)).insert((), trust, client.clone());
        Ok(client)
    });
    building.await.unwrap_or_else(|error| Err(error.into())).map_err(FetchError::Roots)
}

/// The root certificates that verify a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Trust {
    /// No TLS. The system may have no root certificates.
    Unused,
    System,
    Pem(String),
}

fn builder() -> ClientBuilder {
    Client::builder().redirect(Policy::none()).no_proxy().referer(false)
}

/// Parses PEM root certificates. Those that cannot be trust anchors are ignored.
fn anchors(pem: &[u8]) -> Result<Vec<Certificate>, BoxError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>()?;
    let is_usable = |certificate: &CertificateDer<'_>| RootCertStore::empty().add(certificate.clone()).is_ok();
    let usable = certificates.iter().filter(|&certificate| is_usable(certificate));
    let usable: Vec<_> = usable.map(|certificate| Certificate::from_der(certificate)).collect::<Result<_, _>>()?;
    if usable.is_empty() {
        return Err("none of them is usable as a trust anchor".into());
    }
    Ok(usable)
}

/// Returns the message of an error and those of its causes.
#[must_use]
pub fn error_chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

static CLIENTS: Mutex<Option<BoundedMap<Trust, Client>>> = Mutex::new(None);

const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit for a complete response in a short exchange.
pub(crate) const TOTAL_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_BODY_BYTES: usize = 64 * 1024;
const MAX_CLIENTS: usize = 16;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn root_certificates_are_loaded_once_and_must_be_usable() {
        short_client(Trust::System).await.unwrap();
        assert!(lock(&CLIENTS).as_ref().unwrap().get(&Trust::System).is_some());
        let empty = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for unusable in ["no certificate", empty] {
            let failed = short_client(Trust::Pem(unusable.to_owned())).await;
            assert!(matches!(failed, Err(FetchError::Roots(_))), "{unusable}: {failed:?}");
        }
    }
    #[tokio::test]
    async fn server_is_verified_by_the_given_root_certificates() {
        let [own, other] = [(); 2].map(|()| rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap());
        let key = rustls_pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(std::sync::Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/keys", listener.local_addr().unwrap().port());
        tokio::spawn(async move {
            let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let Ok(mut tls) = acceptor.accept(tcp).await else { continue };
                let mut head = [0; 1024];
                let _ = tls.read(&mut head).await;
                tls.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nkeys").await.unwrap();
                let _ = tls.shutdown().await;
            }
        });
        let get = async |pem: &str| get(&url, HeaderMap::new(), Some(pem)).await;
        assert_eq!(get(&own.cert.pem()).await.unwrap().body, "keys");
        let failed = get(&other.cert.pem()).await.unwrap_err();
        assert!(matches!(failed, FetchError::Failed(_)), "{failed}");
        assert!(!failed.to_string().contains("/keys"), "a URL can contain a secret: {failed}");
    }
}
