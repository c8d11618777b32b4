//! The record of clients that use API keys or present no client certificate, while either is to be disabled.

use gaia_api::ledger::LedgerRecord;
use gaia_api::mount::SCHEMA_VERSION;
use gaia_api::names::{self, key};
use jiff::Timestamp;

use super::{Observed, config_map};
use crate::api_key_usage::{self, LedgerObject, Legacy, Modes, served};
use crate::gaia_service::mode;
use crate::gaia_service::mode::Effective;
use crate::object::{ObjectKey, Ownership, immutable, not_owned, unreadable};
use crate::{Action, Refusal, projection};

/// The write of the record that is due. `record`: its desired content, except for the mode; none: there is nothing to
/// record.
///
/// # Errors
/// The object cannot be written.
pub(super) fn action(
    observed: &Observed<'_>,
    record: Option<LedgerRecord>,
    legacy: &Legacy<'_>,
    running: &Effective,
    now: Timestamp,
) -> Result<Option<Action>, Refusal> {
    let meta = &observed.service.metadata;
    let name = names::ledger(meta.name.as_deref().unwrap_or_default());
    let key = ObjectKey::config_map(meta.namespace.as_deref().unwrap_or_default(), name);
    if observed.ledger == Ownership::Foreign && legacy.is_watched {
        return Err(not_owned(&key, None).about("the use of API keys and plain HTTP is not recorded"));
    }
    if let Ownership::Unreadable(why) = &observed.ledger {
        return if record.is_some() { Err(unreadable(&key, why)) } else { Ok(None) };
    }
    let modes = Modes {
        auth: running.mode,
        tls: running.tls,
        ran_auth: served::ran(observed.service),
        ran_tls: legacy.ran_tls,
    };
    let record = match record {
        Some(record) => record,
        None if legacy.is_watched => return Ok(None),
        // No instance is watched. The time at which Strict ran is kept for a day nevertheless.
        None => {
            let stored = legacy.stored.cloned();
            let found = stored.unwrap_or_else(|| LedgerRecord { schema_version: SCHEMA_VERSION, ..Default::default() });
            let strict = api_key_usage::with_modes(found, modes, now).strict;
            let ended = strict.filter(|run| run.until.is_some() && mode::ran_within_a_day(Some(*run), now));
            match (ended, &observed.ledger) {
                (Some(_), _) => {
                    LedgerRecord { schema_version: SCHEMA_VERSION, strict: ended, ..LedgerRecord::default() }
                }
                (None, Ownership::Ours(found)) => {
                    return Ok(Some(Action::Delete { key, version: found.facts.version() }));
                }
                (None, _) => return Ok(None),
            }
        }
    };
    let record = api_key_usage::with_modes(record, modes, now);
    let desired = config_map(observed, key, "ledger", (key::LEDGER, projection::json(&record)));
    let write = |change| Ok(Some(Action::Write(Box::new(change))));
    match &observed.ledger {
        Ownership::Ours(LedgerObject { facts, .. }) => match desired.change_from(facts) {
            Some(change) if facts.immutable && !change.data.is_empty() => Err(immutable(&desired.key)),
            Some(change) => write(change),
            None => Ok(None),
        },
        _ if api_key_usage::says_something(&record) => write(desired.create()),
        _ => Ok(None),
    }
}
