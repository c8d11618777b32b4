//! A bring-your-own CA that changes in its Secret.

use gaia_api::crd::condition::warning;

use super::Context;
use crate::conditions::Warning;
use crate::ring::{CaMaterial, Generation, State, short_id};

/// What the CA in the Secret asks for.
pub(super) enum News<'a> {
    /// It is the one in use, or on its way.
    None,
    /// It is new, or was removed and is put back.
    Stage(String),
    /// It has signed before, is trusted still and is put back.
    Resume(&'a Generation<CaMaterial>),
    /// Its rotation was aborted.
    Aborted(&'a Generation<CaMaterial>),
}

/// What the CA in `existingSecretRef` asks for. `asked`: `rotationRevision` was raised, which ends an abort.
pub(super) fn news<'a>(context: &'a Context<'_, '_>, asked: bool) -> News<'a> {
    let observed = context.observed;
    let Some(reference) = &observed.domain.spec.ca.existing_secret_ref else { return News::None };
    let Some(Ok(found)) = &observed.brought_ca else { return News::None };
    let why = |what: &str| format!("Secret {} holds CA {}{what}", reference.name, short_id(&found.fingerprint));
    let known = context.ca.generations.iter().find(|known| known.material.fingerprint == found.fingerprint);
    let Some(known) = known else { return News::Stage(why("")) };
    match known.state {
        State::Retiring | State::Removed if known.aborted && !asked => News::Aborted(known),
        // It is refused for what it is: see the conditions.
        State::Retiring | State::Removed if known.distrust.is_some() => News::None,
        State::Retiring if known.activated_time.is_some() => News::Resume(known),
        State::Removed => News::Stage(why(" again")),
        State::Staged | State::Published | State::Active | State::Retiring => News::None,
        // Refused before it is looked at in detail: see `ca_material`.
        State::Distrusted => News::Stage(why(" again")),
    }
}

/// That the CA in the Secret is not used because the rotation to it was aborted.
pub(crate) fn unused(context: &Context<'_, '_>) -> Option<Warning> {
    let News::Aborted(known) = news(context, context.observed.domain.spec.ca.rotation_revision > context.ca.revision)
    else {
        return None;
    };
    let message = format!(
        "spec.ca.existingSecretRef: the rotation to CA {} was aborted, so it is not used; raise \
         spec.ca.rotationRevision to use it, or put another CA into the Secret",
        known.id
    );
    Some(Warning::new(warning::CA_NOT_USED, message))
}
