//! The attacks, each from one source address. They run until they are dropped.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::platform::{API_KEY, Shop};
use super::users::{self, Work};

/// An attack by its name.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    /// The services that it is directed at; none: each.
    pub(crate) victims: &'static [&'static str],
    pub(crate) run: fn(Source) -> Running,
    /// A fault of another server during the attack.
    pub(crate) fault: Option<&'static Fault>,
}

pub(crate) type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A fault of a server, and the work that cannot succeed during it.
pub(crate) struct Fault {
    pub(crate) begin: fn(&Shop),
    pub(crate) end: fn(&Shop),
    pub(crate) spared: &'static [Work],
    /// The service that does not run.
    pub(crate) paused: Option<&'static str>,
}

impl Attack {
    pub(crate) const fn of_each(name: &'static str, run: fn(Source) -> Running) -> Self {
        Self { name, victims: &[], run, fault: None }
    }

    pub(crate) const fn of(victims: &'static [&'static str], name: &'static str, run: fn(Source) -> Running) -> Self {
        Self { name, victims, run, fault: None }
    }

    pub(crate) fn is_directed_at(&self, service: &str) -> bool {
        self.victims.is_empty() || self.victims.contains(&service)
    }
}

/// One source of an attack.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) address: Ipv4Addr,
    /// Mesh, and edge where there is one.
    pub(crate) listeners: Vec<SocketAddr>,
    pub(crate) mesh: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) shop: Arc<Shop>,
    pub(crate) connections: usize,
}

impl Source {
    pub(crate) fn new(shop: &Arc<Shop>, victim: &str, address: Ipv4Addr, connections: usize) -> Self {
        let member = shop.member(victim);
        let service = &member.service;
        let mut listeners = vec![service.mesh];
        listeners.extend(member.has_edge().then_some(service.edge));
        let shop = Arc::clone(shop);
        Self { address, listeners, mesh: service.mesh, admin: service.admin, shop, connections }
    }

    /// Keeps as many connections open as the source has, each used by `hold` until it ends.
    pub(crate) fn hold<F>(self, to: Vec<SocketAddr>, hold: fn(TcpStream, Self) -> F) -> Running
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
pub(crate) async fn until_closed(mut stream: impl AsyncRead + Unpin) {
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

    pub(crate) fn silent(source: Source) -> Running {
        let to = source.listeners.clone();
        source.hold(to, |tcp, _| until_closed(tcp))
    }

    pub(crate) fn churn(source: Source) -> Running {
        let (to, connections) = (source.listeners.clone(), source.connections.div_ceil(20));
        Source { connections, ..source }.hold(to, |tcp, _| async move { drop(tcp) })
    }
}

pub(crate) mod heads {
    use super::*;

    pub(crate) fn unfinished(source: Source) -> Running {
        let to = source.listeners.clone();
        source.hold(to, |tcp, _| async move { send(tcp, &head("GET", "")).await })
    }

    pub(crate) fn without_body(source: Source) -> Running {
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

    pub(crate) fn silent(source: Source) -> Running {
        let to = vec![source.admin];
        source.hold(to, |tcp, _| until_closed(tcp))
    }

    pub(crate) fn unfinished_heads(source: Source) -> Running {
        let to = vec![source.admin];
        source.hold(to, |tcp, _| async move { send(tcp, &head("GET", "")).await })
    }
}

pub(crate) mod tls {
    use super::*;

