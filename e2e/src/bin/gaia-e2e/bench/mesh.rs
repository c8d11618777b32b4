//! What it costs to know who calls: requests with tokens against the same route without, handshakes against bare TLS, and the memory
//! of services that many hold a connection to.
//!
//! Server and clients have a thread each, so that the server is what is measured; the audit log is written to a file.

mod handshakes;
mod hop;
mod idle;
mod requests;
mod server;
mod tokens;

use std::fs::File;
use std::sync::Mutex;

use anyhow::{Context as _, Result};
use gaia_e2e::progress;
use gaia_pki::KeySpec;
use gaia_runtime::telemetry::AUDIT_TARGET;
use gaia_runtime::testing::Platform;
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry};

use self::requests::Requests;
use self::server::Server;
use super::Arguments;
use super::report::{Bound, Report};
use super::tally::number;

/// All of it.
pub(super) async fn measure(arguments: &Arguments, report: &mut Report) -> Result<()> {
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
    progress::say(format_args!("{} tokens are signed", TOKENS * rounds));
    let requests = Requests::new(platform, server);
    let mut tokens = server::tokens(platform, TOKENS * rounds + 1)?;
    let cached = vec![tokens.pop().context("there is a token")?];
    // Connections, caches and branch predictors are warm before anything counts.
    requests.rate("/open", &[], WARM_UP).await?;
    requests.rate("/closed", &cached, WARM_UP).await?;
    let (mut open, mut hit, mut miss) = (vec![], vec![], vec![]);
    for (round, tokens) in tokens.chunks(TOKENS).enumerate() {
        progress::say(format_args!("round {} of {rounds}: requests without, with one and with many tokens", round + 1));
        open.push(requests.rate("/open", &[], REQUESTS).await?);
        hit.push(requests.rate("/closed", &cached, REQUESTS).await?);
        miss.push(requests.rate("/closed", tokens, tokens.len()).await?);
    }
    let ratio = |with: &[f64]| with.iter().zip(&open).map(|(with, open)| with / open).collect::<Vec<_>>();
    report.section(format!("requests over mTLS to a route that answers \"ok\", {REQUESTS} a round, audit on"));
    report.figure("without authentication", "/s", &open);
    report.figure("with a token that is known", "/s", &hit);
    report.figure("with a new RS256 token each", "/s", &miss);
    report.bounded("known token: rate against the route without", "", &ratio(&hit), Bound::AtLeast(0.75));
    report.bounded("new RS256 token: rate against the route without", "", &ratio(&miss), Bound::AtLeast(0.25));

    let half = super::report::median(&hit) / 2.0;
    let (mut without, mut with) = (vec![], vec![]);
    for round in 1..=rounds {
        progress::say(format_args!("round {round} of {rounds}: latencies at {half:.0} requests a second"));
        without.push(requests.p99_ms("/open", &[], half).await?);
        with.push(requests.p99_ms("/closed", &cached, half).await?);
    }
    let more: Vec<f64> = with.iter().zip(&without).map(|(with, without)| with - without).collect();
    report.figure("99th percentile at half load, without", "ms", &without);
    report.figure("99th percentile at half load, with a known token", "ms", &with);
    report.bounded("what authentication adds to it", "ms", &more, Bound::AtMost(1.0));
    report.figure("  requests a second then", "/s", &[half]);
    report.figure("  new tokens a round", "", &[number(TOKENS)]);
    Ok(())
}

/// The audit log goes where a pod's would: into a file.
fn write_audit(path: &std::path::Path) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let is_audit = FilterFn::new(|metadata| metadata.target() == AUDIT_TARGET);
    let audit = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(Mutex::new(file));
    Registry::default().with(audit.with_filter(is_audit)).try_init().context("the log is set up twice")
}

const REQUESTS: usize = 20_000;
const WARM_UP: usize = 5_000;
/// More than the verifier remembers would not be needed: each is used once.
const TOKENS: usize = 5_000;
