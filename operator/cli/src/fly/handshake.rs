//! A handshake with a machine, as the service whose certificate it should have.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gaia_api::names::key;
use gaia_pki::Certificate;
use jiff::Timestamp;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, ClientConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::plan::Handshake;
use super::tree::Service;
use crate::mesh::Presented;

/// Connects to a machine as `service`, and reports what it presents and accepts.
///
/// # Errors
/// The cause, if there is no answer.
pub(crate) async fn probe(
    service: &Service,
    address: SocketAddr,
    host: &str,
    now: Timestamp,
) -> Result<Handshake, String> {
    timeout(TIME, attempt(service, address, host, now)).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

async fn attempt(service: &Service, address: SocketAddr, host: &str, now: Timestamp) -> Result<Handshake, String> {
    let presented = Arc::new(Presented::default());
    let config = client(service, &presented)?;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let tcp = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let accepts = match TlsConnector::from(Arc::new(config)).connect(name, tcp).await {
        // In TLS 1.3 the server's decision on the client's certificate comes after the handshake: with its first answer.
        Ok(mut stream) => {
            let request =
                format!("GET /.well-known/gaia/identity HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            let mut answer = [0; 5];
            let read = match stream.write_all(request.as_bytes()).await {
                Ok(()) => stream.read_exact(&mut answer).await.map(drop),
                Err(error) => Err(error),
            };
            match read {
                Ok(()) => answer == *b"HTTP/",
                Err(error) if is_refusal(&error) => false,
                Err(error) => return Err(error.to_string()),
            }
        }
        Err(error) if is_refusal(&error) => false,
        Err(error) => return Err(error.to_string()),
    };
    let chain: Vec<Certificate> = presented.chain().iter().map_while(|der| Certificate::from_der(der).ok()).collect();
    let Some(leaf) = chain.first() else { return Err("it presents no certificate".to_owned()) };
    Ok(Handshake {
        is_current: leaf.der() == service.leaf().der(),
        is_trusted: service.trusts(&chain, now) && leaf.uris() == service.leaf().uris(),
        accepts,
    })
}

/// True if the peer refused the certificate of this side by an alert.
fn is_refusal(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::AlertReceived(alert)) = inner else { return false };
    use AlertDescription as Alert;
    matches!(
        alert,
        Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::CertificateRequired
            | Alert::AccessDenied
            | Alert::DecryptError
    )
}

fn client(service: &Service, presented: &Arc<Presented>) -> Result<ClientConfig, String> {
    let pem = service.content(key::TLS_KEY).unwrap_or_default();
    let private = PrivateKeyDer::from_pem_slice(pem).map_err(|_| "tls.key is no private key".to_owned())?;
    let chain = service.chain.iter().map(|certificate| CertificateDer::from(certificate.der().to_vec())).collect();
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(presented) as Arc<dyn ServerCertVerifier>)
        .with_client_auth_cert(chain, private)
        .map_err(|error| error.to_string())
}

const TIME: Duration = Duration::from_secs(5);
