//! Whether API keys may end.

use std::time::Duration;

use gaia_api::crd::{GaiaService, LegacyCaller, LegacyStatus, Truth, reason};
use gaia_api::ledger::{LedgerEntry, LedgerRecord};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use super::{keys, latest_first};
use crate::backoff::saturating_add;

/// What is to be said of API keys, as the condition `LegacyFree` says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) truth: Truth,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// When it will be another one by time alone.
    pub(crate) changes_at: Option<Timestamp>,
}

/// Judges by the record.
pub(super) fn verdict(service: &GaiaService, record: Option<&LedgerRecord>, now: Timestamp) -> Verdict {
    let say = |truth, reason, message: String| Verdict { truth, reason, message, changes_at: None };
    if keys(service).is_none() {
        return say(Truth::True, reason::NO_KEYS, "no API keys are configured".to_owned());
    }
    let (span, wanted) = (&service.spec.auth.legacy_free_for, service.spec.auth.legacy_free_for.value());
    if wanted.is_zero() {
        let message = "spec.auth.legacyFreeFor is 0s: no evidence is asked for".to_owned();
        return say(Truth::True, reason::KEYS_UNUSED, message);
    }
    let Some(record) = record else {
        return say(Truth::False, reason::NOT_WATCHED, "no instance's ledger was read yet".to_owned());
    };
    let mut in_use: Vec<&LedgerEntry> =
        record.entries.iter().filter(|entry| free_from(entry.date, wanted) > now).collect();
    in_use.sort_by(|a, b| latest_first(a, b));
    if let Some(last) = in_use.first() {
        let message = format!("used within {span}: {}", list(&in_use));
        let changes_at = Some(free_from(last.date, wanted));
        return Verdict { changes_at, ..say(Truth::False, reason::LEGACY_KEYS_IN_USE, message) };
    }
    let gap = record.gap.as_ref().map(|gap| gap.what.as_str());
    let because = gap.map_or_else(String::new, |what| format!(": {what}"));
    let reason = if gap.is_some() { reason::EVIDENCE_GAP } else { reason::NOT_WATCHED };
    let Some(since) = record.watched_since else {
        let message = format!("not every instance's ledger is read{because}");
        return say(Truth::False, reason, message);
    };
    let free_at = saturating_add(since, wanted);
    if free_at > now {
        let message = format!("no key was used since {since}, which is not {span} yet{because}");
        return Verdict { changes_at: Some(free_at), ..say(Truth::False, reason, message) };
    }
    say(Truth::True, reason::KEYS_UNUSED, format!("no key was used for {span}"))
}

/// What status says of it.
pub(crate) fn status(service: &GaiaService, record: Option<&LedgerRecord>) -> Option<LegacyStatus> {
    keys(service)?;
    let mut entries: Vec<&LedgerEntry> = record?.entries.iter().collect();
    entries.sort_by(|a, b| latest_first(a, b));
    let last = entries.first()?.date;
    let callers = entries.iter().take(MAX_CALLERS_IN_STATUS).map(|entry| LegacyCaller {
        key: entry.key.chars().take(MAX_KEY).collect(),
        caller: entry.caller.to_string().chars().take(MAX_CALLER).collect(),
        last_used_date: entry.date.to_string(),
    });
    Some(LegacyStatus { last_used_date: Some(last.to_string()), callers: callers.collect() })
}

/// From when on a key that was last used that day counts as unused for that long: it may have been used until midnight.
fn free_from(day: Date, wanted: Duration) -> Timestamp {
    let midnight = day.checked_add(1.day()).and_then(|next| next.to_zoned(TimeZone::UTC));
    midnight.map_or(Timestamp::MAX, |midnight| saturating_add(midnight.timestamp(), wanted))
}

/// `key app by spiffe://… on 2026-03-01; …; and 3 more`
fn list(entries: &[&LedgerEntry]) -> String {
    let first = entries.iter().take(MAX_NAMED).map(|entry| {
        let caller: String = entry.caller.to_string().chars().take(MAX_CALLER).collect();
        format!("key {} by {caller} on {}", entry.key, entry.date)
    });
    let mut parts: Vec<String> = first.collect();
    if entries.len() > MAX_NAMED {
        parts.push(format!("and {} more, see status.legacy", entries.len() - MAX_NAMED));
    }
    parts.join("; ")
}

const MAX_CALLERS_IN_STATUS: usize = 50;
const MAX_NAMED: usize = 5;
const MAX_KEY: usize = 128;
const MAX_CALLER: usize = 256;

#[cfg(test)]
mod tests;
