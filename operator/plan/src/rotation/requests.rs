//! What a person asks for by annotation: `gaia.dev/abort` and `gaia.dev/restore`.

use gaia_api::crd::reason;
use gaia_api::names::annotation;
use jiff::Timestamp;

use super::{Context, Progress, Turn, name};
use crate::handled::{Answer, Handled};
use crate::object::ObjectChange;
use crate::ring::{CaMaterial, Generation, Material, Ring, RingKind, State};
use crate::transition::{Restore, Step};
use crate::trust_domain::{Observed, RingView};
use crate::{Action, Event, Refusal};

pub(super) fn abort_ca(context: &Context<'_, '_>) -> Option<Turn> {
    context.annotation(annotation::ABORT)?;
    let revision = context.observed.domain.spec.ca.rotation_revision;
    let signed_until = context.ca.active().and_then(|active| super::ca::signed_until(context, active));
    let in_force = |before: &&Generation<CaMaterial>| before.material.not_after > context.now;
    abort(context, (RingKind::Ca, context.ca), revision, signed_until, in_force)
}

pub(super) fn abort_signing(context: &Context<'_, '_>) -> Option<Turn> {
    let revision = context.observed.domain.spec.tokens.rotation_revision;
    let mut turn = abort(context, (RingKind::SigningKeys, context.signing), revision, None, |_| true)?;
    // There is always a next key.
    if turn.steps.iter().any(|step| matches!(step, Step::Abandon(_))) {
        turn.steps.push(Step::Stage(super::signing::fresh(context)));
    }
    Some(turn)
}

/// Gives the rotation to a generation up: before it signs it is dropped, afterwards the one before it signs again.
fn abort<M: Material>(
    context: &Context<'_, '_>,
    (kind, ring): (RingKind, &Ring<M>),
    revision: i64,
    signed_until: Option<Timestamp>,
    in_force: impl Fn(&&Generation<M>) -> bool,
) -> Option<Turn> {
    let asked = context.annotation(annotation::ABORT)?;
    let Some(generation) = ring.generation(asked) else {
        // Said once, by the ring that is asked last, and only if neither has it.
        let other = match kind {
            RingKind::Ca => context.signing.generation(asked).is_some(),
            RingKind::SigningKeys => true,
        };
        return (!other).then(|| refuse(asked, "no generation has that id"));
    };
    if generation.aborted {
        return None;
    }
    let steps = match generation.state {
        State::Staged | State::Published => vec![Step::Abandon(generation.id.clone())],
        State::Active => {
            // One that retires because of a restore alone may never have been published.
            let has_signed = |before: &&Generation<M>| before.activated_time.is_some() && before.distrust.is_none();
            let before = ring.retiring().filter(has_signed).filter(in_force).last();
            let Some(before) = before else {
                let last_chance = ring.generations.iter().any(|other| other.id != generation.id);
                let why = if last_chance { "the one before it is removed already" } else { "there was none before it" };
                return Some(refuse(asked, why));
            };
            vec![Step::Reactivate { id: before.id.clone(), signed_until }]
        }
        State::Retiring | State::Removed | State::Distrusted => {
            return Some(refuse(asked, &format!("it is {} already", generation.state.as_str())));
        }
    };
    Some(aborted(kind, generation, ring.revision, revision, steps))
}

fn aborted<M>(kind: RingKind, generation: &Generation<M>, known: i64, revision: i64, mut steps: Vec<Step>) -> Turn {
    if revision > known {
        steps.push(Step::HandleRevision(revision));
    }
    let what = name(kind, &generation.id);
    let event = Event::new(reason::ROTATION_ABORTED, format!("the rotation to {what} is aborted"));
    Turn::act(steps, vec![event], Progress::new(reason::ROTATION_ABORTED, format!("{what} is given up")))
}

fn refuse(asked: &str, why: &str) -> Turn {
    let asked: String = asked.chars().take(64).collect();
    let message = format!("metadata.annotations[{}]: {asked:?} cannot be aborted: {why}", annotation::ABORT);
    Turn { refusal: Some(Refusal::stalled(reason::ABORT_NOT_POSSIBLE, message)), ..Turn::default() }
}

