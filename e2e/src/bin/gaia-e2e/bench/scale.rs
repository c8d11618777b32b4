//! Many certificates, and many objects of others: memory and restart.

use std::time::Duration;

use anyhow::Result;
use gaia_e2e::process::memory_mib;
use gaia_e2e::{OperatorProcess, progress};
use tokio::time::Instant;

use super::Arguments;
use super::arena::{Arena, trust_domain};
use super::bare::Bare;
use super::reissue::{LEAVES, QUICK, issue, raise_revision, until_rotating};
use super::report::{Bound, Report};
use super::tally::number;

pub(super) async fn measure(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let count = arguments.scale_certificates;
    // All namespaces are watched: objects of others must cost nothing although they are visible.
    let arena = Arena::set_up(&trust_domain(QUICK), vec![]).await?.env("GAIA_REISSUE_PER_SECOND", "0");
    arena.cluster.kubectl(&["create", "namespace", LEAVES]).await?;
    arena.cluster.kubectl(&["create", "namespace", FOREIGN]).await?;
    let operator = arena.operator().await?;
    report.section(format!("{count} certificates"));
    memory(report, "the operator's memory without any", &operator, "VmRSS", None)?;
    issue(&arena, count).await?;
    arena.settled().await?;
    memory(report, "its memory when all are issued", &operator, "VmRSS", Some(LIMIT_MIB))?;
    memory(report, "  at most until then", &operator, "VmHWM", None)?;
    let operator = restart(&arena, report, operator).await?;
    memory(report, "its memory after a restart", &operator, "VmRSS", Some(LIMIT_MIB))?;
    memory(report, "  at most until then", &operator, "VmHWM", None)?;
    progress::say("the CA is rotated");
    let started = Instant::now();
    raise_revision(&arena, 2).await?;
    until_rotating(&arena, true).await?;
    until_rotating(&arena, false).await?;
    report.figure("a whole rotation of the CA", "s", &[started.elapsed().as_secs_f64()]);
    memory(report, "its memory during a rotation of the CA, at most", &operator, "VmHWM", Some(LIMIT_MIB))?;
    arena.settled().await?;
    memory(report, "its memory after it", &operator, "VmRSS", Some(LIMIT_MIB))?;
    foreign(&arena, report, &operator, arguments).await?;
    labelled(&arena, report, operator, arguments).await
}

/// A tenant puts the operator's label on large Secrets in a namespace that is not selected.
async fn labelled(arena: &Arena, report: &mut Report, operator: OperatorProcess, arguments: &Arguments) -> Result<()> {
    let count = arguments.labelled_secrets;
    progress::say(format_args!("{count} labelled Secrets of 1 MB are created"));
    // One at a time: a request and its answer are 2 MB of base64 each.
    Bare::new(arena.client.clone(), FOREIGN, 1).create_labelled_secrets(count, LABELLED_BYTES).await?;
    arena.settled().await?;
    let what = format!("memory with {count} labelled Secrets of 1 MB in a namespace that is not selected");
    memory(report, &what, &operator, "VmRSS", Some(CHART_LIMIT_MIB))?;
    let operator = restart(arena, report, operator).await?;
    memory(report, "  at most at the start with them", &operator, "VmHWM", Some(CHART_LIMIT_MIB))
}

/// A restart writes nothing but the lease.
async fn restart(arena: &Arena, report: &mut Report, operator: OperatorProcess) -> Result<OperatorProcess> {
    progress::say("the operator is restarted");
    operator.sigterm(Duration::from_secs(30)).await?;
    drop(operator);
    let mark = arena.audit().settle(&arena.client).await?;
    let started = Instant::now();
    let operator = arena.operator().await?;
    report.figure("a restart until everything is listed", "s", &[started.elapsed().as_secs_f64()]);
    arena.settled().await?;
    let writes = arena.writes_since(mark)?.len();
    report.bounded("  writes but the lease", "", &[number(writes)], Bound::AtMost(0.0));
    Ok(operator)
}

async fn foreign(arena: &Arena, report: &mut Report, operator: &OperatorProcess, arguments: &Arguments) -> Result<()> {
    let (secrets, pods) = (arguments.foreign_secrets, arguments.foreign_pods);
    let before = memory_mib(operator.pid(), "VmRSS")?;
    let mark = arena.audit().settle(&arena.client).await?;
    let bare = Bare::new(arena.client.clone(), FOREIGN, 16);
    progress::say(format_args!("{secrets} Secrets and {pods} pods of others are created"));
    bare.create_secrets(secrets).await?;
    arena.settled().await?;
    let with_secrets = memory_mib(operator.pid(), "VmRSS")?;
    report.bounded(&format!("memory with {secrets} Secrets of others / before"), "", &[with_secrets / before], NOTHING);
    bare.create_pods(pods).await?;
    arena.settled().await?;
    let with_pods = memory_mib(operator.pid(), "VmRSS")?;
    report.bounded(&format!("memory with {pods} pods of others / before"), "", &[with_pods / with_secrets], NOTHING);
    let writes = arena.writes_since(mark)?.len();
    report.bounded("  writes but the lease", "", &[number(writes)], Bound::AtMost(0.0));
    Ok(())
}

fn memory(report: &mut Report, what: &str, operator: &OperatorProcess, which: &str, limit: Option<f64>) -> Result<()> {
    operator.check_running()?;
    let mib = memory_mib(operator.pid(), which)?;
    match limit {
        Some(limit) => report.bounded(what, "MiB", &[mib], Bound::AtMost(limit)),
        None => report.figure(what, "MiB", &[mib]),
    }
    Ok(())
}

const FOREIGN: &str = "foreign";
/// Independent of the speed of the machine.
const LIMIT_MIB: f64 = 100.0;
/// `resources.limits.memory` of the chart.
const CHART_LIMIT_MIB: f64 = 256.0;
/// An object may have 1 MiB.
const LABELLED_BYTES: usize = 1_000_000;
/// The tolerance for "nothing".
const NOTHING: Bound = Bound::AtMost(1.05);
