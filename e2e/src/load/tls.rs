//! TLS of an external program: the mounted roots, and possibly a leaf, without the runtime.

use std::fmt;
use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use gaia_api::Clock;
use gaia_api::names::key;
use gaia_pki::Certificate;
use gaia_runtime::{Hosts, MeshClient};
use http::Uri;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, Stream};

use super::negative::Verdict;

/// A certificate chain and its key, both PEM.
pub(super) struct LeafPem<'a> {
    pub(super) chain: &'a [u8],
    pub(super) key: &'a [u8],
}

/// A client without a certificate: trusts the roots in `ca.crt` of a mounted directory, and reads them again on
/// every change.
pub(super) struct Outsider {
    roots: PathBuf,
    hosts: Hosts,
    clock: Arc<dyn Clock>,
    made: Option<(Vec<u8>, MeshClient)>,
    /// For plain HTTP, as behind an ingress.
    plain: Option<MeshClient>,
}

impl Outsider {
    /// A client for `url`.
    pub(super) fn new(url: &Uri, dir: &Path, hosts: Hosts, clock: Arc<dyn Clock>) -> Self {
        let plain = (url.scheme_str() == Some("http")).then(|| MeshClient::plain(hosts.clone()));
        Self { roots: dir.join(key::CA_CERT), hosts, clock, made: None, plain }
    }

    /// The client for the present roots; the previous one where they cannot be read or are invalid.
    pub(super) fn client(&mut self) -> Result<MeshClient, String> {
        if let Some(plain) = &self.plain {
            return Ok(plain.clone());
        }
        let found = std::fs::read(&self.roots);
        if let (Some((known, client)), Ok(found)) = (&self.made, &found)
            && known == found
        {
            return Ok(client.clone());
        }
        let renewed = found.with_context(|| format!("cannot read {}", self.roots.display())).and_then(|roots| {
            let config = config(&roots, None, &self.clock)?;
            Ok((roots, MeshClient::new(config, self.hosts.clone())))
        });
        match (renewed, &self.made) {
            (Ok((roots, client)), _) => {
                self.made = Some((roots, client.clone()));
                Ok(client)
            }
            (Err(_), Some((_, client))) => Ok(client.clone()),
            (Err(error), None) => Err(format!("{error:#}")),
        }
    }
}

/// The TLS side of a client that trusts `roots` (PEM).
pub(super) fn config(roots: &[u8], leaf: Option<&LeafPem<'_>>, clock: &Arc<dyn Clock>) -> Result<ClientConfig> {
    let mut store = RootCertStore::empty();
    for root in Certificate::chain_from_pem(roots)? {
        store.add(CertificateDer::from(root.der().to_vec()))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_details(provider, Arc::new(ClockTime(Arc::clone(clock))))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(store);
    let mut config = match leaf {
        None => builder.with_no_client_auth(),
        Some(leaf) => {
            let chain = CertificateDer::pem_slice_iter(leaf.chain).collect::<Result<_, _>>()?;
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(leaf.key)?)?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// True if a server accepts a client with this certificate. With TLS 1.3 the client completes its handshake before the server has
/// verified the certificate, so the first record decides: an alert, or the SETTINGS frame of HTTP/2. Nothing is sent that the server
/// could be reading when it closes the connection, which might lose the alert.
pub(super) fn is_let_in(address: SocketAddr, name: ServerName<'static>, config: ClientConfig) -> Verdict {
    match greeting(address, name, config) {
        Ok(()) => Verdict::Accepted,
        Err(error) => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(rustls::Error::AlertReceived(alert)) => Verdict::Refused(format!("alert {alert:?}")),
            _ => Verdict::Unclear(error.to_string()),
        },
    }
}

fn greeting(address: SocketAddr, name: ServerName<'static>, config: ClientConfig) -> io::Result<()> {
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut tcp = TcpStream::connect_timeout(&address, super::TIMEOUT)?;
    tcp.set_read_timeout(Some(super::TIMEOUT))?;
    tcp.set_write_timeout(Some(super::TIMEOUT))?;
    Stream::new(&mut connection, &mut tcp).read_exact(&mut [0])
}

struct ClockTime(Arc<dyn Clock>);

impl fmt::Debug for ClockTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClockTime")
    }
}

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().as_second()).ok()?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
    }
}
