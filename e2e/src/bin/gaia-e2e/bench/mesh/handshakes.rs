//! mTLS handshakes, against bare tokio-rustls with the same keys and the same requirements.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use futures::stream;
use gaia_api::names::key;
use gaia_e2e::progress;
use gaia_runtime::testing::{MountedFiles, Platform};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::super::report::{Bound, Report};
use super::server::{CALLER, SERVICE, Server, on_a_thread};
use super::{TURNS, rate, turns};

pub(super) async fn measure(rounds: usize, platform: &Platform, server: &Server, report: &mut Report) -> Result<()> {
    let config = bare_config(platform, &platform.leaf(SERVICE))?;
    let bare = on_a_thread(async move || {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        Ok((listener.local_addr()?, serve_bare(listener, TlsAcceptor::from(Arc::new(config)))))
    })?;
    let mut client = platform.client_config(Some(&platform.leaf(CALLER)));
    client.alpn_protocols = vec![b"h2".to_vec()];
    client.resumption = rustls::client::Resumption::disabled();
    let client = TlsConnector::from(Arc::new(client));
    let (mut without, mut with) = (vec![], vec![]);
    time(&client, bare, WARM_UP).await?;
    time(&client, server.address, WARM_UP).await?;
    for round in 1..=rounds {
        progress::say(format_args!("round {round} of {rounds}: handshakes"));
        let shake_hands = async |address| time(&client, address, HANDSHAKES).await;
        let [there, here] = turns(async || shake_hands(bare).await, async || shake_hands(server.address).await).await?;
        without.push(rate(HANDSHAKES * TURNS, there));
        with.push(rate(HANDSHAKES * TURNS, here));
    }
    let ratio: Vec<f64> = with.iter().zip(&without).map(|(with, without)| with / without).collect();
    report.section(format!("mTLS handshakes, {} a round, until the server's first byte", HANDSHAKES * TURNS));
    report.figure("bare tokio-rustls", "/s", &without);
    report.figure("the services' listener", "/s", &with);
    report.bounded("the listener's rate against bare tokio-rustls", "", &ratio, Bound::AtLeast(0.9));
    Ok(())
}

async fn time(client: &TlsConnector, address: SocketAddr, count: usize) -> Result<Duration> {
    let start = Instant::now();
    let mut all = stream::iter(0..count).map(|_| shake_hands(client, address)).buffer_unordered(UNDER_WAY);
    while let Some(done) = all.next().await {
        done?;
    }
    Ok(start.elapsed())
}

/// A client completes its handshake before the server has verified its certificate; the server's first byte shows that it has.
async fn shake_hands(client: &TlsConnector, address: SocketAddr) -> Result<()> {
    let tcp = TcpStream::connect(address).await?;
    let mut tls = client.connect(ServerName::try_from("127.0.0.1")?, tcp).await?;
    let read = tls.read(&mut [0; 64]).await?;
    ensure!(read > 0, "{address} closed after the handshake");
    Ok(())
}

fn bare_config(platform: &Platform, leaf: &MountedFiles) -> Result<ServerConfig> {
    let provider = Arc::new(default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(platform.bundle().as_bytes())?)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let chain = CertificateDer::pem_slice_iter(&leaf[key::TLS_CERT]).collect::<Result<Vec<_>, _>>()?;
    let private = PrivateKeyDer::from_pem_slice(&leaf[key::TLS_KEY])?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, private)
        .context("the bare server's certificate")?;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

async fn serve_bare(listener: TcpListener, acceptor: TlsAcceptor) {
    while let Ok((tcp, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            if let Ok(mut tls) = acceptor.accept(tcp).await
                && tls.write_all(b"ok").await.is_ok()
                && tls.flush().await.is_ok()
            {
                // Until the client closes the connection.
                let _ = tls.read(&mut [0; 1]).await;
            }
        });
    }
}

/// Handshakes in a turn.
const HANDSHAKES: usize = 200;
const WARM_UP: usize = 200;
const UNDER_WAY: usize = 16;
