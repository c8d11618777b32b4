//! The decision whether API keys may be disabled.

use std::time::Duration;

use gaia_api::Span;
use gaia_api::crd::condition::LEGACY_FREE;
use gaia_api::crd::{GaiaService, LegacyCaller, LegacyStatus, Truth, reason};
use gaia_api::ledger::{EvidenceGap, LedgerEntry, LedgerRecord};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use super::{keys, latest_first};
use crate::pacing::backoff::saturating_add;

/// The decision about API keys, as the condition `LegacyFree` reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UsageCondition {
    pub(crate) truth: Truth,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// The time when it will be another one by time alone.
    pub(crate) changes_at: Option<Timestamp>,
}

/// Evaluates the record.
pub(super) fn condition(service: &GaiaService, record: Option<&LedgerRecord>, now: Timestamp) -> UsageCondition {
    let say = |truth, reason, message: String| UsageCondition { truth, reason, message, changes_at: None };
    if keys(service).is_none() {
        return say(Truth::True, reason::NO_KEYS, "no API keys are configured".to_owned());
    }
    let (span, wanted) = (&service.spec.auth.legacy_free_for, service.spec.auth.legacy_free_for.value());
    if wanted.is_zero() {
        let message = "spec.auth.legacyFreeFor is 0s: no evidence is required".to_owned();
        return say(Truth::True, reason::KEYS_UNUSED, message);
    }
    let Some(record) = record else {
        return say(Truth::False, reason::NOT_WATCHED, "no instance's ledger was read yet".to_owned());
    };
    let evidence = Evidence { entries: &record.entries, since: record.watched_since, gap: record.gap.as_ref() };
    let words = Words {
        condition: LEGACY_FREE,
        in_use: reason::LEGACY_KEYS_IN_USE,
        unused: reason::KEYS_UNUSED,
        used: "used",
        nothing: "no key was used",
        unread: "not every instance's ledger is read",
        list: |entries| list(entries, |entry, caller| format!("key {} by {caller}", entry.key), "status.legacy"),
    };
    evidence.condition(&words, span, now)
}

/// The observed uses, and the time since which they are complete.
pub(super) struct Evidence<'a> {
    pub(super) entries: &'a [LedgerEntry],
    pub(super) since: Option<Timestamp>,
    pub(super) gap: Option<&'a EvidenceGap>,
}

/// The wording of a decision on evidence.
pub(super) struct Words {
    /// The condition that is to become True.
    pub(super) condition: &'static str,
    /// Reason while there is a use.
    pub(super) in_use: &'static str,
    /// Reason once there was none for long enough.
    pub(super) unused: &'static str,
    pub(super) used: &'static str,
    pub(super) nothing: &'static str,
    pub(super) unread: &'static str,
    pub(super) list: fn(&[&LedgerEntry]) -> String,
}

impl Evidence<'_> {
    pub(super) fn condition(&self, words: &Words, span: &Span, now: Timestamp) -> UsageCondition {
        let say = |truth, reason, message: String| UsageCondition { truth, reason, message, changes_at: None };
        let wanted = span.value();
        let mut in_use: Vec<&LedgerEntry> =
            self.entries.iter().filter(|entry| free_from(entry.date, wanted) > now).collect();
        in_use.sort_by(|a, b| latest_first(a, b));
        if let Some(last) = in_use.first() {
            let free_at = free_from(last.date, wanted);
            let list = (words.list)(&in_use);
            let message = format!("{} within {span}: {list}; {} not before {free_at}", words.used, words.condition);
            return UsageCondition { changes_at: Some(free_at), ..say(Truth::False, words.in_use, message) };
        }
        let gap = self.gap.map(|gap| gap.what.as_str());
        let because = gap.map_or_else(String::new, |what| format!(": {what}"));
        let reason = if gap.is_some() { reason::EVIDENCE_GAP } else { reason::NOT_WATCHED };
        let Some(since) = self.since else {
            return say(Truth::False, reason, format!("{}{because}", words.unread));
        };
        let free_at = saturating_add(since, wanted);
        if free_at > now {
            let (nothing, condition) = (words.nothing, words.condition);
            let message = format!(
                "{nothing} since {since}, which is less than {span}{because}; {condition} not before {free_at}"
            );
            return UsageCondition { changes_at: Some(free_at), ..say(Truth::False, reason, message) };
        }
        say(Truth::True, words.unused, format!("{} for {span}", words.nothing))
    }
}

/// The `status.legacy` of a service.
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
pub(super) fn list(entries: &[&LedgerEntry], describe: impl Fn(&LedgerEntry, &str) -> String, all_in: &str) -> String {
    let first = entries.iter().take(MAX_NAMED).map(|entry| {
        let caller: String = entry.caller.to_string().chars().take(MAX_CALLER).collect();
        format!("{} on {}", describe(entry, &caller), entry.date)
    });
    let mut parts: Vec<String> = first.collect();
    if entries.len() > MAX_NAMED {
        parts.push(format!("and {} more, see {all_in}", entries.len() - MAX_NAMED));
    }
    parts.join("; ")
}

const MAX_CALLERS_IN_STATUS: usize = 50;
const MAX_NAMED: usize = 5;
const MAX_KEY: usize = 128;
const MAX_CALLER: usize = 256;

#[cfg(test)]
mod tests;
