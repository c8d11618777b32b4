//! The cost of authentication: requests with tokens against the same route without, handshakes against bare TLS, and the memory
//! of services with many open connections.
//!
//! Server and clients have a thread each; the audit log is written to a file. Compared variants take turns of a tenth of a
//! second.

mod handshakes;
mod hop;
mod idle;
mod requests;
mod server;
mod tokens;
mod transport;

use std::fs::File;
use std::time::Duration;

use anyhow::{Context as _, Result};
use gaia_e2e::progress;
use gaia_pki::KeySpec;
use gaia_runtime::telemetry::audit_log;
use gaia_runtime::testing::Platform;
use tracing_subscriber::Registry;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use self::requests::Requests;
use self::server::Server;
use super::Arguments;
use super::report::{Bound, Report, median};
use super::tally::number;

/// All parts, with the clients on this thread.
pub(super) fn measure(arguments: &Arguments, report: &mut Report) -> Result<()> {
    tokio::task::block_in_place(|| {
        let clients = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        clients.block_on(measure_all(arguments, report))
    })
}

/// The cost of the transport alone.
pub(super) fn measure_transport(arguments: &Arguments, report: &mut Report) -> Result<()> {
    tokio::task::block_in_place(|| {
        let clients = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        clients.block_on(async {
            let dir = tempfile::tempdir()?;
            let platform = Platform::with_signing_key(KeySpec::Rsa2048);
            let server = Server::start(&platform, &dir.path().join("server"))?;
            transport::measure(arguments.rounds, &platform, &server, report).await
        })
    })
}

async fn measure_all(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    write_audit(&dir.path().join("audit.jsonl"))?;
    let platform = Platform::with_signing_key(KeySpec::Rsa2048);
    let server = Server::start(&platform, &dir.path().join("server"))?;
    measure_requests(arguments.rounds, &platform, &server, report).await?;
    handshakes::measure(arguments.rounds, &platform, &server, report).await?;
    tokens::measure(arguments.rounds, &platform, dir.path(), report).await?;
    hop::measure(arguments.rounds, &platform, dir.path(), &server, report).await?;
    idle::measure(&platform, dir.path(), report).await
}

async fn measure_requests(rounds: usize, platform: &Platform, server: &Server, report: &mut Report) -> Result<()> {
    progress::say(format_args!("{} tokens are signed", TOKENS * TURNS * rounds));
    let requests = Requests::new(platform, server);
    let mut tokens = server::tokens(platform, TOKENS * TURNS * rounds + 1)?;
    let cached = vec![tokens.pop().context("there is a token")?];
    // Connections, caches and branch predictors are warmed up before the measurement.
    requests.time("/open", &[], WARM_UP).await?;
    requests.time("/closed", &cached, WARM_UP).await?;
    let (mut open, mut hit, mut miss) = (vec![], vec![], vec![]);
    for (round, tokens) in tokens.chunks(TOKENS * TURNS).enumerate() {
        progress::say(format_args!("round {} of {rounds}: requests without, with one and with many tokens", round + 1));
        let [mut without, mut with_one, mut with_many] = [Duration::ZERO; 3];
        for tokens in tokens.chunks(TOKENS) {
            without += requests.time("/open", &[], REQUESTS).await?;
            with_one += requests.time("/closed", &cached, REQUESTS).await?;
            with_many += requests.time("/closed", tokens, TOKENS).await?;
        }
        open.push(rate(REQUESTS * TURNS, without));
        hit.push(rate(REQUESTS * TURNS, with_one));
        miss.push(rate(TOKENS * TURNS, with_many));
    }
    let ratio = |with: &[f64]| with.iter().zip(&open).map(|(with, open)| with / open).collect::<Vec<_>>();
    report
        .section(format!("requests over mTLS to a route that answers \"ok\", {} a round, audit on", REQUESTS * TURNS));
    report.figure("without authentication", "/s", &open);
    report.figure("with a token that is known", "/s", &hit);
    report.figure("with a new RS256 token each", "/s", &miss);
    report.bounded("known token: rate against the route without", "", &ratio(&hit), Bound::AtLeast(0.75));
    report.bounded("new RS256 token: rate against the route without", "", &ratio(&miss), Bound::AtLeast(0.25));

    let half = median(&hit) / 2.0;
    let (mut without, mut with) = (vec![], vec![]);
    // Connections for as many concurrent requests as occur at times.
    requests.p99_ms("/open", &[], half).await?;
    for round in 1..=rounds {
        progress::say(format_args!("round {round} of {rounds}: latencies at {half:.0} requests a second"));
        let (mut there, mut here) = (vec![], vec![]);
        for _ in 0..TURNS {
            there.push(requests.p99_ms("/open", &[], half).await?);
            here.push(requests.p99_ms("/closed", &cached, half).await?);
        }
        // A short pause of the machine spoils one turn, not the round.
        without.push(median(&there));
        with.push(median(&here));
    }
    let more: Vec<f64> = with.iter().zip(&without).map(|(with, without)| with - without).collect();
    report.figure("99th percentile at half load, without", "ms", &without);
    report.figure("99th percentile at half load, with a known token", "ms", &with);
    report.bounded("what authentication adds to it", "ms", &more, Bound::AtMost(1.0));
    report.figure("  requests a second then", "/s", &[half]);
    report.figure("  new tokens a round", "", &[number(TOKENS * TURNS)]);
    Ok(())
}

/// The audit log is written to a file, as a pod's is.
fn write_audit(path: &std::path::Path) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    Registry::default().with(audit_log(file)).try_init().context("the log is set up twice")
}

/// Duration of both in a round, in turns.
async fn turns(
    mut first: impl AsyncFnMut() -> Result<Duration>,
    mut second: impl AsyncFnMut() -> Result<Duration>,
) -> Result<[Duration; 2]> {
    let mut took = [Duration::ZERO; 2];
    for _ in 0..TURNS {
        took[0] += first().await?;
        took[1] += second().await?;
    }
    Ok(took)
}

/// Requests a second.
fn rate(count: usize, took: Duration) -> f64 {
    number(count) / took.as_secs_f64()
}

/// Number of turns in a round: other load of the machine affects all variants alike.
const TURNS: usize = 10;
/// Duration of a turn.
const REQUESTS: usize = 2_000;
const WARM_UP: usize = 5_000;
/// Tokens in a turn; each is used once.
const TOKENS: usize = 500;
