//! The cost of TLS and of mTLS: one route of one service over plain HTTP, TLS and mTLS, with new connections and kept ones.
//!
//! The client writes HTTP/1.1 by hand, so that mainly the transport is measured. All three take turns.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::try_join_all;
use gaia_e2e::progress;
use gaia_runtime::testing::Platform;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::super::report::{Bound, Report, median};
use super::super::tally::number;
use super::TURNS;
use super::server::{CALLER, SERVER_THREAD, Server};

/// The TLS configuration of a client; none: plain HTTP.
#[derive(Clone)]
struct Transport {
    name: &'static str,
    tls: Option<TlsConnector>,
}

/// The figures of a transport in one round, or of one turn.
#[derive(Default)]
struct Cost {
    /// With several clients at full speed.
    took: Duration,
    /// Processor time of the server for these.
    server: Duration,
    /// Of requests one after the other.
    latencies: Vec<Duration>,
}

/// The figures of a transport by rounds.
#[derive(Default)]
struct Rounds {
    rate: Vec<f64>,
    cpu_us: Vec<f64>,
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
}

trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

pub(super) async fn measure(rounds: usize, platform: &Platform, server: &Server, report: &mut Report) -> Result<()> {
    let tls = |mut config: ClientConfig| {
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Some(TlsConnector::from(Arc::new(config)))
    };
    let transports = [
        Transport { name: "plain HTTP", tls: None },
        Transport { name: "TLS", tls: tls(platform.client_config(None)) },
        Transport { name: "mTLS", tls: tls(platform.client_config(Some(&platform.leaf(CALLER)))) },
    ];
    for (what, requests, per_connection, most) in
        [("new connections", NEW_CONNECTIONS, 1, None), ("kept connections", KEPT_REQUESTS, KEPT_REQUESTS, Some(1.25))]
    {
        let mut found: [Rounds; 3] = std::array::from_fn(|_| Rounds::default());
        for transport in &transports {
            transport.turn(server, requests, per_connection).await?;
        }
        for round in 1..=rounds {
            progress::say(format_args!("round {round} of {rounds}: {what} over plain HTTP, TLS and mTLS"));
            let mut costs: [Cost; 3] = std::array::from_fn(|_| Cost::default());
            for _ in 0..TURNS {
                for (transport, cost) in transports.iter().zip(&mut costs) {
                    cost.add(transport.turn(server, requests, per_connection).await?);
                }
            }
            for (cost, found) in costs.iter().zip(&mut found) {
                found.add(cost, requests * TURNS);
            }
        }
        write(what, requests * TURNS, &transports, &found, most, report);
    }
    Ok(())
}

fn write(
    what: &str,
    requests: usize,
    transports: &[Transport; 3],
    found: &[Rounds; 3],
    most: Option<f64>,
    report: &mut Report,
) {
    report.section(format!("one route over plain HTTP, TLS and mTLS, {what}, {requests} requests a round"));
    for (transport, found) in transports.iter().zip(found) {
        let figure = |what: &str| format!("{}: {what}", transport.name);
        report.figure(&figure("requests"), "/s", &found.rate);
        report.figure(&figure("median of one after the other"), "ms", &found.p50_ms);
        report.figure(&figure("99th percentile of one after the other"), "ms", &found.p99_ms);
        report.figure(&figure("server's processor time a request"), "us", &found.cpu_us);
    }
    let [plain, tls, mtls] = found;
    for (name, over, under) in
        [("TLS / plain HTTP", tls, plain), ("mTLS / plain HTTP", mtls, plain), ("mTLS / TLS", mtls, tls)]
    {
        let ratio = |of: fn(&Rounds) -> &Vec<f64>| -> Vec<f64> {
            of(over).iter().zip(of(under)).map(|(over, under)| over / under).collect()
        };
        report.figure(&format!("{name}: rate"), "", &ratio(|rounds| &rounds.rate));
        report.figure(&format!("{name}: median"), "", &ratio(|rounds| &rounds.p50_ms));
        report.figure(&format!("{name}: 99th percentile"), "", &ratio(|rounds| &rounds.p99_ms));
        let (what, cpu) = (format!("{name}: server's processor time"), ratio(|rounds| &rounds.cpu_us));
        match most.filter(|_| name == "mTLS / TLS") {
            // On an open connection the client's certificate has no further cost.
            Some(most) => report.bounded(&what, "", &cpu, Bound::AtMost(most)),
            None => report.figure(&what, "", &cpu),
        }
    }
}

