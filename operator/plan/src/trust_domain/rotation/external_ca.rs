//! Changes of the bring-your-own CA in its Secret.

use gaia_api::crd::condition::warning;

use super::Context;
use crate::keyring::ring::{CaMaterial, Generation, State, short_id};
use crate::outcome::conditions::Warning;

/// The step that the CA in the Secret requires.
pub(super) enum News<'a> {
    /// It is the one in use, or on its way.
    None,
    /// It is new, or was removed and is put back.
    Stage(String),
    /// It was active before, is still trusted and is in the Secret again.
    Resume(&'a Generation<CaMaterial>),
    /// Its rotation was aborted.
    Aborted(&'a Generation<CaMaterial>),
}

/// Returns the step that the CA in `existingSecretRef` requires. `asked`: `rotationRevision` was raised, which ends an
/// abort.
pub(super) fn news<'a>(context: &'a Context<'_, '_>, asked: bool) -> News<'a> {
    let observed = context.observed;
    let Some(reference) = &observed.domain.spec.ca.existing_secret_ref else { return News::None };
    let Some(Ok(found)) = &observed.external_ca else { return News::None };
    let why = |what: &str| format!("Secret {} holds CA {}{what}", reference.name, short_id(&found.fingerprint));
    let known = context.ca.generations.iter().find(|known| known.material.fingerprint == found.fingerprint);
    let Some(known) = known else { return News::Stage(why("")) };
    match known.state {
        State::Retiring | State::Removed if known.aborted && !asked => News::Aborted(known),
        // It is refused: see the conditions.
        State::Retiring | State::Removed if known.distrust.is_some() => News::None,
        State::Retiring if known.activated_time.is_some() => News::Resume(known),
        State::Removed => News::Stage(why(" again")),
        State::Staged | State::Published | State::Active | State::Retiring => News::None,
        // `ca_material` refuses it.
        State::Distrusted => News::Stage(why(" again")),
    }
}

/// That the CA in the Secret, or the root above it, is not used, and why.
pub(crate) fn unused(context: &Context<'_, '_>) -> Option<Warning> {
    let spec = &context.observed.domain.spec.ca;
    let message = match news(context, spec.rotation_revision > context.ca.revision) {
        News::Aborted(known) => format!(
            "spec.ca.existingSecretRef: the rotation to CA {} was aborted, so it is not used; raise \
             spec.ca.rotationRevision to use it, or put another CA into the Secret",
            known.id
        ),
        News::None => other_root(context)?,
        News::Stage(_) | News::Resume(_) => return None,
    };
    Some(Warning::new(warning::CA_NOT_USED, message))
}

/// A root that was renewed above an intermediate that is in use. The intermediate is the CA, and it is trusted already.
fn other_root(context: &Context<'_, '_>) -> Option<String> {
    let reference = context.observed.domain.spec.ca.existing_secret_ref.as_ref()?;
    let found = context.observed.external_ca.as_ref()?.as_ref().ok()?;
    let known = context.ca.trusted().find(|known| known.material.fingerprint == found.fingerprint)?;
    let (root, in_use) = (found.path.certificates.last()?, known.material.path.certificates.last()?);
    (root.fingerprint != in_use.fingerprint).then(|| {
        format!(
            "spec.ca.existingSecretRef: Secret {} has root {} above CA {}, and the root in use is {}: the new root is not \
             used; certify the CA again below it, and put that certificate into the Secret",
            reference.name,
            short_id(&root.fingerprint),
            known.id,
            short_id(&in_use.fingerprint)
        )
    })
}
