//! Ledgers of instances collected by this operator since it became leader.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use gaia_api::crd::GaiaService;
use gaia_api::ledger::{LedgerCaller, LedgerEntry, LedgerReport};
use gaia_api::names;
use gaia_plan::api_key_usage::{Watch, Watched};
use gaia_plan::instances::endpoint::Exclusion;
use gaia_plan::object::ObjectKey;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use tokio::time::Instant;

use super::Entry;
use crate::cache::{ClusterCache, InstanceKey, Place};
use crate::store::ObjectRef;

/// A ledger, or a short reason why it could not be read.
pub(crate) type Reading = Result<LedgerReport, String>;

/// All that was read.
#[derive(Default)]
pub(crate) struct Readings {
    begun: Option<Begun>,
    /// By the UIDs of instances.
    known: HashMap<String, Known>,
    /// Final reports of terminated or terminating instances, by service, until they are recorded.
    gone: HashMap<Place, Gone>,
    /// The time when the watch of pods was broken last, by namespace (none: everywhere), and until when.
    blind: BTreeMap<Option<String>, (Instant, Option<Instant>)>,
    /// The number of collected final reports.
    heard: u64,
}

#[derive(Default)]
struct Gone {
    /// The final reports, by the process id in them.
    last_words: BTreeMap<String, Arc<LedgerReport>>,
    /// A process that started and terminated without a report that was read; one of several.
    unread: Option<String>,
    /// Value of the counter [`Readings::heard`] when the last report was collected.
    latest: u64,
}

#[derive(Clone, Copy)]
struct Begun {
    at: Instant,
    since: Timestamp,
    before: Option<Timestamp>,
}

#[derive(Default)]
struct Known {
    read: Option<(Timestamp, Arc<LedgerReport>)>,
    failing: Option<(Timestamp, String)>,
    has_said_its_last: bool,
}

impl ClusterCache {
    /// From now on ledgers are read. `before`: when another operator was last seen to do so.
    pub(crate) fn begin_reading(&mut self, now: Timestamp, before: Option<Timestamp>) {
        self.readings.begun = Some(Begun { at: Instant::now(), since: now, before });
    }

    /// Applies a ledger.
    pub(crate) fn take_ledger(&mut self, key: &InstanceKey, reading: Reading, at: Timestamp) -> BTreeSet<ObjectRef> {
        let reading = reading.and_then(|report| within_bounds(report, at)).map(|report| self.with_workloads(report));
        let Some(entry) = self.entry(key) else { return BTreeSet::new() };
        let (ends, services) = (entry.ends, entry.services.clone());
        let readings = &mut self.readings;
        let known = readings.known.entry(key.uid.clone()).or_default();
        let is_news = match reading {
            Ok(report) => {
                let same = known.read.as_ref().is_some_and(|(_, before)| **before == report);
                let is_news = !same || known.failing.is_some() || ends;
                let report = Arc::new(report);
                known.read = Some((at, Arc::clone(&report)));
                known.failing = None;
                known.has_said_its_last = ends;
                if ends {
                    for service in &services {
                        let gone = readings.hear_of(service);
                        gone.last_words.insert(report.instance.clone(), Arc::clone(&report));
                    }
                }
                is_news
            }
            Err(why) => match &mut known.failing {
                Some((_, said)) => {
                    *said = why;
                    false
                }
                failing @ None => {
                    *failing = Some((at, why));
                    true
                }
            },
        };
        if is_news { self.watched_of(services.iter()) } else { BTreeSet::new() }
    }

    /// The time until the ledger of an instance is read again; none: it has none.
    pub(crate) fn ledger_interval(&self, key: &InstanceKey) -> Option<Duration> {
        let entry = self.entry(key).filter(|entry| self.has_ledger(entry))?;
        Some(if entry.ends { BEFORE_THE_END } else { EVERY_MINUTE })
    }

