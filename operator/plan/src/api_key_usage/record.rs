//! The next state of the record, from the collected reports.

use std::collections::BTreeSet;
use std::time::Duration;

use gaia_api::crd::{AuthMode, TlsMode, whole_seconds};
use gaia_api::ledger::{EvidenceGap, LedgerInstance, LedgerRecord, LedgerReport, ModeRun, PlainRecord};
use gaia_api::mount::SCHEMA_VERSION;
use jiff::Timestamp;

use super::{Watch, Watched, merged};
use crate::pacing::backoff::saturating_add;

/// The record as it should be now. `lost`: another writer deleted it, or it cannot be read.
pub(super) fn next(
    before: Option<&LedgerRecord>,
    lost: Option<&str>,
    watch: &Watch<'_>,
    now: Timestamp,
) -> LedgerRecord {
    let now = whole_seconds(now);
    let known = before.map(|record| record.instances.as_slice()).unwrap_or_default();
    let entries = before.map(|record| record.entries.as_slice()).unwrap_or_default();
    let entries = merged(entries, reports(watch).flat_map(|report| &report.entries));
    let unread = excluded(watch);
    let missed = lost.map(str::to_owned).or_else(|| missed(before, watch, now));
    // What lasts is written once.
    let is_news = |what: &String| {
        before.is_none_or(|b| b.watched_since.is_some() || b.gap.as_ref().is_none_or(|gap| gap.what != *what))
    };
    let missed = missed.or_else(|| unread.clone().filter(is_news));
    let is_whole = is_whole(watch, now);
    let watched_since = match before.and_then(|record| record.watched_since) {
        Some(since) if missed.is_none() => Some(since),
        _ => is_whole.then(|| beginning(watch, now)),
    };
    let missed_plain = missed.as_deref().or(unread.as_deref());
    let plain = plain(before.and_then(|record| record.plain.as_ref()), missed_plain, watch, now);
    let gap = match missed {
        Some(what) => Some(EvidenceGap { noticed: now, what }),
        None => before.and_then(|record| record.gap.clone()),
    };
    LedgerRecord {
        schema_version: SCHEMA_VERSION,
        watched_since,
        gap,
        jwt_only: before.and_then(|record| record.jwt_only),
        strict: before.and_then(|record| record.strict),
        plain: Some(plain),
        instances: instances(known, watch),
        entries,
    }
}

/// The evidence on callers without a client certificate. An instance that does not report them may have any.
fn plain(before: Option<&PlainRecord>, missed: Option<&str>, watch: &Watch<'_>, now: Timestamp) -> PlainRecord {
    let silent = watched(watch).find(|instance| instance.read.is_some_and(|(_, report)| report.plain.is_none()));
    let missed = missed.map(str::to_owned).or_else(|| {
        let name = silent?.name;
        Some(format!("{name} does not report callers without a client certificate: its gaia-runtime is too old"))
    });
    // What lasts is written once.
    let is_news = |what: &String| {
        before.is_none_or(|b| b.watched_since.is_some() || b.gap.as_ref().is_none_or(|gap| gap.what != *what))
    };
    let missed = missed.filter(is_news);
    let watched_since = match before.and_then(|before| before.watched_since) {
        Some(since) if missed.is_none() => Some(since),
        _ => (is_whole(watch, now) && silent.is_none()).then(|| beginning(watch, now)),
    };
    let entries = before.map(|before| before.entries.as_slice()).unwrap_or_default();
    PlainRecord {
        watched_since,
        gap: match missed {
            Some(what) => Some(EvidenceGap { noticed: now, what }),
            None => before.and_then(|before| before.gap.clone()),
        },
        entries: merged(entries, reports(watch).filter_map(|report| report.plain.as_ref()).flatten()),
    }
}

/// An instance that is never read may have any caller.
fn excluded(watch: &Watch<'_>) -> Option<String> {
    watched(watch).find_map(|instance| {
        let why = instance.excluded?;
        Some(format!("the ledger of endpoint {} is not read: {why}", instance.name))
    })
}

fn reports<'w>(watch: &'w Watch<'_>) -> impl Iterator<Item = &'w LedgerReport> {
    let read = watched(watch).filter_map(|instance| Some(instance.read?.1));
    read.chain(watch.last_words.iter().copied())
}

/// The modes that run, and those that ran before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Modes {
    pub(crate) auth: AuthMode,
    pub(crate) tls: TlsMode,
    pub(crate) ran_auth: AuthMode,
    pub(crate) ran_tls: Option<TlsMode>,
}

/// The record, with the modes that run. The time at which JWTOnly or Strict was left is kept: for a day, it can be
/// entered again without evidence.
pub(crate) fn with_modes(mut record: LedgerRecord, modes: Modes, now: Timestamp) -> LedgerRecord {
    let now = whole_seconds(now);
    let jwt_only = (modes.auth == AuthMode::JWTOnly, modes.ran_auth == AuthMode::JWTOnly);
    let strict = (modes.tls == TlsMode::Strict, modes.ran_tls == Some(TlsMode::Strict));
    record.jwt_only = run(record.jwt_only, jwt_only, now);
    record.strict = run(record.strict, strict, now);
    if modes.tls == TlsMode::Strict {
        record.plain = None;
    }
    record
}

fn run(known: Option<ModeRun>, (runs, ran): (bool, bool), now: Timestamp) -> Option<ModeRun> {
    match known {
        Some(run @ ModeRun { until: None, .. }) if runs => Some(run),
        _ if runs => Some(ModeRun { since: now, until: None }),
        Some(ModeRun { since, until: None }) => Some(ModeRun { since, until: Some(now) }),
        None if ran => Some(ModeRun { since: now, until: Some(now) }),
        ended => ended,
    }
}