impl Transport {
    /// One turn: enough clients to keep the server busy, and then one.
    async fn turn(&self, server: &Server, requests: usize, per_connection: usize) -> Result<Cost> {
        let (start, before) = (Instant::now(), server_time()?);
        let share = requests / CLIENTS;
        try_join_all((0..CLIENTS).map(|_| self.ask(server, share, per_connection))).await?;
        let (took, server_time) = (start.elapsed(), server_time()?.saturating_sub(before));
        let latencies = self.ask(server, requests / ALONE, per_connection).await?;
        Ok(Cost { took, server: server_time, latencies })
    }

    /// Requests one after the other; the duration of each, with its connection where that is new.
    async fn ask(&self, server: &Server, requests: usize, per_connection: usize) -> Result<Vec<Duration>> {
        let mut latencies = Vec::with_capacity(requests);
        let mut kept = if per_connection == 1 { None } else { Some(self.connect(server).await?) };
        for _ in 0..requests {
            let start = Instant::now();
            match &mut kept {
                Some(connection) => exchange(connection.as_mut()).await?,
                None => exchange(self.connect(server).await?.as_mut()).await?,
            }
            latencies.push(start.elapsed());
        }
        Ok(latencies)
    }

    async fn connect(&self, server: &Server) -> Result<Box<dyn Connection>> {
        let tcp = TcpStream::connect(server.address).await?;
        tcp.set_nodelay(true)?;
        Ok(match &self.tls {
            None => Box::new(tcp),
            Some(tls) => Box::new(tls.connect(ServerName::try_from("127.0.0.1")?, tcp).await?),
        })
    }
}

async fn exchange(connection: &mut dyn Connection) -> Result<()> {
    connection.write_all(b"GET /open HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await?;
    connection.flush().await?;
    let mut answer = [0; 1024];
    let mut length = 0;
    while !answer[..length].ends_with(b"\r\n\r\nok") {
        let read = connection.read(&mut answer[length..]).await?;
        ensure!(read > 0, "the server closed in the middle of an answer");
        length += read;
    }
    ensure!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer[..length]));
    Ok(())
}

impl Cost {
    fn add(&mut self, turn: Self) {
        self.took += turn.took;
        self.server += turn.server;
        self.latencies.extend(turn.latencies);
    }
}

impl Rounds {
    fn add(&mut self, cost: &Cost, requests: usize) {
        let mut milliseconds: Vec<f64> = cost.latencies.iter().map(|took| took.as_secs_f64() * 1000.0).collect();
        milliseconds.sort_by(f64::total_cmp);
        self.rate.push(number(requests) / cost.took.as_secs_f64());
        self.cpu_us.push(cost.server.as_secs_f64() * 1e6 / number(requests));
        self.p50_ms.push(median(&milliseconds));
        self.p99_ms.push(milliseconds.get(milliseconds.len() * 99 / 100).copied().unwrap_or(f64::NAN));
    }
}

/// Processor time of the serving threads.
fn server_time() -> Result<Duration> {
    let mut nanoseconds = 0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        if std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim_end() == SERVER_THREAD) {
            let statistics = std::fs::read_to_string(task.join("schedstat"))?;
            let on_processor = statistics.split_whitespace().next().context("the kernel shows no processor time")?;
            nanoseconds += on_processor.parse::<u64>()?;
        }
    }
    if nanoseconds == 0 {
        bail!("the kernel counts no processor time of threads (/proc/self/task/*/schedstat)");
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Concurrent clients.
const CLIENTS: usize = 16;
/// One of so many requests is repeated by a client alone, for its latency.
const ALONE: usize = 4;
/// Requests in a turn.
const NEW_CONNECTIONS: usize = 160;
const KEPT_REQUESTS: usize = 3_200;