    /// The input of a decision about a service; none if ledgers are not collected.
    pub(crate) fn watch_of<'a>(&'a self, service: &'a GaiaService, place: &Place) -> Option<Watch<'a>> {
        let begun = self.readings.begun?;
        if !self.is_watched(place) {
            return Some(Watch { since: begun.since, before: begun.before, ..Watch::default() });
        }
        let policy = ObjectKey::config_map(&place.0, names::policy(&place.1));
        let entries = self.entries_using(&service.spec.trust_domain_ref.name, &policy);
        let unknown = self.pods_unknown(&place.0);
        let blind = self.readings.blind_in(&place.0, begun);
        let gone = self.readings.gone.get(place);
        Some(Watch {
            since: begun.since,
            before: begun.before,
            instances: entries.into_iter().map(|entry| self.readings.watched(entry)).collect(),
            unknown,
            // Before the first list no instance was known.
            blind: blind.or(unknown.map(|_| (begun.since, None))),
            last_words: gone.into_iter().flat_map(|gone| gone.last_words.values()).map(|said| &**said).collect(),
            unread: gone.and_then(|gone| gone.unread.as_deref()),
        })
    }

    /// The number of final reports collected so far.
    pub(crate) fn heard(&self) -> u64 {
        self.readings.heard
    }

    /// Removes the reports of a service that are recorded up to this number.
    pub(crate) fn forget_recorded(&mut self, place: &Place, heard: u64) {
        if self.readings.gone.get(place).is_some_and(|gone| gone.latest <= heard) {
            self.readings.forget(place);
        }
    }

    pub(crate) fn is_watched(&self, service: &Place) -> bool {
        is_watched(&self.services, service)
    }

    pub(crate) fn has_ledger(&self, entry: &Entry) -> bool {
        entry.services.iter().any(|service| self.is_watched(service))
    }

    /// The instances that enforce the policy of a service are probed now: their ledgers are read from now on, or the policy
    /// has changed.
    pub(crate) fn probe_service_soon(&mut self, place: &Place, domain: &str) {
        let policy = ObjectKey::config_map(&place.0, names::policy(&place.1));
        let entries = self.entries_using(domain, &policy).into_iter();
        let uids: Vec<String> = entries.map(|entry| entry.instance.uid.clone()).collect();
        self.probe_soon(domain, uids.iter());
    }

    fn watched_of<'a>(&self, services: impl Iterator<Item = &'a Place>) -> BTreeSet<ObjectRef> {
        let watched = services.filter(|service| self.is_watched(service));
        watched.map(|(namespace, name)| ObjectRef::Service(namespace.clone(), name.clone())).collect()
    }

    /// Replaces the address of a known pod by the name of its caller.
    fn with_workloads(&self, mut report: LedgerReport) -> LedgerReport {
        for entry in report.entries.iter_mut().chain(report.plain.iter_mut().flatten()) {
            if let LedgerCaller::Unknown { address: Some(address), .. } = &entry.caller
                && let Some((namespace, name)) = self.service_at(*address)
            {
                entry.caller = LedgerCaller::Workload { namespace: namespace.clone(), name: name.clone() };
            }
        }
        report
    }
}

impl Readings {
    /// Records that an instance has terminated. Returns the services to plan again.
    pub(crate) fn note_termination(
        &mut self,
        entry: &Entry,
        is_watched: impl Fn(&Place) -> bool,
    ) -> BTreeSet<ObjectRef> {
        let known = self.known.remove(&entry.instance.uid).unwrap_or_default();
        let is_missed = known.read.is_none() && may_have_served(entry) && self.begun.is_some();
        let mut keys = BTreeSet::new();
        for service in entry.services.iter().filter(|service| is_watched(service)) {
            if is_missed {
                self.hear_of(service).unread.get_or_insert_with(|| entry.instance.name.clone());
            }
            keys.insert(ObjectRef::Service(service.0.clone(), service.1.clone()));
        }
        keys
    }

    pub(crate) fn forget(&mut self, service: &Place) {
        self.gone.remove(service);
    }

    fn hear_of(&mut self, service: &Place) -> &mut Gone {
        self.heard += 1;
        let gone = self.gone.entry(service.clone()).or_default();
        gone.latest = self.heard;
        gone
    }

