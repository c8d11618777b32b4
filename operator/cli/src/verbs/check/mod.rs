//! `gaia check`: every finding of a platform.

mod certificates;
mod expiry;
mod junit;
mod local;
mod report;
mod snapshot;
mod trust_domains;

use std::time::Duration;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde::Serialize;

use self::report::CheckReport;
use self::snapshot::Snapshot;
use crate::cli::Context;
use crate::findings::{self, Definition, Severity};
use crate::output::Format;
use crate::{Exit, Failure, output};

/// Arguments of `gaia check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Report only these findings.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    only: Vec<String>,
    /// Do not report these findings.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    skip: Vec<String>,
    /// List the ids and titles of all findings, and check nothing.
    #[arg(long)]
    list: bool,
    /// List certificates and the signing key with their dates, and warn of those within these times: `30d,7d,1d`.
    #[arg(long, value_name = "TIME", value_delimiter = ',', value_parser = parse_days)]
    expires_in: Vec<Duration>,
    /// The same as `--expires-in Nd`.
    #[arg(long, value_name = "N", conflicts_with = "expires_in")]
    alert_days: Option<u16>,
    /// The findings that fail the command.
    #[arg(long, value_enum, default_value_t, value_name = "WHICH")]
    fail_on: FailOn,
}

/// The findings that fail the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum FailOn {
    /// Warnings exit with 1, failures with 2.
    #[default]
    Warning,
    /// Warnings exit with 0.
    Failure,
    /// Both exit with 0.
    Never,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Finding {
    id: &'static str,
    severity: Severity,
    title: &'static str,
    /// The kind and name of the object, or the file.
    object: String,
    cause: String,
    /// The next step.
    next: String,
}

/// The findings so far.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    /// Adds a finding with the next step of its page.
    fn add(&mut self, id: &str, object: impl Into<String>, cause: impl Into<String>) {
        let Some(Definition { id, title, severity, mend, .. }) = findings::find(id) else { return };
        let (object, cause, next) = (object.into(), cause.into(), (*mend).to_owned());
        self.0.push(Finding { id, severity: *severity, title, object, cause, next });
    }
}

/// Reports every finding. Exit code 1: warnings, 2: failures.
pub(crate) async fn run(args: &CheckArgs, context: &mut Context) -> Result<Exit, Failure> {
    let (only, skip) = (known(&args.only, "--only")?, known(&args.skip, "--skip")?);
    let is_wanted = |id: &str| (only.is_empty() || only.contains(&id)) && !skip.contains(&id);
    let format = context.format();
    if args.list {
        let report = report::List::of(findings::all().filter(|definition| is_wanted(definition.id)));
        return output::print(&mut context.console, format, &report).map(|()| Exit::Done);
    }
    let now = context.console.clock.now();
    let source = context.source()?.ok_or_else(|| {
        Failure::usage("check: the platform is not named").next("gaia check --dir certs, for a directory")
    })?;
    let snapshot = Snapshot::load(&source).await?;
    let mut findings = Findings::default();
    trust_domains::check(&snapshot, now, &mut findings);
    certificates::check(&snapshot, now, &mut findings);
    local::check(&source, &snapshot, now, &mut findings)?;
    let thresholds = args.thresholds();
    let expiry = if thresholds.is_empty() { vec![] } else { expiry::list(&snapshot, now) };
    expiry::check(&expiry, &thresholds, now, &mut findings);
    findings.0.retain(|finding| is_wanted(finding.id));
    findings.0.sort_by(|a, b| (a.id, &a.object).cmp(&(b.id, &b.object)));
    let checked = findings::all().map(|definition| definition.id).filter(|id| is_wanted(id)).collect();
    let report = CheckReport { source: source.name(), checked, findings: findings.0, expiry };
    match format {
        Format::Junit => context.console.print(&junit::document(&report))?,
        format => output::print(&mut context.console, format, &report)?,
    }
    Ok(args.fail_on.of(report.findings.iter().map(|finding| finding.severity.exit()).collect()))
}

impl CheckArgs {
    fn thresholds(&self) -> Vec<Duration> {
        let days = self.alert_days.map(|days| Duration::from_secs(u64::from(days) * DAY));
        self.expires_in.iter().copied().chain(days).collect()
    }
}

impl FailOn {
    fn of(self, exit: Exit) -> Exit {
        match (self, exit) {
            (Self::Failure | Self::Never, Exit::Warnings) | (Self::Never, Exit::Failing) => Exit::Done,
            (_, exit) => exit,
        }
    }
}

fn known(ids: &[String], option: &str) -> Result<Vec<&'static str>, Failure> {
    let find = |id: &String| {
        findings::find(id).map(|definition| definition.id).ok_or_else(|| {
            Failure::usage(format!("{option} {id}: there is no such finding")).next("gaia check --list lists all")
        })
    };
    ids.iter().map(find).collect()
}

/// Parses `30d`, or a duration such as `12h`.
fn parse_days(text: &str) -> Result<Duration, String> {
    match text.strip_suffix('d').map(str::parse::<u32>) {
        Some(Ok(days)) => Ok(Duration::from_secs(u64::from(days) * DAY)),
        Some(Err(_)) => Err(format!("{text:?} must be a number of days such as 30d")),
        None => gaia_api::Span::parse(text).map(|span| span.value()).map_err(|error| error.to_string()),
    }
}

/// A time after another one, limited to the range of times.
fn after(time: Timestamp, by: Duration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

const DAY: u64 = 24 * 3600;
