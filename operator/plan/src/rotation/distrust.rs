//! A CA that leaked, and how long the world was exposed.

use gaia_api::crd::{DistrustMode, reason};

use super::gate::Poll;
use super::{Context, Progress, Turn, name};
use crate::backoff::saturating_add;
use crate::instance::Need;
use crate::ring::{CaMaterial, Generation, MaterialRequest, RingKind, State};
use crate::transition::Step;
use crate::trust_domain::ca_material;
use crate::{Event, Refusal};

const KIND: RingKind = RingKind::Ca;

/// What the spec says leaked, and the ring does not know yet.
pub(super) fn of_ca(context: &Context<'_, '_>) -> Option<Turn> {
    let listed = &context.observed.domain.spec.ca.distrusted;
    let mut refusal = None;
    for generation in &context.ca.generations {
        let fingerprint = &generation.material.fingerprint;
        let Some(entry) = listed.iter().find(|entry| entry.fingerprint == *fingerprint) else { continue };
        let is_news = generation.distrust.is_none_or(|known| {
            let is_sharper = known.mode == DistrustMode::AfterReissue && entry.mode == DistrustMode::Immediate;
            generation.state.is_trusted() && is_sharper
        });
        if !is_news {
            continue;
        }
        match steps(context, generation, entry.mode) {
            Ok(steps) => {
                let what = name(KIND, &generation.id);
                let told = Event::warning(reason::DISTRUSTED, format!("{what} is distrusted ({:?})", entry.mode));
                let progress = Progress::new(reason::DISTRUSTED, format!("{what} is being replaced"));
                return Some(Turn { refusal, ..Turn::act(steps, vec![told], progress) });
            }
            // It does not keep others that leaked from being refused.
            Err(why) => refusal = refusal.or(Some(why)),
        }
    }
    let refused = refusal.map(|refusal| Turn { refusal: Some(refusal), ..Turn::default() });
    refused.or_else(|| replace_suspect(context))
}

fn steps(context: &Context<'_, '_>, leaked: &Generation<CaMaterial>, mode: DistrustMode) -> Result<Vec<Step>, Refusal> {
    let id = leaked.id.clone();
    match (leaked.state, mode) {
        (State::Active, _) => {}
        (State::Retiring, DistrustMode::AfterReissue) => return Ok(vec![Step::Suspect { id, mode }]),
        // Nothing was signed by it, or nothing that is in use, or what was is to be refused at once.
        _ => return Ok(vec![Step::Distrust { id, mode }]),
    }
    // A replacement that was made since is as good as a fresh one.
    let under_way = leaked.distrust.and_then(|mark| context.ca.next().filter(|next| next.since >= mark.since));
    if let Some(next) = under_way {
        return Ok(vec![Step::Activate { id: next.id.clone(), signed_until: None }, Step::Distrust { id, mode }]);
    }
    let fresh = replacement(context)?;
    // The whole ring may have leaked: what was staged beside it is never used.
    let siblings = context.ca.generations.iter().filter(|g| matches!(g.state, State::Staged | State::Published));
    let discarded = siblings.map(|sibling| Step::Discard(sibling.id.clone()));
    let (first, last) = match mode {
        DistrustMode::Immediate => (Step::Distrust { id, mode }, Step::StageActive(fresh)),
        DistrustMode::AfterReissue => (Step::Suspect { id, mode }, Step::Stage(fresh)),
    };
    Ok(std::iter::once(first).chain(discarded).chain([last]).collect())
}

/// A suspect that signs and has no replacement under way: its rotation was aborted, or its replacement leaked too.
fn replace_suspect(context: &Context<'_, '_>) -> Option<Turn> {
    let active = context.ca.active()?;
    active.distrust.filter(|_| context.ca.next().is_none())?;
    let progress = Progress::new(reason::DISTRUSTED, format!("{} is being replaced", name(KIND, &active.id)));
    Some(match replacement(context) {
        Ok(fresh) => Turn::act(vec![Step::Stage(fresh)], vec![], progress),
        Err(refusal) => Turn { refusal: Some(refusal), ..Turn::default() },
    })
}

/// A fresh CA in place of one that leaked.
fn replacement(context: &Context<'_, '_>) -> Result<MaterialRequest, Refusal> {
    let observed = context.observed;
    let request = ca_material(observed, context.now)?;
    match &request {
        MaterialRequest::ExistingCa { secret, fingerprint } if context.is_known_ca(fingerprint) => {
            Err(Refusal::stalled(
                reason::CA_DISTRUSTED,
                format!(
                    "spec.ca.distrusted: CA {} is the only one in spec.ca.existingSecretRef; put another one into \
                     Secret {}/{secret} first",
                    crate::ring::short_id(fingerprint),
                    observed.operator_namespace
                ),
            ))
        }
        _ => Ok(request),
    }
}

/// From the edit to the last refusal: noted once every instance was seen without the root.
pub(super) fn settle_ca(context: &Context<'_, '_>) -> Option<Turn> {
    let old = unsettled(&context.ca.generations)?;
    if !(context.is_projected && context.is_in_leaves) {
        return None;
    }
    let poll = context.poll(|_| true, &Need::Bundle(context.bundle_hash), old.since);
    settle(context, old, &poll)
}

/// The first generation that is refused, but was not seen to be everywhere.
pub(super) fn unsettled<M>(generations: &[Generation<M>]) -> Option<&Generation<M>> {
    generations.iter().find(|generation| {
        generation.state == State::Distrusted && generation.distrust.is_some_and(|mark| mark.refused_time.is_none())
    })
}

pub(super) fn settle<M>(context: &Context<'_, '_>, old: &Generation<M>, poll: &Poll) -> Option<Turn> {
    let times = context.times();
    let by_time = saturating_add(old.since, times.p + times.s);
    if poll.nobody() && context.now < by_time {
        return Some(Turn::rest(vec![by_time]));
    }
    if !poll.is_unanimous() {
        return None;
    }
    let seen = context.observed.instances.iter().filter_map(|instance| instance.probe.as_ref().map(|probe| probe.at));
    let at = if poll.nobody() { by_time } else { seen.max().unwrap_or(context.now).max(old.since).min(context.now) };
    let progress = Progress::new(reason::DISTRUSTED, format!("{} is refused everywhere", old.id));
    Some(Turn::act(vec![Step::Refused { id: old.id.clone(), at }], vec![], progress))
}
