//! First certificates: a Secret and a status each.

use std::sync::Arc;

use anyhow::Result;
use gaia_api::crd::condition::{READY, STALLED};
use gaia_e2e::progress;

use super::Arguments;
use super::arena::{Arena, trust_domain};
use super::bare::{Bare, Model};
use super::contest::{Contest, MODEL, Side, Sides, are, best_concurrency, each, model};
use super::report::{Bound, Report};
use super::tally::{Tally, number};

pub(super) async fn measure(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let rounds = 0..arguments.rounds;
    let names = |what: &'static str| rounds.clone().map(move |round| format!("{what}-{round}"));
    let watched = names("select").chain(names("apply")).chain([MODEL.to_owned()]).collect();
    let arena = Arena::set_up(&trust_domain("{}"), watched).await?;
    let operator = arena.operator().await?;
    let model = model(&arena).await?;
    let concurrency = best_concurrency(&arena, &model, report).await?;
    let count = arguments.certificates;
    report.section(format!("{count} first certificates; the bare client has {concurrency} concurrent requests"));
    report.figure("data of a Secret", "bytes", &[number(model.secret_bytes())]);
    report.figure("a status", "bytes", &[number(model.status_bytes())]);
    let contest = Contest { arena: &arena, operator: &operator, count, concurrency };
    let mut pairs = Sides::default();
    for index in rounds.clone() {
        pairs.bare.push(bare_pairs(&contest, &format!("bare-{index}"), &model).await?);
        pairs.operator.push(selected(&contest, &format!("select-{index}")).await?);
    }
    pairs.report(report, "Secret and status", Tally::pairs_rate);
    pairs.report_processor(report);
    report_requests(report, count, &pairs.operator);
    let mut triples = Sides::default();
    for index in rounds {
        triples.bare.push(bare_triples(&contest, &format!("bare-apply-{index}"), &model).await?);
        triples.operator.push(applied(&contest, &format!("apply-{index}")).await?);
    }
    triples.report(report, "resource, Secret and status", Tally::triples_rate);
    triples.report_processor(report);
    report_requests(report, count, &triples.operator);
    Ok(())
}

async fn bare_pairs(contest: &Contest<'_>, namespace: &str, model: &Arc<Model>) -> Result<Side> {
    let bare = contest.bare(namespace).await?;
    let entries = bare.create_certificates(contest.count).await?;
    contest.arena.settled().await?;
    progress::say(format_args!("the bare client writes {} pairs", contest.count));
    contest.side(namespace, async || bare.write_pairs(entries, model).await.map(drop)).await
}

/// All exist, in a namespace that was not selected until now.
async fn selected(contest: &Contest<'_>, namespace: &str) -> Result<Side> {
    let Contest { arena, count, .. } = contest;
    applier(contest, namespace).create_certificates(*count).await?;
    are(arena, namespace, STALLED, *count).await?;
    arena.settled().await?;
    progress::say(format_args!("the operator issues {count} certificates"));
    let side = contest.side(namespace, async || arena.select(namespace).await).await?;
    finish(contest, namespace, side).await
}

async fn bare_triples(contest: &Contest<'_>, namespace: &str, model: &Arc<Model>) -> Result<Side> {
    let bare = contest.bare(namespace).await?;
    contest.arena.settled().await?;
    progress::say(format_args!("the bare client writes {} triples", contest.count));
    contest.side(namespace, async || bare.write_triples(contest.count, model).await.map(drop)).await
}

/// They are applied while the operator issues.
async fn applied(contest: &Contest<'_>, namespace: &str) -> Result<Side> {
    contest.arena.select(namespace).await?;
    contest.arena.settled().await?;
    progress::say(format_args!("{} certificates are applied while the operator issues", contest.count));
    let applier = applier(contest, namespace);
    let side = contest.side(namespace, async || applier.create_certificates(contest.count).await.map(drop)).await?;
    finish(contest, namespace, side).await
}

fn applier(contest: &Contest<'_>, namespace: &str) -> Bare {
    Bare::new(contest.arena.client.clone(), namespace, contest.concurrency)
}

/// The rate is measured; the rest is still checked.
async fn finish(contest: &Contest<'_>, namespace: &str, mut side: Side) -> Result<Side> {
    are(contest.arena, namespace, READY, contest.count).await?;
    side.tally.until_events(contest.count).await?;
    Ok(side)
}

fn report_requests(report: &mut Report, count: usize, sides: &[Side]) {
    let per = |value: usize| number(value) / number(count);
    let requests = |side: &Side| per(side.tally.secrets.count + side.tally.statuses.count + side.tally.events.count);
    report.bounded("operator: requests a certificate", "", &each(sides, requests), Bound::AtMost(3.01));
    report.figure("  events a certificate", "", &each(sides, |side| per(side.tally.events.count)));
    report.figure("  events", "/s", &each(sides, |side| side.tally.events.rate()));
}