/// The restore that was asked for, if it was not done yet.
///
/// # Errors
/// Nothing can be restored that way.
pub(crate) fn restore(observed: &Observed<'_>) -> Result<Option<Action>, Refusal> {
    let asked = observed.domain.metadata.annotations.as_ref().and_then(|all| all.get(annotation::RESTORE));
    let Some(asked) = asked else { return Ok(None) };
    let (ring, epoch) = asked.split_once('@').unwrap_or((asked, ""));
    let kind = match ring {
        "ca" => RingKind::Ca,
        "signing" => RingKind::SigningKeys,
        other if other == observed.ring_key(RingKind::Ca).name => RingKind::Ca,
        other if other == observed.ring_key(RingKind::SigningKeys).name => RingKind::SigningKeys,
        _ => return Err(not_restored(asked, "it must be ca@<epoch> or signing@<epoch>")),
    };
    let Ok(epoch) = epoch.parse::<u64>() else {
        return Err(not_restored(asked, "it must be ca@<epoch> or signing@<epoch>"));
    };
    let (found, copy) = match kind {
        RingKind::Ca => (Found::of(&observed.ca), Found::of(&observed.ca_copy)),
        RingKind::SigningKeys => (Found::of(&observed.signing), Found::of(&observed.signing_copy)),
    };
    if found.restored_from == Some(epoch) {
        return Ok(None);
    }
    let Some(copied) = copy.epoch else {
        return Err(not_restored(
            asked,
            &format!("Secret {}-previous is missing or cannot be read", found_name(observed, kind)),
        ));
    };
    if copied != epoch {
        return Err(not_restored(asked, &format!("the copy that there is has epoch {copied}")));
    }
    let possible = match kind {
        RingKind::Ca => try_restore(&observed.ca, &observed.ca_copy),
        RingKind::SigningKeys => try_restore(&observed.signing, &observed.signing_copy),
    };
    // Tried here already: a restore that fails each time would hold up everything else.
    possible.map_err(|why| not_restored(asked, &why))?;
    let key = observed.ring_key(kind);
    let newest = observed.newest_projected_epoch(kind).max(found.epoch).max(Some(copied)).unwrap_or_default();
    let object = match found.version {
        None => super::super::trust_domain::desired_ring(observed, kind).create(),
        Some(version) => ObjectChange::nothing(key.clone(), Some(version)),
    };
    let mut handled = Handled::default();
    handled.record(annotation::RESTORE, Answer::done(asked));
    let message = format!("{key} was restored from its copy of epoch {epoch}");
    Ok(Some(Action::Restore(Box::new(Restore {
        trust_domain: observed.name().to_owned(),
        kind,
        object: object.with_event(reason::RING_RESTORED, message),
        epoch,
        new_epoch: newest + 1,
        handled,
    }))))
}

fn try_restore<M: Material + Clone>(found: &RingView<'_, M>, copy: &RingView<'_, M>) -> Result<(), String> {
    let Some(copy) = copy.ring() else { return Ok(()) };
    copy.restored(found.ring(), copy.epoch, Timestamp::UNIX_EPOCH).map(drop).map_err(|error| error.to_string())
}

/// What a restore needs to know of a ring or its copy.
struct Found {
    epoch: Option<u64>,
    restored_from: Option<u64>,
    version: Option<crate::object::Version>,
}

impl Found {
    fn of<M>(view: &RingView<'_, M>) -> Self {
        Self {
            epoch: view.ring().map(|ring| ring.epoch),
            restored_from: view.ring().and_then(|ring| ring.restored_from),
            version: view.facts().map(crate::object::ObjectFacts::version),
        }
    }
}

fn found_name(observed: &Observed<'_>, kind: RingKind) -> String {
    observed.ring_key(kind).name
}

fn not_restored(asked: &str, why: &str) -> Refusal {
    let asked: String = asked.chars().take(128).collect();
    let message = format!("metadata.annotations[{}]: {asked:?} cannot be restored: {why}", annotation::RESTORE);
    Refusal::stalled(reason::RESTORE_NOT_POSSIBLE, message)
}