    /// The watch of pods broke, or is whole again.
    pub(crate) fn pods_watched(&mut self, scope: Option<&str>, is_whole: bool) {
        let now = Instant::now();
        let blind = self.blind.get_mut(&scope.map(str::to_owned));
        match blind {
            Some((_, until @ None)) if is_whole => *until = Some(now),
            Some((_, None)) => {}
            _ if is_whole => {}
            _ => drop(self.blind.insert(scope.map(str::to_owned), (now, None))),
        }
    }

    fn blind_in(&self, namespace: &str, begun: Begun) -> Option<(Timestamp, Option<Timestamp>)> {
        let everywhere = self.blind.get(&None);
        let (from, until) = everywhere.or_else(|| self.blind.get(&Some(namespace.to_owned())))?;
        let time = |at: Instant| {
            let after = at.saturating_duration_since(begun.at);
            gaia_plan::pacing::backoff::saturating_add(begun.since, after)
        };
        let is_over_before = until.is_some_and(|until| until <= begun.at);
        (!is_over_before).then(|| (time(*from), until.map(time)))
    }

    fn watched<'a>(&'a self, entry: &'a Entry) -> Watched<'a> {
        let known = self.known.get(&entry.instance.uid);
        let read = known.and_then(|known| known.read.as_ref());
        let failing = known.and_then(|known| known.failing.as_ref()).map(|(since, why)| (*since, why.as_str()));
        // It is never read while it runs.
        let unreadable = || (!entry.instance.can_be_probed).then_some((entry.instance.started?, NO_PORT));
        Watched {
            name: &entry.instance.name,
            uid: &entry.instance.uid,
            serves: may_have_served(entry) || read.is_some(),
            has_said_its_last: known.is_some_and(|known| known.has_said_its_last),
            read: read.filter(|_| entry.excluded.is_none()).map(|(at, report)| (*at, &**report)),
            failing: failing.or_else(unreadable),
            excluded: entry.excluded.map(Exclusion::cause),
        }
    }
}

/// A report, if it is within bounds and may be recorded and displayed: an instance may be any program.
fn within_bounds(report: LedgerReport, now: Timestamp) -> Reading {
    let is_text = |text: &str, most: usize| text.len() <= most && !text.chars().any(char::is_control);
    let newest = now.to_zoned(TimeZone::UTC).date().saturating_add(Span::new().days(1));
    let is_fine = |entry: &LedgerEntry| {
        let caller = match &entry.caller {
            LedgerCaller::Unknown { user_agent, route, .. } => {
                user_agent.as_deref().is_none_or(|text| is_text(text, MAX_TEXT_BYTES)) && is_text(route, MAX_TEXT_BYTES)
            }
            LedgerCaller::Peer { .. } | LedgerCaller::Workload { .. } | LedgerCaller::Others => true,
        };
        caller && is_text(&entry.key, MAX_KEY_ID_BYTES) && entry.date <= newest
    };
    if !is_text(&report.instance, MAX_TEXT_BYTES)
        || !report.entries.iter().chain(report.plain.iter().flatten()).all(is_fine)
    {
        return Err("its ledger has a name that is too long or not text, or a day in the future".to_owned());
    }
    Ok(report)
}

/// Returns true if the ledgers of a service's instances are read, as far as known.
pub(crate) fn is_watched(services: &BTreeMap<Place, Arc<GaiaService>>, service: &Place) -> bool {
    services.get(service).is_some_and(|service| gaia_plan::api_key_usage::is_watched(service))
}

fn may_have_served(entry: &Entry) -> bool {
    // The start time of an endpoint is unknown.
    entry.is_endpoint() || entry.instance.started.is_some()
}

const EVERY_MINUTE: Duration = Duration::from_secs(60);
/// A terminating pod serves for five more seconds or longer; its uses in that time are evidence, too.
const BEFORE_THE_END: Duration = Duration::from_secs(2);

/// As long as the id of a key may be.
const MAX_KEY_ID_BYTES: usize = 128;
const MAX_TEXT_BYTES: usize = 512;
const NO_PORT: &str = "no port to read it from";

#[cfg(test)]
mod tests;
