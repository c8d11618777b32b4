//! Re-issue of all certificates after a change of the CA.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use gaia_api::crd::condition::{CA_ROTATING, READY};
use gaia_api::crd::{TrustDomain, is_true};
use gaia_e2e::{progress, wait};
use jiff::SignedDuration;
use kube::Api;

use super::Arguments;
use super::arena::{Arena, trust_domain};
use super::bare::{Bare, Entry, Model};
use super::contest::{Contest, LONG, MODEL, Side, Sides, are, best_concurrency, each, model};
use super::report::Report;
use super::tally::{Tally, number};

pub(super) async fn measure(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let watched = [MODEL, LEAVES].map(str::to_owned).to_vec();
    let arena = Arena::set_up(&trust_domain(QUICK), watched).await?.env("GAIA_REISSUE_PER_SECOND", "0");
    let operator = arena.operator().await?;
    let before = model(&arena).await?;
    // Another certificate of the same kind: the new data must differ from the stored one.
    let after = Model::of(&arena.client, MODEL, 1).await?;
    let concurrency = best_concurrency(&arena, &before, report).await?;
    let count = arguments.certificates;
    let contest = Contest { arena: &arena, operator: &operator, count, concurrency };
    let bare = contest.bare("bare").await?;
    let entries = bare.create_certificates(count).await?;
    let mut entries = bare.write_pairs(entries, &before).await?;
    issue(&arena, count).await?;
    let mut sides = Sides::default();
    let mut rotations = vec![];
    for round in 0..arguments.rounds {
        arena.settled().await?;
        let model = if round % 2 == 0 { &after } else { &before };
        let (side, written) = replace(&contest, &bare, entries, model, round + 2).await?;
        sides.bare.push(side);
        entries = written;
        arena.settled().await?;
        let (side, rotation) = rotate(&contest, round + 2).await?;
        sides.operator.push(side);
        rotations.push(rotation);
    }
    report.section(format!("{count} re-issued certificates; the bare client has {concurrency} concurrent requests"));
    // The operator's processor time includes the publication: one more write of each Secret.
    sides.report(report, "Secret and status since the new CA signs", Tally::replaced_rate);
    let jitter_over = each(&sides.operator, |side| side.tally.rate_after(JITTER));
    report.figure("operator: those left when the jitter of 1 s was over", "/s", &jitter_over);
    let figure = |report: &mut Report, what: &str, value: fn(&Tally) -> usize| {
        let values: Vec<f64> = rotations.iter().map(|tally| number(value(tally)) / number(count)).collect();
        report.figure(&format!("whole rotation: writes a certificate, {what}"), "", &values);
    };
    figure(report, "Secrets", |tally| tally.secrets_in_all);
    figure(report, "statuses", |tally| tally.statuses.count);
    figure(report, "events", |tally| tally.events.count);
    Ok(())
}

/// Certificates in a namespace that is selected.
pub(super) async fn issue(arena: &Arena, count: usize) -> Result<()> {
    progress::say(format_args!("{count} certificates are issued"));
    arena.select(LEAVES).await?;
    Bare::new(arena.client.clone(), LEAVES, APPLIED_AT_A_TIME).create_certificates(count).await?;
    are(arena, LEAVES, READY, count).await
}

async fn replace(
    contest: &Contest<'_>,
    bare: &Bare,
    entries: Vec<Entry>,
    model: &Arc<Model>,
    revision: usize,
) -> Result<(Side, Vec<Entry>)> {
    progress::say(format_args!("the bare client replaces {} pairs", contest.count));
    let mut written = vec![];
    let side = contest
        .side("bare", async || {
            written = bare.replace_pairs(entries, model, revision).await?;
            Ok(())
        })
        .await?;
    Ok((side, written))
}

/// One rotation: the compared part, and all of it.
async fn rotate(contest: &Contest<'_>, revision: usize) -> Result<(Side, Tally)> {
    progress::say(format_args!("the operator re-issues {} certificates", contest.count));
    let mut whole = contest.arena.tally(LEAVES);
    let side = contest.side(LEAVES, async || raise_revision(contest.arena, revision).await).await?;
    until_rotating(contest.arena, false).await?;
    contest.arena.settled().await?;
    whole.read()?;
    Ok((side, whole))
}

pub(super) async fn raise_revision(arena: &Arena, revision: usize) -> Result<()> {
    let patch = format!("{{\"spec\":{{\"ca\":{{\"rotationRevision\":{revision}}}}}}}");
    arena.cluster.kubectl(&["patch", "trustdomain", "gaia", "--type=merge", "--patch", &patch]).await?;
    Ok(())
}

/// Until a rotation of the CA has begun, or is over: the CA before is removed.
pub(super) async fn until_rotating(arena: &Arena, rotating: bool) -> Result<()> {
    let domains: Api<TrustDomain> = Api::all(arena.client.clone());
    let what = format!("CARotating is {rotating}");
    wait::until_true(&what, LONG, async || -> Result<bool> {
        let status = domains.get("gaia").await?.status.context("no status")?;
        Ok(is_true(&status.conditions, CA_ROTATING) == rotating)
    })
    .await
}

/// As short as the schema allows. There are no instances to acknowledge.
pub(super) const QUICK: &str = "{minDelay: 1s, clockSkew: 0s, deadline: 1m, requireAcknowledgement: false}";
pub(super) const LEAVES: &str = "leaves";
const JITTER: SignedDuration = SignedDuration::from_secs(1);
const APPLIED_AT_A_TIME: usize = 16;
