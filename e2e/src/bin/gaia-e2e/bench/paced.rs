//! Processor time of a re-issue with a rate limit (`GAIA_REISSUE_PER_SECOND`), against the same without. Certificates that
//! wait for their slot must cost nothing.

use std::time::Duration;

use anyhow::Result;
use gaia_e2e::progress;
use tokio::time::Instant;

use super::Arguments;
use super::arena::{Arena, trust_domain};
use super::contest::LONG;
use super::reissue::{LEAVES, QUICK, issue, raise_revision, until_rotating};
use super::report::{Bound, Report};
use super::tally::number;

pub(super) async fn measure(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let count = arguments.certificates;
    let arena = Arena::set_up(&trust_domain(QUICK), vec![LEAVES.to_owned()]).await?;
    let operator = arena.operator_with(&[(RATE, "0")]).await?;
    issue(&arena, count).await?;
    arena.settled().await?;
    operator.sigterm(STOPPED_WITHIN).await?;
    let (mut free, mut paced) = (vec![], vec![]);
    for round in 0..arguments.rounds {
        free.push(rotate(&arena, "0", count, 2 * round + 2).await?);
        paced.push(rotate(&arena, PER_SECOND, count, 2 * round + 3).await?);
    }
    report.section(format!("{count} re-issued certificates, with {RATE}={PER_SECOND} against 0"));
    for (what, costs) in [("unlimited", &free), (PER_SECOND, &paced)] {
        let values = |value: fn(&Cost) -> f64| costs.iter().map(value).collect::<Vec<_>>();
        report.figure(&format!("  {what}: until all are re-issued"), "s", &values(|cost| cost.seconds));
        let each: Vec<f64> = costs.iter().map(|cost| cost.processor_ms / number(count)).collect();
        report.figure(&format!("  {what}: the operator's processor time for a certificate"), "ms", &each);
    }
    let ratio: Vec<f64> = paced.iter().zip(&free).map(|(paced, free)| paced.processor_ms / free.processor_ms).collect();
    report.bounded("processor time of the operator: limited / unlimited", "", &ratio, Bound::AtMost(MOST));
    Ok(())
}

struct Cost {
    seconds: f64,
    processor_ms: f64,
}

/// One rotation of the CA by an operator of its own: from the request to the last certificate, and the operator's rest.
async fn rotate(arena: &Arena, per_second: &'static str, count: usize, revision: usize) -> Result<Cost> {
    let operator = arena.operator_with(&[(RATE, per_second)]).await?;
    arena.settled().await?;
    progress::say(format_args!("the operator re-issues {count} certificates with {RATE}={per_second}"));
    let processes = arena.processes(&operator);
    let (before, began) = (processes.operator_ms()?, Instant::now());
    let mut tally = arena.tally(LEAVES);
    raise_revision(arena, revision).await?;
    tally.until_statuses(count, LONG).await?;
    let seconds = began.elapsed().as_secs_f64();
    until_rotating(arena, false).await?;
    arena.settled().await?;
    let processor_ms = processes.operator_ms()? - before;
    operator.sigterm(STOPPED_WITHIN).await?;
    Ok(Cost { seconds, processor_ms })
}

const RATE: &str = "GAIA_REISSUE_PER_SECOND";
const PER_SECOND: &str = "50";
const STOPPED_WITHIN: Duration = Duration::from_secs(30);
/// A longer rotation has more renewals of the lease and more reports of progress.
const MOST: f64 = 1.5;
