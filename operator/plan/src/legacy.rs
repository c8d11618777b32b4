//! The way off API keys: who still uses one, since when nothing can have been missed, and whether they may end.
//!
//! Every instance counts in memory who presented which key on which day. The operator reads that every minute and keeps
//! the latest days in one ConfigMap per service, the *record*. It is written only where something in it changes: so what
//! a new leader goes by is what was seen, not when it was looked at last. When that was, its lease tells.

mod merge;
mod plain;
mod record;
mod verdict;

use gaia_api::crd::{GaiaService, SecretRef, TlsMode, Truth};
use gaia_api::ledger::{LedgerRecord, LedgerReport, PlainRecord};
use jiff::Timestamp;

use self::merge::{latest_first, merged};
use self::record::looks_again_at;
pub(crate) use self::record::{Modes, with_modes};
use self::verdict::verdict;
pub(crate) use self::verdict::{Verdict, status};
use crate::mode;
use crate::object::{Held, ObjectFacts};

/// ConfigMap `<service>-ledger`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerObject {
    /// What is known of the object.
    pub facts: ObjectFacts,
    /// What is in it, if that can be read.
    pub record: Option<LedgerRecord>,
}

/// What an operator that leads knows of the ledgers of one service.
#[derive(Debug, Clone, Default)]
pub struct Watch<'a> {
    /// Since when it reads ledgers.
    pub since: Timestamp,
    /// The time when another operator was last seen to do so before; none: that is not known.
    pub before: Option<Timestamp>,
    /// The instances that enforce the service's policy, as far as they are known.
    pub instances: Vec<Watched<'a>>,
    /// The reason why there may be others.
    pub unknown: Option<&'a str>,
    /// The last time in which instances were not known: its beginning, and its end unless it lasts.
    pub blind: Option<(Timestamp, Option<Timestamp>)>,
    /// What instances that are gone, or about to go, have said last.
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
    /// True if it was read since it began to end.
    pub has_said_its_last: bool,
    /// Its ledger, and when that was read.
    pub read: Option<(Timestamp, &'a LedgerReport)>,
    /// Since when reading it fails, and why it did at last.
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
    keys(service).is_some() || mode::awaits_strict(service, stored)
}

/// The ledger as a decision about its service needs it.
pub(crate) struct Legacy<'a> {
    /// The record as it is stored.
    pub(crate) stored: Option<&'a LedgerRecord>,
    /// As it should be, but for the mode; none: there is nothing to write down.
    pub(crate) next: Option<LedgerRecord>,
    /// What the stored one says: what could not be written down is no evidence.
    pub(crate) verdict: Verdict,
    /// True if both say that keys may end.
    pub(crate) keys_may_end: bool,
    /// What the stored one says of callers without a client certificate.
    pub(crate) plain: Verdict,
    /// True if both say that there are none.
    pub(crate) plain_may_end: bool,
    /// The TLS mode that ran last; none: nothing was ever served.
    pub(crate) ran_tls: Option<TlsMode>,
    /// True if ledgers are read.
    pub(crate) is_watched: bool,
    /// The time when it may change by time alone.
    pub(crate) looks_again_at: Option<Timestamp>,
}

/// The condition `PlainFree`, once that TLS mode runs.
pub(crate) fn plain_free(service: &GaiaService, legacy: &Legacy<'_>, runs: Option<TlsMode>, now: Timestamp) -> Verdict {
    if runs == legacy.ran_tls { legacy.plain.clone() } else { plain::verdict(service, legacy.stored, runs, now) }
}

/// Reads a service's ledger, stored or on its way. `watch`: none where nobody reads ledgers.
pub(crate) fn observe<'a>(
    service: &GaiaService,
    stored: &'a Held<LedgerObject>,
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
    let ran_tls = mode::ran_tls(service, before);
    let watch = watch.filter(|_| is_watched && !matches!(stored, Held::Foreign | Held::Unreadable(_)));
    let next = watch.map(|watch| record::next(before, lost, watch, now));
    let found = verdict(service, before, now);
    let changed = next.as_ref().filter(|next| before != Some(*next));
    let still = |next| verdict(service, Some(next), now).truth == Truth::True;
    let is_plain_free = |next| plain::verdict(service, Some(next), ran_tls, now).truth == Truth::True;
    let found_plain = plain::verdict(service, before, ran_tls, now);
    Legacy {
        keys_may_end: found.truth == Truth::True && changed.is_none_or(still),
        verdict: found,
        plain_may_end: found_plain.truth == Truth::True && changed.is_none_or(is_plain_free),
        plain: found_plain,
        ran_tls,
        is_watched,
        looks_again_at: watch.and_then(|watch| looks_again_at(before, watch, now)),
        stored: before,
        next,
    }
}
