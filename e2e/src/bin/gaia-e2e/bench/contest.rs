//! Operator and bare client in turns, and their results.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use gaia_api::crd::condition::READY;
use gaia_api::crd::{ServiceCertificate, is_true};
use gaia_e2e::{OperatorProcess, progress, wait};
use kube::Api;
use kube::api::ListParams;

use super::arena::Arena;
use super::bare::{Bare, Model};
use super::cpu::Spent;
use super::report::{Bound, Report};
use super::tally::{Tally, number};

/// Both, and their writes.
pub(super) struct Contest<'a> {
    pub(super) arena: &'a Arena,
    pub(super) operator: &'a OperatorProcess,
    /// The number of certificates a round.
    pub(super) count: usize,
    /// The number of concurrent requests of the bare client.
    pub(super) concurrency: usize,
}

/// A round of one of them: its requests and their cost.
pub(super) struct Side {
    pub(super) tally: Tally,
    pub(super) spent: Spent,
}

/// The rounds of both.
#[derive(Default)]
pub(super) struct Sides {
    pub(super) bare: Vec<Side>,
    pub(super) operator: Vec<Side>,
}

impl Contest<'_> {
    /// The bare client in a new namespace.
    pub(super) async fn bare(&self, namespace: &str) -> Result<Bare> {
        self.arena.cluster.kubectl(&["create", "namespace", namespace]).await?;
        Ok(Bare::new(self.arena.client.clone(), namespace, self.concurrency))
    }

    /// One round: `work` until every certificate in the namespace has had its status written.
    pub(super) async fn side(&self, namespace: &str, work: impl AsyncFnOnce() -> Result<()>) -> Result<Side> {
        let mut tally = self.arena.tally(namespace);
        let processes = self.arena.processes(self.operator);
        let before = processes.usage()?;
        work().await?;
        tally.until_statuses(self.count, LONG).await?;
        let spent = processes.since(before)?;
        ensure!(tally.failed == 0, "{} writes in {namespace} were refused", tally.failed);
        Ok(Side { tally, spent })
    }
}

/// Certificates of the operator, for the bare client to write again.
pub(super) async fn model(arena: &Arena) -> Result<Arc<Model>> {
    arena.select(MODEL).await?;
    let mut tally = arena.tally(MODEL);
    Bare::new(arena.client.clone(), MODEL, 2).create_certificates(2).await?;
    tally.until_statuses(2, LONG).await?;
    are(arena, MODEL, READY, 2).await?;
    Model::of(&arena.client, MODEL, 0).await
}

/// The bare client is the reference, so it gets its best concurrency.
pub(super) async fn best_concurrency(arena: &Arena, model: &Arc<Model>, report: &mut Report) -> Result<usize> {
    report.section(format!("the bare client's rate by concurrent requests, {SWEEP} pairs each"));
    progress::say("the bare client is measured with different numbers of concurrent requests");
    let mut best = (0.0, 0);
    for concurrency in CONCURRENCIES {
        let namespace = format!("sweep-{concurrency}");
        arena.cluster.kubectl(&["create", "namespace", &namespace]).await?;
        let bare = Bare::new(arena.client.clone(), &namespace, concurrency);
        let mut tally = arena.tally(&namespace);
        let entries = bare.create_certificates(SWEEP).await?;
        bare.write_pairs(entries, model).await?;
        tally.until_statuses(SWEEP, LONG).await?;
        let rate = tally.pairs_rate();
        report.figure(&format!("{concurrency} requests"), "pairs/s", &[rate]);
        if rate > best.0 {
            best = (rate, concurrency);
        }
    }
    Ok(best.1)
}

impl Sides {
    pub(super) fn report(&self, report: &mut Report, what: &str, whole: impl Fn(&Tally) -> f64) {
        report.figure(&format!("bare client: {what}"), "/s", &each(&self.bare, |side| whole(&side.tally)));
        report.figure(&format!("operator: {what}"), "/s", &each(&self.operator, |side| whole(&side.tally)));
        let ratio = self.ratio(|side| whole(&side.tally));
        report.bounded(&format!("operator / bare: {what}"), "", &ratio, Bound::AtLeast(0.7));
        report.figure("  operator / bare: Secrets alone", "", &self.ratio(|side| side.tally.secrets.rate()));
        report.figure("  operator / bare: statuses alone", "", &self.ratio(|side| side.tally.statuses.rate()));
        for (who, sides) in [("bare client", &self.bare), ("operator", &self.operator)] {
            let count = |side: &Side| number(side.tally.statuses.count.max(1));
            let about = |what: &str| format!("  {who}: {what}");
            report.figure(&about("server's time for a Secret"), "ms", &each(sides, |s| s.tally.secrets.server_ms()));
            report.figure(&about("server's time for a status"), "ms", &each(sides, |s| s.tally.statuses.server_ms()));
            report.figure(&about("processor a pair: server"), "ms", &each(sides, |s| s.spent.server / count(s)));
            report.figure(&about("processor a pair: operator"), "ms", &each(sides, |s| s.spent.operator / count(s)));
            report.figure(&about("processor a pair: bench"), "ms", &each(sides, |s| s.spent.bench / count(s)));
            report.figure(&about("machine's part taken by others"), "%", &each(sides, |s| s.spent.others));
        }
    }

    /// The ratio that other load of the machine disturbs least. Only where both do nothing else in a round.
    pub(super) fn report_processor(&self, report: &mut Report) {
        let cost = |side: &Side| (side.spent.server + side.spent.operator + side.spent.bench).recip();
        report.figure("  operator / bare: by processor time in place of time", "", &self.ratio(cost));
    }

    /// Round by round: adjacent rounds have the same noise.
    fn ratio(&self, value: impl Fn(&Side) -> f64) -> Vec<f64> {
        self.operator.iter().zip(&self.bare).map(|(operator, bare)| value(operator) / value(bare)).collect()
    }
}

pub(super) fn each(sides: &[Side], value: impl Fn(&Side) -> f64) -> Vec<f64> {
    sides.iter().map(value).collect()
}

/// Waits until a condition holds for all.
pub(super) async fn are(arena: &Arena, namespace: &str, condition: &str, count: usize) -> Result<()> {
    let certificates: Api<ServiceCertificate> = Api::namespaced(arena.client.clone(), namespace);
    let what = format!("{count} ServiceCertificates in {namespace} are {condition}");
    wait::until_true(&what, LONG, async || -> Result<bool> {
        let list = certificates.list(&ListParams::default()).await?;
        let holds = |found: &&ServiceCertificate| {
            found.status.as_ref().is_some_and(|status| is_true(&status.conditions, condition))
        };
        Ok(list.items.iter().filter(holds).count() == count)
    })
    .await
}

pub(super) const MODEL: &str = "model";
pub(super) const LONG: Duration = Duration::from_secs(600);
const SWEEP: usize = 400;
const CONCURRENCIES: [usize; 4] = [8, 16, 32, 64];
