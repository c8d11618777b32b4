use gaia_api::ledger::{LedgerCaller, LedgerEntry, LedgerReport};
use jiff::SignedDuration;
use jiff::civil::date;
use proptest::prelude::*;

use super::*;

fn start() -> Timestamp {
    "2026-03-01T00:00:00Z".parse().unwrap()
}

fn after(seconds: i64) -> Timestamp {
    start() + SignedDuration::from_secs(seconds)
}

fn report(instance: &str, day: Option<i8>) -> LedgerReport {
    let entry = |day| LedgerEntry { key: "app".to_owned(), caller: LedgerCaller::Others, date: date(2026, 3, day) };
    LedgerReport {
        schema_version: 1,
        instance: instance.to_owned(),
        started_at: start(),
        entries: day.map(entry).into_iter().collect(),
        plain: Some(vec![]),
    }
}

fn instance<'a>(uid: &'a str, read: Option<(Timestamp, &'a LedgerReport)>) -> Watched<'a> {
    Watched { name: uid, uid, serves: true, has_said_its_last: false, read, failing: None, excluded: None }
}

fn watch(instances: Vec<Watched<'_>>) -> Watch<'_> {
    Watch { since: start(), instances, ..Watch::default() }
}

#[test]
fn the_time_begins_when_everybody_was_read() {
    let said = report("p1", None);
    let one = instance("a", Some((after(5), &said)));
    let record = next(None, None, &watch(vec![one.clone(), instance("b", None)]), after(6));
    assert_eq!((record.watched_since, record.instances.len()), (None, 1));
    let starting = Watched { serves: false, ..instance("b", None) };
    let record = next(Some(&record), None, &watch(vec![one.clone(), starting]), after(7));
    assert_eq!(record.watched_since, Some(after(7)), "an instance without callers holds nothing");
    let unknown = Watch { unknown: Some("the pods are not listed yet"), ..watch(vec![one]) };
    assert_eq!(next(None, None, &unknown, after(8)).watched_since, None, "there may be others");
}

#[test]
fn pods_that_are_not_known_are_neither_lost_nor_all() {
    let said = report("p1", None);
    let record = next(None, None, &watch(vec![instance("a", Some((after(5), &said)))]), after(6));
    let unknown = Watch { unknown: Some("broken"), blind: Some((after(7), None)), ..watch(vec![]) };
    for seconds in [8, 607] {
        assert_eq!(next(Some(&record), None, &unknown, after(seconds)), record);
    }
    assert_eq!(looks_again_at(Some(&record), &unknown, after(8)), Some(after(607)));
    let stopped = next(Some(&record), None, &unknown, after(608));
    assert_eq!((stopped.watched_since, stopped.instances.len()), (None, 1));
    assert!(stopped.gap.as_ref().unwrap().what.starts_with("the instances were unknown"), "{stopped:?}");
    assert_eq!(next(Some(&stopped), None, &unknown, after(9_000)), stopped, "it is reported once");
    // A watch that is whole again after a short while was never missed.
    let back =
        Watch { blind: Some((after(7), Some(after(600)))), ..watch(vec![instance("a", Some((after(605), &said)))]) };
    assert_eq!(next(Some(&record), None, &back, after(610)), record);
    let late = Watch { blind: Some((after(7), Some(after(700)))), ..back };
    let begun = next(Some(&record), None, &late, after(710));
    assert_eq!(begun.watched_since, Some(after(710)));
    assert_eq!(next(Some(&begun), None, &late, after(720)), begun, "once is enough");
}

#[test]
fn who_came_and_went_unread_leaves_a_gap() {
    let record = next(None, None, &watch(vec![]), after(1));
    assert_eq!(record.watched_since, Some(after(1)), "without instances nothing is missed");
    let gone = Watch { unread: Some("orders-1"), ..watch(vec![]) };
    let record = next(Some(&record), None, &gone, after(60));
    assert_eq!(record.watched_since, Some(after(60)));
    assert_eq!(record.gap.unwrap().what, "orders-1 terminated before its ledger was read");
}

#[test]
fn what_a_process_said_last_is_merged_after_it_is_gone() {
    let said = report("p1", None);
    let record = next(None, None, &watch(vec![instance("a", Some((after(5), &said)))]), after(6));
    let last = report("p1", Some(1));
    let gone = Watch { last_words: vec![&last], ..watch(vec![]) };
    let after_it = next(Some(&record), None, &gone, after(60));
    assert_eq!((after_it.watched_since, after_it.gap), (record.watched_since, None));
    assert_eq!((after_it.entries.len(), after_it.instances.len()), (1, 0));
    let other = report("p2", None);
    let anew = watch(vec![instance("a", Some((after(50), &other)))]);
    let restarted = next(Some(&record), None, &anew, after(60));
    assert!(restarted.gap.unwrap().what.starts_with("a restarted"));
}

#[test]
fn instance_that_does_not_report_plain_callers_is_an_evidence_gap_and_not_free() {
    let said = report("p1", None);
    let old = LedgerReport { plain: None, ..report("p2", None) };
    let plain = |record: &LedgerRecord| record.plain.clone().unwrap();
    let both = |at| watch(vec![instance("a", Some((at, &said))), instance("b", Some((at, &old)))]);
    let record = next(None, None, &both(after(5)), after(6));
    assert_eq!(record.watched_since, Some(after(6)), "its use of keys is known");
    assert_eq!(plain(&record).watched_since, None);
    assert!(plain(&record).gap.unwrap().what.starts_with("b does not report"), "{record:?}");
    assert_eq!(next(Some(&record), None, &both(after(65)), after(66)), record, "what lasts is written once");
    // The newer program replaces it, and the period starts.
    let new = report("p3", None);
    let last = watch(vec![instance("a", Some((after(70), &said))), instance("c", Some((after(70), &new)))]);
    let gone = Watch { last_words: vec![&old], ..last };
    let begun = next(Some(&record), None, &gone, after(71));
    assert_eq!(plain(&begun).watched_since, Some(after(71)));
    // A rollback ends the period again.
    let back = next(Some(&begun), None, &both(after(80)), after(81));
    assert_eq!(plain(&back).watched_since, None);
}

#[test]
fn plain_callers_of_all_instances_are_kept_until_strict_runs() {
    let row =
        |key: &str, day| LedgerEntry { key: key.to_owned(), caller: LedgerCaller::Others, date: date(2026, 3, day) };
    let one = LedgerReport { plain: Some(vec![row("plain", 2)]), ..report("p1", None) };
    let other = LedgerReport { plain: Some(vec![row("plain", 1), row("tls", 1)]), ..report("p2", None) };
    let seen = watch(vec![instance("a", Some((after(5), &one))), instance("b", Some((after(5), &other)))]);
    let record = next(None, None, &seen, after(6));
    assert_eq!(record.plain.as_ref().unwrap().entries, [row("plain", 2), row("tls", 1)]);
    assert_eq!(record.entries, [], "no key was used");
    let strict = Modes {
        auth: AuthMode::Dual,
        ran_auth: AuthMode::Dual,
        tls: TlsMode::Strict,
        ran_tls: Some(TlsMode::Permissive),
    };
    let runs = with_modes(record, strict, after(10));
    assert_eq!((runs.plain.clone(), runs.strict), (None, Some(ModeRun { since: after(10), until: None })));
    let back = Modes { tls: TlsMode::Permissive, ran_tls: Some(TlsMode::Strict), ..strict };
    let back = with_modes(runs, back, after(20));
    assert_eq!(back.strict, Some(ModeRun { since: after(10), until: Some(after(20)) }));
}

#[test]
fn when_jwt_only_ran_is_kept_and_written_once() {
    let empty = next(None, None, &watch(vec![]), after(1));
    let modes = |auth, ran_auth| Modes { auth, ran_auth, tls: TlsMode::Permissive, ran_tls: None };
    let with =
        |record: &LedgerRecord, mode, seconds| with_modes(record.clone(), modes(mode, AuthMode::Dual), after(seconds));
    assert_eq!(with(&empty, AuthMode::Dual, 5), empty);
    let runs = with(&empty, AuthMode::JWTOnly, 10);
    assert_eq!(runs.jwt_only, Some(ModeRun { since: after(10), until: None }));
    assert_eq!(with(&runs, AuthMode::JWTOnly, 99), runs);
    let ended = with(&runs, AuthMode::Dual, 100);
    assert_eq!(ended.jwt_only, Some(ModeRun { since: after(10), until: Some(after(100)) }));
    assert_eq!(with(&ended, AuthMode::APIKeyOnly, 500), ended);
    assert_eq!(with(&ended, AuthMode::JWTOnly, 600).jwt_only.unwrap().since, after(600));
    // Keys were configured and the mode changed in one edit.
    let both = with_modes(empty, modes(AuthMode::Dual, AuthMode::JWTOnly), after(7));
    assert_eq!(both.jwt_only.unwrap().until, Some(after(7)));
}

/// An event in the life of a service of at most three pods.
#[derive(Debug, Clone, Copy)]
enum Turn {
    /// A pod starts, if there is none of that number.
    Start(usize),
    /// It terminates in an orderly way.
    End(usize),
    /// It disappears without a final read.
    Vanish(usize),
    /// A client presents a key to it.
    Use(usize),
    /// Every instance but this one is read; with a number that does not exist, every instance.
    Read(usize),
    /// The operator restarts after this number of seconds.
    Crash(i64),
    /// Time passes.
    Wait(i64),
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        3 => (0usize..3).prop_map(Turn::Start),
        1 => (0usize..3).prop_map(Turn::End),
        1 => (0usize..3).prop_map(Turn::Vanish),
        2 => (0usize..3).prop_map(Turn::Use),
        4 => (0usize..9).prop_map(Turn::Read),
        1 => prop::sample::select(vec![5i64, 590, 700]).prop_map(Turn::Crash),
        3 => prop::sample::select(vec![1i64, 60, 60, 300, 3_600, 86_400]).prop_map(Turn::Wait),
    ]
}

#[derive(Debug, Clone, Default)]
struct Life {
    id: String,
    /// The days on which a key was presented to it, as seconds from the start.
    used: Vec<i64>,
    read: Option<(i64, LedgerReport)>,
    failing: Option<i64>,
}

fn day_of(seconds: i64) -> jiff::civil::Date {
    after(seconds).to_zoned(jiff::tz::TimeZone::UTC).date()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// For all sequences of events: a key that was used during the counted period is in the record, unless it was used
    /// after the last read of an instance that still runs. Planning again changes nothing.
    #[test]
    fn what_was_used_while_the_time_counts_is_in_the_record(turns in prop::collection::vec(turn(), 1..40)) {
        let mut pods: [Option<Life>; 3] = Default::default();
        let (mut now, mut began, mut before, mut count) = (0i64, 0i64, None, 0);
        let mut record: Option<LedgerRecord> = None;
        let mut last_words: Vec<LedgerReport> = vec![];
        let mut unread: Option<String> = None;
        // Uses in terminated pods: the period must not cover one that is missing from the record.
        let mut gone: Vec<i64> = vec![];
        for turn in turns {
            match turn {
                Turn::Start(which) => {
                    count += 1;
                    pods[which].get_or_insert_with(|| Life { id: format!("p{count}"), ..Life::default() });
                }
                Turn::Use(which) => {
                    if let Some(pod) = &mut pods[which] {
                        pod.used.push(now);
                    }
                }
                Turn::End(which) => {
                    if let Some(pod) = pods[which].take() {
                        last_words.push(said(&pod));
                        gone.extend(&pod.used);
                    }
                }
                Turn::Vanish(which) => {
                    if let Some(pod) = pods[which].take() {
                        if pod.read.is_none() {
                            unread = Some(pod.id.clone());
                        }
                        gone.extend(&pod.used);
                    }
                }
                Turn::Read(but) => {
                    for (which, pod) in pods.iter_mut().enumerate() {
                        let Some(pod) = pod else { continue };
                        if which == but {
                            pod.failing = pod.failing.or(Some(now));
                        } else {
                            (pod.read, pod.failing) = (Some((now, said(pod))), None);
                        }
                    }
                }
                Turn::Crash(seconds) => {
                    (before, now) = (Some(now), now + seconds);
                    began = now;
                    for pod in pods.iter_mut().flatten() {
                        (pod.read, pod.failing) = (None, None);
                    }
                }
                Turn::Wait(seconds) => now += seconds,
            }
            let instances = pods.iter().flatten().map(|pod| Watched {
                read: pod.read.as_ref().map(|(at, said)| (after(*at), said)),
                failing: pod.failing.map(|since| (after(since), "refused")),
                ..instance(&pod.id, None)
            });
            let watch = Watch {
                since: after(began),
                before: before.map(after),
                instances: instances.collect(),
                last_words: last_words.iter().collect(),
                unread: unread.as_deref(),
                ..Watch::default()
            };
            let found = next(record.as_ref(), None, &watch, after(now));
            let again = Watch { last_words: vec![], unread: None, ..watch.clone() };
            prop_assert_eq!(&next(Some(&found), None, &again, after(now)), &found, "planned again");
            prop_assert!(found.watched_since.is_none_or(|since| since <= after(now)));
            if let (Some(Some(since)), Some(later)) = (record.map(|r| r.watched_since), found.watched_since) {
                prop_assert!(since <= later, "the time that counts never grows backwards");
            }
            for used in gone.iter().filter(|used| found.watched_since.is_some_and(|since| after(**used) > since)) {
                let is_known = found.entries.iter().any(|entry| entry.date >= day_of(*used));
                prop_assert!(is_known, "used at {used}, and {found:?}");
            }
            record = Some(found);
            (last_words, unread) = (vec![], None);
        }
    }
}

fn said(pod: &Life) -> LedgerReport {
    let last = pod.used.iter().max().map(|used| day_of(*used));
    let entry = |date| LedgerEntry { key: "app".to_owned(), caller: LedgerCaller::Others, date };
    LedgerReport { entries: last.map(entry).into_iter().collect(), ..report(&pod.id, None) }
}
