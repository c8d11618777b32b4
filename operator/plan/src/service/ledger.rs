//! The record of who uses API keys, as long as there are any.

use gaia_api::crd::{AuthMode, reason};
use gaia_api::ledger::LedgerRecord;
use gaia_api::names::{self, key};
use jiff::Timestamp;

use super::{Observed, config_map};
use crate::legacy::{self, LedgerObject};
use crate::object::{Held, ObjectKey, immutable};
use crate::{Action, Refusal, mode, projection};

/// What is to be done about it. `record`: what it should be, but for the mode; none: there is nothing to write down.
///
/// # Errors
/// It cannot be written.
pub(super) fn action(
    observed: &Observed<'_>,
    record: Option<LedgerRecord>,
    mode: AuthMode,
    now: Timestamp,
) -> Result<Option<Action>, Refusal> {
    let meta = &observed.service.metadata;
    let name = names::ledger(meta.name.as_deref().unwrap_or_default());
    let key = ObjectKey::config_map(meta.namespace.as_deref().unwrap_or_default(), name);
    let has_keys = legacy::keys(observed.service).is_some();
    if observed.ledger == Held::Foreign && has_keys {
        let message = format!("{key} exists and is not Gaia's; delete it so that the use of API keys can be watched");
        return Err(Refusal::stalled(reason::OBJECT_NOT_OWNED, message));
    }
    if let (Held::Ours(found), false) = (&observed.ledger, has_keys) {
        return Ok(Some(Action::Delete { key, version: found.facts.version() }));
    }
    let Some(record) = record else { return Ok(None) };
    let record = legacy::with_mode(record, mode, mode::ran(observed.service), now);
    let desired = config_map(observed, key, "ledger", (key::LEDGER, projection::json(&record)));
    let write = |change| Ok(Some(Action::Write(Box::new(change))));
    match &observed.ledger {
        Held::Ours(LedgerObject { facts, .. }) => match desired.change_from(facts) {
            Some(change) if facts.immutable && !change.data.is_empty() => Err(immutable(&desired.key)),
            Some(change) => write(change),
            None => Ok(None),
        },
        _ if legacy::says_something(&record) => write(desired.create()),
        _ => Ok(None),
    }
}
