//! The memory of each service with a thousand idle client connections.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use futures::stream;
use gaia_api::names::key;
use gaia_e2e::process::memory_mib;
use gaia_e2e::{Standalone, progress};
use gaia_runtime::testing::{MountedFiles, Platform, grants};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::report::{Bound, Report};
use super::server::CALLER;

pub(super) async fn measure(platform: &Platform, dir: &Path, report: &mut Report) -> Result<()> {
    report.section(format!("memory of services with {CONNECTIONS} idle mTLS connections"));
    for program in SERVICES {
        progress::say(format_args!("{CONNECTIONS} connections to {program}"));
        let mib = resident(platform, dir, program).await.with_context(|| format!("with {program}"))?;
        report.bounded(program, "MiB", &[mib], Bound::AtMost(40.0));
    }
    Ok(())
}

async fn resident(platform: &Platform, dir: &Path, program: &str) -> Result<f64> {
    let session_keys = dir.join("session-keys");
    std::fs::write(&session_keys, "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")?;
    let session_keys = session_keys.display().to_string();
    let env: &[(&str, &str)] = match program {
        "chat-service" => &[("GAIA_PROVIDER_URL", "https://provider.example/v1")],
        "web-service" => &[("GAIA_SESSION_KEYS_FILE", &session_keys)],
        _ => &[],
    };
    let service = Standalone::start(program, &dir.join(program), &files(platform, program), env).await?;
    let mut client = platform.client_config(Some(&platform.leaf(CALLER)));
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    let client = TlsConnector::from(Arc::new(client));
    let connections =
        stream::iter(0..CONNECTIONS).map(|_| connection(&client, service.mesh)).buffer_unordered(UNDER_WAY);
    let connections: Vec<Result<TlsStream<TcpStream>>> = connections.collect().await;
    let open = connections.into_iter().collect::<Result<Vec<_>>>()?;
    let mib = memory_mib(service.pid(), "VmRSS")?;
    ensure!(open.len() == CONNECTIONS, "only {} connections are open", open.len());
    Ok(mib)
}

/// A connection with one request, idle afterwards.
async fn connection(client: &TlsConnector, address: SocketAddr) -> Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    let mut tls = client.connect(ServerName::try_from("127.0.0.1")?, tcp).await?;
    tls.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
    let read = tls.read(&mut [0; 4096]).await?;
    ensure!(read > 0, "no answer");
    Ok(tls)
}

fn files(platform: &Platform, program: &str) -> MountedFiles {
    let mut files = platform.mount(program);
    if program == "auth-service" {
        files.insert(key::JWT_SIGNING_KEY, platform.signing_key().into_bytes());
        files.insert(key::GRANTS, grants(&[CALLER, program], &[(CALLER, program, &[])]));
    }
    files
}

const SERVICES: [&str; 5] = ["auth-service", "asset-service", "chat-service", "gateway", "web-service"];
const CONNECTIONS: usize = 1_000;
const UNDER_WAY: usize = 16;
