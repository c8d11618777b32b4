//! `gaia-e2e bench`: compares the operator with a bare client on the same API server, in one run.
//!
//! Both write the same objects, in turns, so that other load of the machine affects both. Absolute figures depend on
//! the machine.

mod arena;
mod bare;
mod contest;
mod cpu;
mod issue;
mod mesh;
mod paced;
mod probe;
mod reissue;
mod report;
mod scale;
mod tally;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use self::report::Report;

/// Measure the operator against a bare client, as ratios within one run.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only this part; may be given more than once.
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Number of ServiceCertificates that are issued, and re-issued, in a round.
    #[arg(long, default_value_t = 1000)]
    certificates: usize,
    /// Number of turns of bare client and operator.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Number of ServiceCertificates for the measurement of the operator's memory.
    #[arg(long, default_value_t = 10_000)]
    scale_certificates: usize,
    /// Number of Secrets of other owners.
    #[arg(long, default_value_t = 10_000)]
    foreign_secrets: usize,
    /// Number of pods that use no object of the operator.
    #[arg(long, default_value_t = 2_000)]
    foreign_pods: usize,
    /// Number of Secrets of 1 MB with the operator's label in a namespace that is not selected.
    #[arg(long, default_value_t = 100)]
    labelled_secrets: usize,
    /// File for the results as JSON, besides the table on standard output.
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
}

/// A part that can be measured separately.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// First certificates, against the same writes by a bare client.
    Issue,
    /// Re-issue of all certificates by a new CA, against the same writes by a bare client.
    Reissue,
    /// Processor time of the operator for a re-issue with a rate limit, against the same without.
    Paced,
    /// Two hundred instances, each probed.
    Probe,
    /// Requests with tokens and handshakes of the services' runtime, against the same without tokens, and bare TLS.
    Mesh,
    /// One route over plain HTTP, TLS and mTLS.
    Transport,
    /// Memory and restart with many certificates, and with many objects of others.
    Scale,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let mut report = Report::default();
    let is_wanted = |part: Part| arguments.only.is_empty() || arguments.only.contains(&part);
    if is_wanted(Part::Issue) {
        issue::measure(&arguments, &mut report).await?;
    }
    if is_wanted(Part::Reissue) {
        reissue::measure(&arguments, &mut report).await?;
    }
    if is_wanted(Part::Paced) {
        paced::measure(&arguments, &mut report).await?;
    }
    if is_wanted(Part::Probe) {
        probe::measure(&arguments, &mut report).await?;
    }
    if is_wanted(Part::Mesh) {
        mesh::measure(&arguments, &mut report)?;
    }
    if is_wanted(Part::Transport) {
        mesh::measure_transport(&arguments, &mut report)?;
    }
    if is_wanted(Part::Scale) {
        scale::measure(&arguments, &mut report).await?;
    }
    report.write(&arguments.json)?;
    Ok(if report.all_met() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
