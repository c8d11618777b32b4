//! The certificate chain that a server presents.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::Failure;
use crate::mesh::Presented;

/// Connects, shakes hands, and returns the chain that the server presented, whatever it is. Nothing is sent after the
/// handshake.
pub(super) async fn presented_chain(address: &str) -> Result<Vec<Vec<u8>>, Failure> {
    let (host, _) = address.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).ok_or_else(|| {
        Failure::usage(format!("tls://{address}: the port is missing"))
            .next("write tls://HOST:PORT, as tls://localhost:8443")
    })?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| Failure::usage(format!("tls://{address}: {host:?} is neither a name nor an address")))?;
    let unknown = |why: String| Failure::unknown(format!("tls://{address}: {why}"));
    let stream = timeout(LIMIT, TcpStream::connect(address)).await;
    let stream = stream.map_err(|_| unknown(format!("no connection within {} s", LIMIT.as_secs())))?;
    let stream = stream.map_err(|error| unknown(format!("no connection: {error}")))?;
    let connector = TlsConnector::from(Arc::new(config().map_err(|error| Failure::bug(error.to_string()))?));
    let stream = timeout(LIMIT, connector.connect(name, stream)).await;
    let stream = stream.map_err(|_| unknown(format!("no TLS handshake within {} s", LIMIT.as_secs())))?;
    let stream = stream.map_err(|error| unknown(format!("the TLS handshake failed: {error}")))?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    Ok(chain.iter().map(|certificate| certificate.to_vec()).collect())
}

fn config() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.dangerous().with_custom_certificate_verifier(Arc::new(Presented::default())).with_no_client_auth())
}

const LIMIT: Duration = Duration::from_secs(10);
