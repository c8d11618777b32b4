//! Migration off API keys: usage of keys, the time since which the evidence is complete, and the decision whether keys
//! may be disabled.
//!
//! Every instance counts in memory which client presented which key on which day. The operator collects that every
//! minute and keeps the latest days in one ConfigMap per service, the *record*. It is written only when its content
//! changes, so a new leader starts from the recorded uses. The leader lease shows when an operator last collected.

mod condition;
mod merge;
mod plain;
mod record;
pub(crate) mod served;

use gaia_api::crd::{GaiaService, SecretRef, TlsMode, Truth};
use gaia_api::ledger::{LedgerRecord, LedgerReport, PlainRecord};
use jiff::Timestamp;

use self::condition::condition;
pub(crate) use self::condition::{UsageCondition, status};
use self::merge::{latest_first, merged};
use self::record::looks_again_at;
pub(crate) use self::record::{Modes, with_modes};
use crate::object::{ObjectFacts, Ownership};

/// ConfigMap `<service>-ledger`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerObject {
    /// Parsed metadata of the object.
    pub facts: ObjectFacts,
    /// Its content; none if it cannot be read.
    pub record: Option<LedgerRecord>,
}

/// The leading operator's view of one service's ledgers.
#[derive(Debug, Clone, Default)]
pub struct Watch<'a> {
    /// The time since which it collects ledgers.
    pub since: Timestamp,
    /// The last time at which another operator was seen to collect them before; none: unknown.
    pub before: Option<Timestamp>,
    /// The known instances that enforce the service's policy.
    pub instances: Vec<Watched<'a>>,
    /// The reason why there may be others.
    pub unknown: Option<&'a str>,
    /// The last period in which instances were unknown: its start, and its end unless it continues.
    pub blind: Option<(Timestamp, Option<Timestamp>)>,
    /// The final reports of instances that are terminated or terminating.
    pub last_words: Vec<&'a LedgerReport>,
    /// An instance that came and went and was never read, by name.
    pub unread: Option<&'a str>,
}

/// One instance.
#[derive(Debug, Clone)]
pub struct Watched<'a> {
    /// Its pod's name, or its address.
    pub name: &'a str,
    /// See [`gaia_api::ledger::LedgerInstance`].
    pub uid: &'a str,
    /// True if it can have answered a request: a pod has when its containers were up.
    pub serves: bool,
    /// True if it was read after its termination began.
    pub has_said_its_last: bool,
    /// Its ledger, and when that was read.
    pub read: Option<(Timestamp, &'a LedgerReport)>,
    /// The time since which reading it fails, and the last cause.
    pub failing: Option<(Timestamp, &'a str)>,
    /// The reason why it is never read: the operator does not dial it, or cannot attribute its answers to one instance.
    pub excluded: Option<&'a str>,
}

/// Returns true if a record that is not there yet is worth writing.
pub(crate) fn says_something(record: &LedgerRecord) -> bool {
    record.watched_since.is_some()
        || record.gap.is_some()
        || record.jwt_only.is_some()
        || record.strict.is_some()
        || record.plain.as_ref().is_some_and(|plain| *plain != PlainRecord::default())
        || !record.instances.is_empty()
        || !record.entries.is_empty()
}

/// The Secret of a service's keys, if it has any.
#[must_use]
pub fn keys(service: &GaiaService) -> Option<&SecretRef> {
    service.spec.auth.api_keys_secret_ref.as_ref()
}

/// Returns true if the ledgers of a service's instances are read: it takes API keys, or waits for Strict.
#[must_use]
pub fn is_watched(service: &GaiaService) -> bool {
    is_watched_by(service, None)
}

fn is_watched_by(service: &GaiaService, stored: Option<&LedgerRecord>) -> bool {
    keys(service).is_some() || served::awaits_strict(service, stored)
}

/// The ledger as a decision about its service needs it.
pub(crate) struct Legacy<'a> {
    /// The stored record.
    pub(crate) stored: Option<&'a LedgerRecord>,
    /// The record as it should be, except for the mode; none: there is nothing to record.
    pub(crate) next: Option<LedgerRecord>,
    /// The decision from the stored record. Unstored observations are no evidence.
    pub(crate) legacy_free: UsageCondition,
    /// True if both the stored and the next record allow that keys are disabled.
    pub(crate) keys_may_end: bool,
    /// The decision from the stored record about callers without a client certificate.
    pub(crate) plain: UsageCondition,
    /// True if both records show no such callers.
    pub(crate) plain_may_end: bool,
    /// The TLS mode that ran last; none: the service was never served.
    pub(crate) ran_tls: Option<TlsMode>,
    /// True if ledgers are read.
    pub(crate) is_watched: bool,
    /// The time when it may change by time alone.
    pub(crate) looks_again_at: Option<Timestamp>,
}

/// The condition `PlainFree`, once that TLS mode runs.
pub(crate) fn plain_free(
    service: &GaiaService,
    legacy: &Legacy<'_>,
    runs: Option<TlsMode>,
    now: Timestamp,
) -> UsageCondition {
    if runs == legacy.ran_tls { legacy.plain.clone() } else { plain::condition(service, legacy.stored, runs, now) }
}

/// Evaluates a service's ledger, as stored and as observed. `watch`: none if ledgers are not collected.
pub(crate) fn observe<'a>(
    service: &GaiaService,
    stored: &'a Ownership<LedgerObject>,
    was_deleted: bool,
    watch: Option<&Watch<'_>>,
    now: Timestamp,
) -> Legacy<'a> {
    let found = stored.ours();
    let before = found.and_then(|object| object.record.as_ref());
    let lost = match (found, was_deleted) {
        (Some(LedgerObject { record: None, .. }), _) => Some("the record could not be read"),
        (None, true) => Some("the record was deleted"),
        _ => None,
    };
    let is_watched = is_watched_by(service, before);
    let ran_tls = served::ran_tls(service, before);
    let watch = watch.filter(|_| is_watched && !matches!(stored, Ownership::Foreign | Ownership::Unreadable(_)));
    let next = watch.map(|watch| record::next(before, lost, watch, now));
    let found = condition(service, before, now);
    let changed = next.as_ref().filter(|next| before != Some(*next));
    let still = |next| condition(service, Some(next), now).truth == Truth::True;
    let is_plain_free = |next| plain::condition(service, Some(next), ran_tls, now).truth == Truth::True;
    let found_plain = plain::condition(service, before, ran_tls, now);
    Legacy {
        keys_may_end: found.truth == Truth::True && changed.is_none_or(still),
        legacy_free: found,
        plain_may_end: found_plain.truth == Truth::True && changed.is_none_or(is_plain_free),
        plain: found_plain,
        ran_tls,
        is_watched,
        looks_again_at: watch.and_then(|watch| looks_again_at(before, watch, now)),
        stored: before,
        next,
    }
}
