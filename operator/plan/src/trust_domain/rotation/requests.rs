//! The restore of a ring, requested by annotation `gaia.dev/restore`.

use gaia_api::crd::reason;
use gaia_api::names::annotation;
use jiff::Timestamp;

use crate::keyring::handled::{Answer, Handled};
use crate::keyring::ring::{Material, RingKind};
use crate::keyring::transition::Restore;
use crate::object::ObjectChange;
use crate::trust_domain::{Observed, RingView};
use crate::{Action, Refusal};

/// The requested restore, unless it was done already.
///
/// # Errors
/// The ring cannot be restored that way.
pub(crate) fn restore(observed: &Observed<'_>, now: Timestamp) -> Result<Option<Action>, Refusal> {
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
        return Err(not_restored(asked, &format!("the existing copy has epoch {copied}")));
    }
    let possible = match kind {
        RingKind::Ca => try_restore(&observed.ca, &observed.ca_copy).and_then(|()| check_begun(observed, now)),
        RingKind::SigningKeys => try_restore(&observed.signing, &observed.signing_copy),
    };
    // Checked here already: a restore that fails each time would block all other work.
    possible.map_err(|why| not_restored(asked, &why))?;
    let key = observed.ring_key(kind);
    let newest =
        crate::trust_domain::newest_projected(observed, kind).max(found.epoch).max(Some(copied)).unwrap_or_default();
    let object = match found.version {
        None => crate::trust_domain::desired_ring(observed, kind).create(),
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

/// A CA that is not valid yet does not take the place of another one. Where no ring can be read, the CA that signed last
/// signs again.
fn check_begun(observed: &Observed<'_>, now: Timestamp) -> Result<(), String> {
    let (Some(copy), Some(current)) = (observed.ca_copy.ring(), observed.ca.ring()) else { return Ok(()) };
    let Ok(restored) = copy.restored(Some(current), copy.epoch, now) else { return Ok(()) };
    let signs_now = |id: &str| current.active().is_some_and(|active| active.id == id);
    match restored.active() {
        Some(signs) if signs.material.not_before > now && !signs_now(&signs.id) => Err(format!(
            "{} would sign, and it is valid only from {}, which is ahead of the operator's clock",
            super::name(RingKind::Ca, &signs.id),
            signs.material.not_before
        )),
        _ => Ok(()),
    }
}

/// The properties of a ring or its copy that a restore needs.
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