    /// A ClientHello of 60 KiB in records of 16 KiB, without its end.
    pub(crate) fn unfinished_handshake(source: Source) -> Running {
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

    /// A source needs few connections for many handshakes: each of them costs it as much as the service.
    fn few(source: Source) -> Source {
        Source { connections: source.connections.div_ceil(40), ..source }
    }

    /// Completes handshakes one after another, each on a connection of its own.
    pub(crate) fn handshakes(source: Source) -> Running {
        let to = vec![source.mesh];
        few(source).hold(to, |tcp, source| async move {
            let connector = TlsConnector::from(Arc::new(source.shop.platform.client_config(None)));
            let mut tcp = Some(tcp);
            for _ in 0..HANDSHAKES {
                let next = match tcp.take() {
                    Some(tcp) => Ok(tcp),
                    None => users::connect(source.address, source.mesh).await,
                };
                let (Ok(name), Ok(tcp)) = (rustls::pki_types::ServerName::try_from("127.0.0.1"), next) else { return };
                let _ = timeout(PATIENCE, connector.connect(name, tcp)).await;
                sleep(Duration::from_millis(10)).await;
            }
        })
    }

    /// Closes each connection when the server has answered the ClientHello, which is when it has done most of its work.
    pub(crate) fn aborted_handshakes(source: Source) -> Running {
        let to = vec![source.mesh];
        few(source).hold(to, |tcp, source| async move {
            let mut tcp = Some(tcp);
            for _ in 0..HANDSHAKES {
                let next = match tcp.take() {
                    Some(tcp) => Ok(tcp),
                    None => users::connect(source.address, source.mesh).await,
                };
                let Ok(mut tcp) = next else { return };
                let config = Arc::new(source.shop.platform.client_config(None));
                let Ok(name) = rustls::pki_types::ServerName::try_from("127.0.0.1") else { return };
                let Ok(mut client) = rustls::ClientConnection::new(config, name) else { return };
                let mut hello = Vec::new();
                let _ = client.write_tls(&mut hello);
                let _ = tcp.write_all(&hello).await;
                let _ = timeout(PATIENCE, tcp.read(&mut [0])).await;
                sleep(Duration::from_millis(10)).await;
            }
        })
    }

    /// Handshake records that hold no ClientHello.
    pub(crate) fn garbage(source: Source) -> Running {
        let to = vec![source.mesh];
        few(source).hold(to, |tcp, _| async move {
            send(tcp, &[&[22, 3, 1, 0x10, 0][..], &[0xa5; 4096]].concat()).await;
        })
    }

    const HANDSHAKES: usize = 50;
}

pub(crate) mod http2 {
    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    /// As an anonymous client of the mesh, which `Permissive` admits.
    async fn begin(tcp: TcpStream, source: &Source) -> Option<TlsStream<TcpStream>> {
        let mut config = source.shop.platform.client_config(None);
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

    pub(crate) fn unfinished_blocks(source: Source) -> Running {
        let to = vec![source.mesh];
        few(source).hold(to, |tcp, source| async move {
            let Some(tls) = begin(tcp, &source).await else { return };
            // One field of one byte repeatedly, which is much larger when it is decoded.
            hold(tls, headers(1, 0, &[0x90; 1500])).await;
        })
    }

    pub(crate) fn settings(source: Source) -> Running {
        let to = vec![source.mesh];
        few(source).hold(to, |tcp, source| async move {
            let Some(tls) = begin(tcp, &source).await else { return };
            flood(tls, &SETTINGS).await;
        })
    }

    pub(crate) fn pings(source: Source) -> Running {
        let to = vec![source.mesh];
        few(source).hold(to, |tcp, source| async move {
            let Some(tls) = begin(tcp, &source).await else { return };
            flood(tls, &PING).await;
        })
    }

    /// DATA frames of a stream, with a body of 60,000 bytes together.
    fn data(stream: u32, frame: usize) -> Vec<u8> {
        let payload = vec![0; frame];
        let length = u32::try_from(frame).unwrap().to_be_bytes();
        let one = [&length[1..], &[0, 0], &stream.to_be_bytes(), &payload].concat();
        one.repeat(60_000 / frame)
    }

    /// As many streams as the connection's window holds bodies of.
    pub(crate) fn full_windows(source: Source) -> Running {
        let to = vec![source.mesh];
        few(source).hold(to, |tcp, source| async move {
            let Some(tls) = begin(tcp, &source).await else { return };
            let streams = (0..60).flat_map(|n| [headers(2 * n + 1, 4, &[]), data(2 * n + 1, 10_000)].concat());
            hold(tls, streams.collect()).await;
        })
    }

    pub(crate) fn small_frames(source: Source) -> Running {
        let to = vec![source.mesh];
        few(source).hold(to, |tcp, source| async move {
            let Some(tls) = begin(tcp, &source).await else { return };
            let streams = (0..4).flat_map(|n| [headers(2 * n + 1, 4, &[]), data(2 * n + 1, 1)].concat());
            hold(tls, streams.collect()).await;
        })
    }

    /// Requests of a client whose window is one byte.
    pub(crate) fn unread_responses(source: Source) -> Running {
        const WINDOW_OF_ONE_BYTE: [u8; 15] = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1];
        let to = vec![source.mesh];
        few(source).hold(to, |tcp, source| async move {
            let Some(tls) = begin(tcp, &source).await else { return };
            let requests = (0..120).flat_map(|n| headers(2 * n + 1, 5, &[]));
            hold(tls, WINDOW_OF_ONE_BYTE.into_iter().chain(requests).collect()).await;
        })
    }

