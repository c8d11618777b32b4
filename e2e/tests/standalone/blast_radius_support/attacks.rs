//! The attacks, each from one source address. They run until they are dropped.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use gaia_runtime::testing::Platform;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Victim, users};

/// An attack by its name.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) run: fn(Source) -> Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// One source of an attack.
#[derive(Clone)]
pub(crate) struct Source {
    address: Ipv4Addr,
    /// Mesh, and edge where there is one.
    listeners: Vec<SocketAddr>,
    mesh: SocketAddr,
    admin: SocketAddr,
    platform: Arc<Platform>,
    connections: usize,
}

impl Source {
    pub(crate) fn new(victim: &Victim, address: Ipv4Addr, connections: usize) -> Self {
        let service = &victim.service;
        let mut listeners = vec![service.mesh];
        listeners.extend(victim.has_edge.then_some(service.edge));
        let platform = Arc::clone(&victim.platform);
        Self { address, listeners, mesh: service.mesh, admin: service.admin, platform, connections }
    }

    /// Keeps as many connections open as the source has, each used by `hold` until it ends.
    fn hold<F>(self, to: Vec<SocketAddr>, hold: fn(TcpStream, Self) -> F) -> Pin<Box<dyn Future<Output = ()> + Send>>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Box::pin(async move {
            let mut held = JoinSet::new();
            for number in 0..self.connections {
                let (source, to) = (self.clone(), to[number % to.len()]);
                held.spawn(async move {
                    loop {
                        if let Ok(Ok(tcp)) = timeout(PATIENCE, users::connect(source.address, to)).await {
                            hold(tcp, source.clone()).await;
                        }
                        // The attackers share the machine with the service.
                        sleep(AGAIN).await;
                    }
                });
                if number % 20 == 0 {
                    sleep(Duration::from_millis(1)).await;
                }
            }
            while held.join_next().await.is_some() {}
        })
    }
}

/// Reads until the server closes.
async fn until_closed(mut stream: impl AsyncRead + Unpin) {
    let mut read = [0; 512];
    while stream.read(&mut read).await.unwrap_or_default() > 0 {}
}

async fn send(mut tcp: TcpStream, bytes: &[u8]) {
    let _ = tcp.write_all(bytes).await;
    until_closed(tcp).await;
}

fn head(method: &str, fields: &str) -> Vec<u8> {
    format!("{method} /health HTTP/1.1\r\nhost: x\r\n{fields}x-long: {}", "x".repeat(60 * 1024)).into_bytes()
}

pub(crate) mod connections {
    use super::*;

    pub(crate) fn silent(source: Source) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let to = source.listeners.clone();
        source.hold(to, |tcp, _| until_closed(tcp))
    }

    pub(crate) fn churn(source: Source) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (to, connections) = (source.listeners.clone(), source.connections.div_ceil(20));
        Source { connections, ..source }.hold(to, |tcp, _| async move { drop(tcp) })
    }
}

pub(crate) mod heads {
    use super::*;

    pub(crate) fn unfinished(source: Source) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let to = source.listeners.clone();
        source.hold(to, |tcp, _| async move { send(tcp, &head("GET", "")).await })
    }

    pub(crate) fn without_body(source: Source) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let to = source.listeners.clone();
        source.hold(to, |tcp, _| async move {
            let mut request = head("POST", "content-length: 1000\r\n");
            request.extend(b"\r\n\r\n");
            send(tcp, &request).await;
        })
    }
}

pub(crate) mod admin {
    use super::*;

    pub(crate) fn silent(source: Source) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let to = vec![source.admin];
        source.hold(to, |tcp, _| until_closed(tcp))
    }

    pub(crate) fn unfinished_heads(source: Source) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let to = vec![source.admin];
        source.hold(to, |tcp, _| async move { send(tcp, &head("GET", "")).await })
    }
}

pub(crate) mod tls {
    use super::*;

    /// A ClientHello of 60 KiB in records of 16 KiB, without its end.
    pub(crate) fn unfinished_handshake(source: Source) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let to = vec![source.mesh];
        source.hold(to, |tcp, _| async move {
            let mut message = vec![1, 0, 0xef, 0xff];
            message.resize(60_000, 0);
            let records = message.chunks(16_000).flat_map(|part| {
                let [_, _, high, low] = u32::try_from(part.len()).unwrap().to_be_bytes();
                [&[22, 3, 1, high, low], part].concat()
            });
            send(tcp, &records.collect::<Vec<u8>>()).await;
        })
    }
}

pub(crate) mod http2 {
    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    /// As an anonymous client of the mesh, which `Permissive` admits.
    async fn begin(tcp: TcpStream, source: &Source) -> Option<TlsStream<TcpStream>> {
        let mut config = source.platform.client_config(None);
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = rustls::pki_types::ServerName::try_from("127.0.0.1").ok()?;
        let mut tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.ok()?;
        tls.write_all(&[PREFACE, &SETTINGS].concat()).await.ok()?;
        Some(tls)
    }

    /// HEADERS of `POST /health` for `x`.
    fn headers(stream: u32, flags: u8, fields: &[u8]) -> Vec<u8> {
        let block = [&[0x83, 0x87, 0x44, 7][..], b"/health", &[0x41, 1, b'x'], fields].concat();
        let length = u32::try_from(block.len()).unwrap().to_be_bytes();
        [&length[1..], &[1, flags], &stream.to_be_bytes(), &block].concat()
    }

    async fn hold(tls: impl AsyncRead + AsyncWrite + Unpin, bytes: Vec<u8>) {
        let mut tls = tls;
        let _ = tls.write_all(&bytes).await;
        until_closed(tls).await;
    }

    async fn flood(tls: TlsStream<TcpStream>, frame: &[u8]) {
        let (answers, mut requests) = tokio::io::split(tls);
        let many = frame.repeat(200);
        let sending = async {
            while requests.write_all(&many).await.is_ok() {
                let _ = requests.flush().await;
                sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::join!(sending, until_closed(answers));
    }

    fn few(source: Source) -> Source {
        // A handshake costs the attacker as much as the service.
        Source { connections: source.connections.div_ceil(20), ..source }
    }

    pub(crate) fn unfinished_blocks(source: Source) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let to = vec![source.mesh];
        few(source).hold(to, |tcp, source| async move {
            let Some(tls) = begin(tcp, &source).await else { return };
            // One field of one byte repeatedly, which is much larger when it is decoded.
            hold(tls, headers(1, 0, &[0x90; 1500])).await;
        })
    }

    pub(crate) fn settings(source: Source) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let to = vec![source.mesh];
        few(source).hold(to, |tcp, source| async move {
            let Some(tls) = begin(tcp, &source).await else { return };
            flood(tls, &SETTINGS).await;
        })
    }

    pub(crate) fn pings(source: Source) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let to = vec![source.mesh];
        few(source).hold(to, |tcp, source| async move {
            let Some(tls) = begin(tcp, &source).await else { return };
            flood(tls, &PING).await;
        })
    }

    pub(crate) fn streams_without_body(source: Source) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let to = vec![source.mesh];
        few(source).hold(to, |tcp, source| async move {
            let Some(tls) = begin(tcp, &source).await else { return };
            let streams = (0..100).flat_map(|n| headers(2 * n + 1, 4, &[]));
            hold(tls, streams.collect()).await;
        })
    }
}

const PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two connections of one slot.
const AGAIN: Duration = Duration::from_secs(1);
