//! Namespaces that a TrustDomain selects and that the operator does not watch.

use gaia_api::crd::condition::warning;

use super::Observed;
use crate::outcome::conditions::Warning;

/// The warning about namespaces that are not watched. Instances there are unknown, and unknown never counts as absent.
pub(super) fn warning(observed: &Observed<'_>) -> Option<Warning> {
    let unwatched = &observed.unwatched;
    (!unwatched.is_empty()).then(|| {
        let message = format!(
            "spec.namespaceSelector: {}: instances there are unknown, so no CA and no signing key is removed before \
             it expires; add them to GAIA_WATCH_NAMESPACES (watchNamespaces in the chart), or narrow the selector",
            text(unwatched)
        );
        Warning::new(warning::NAMESPACES_NOT_WATCHED, message)
    })
}

/// `2 selected namespaces are not watched: a, b`.
pub(crate) fn text(namespaces: &[String]) -> String {
    let named = namespaces.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = namespaces.len().saturating_sub(NAMED);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    let are = if namespaces.len() == 1 { "namespace is" } else { "namespaces are" };
    format!("{} selected {are} not watched: {named}{rest}", namespaces.len())
}

const NAMED: usize = 5;