    /// HEADERS with an API key, for any method and path.
    fn request(stream: u32, flags: u8, method: &str, path: &str) -> Vec<u8> {
        let mut block = vec![0x87];
        for (name, value) in [(":method", method), (":path", path), (":authority", "x"), ("x-api-key", API_KEY)] {
            for text in [name, value] {
                if text == name {
                    block.push(0);
                }
                block.push(u8::try_from(text.len()).unwrap());
                block.extend(text.as_bytes());
            }
        }
        let length = u32::try_from(block.len()).unwrap().to_be_bytes();
        [&length[1..], &[1, flags], &stream.to_be_bytes(), &block].concat()
    }

    /// Every buffer of a connection at the same time: responses that are not read, uploads that stop, and a header block without
    /// its end.
    pub(crate) fn every_buffer(source: Source) -> Running {
        let to = vec![source.mesh];
        Box::pin(async move {
            if let Ok(tcp) = users::connect(source.address, source.mesh).await
                && let Some(mut tls) = begin(tcp, &source).await
            {
                let large = [request(1, 4, "PUT", "/assets/large"), data(1, 15_000)].concat();
                let _ = tls.write_all(&large).await;
                for _ in 0..16 {
                    let _ = timeout(PATIENCE, tls.write_all(&data(1, 15_000))).await;
                }
                let _ = tls.write_all(&[0, 0, 0, 0, 1, 0, 0, 0, 1]).await;
                let _ = timeout(PATIENCE, tls.read(&mut [0; 4096])).await;
            }
            let hold = source.hold(to, |tcp, source| async move {
                const LARGE_WINDOWS: [u8; 28] =
                    [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0xf0, 0, 0, 0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0xf0, 0, 0];
                let Some(mut tls) = begin(tcp, &source).await else { return };
                let mut bytes = LARGE_WINDOWS.to_vec();
                for n in 0..20 {
                    bytes.extend(request(4 * n + 1, 5, "GET", "/assets/large"));
                    bytes.extend(request(4 * n + 3, 4, "PUT", "/assets/never"));
                    bytes.extend(data(4 * n + 3, 10_000));
                }
                bytes.extend(headers(101, 0, &[0x90; 1500]));
                let _ = tls.write_all(&bytes).await;
                // Nothing is read.
                sleep(Duration::from_secs(60)).await;
            });
            hold.await;
        })
    }

    pub(crate) fn streams_without_body(source: Source) -> Running {
        let to = vec![source.mesh];
        few(source).hold(to, |tcp, source| async move {
            let Some(tls) = begin(tcp, &source).await else { return };
            let streams = (0..100).flat_map(|n| headers(2 * n + 1, 4, &[]));
            hold(tls, streams.collect()).await;
        })
    }
}

pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two connections of one slot.
const AGAIN: Duration = Duration::from_secs(1);