/// Returns the time when the record may change by time alone.
pub(super) fn looks_again_at(before: Option<&LedgerRecord>, watch: &Watch<'_>, now: Timestamp) -> Option<Timestamp> {
    before?.watched_since?;
    let unseen = watched(watch)
        .filter(|instance| instance.failing.is_some())
        .filter_map(|i| unseen_since(i, before, watch, now));
    let blind = watch.blind.filter(|(_, until)| until.is_none()).map(|(from, _)| from);
    unseen.chain(blind).min().map(|from| saturating_add(from, LONGEST_GAP))
}

fn watched<'w>(watch: &'w Watch<'_>) -> impl Iterator<Item = &'w Watched<'w>> {
    watch.instances.iter()
}

/// The gap that invalidates the evidence up to now. The text is the same at each evaluation.
fn missed(before: Option<&LedgerRecord>, watch: &Watch<'_>, now: Timestamp) -> Option<String> {
    let record = before?;
    let is_new = |at: Timestamp| record.watched_since.is_some_and(|since| since < whole_seconds(at));
    if is_new(watch.since) && !watch.before.is_some_and(|before| is_short(before, watch.since)) {
        return Some("no operator collected the ledgers for more than 10 minutes, or for an unknown time".to_owned());
    }
    if let Some((from, until)) = watch.blind
        && until.is_none_or(is_new)
        && !is_short(from, until.unwrap_or(now))
        && record.watched_since.is_some()
    {
        return Some("the instances were unknown for more than 10 minutes".to_owned());
    }
    if let Some(name) = watch.unread {
        return Some(format!("{name} terminated before its ledger was read"));
    }
    if let Some(gone) = record.instances.iter().find(|known| is_lost(known, watch)) {
        let now_there = watched(watch).find(|instance| instance.uid == gone.uid);
        return Some(match now_there {
            Some(instance) => {
                format!("{} restarted, and its uses since the last read are lost", instance.name)
            }
            None => format!("instance {} terminated without a final read", name_of(&gone.uid)),
        });
    }
    record.watched_since?;
    let silent = watched(watch)
        .filter(|instance| instance.excluded.is_none())
        .find(|instance| unseen_since(instance, before, watch, now).is_some_and(|from| !is_short(from, now)))?;
    let why = silent.failing.map_or("nobody answers", |(_, why)| why);
    Some(format!("the ledger of {} could not be read for more than 10 minutes: {why}", silent.name))
}

/// Returns true if a process whose ledger was read has terminated without a final read.
fn is_lost(known: &LedgerInstance, watch: &Watch<'_>) -> bool {
    if watch.last_words.iter().any(|report| report.instance == known.instance) {
        return false;
    }
    match watched(watch).find(|instance| instance.uid == known.uid) {
        Some(instance) => instance.read.is_some_and(|(_, report)| report.instance != known.instance),
        None => watch.unknown.is_none(),
    }
}

/// The time since which requests to an instance may be missed; none: none are.
fn unseen_since(
    instance: &Watched<'_>,
    before: Option<&LedgerRecord>,
    watch: &Watch<'_>,
    now: Timestamp,
) -> Option<Timestamp> {
    if instance.has_said_its_last || !instance.serves {
        return None;
    }
    if let Some((at, _)) = instance.read {
        return Some(at);
    }
    let is_known = before.is_some_and(|record| record.instances.iter().any(|known| known.uid == instance.uid));
    if is_known {
        return Some(watch.before.unwrap_or(watch.since));
    }
    Some(instance.failing.map_or(now, |(since, _)| since))
}

/// Returns the start of the period that counts from now on. After a clock was set back, it is not before the gap that
/// started it; otherwise it would restart again and again.
fn beginning(watch: &Watch<'_>, now: Timestamp) -> Timestamp {
    let whole_again = watch.blind.and_then(|(_, until)| until);
    [Some(watch.since), whole_again].into_iter().flatten().map(whole_seconds).fold(now, Timestamp::max)
}

/// Returns true if every instance was read recently: only then does the period start.
fn is_whole(watch: &Watch<'_>, now: Timestamp) -> bool {
    let is_read = |instance: &Watched<'_>| {
        instance.has_said_its_last || !instance.serves || instance.read.is_some_and(|(at, _)| is_short(at, now))
    };
    watch.unknown.is_none() && watched(watch).all(is_read)
}

/// The instances whose ledgers are read from now on. An instance with a final read is removed. One that
/// this operator has not read yet is taken from the stored record.
fn instances(known: &[LedgerInstance], watch: &Watch<'_>) -> Vec<LedgerInstance> {
    let has_ended = |id: &str| watch.last_words.iter().any(|last| last.instance == id);
    let read = watched(watch).filter(|instance| !instance.has_said_its_last).filter_map(|instance| {
        let instance_id = &instance.read?.1.instance;
        Some(LedgerInstance { uid: instance.uid.to_owned(), instance: instance_id.clone() })
    });
    let is_kept = |known: &&LedgerInstance| match watched(watch).find(|instance| instance.uid == known.uid) {
        Some(instance) => instance.read.is_none() && !instance.has_said_its_last,
        None => watch.unknown.is_some(),
    };
    let all = read.chain(known.iter().filter(is_kept).cloned()).filter(|instance| !has_ended(&instance.instance));
    all.collect::<BTreeSet<_>>().into_iter().collect()
}

/// The UID of an endpoint ends in its address, which is more helpful than the UID of a pod.
fn name_of(uid: &str) -> &str {
    uid.rsplit('/').next().unwrap_or(uid)
}

fn is_short(from: Timestamp, to: Timestamp) -> bool {
    to <= saturating_add(from, LONGEST_GAP)
}

/// The longest gap in reading after which the evidence stays complete.
const LONGEST_GAP: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests;
