//! Times in rings and certificates that are ahead of the operator's clock: either its clock is slow, or a fast clock
//! wrote them.

use gaia_api::crd::condition::warning;
use jiff::Timestamp;

use super::Observed;
use crate::outcome::conditions::Warning;
use crate::pacing::backoff::{saturating_add, saturating_sub};

/// The warnings about times that are ahead by more than the clock skew, and the times when they end. `newest`: the
/// newest time in the rings.
pub(super) fn behind(observed: &Observed<'_>, newest: Timestamp, now: Timestamp) -> (Vec<Warning>, Vec<Timestamp>) {
    let skew = observed.domain.spec.propagation.clock_skew.value();
    let limit = saturating_add(now, skew);
    let mut warnings = vec![];
    let mut ends = vec![];
    if newest > limit {
        ends.push(newest);
        warnings.push(format!(
            "the rings of TrustDomain {} hold the time {newest}, which is ahead of the operator's clock: rotations \
             wait until then, except a distrust and the replacement of a CA that expires. Correct the clock of the operator's node; if a clock that ran \
             fast wrote that time, restore the rings from an older backup",
            observed.name()
        ));
    }
    let next = observed.ca.ring().and_then(|ring| ring.next());
    if let Some(next) = next.filter(|next| next.material.not_before > limit) {
        let begins = next.material.not_before;
        ends.push(begins);
        warnings.push(format!(
            "CA {} is valid only from {begins}, which is ahead of the operator's clock: it cannot be activated \
             earlier. Correct the clock of the operator's node",
            next.id
        ));
    }
    let leaves = observed.leaves.iter().filter_map(|view| Some((view, view.leaf?.not_before)));
    let mut ahead: Vec<(&str, &str, Timestamp)> = leaves
        .filter(|(_, begins)| *begins > limit)
        .map(|(view, begins)| (view.secret_namespace, view.secret_name, begins))
        .collect();
    ahead.sort_unstable();
    ends.extend(ahead.iter().map(|(_, _, begins)| *begins));
    warnings.extend(ahead.first().map(|(namespace, name, begins)| {
        format!(
            "the certificate in Secret {namespace}/{name} is valid only from {begins}, which is ahead of the operator's \
             clock: correct the clock of the operator's node, or delete the Secret"
        )
    }));
    let ends = ends.into_iter().map(|end| saturating_sub(end, skew)).collect();
    (warnings.into_iter().map(|message| Warning::new(warning::CLOCK_BEHIND, message)).collect(), ends)
}
