//! Twenty users, each from an address of its own. Half of them open a connection for each request, the others keep theirs,
//! and try again on another one where the server has closed it, as every HTTP client does.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Victim;

/// The key of all users.
pub(crate) const API_KEY: &str = "gk_test_users_0123456789abcdef0123456789";
const USERS: u8 = 20;
const PATIENCE: Duration = Duration::from_secs(10);

/// The number of failed requests, by cause.
pub(crate) type Failures = BTreeMap<String, usize>;

/// Users at work.
pub(crate) struct Users {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<(usize, Failures)>,
}

impl Users {
    /// Starts them.
    pub(crate) fn start(victim: &Victim) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for number in 1..=USERS {
            let to = if victim.has_edge && number % 4 < 2 { victim.service.edge } else { victim.service.mesh };
            let is_mesh = to == victim.service.mesh;
            tasks.spawn(work(Ipv4Addr::new(127, 0, 2, number), to, is_mesh, number % 2 == 0, Arc::clone(&stop)));
        }
        Self { stop, tasks }
    }

    /// The number of served requests, and the causes of failures.
    pub(crate) async fn stop(self) -> (usize, Failures) {
        self.stop.store(true, Ordering::Relaxed);
        let (mut served, mut failed) = (0, Failures::new());
        for (some, others) in self.tasks.join_all().await {
            served += some;
            for (error, count) in others {
                *failed.entry(error).or_default() += count;
            }
        }
        (served, failed)
    }
}

async fn work(from: Ipv4Addr, to: SocketAddr, is_mesh: bool, keeps: bool, stop: Arc<AtomicBool>) -> (usize, Failures) {
    let (mut served, mut failed, mut kept) = (0, Failures::new(), None);
    while !stop.load(Ordering::Relaxed) {
        let first = match kept.take() {
            Some(kept) => ask(kept, is_mesh).await.ok(),
            None => None,
        };
        let asked = match first {
            Some(answered) => Ok(answered),
            None => match timeout(PATIENCE, connect(from, to)).await {
                Ok(Ok(tcp)) => ask(tcp, is_mesh).await,
                Ok(Err(error)) => Err(format!("connecting: {error}")),
                Err(_) => Err("connecting took too long".to_owned()),
            },
        };
        match asked {
            Ok(tcp) => {
                served += 1;
                kept = keeps.then_some(tcp);
            }
            Err(error) => *failed.entry(error).or_default() += 1,
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (served, failed)
}

/// A connection from this address.
pub(crate) async fn connect(from: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(to).await
}

/// Returns the connection if the answer is the right one.
async fn ask(mut tcp: TcpStream, is_mesh: bool) -> Result<TcpStream, String> {
    let asking = async {
        let request = format!("GET /health HTTP/1.1\r\nhost: x\r\nx-api-key: {API_KEY}\r\n\r\n");
        tcp.write_all(request.as_bytes()).await.map_err(|error| format!("asking: {error}"))?;
        let mut answer = Vec::new();
        loop {
            let read = tcp.read_buf(&mut answer).await.map_err(|error| format!("the answer: {error}"))?;
            let text = String::from_utf8_lossy(&answer);
            if read == 0 || (text.contains("\r\n\r\n") && text.ends_with('}')) {
                break;
            }
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        // On the mesh, the key is accepted.
        let is_right = answer.starts_with("HTTP/1.1 200") && (!is_mesh || answer.contains("certificates"));
        if is_right { Ok(()) } else { Err(format!("the answer: {:?}", answer.lines().next())) }
    };
    timeout(PATIENCE, asking).await.map_err(|_| "the answer took too long".to_owned())??;
    Ok(tcp)
}

/// One request of a probe.
pub(crate) fn get_blocking(to: SocketAddr, path: &str) -> io::Result<()> {
    let mut tcp = std::net::TcpStream::connect_timeout(&to, PATIENCE)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    write!(tcp, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(io::Error::other(answer)) }
}
