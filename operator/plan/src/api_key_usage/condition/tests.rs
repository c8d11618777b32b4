use gaia_api::Span;
use gaia_api::crd::{AuthSpec, GaiaServiceSpec, SecretRef};
use gaia_api::ledger::{EvidenceGap, LedgerCaller};
use rstest::rstest;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn service(legacy_free_for: &str, has_keys: bool) -> GaiaService {
    let auth = AuthSpec {
        api_keys_secret_ref: has_keys.then(|| SecretRef { name: "keys".to_owned() }),
        legacy_free_for: Span::parse(legacy_free_for).unwrap(),
        ..AuthSpec::default()
    };
    GaiaService::new("orders", GaiaServiceSpec { auth, ..GaiaServiceSpec::default() })
}

fn record(since: Option<&str>, gap: Option<&str>, used: &[(&str, &str)]) -> LedgerRecord {
    LedgerRecord {
        schema_version: 1,
        watched_since: since.map(at),
        gap: gap.map(|what| EvidenceGap { noticed: at("2026-01-01T00:00:00Z"), what: what.to_owned() }),
        entries: used
            .iter()
            .map(|(route, day)| LedgerEntry {
                key: "app".to_owned(),
                caller: LedgerCaller::Unknown { address: None, user_agent: None, route: (*route).to_owned() },
                date: day.parse().unwrap(),
            })
            .collect(),
        ..LedgerRecord::default()
    }
}

/// A period of two days, at noon of 10 March.
#[rstest]
#[case::no_record(None, "False", "NotWatched", None)]
#[case::never_used(Some(record(Some("2026-03-08T12:00:00Z"), None, &[])), "True", "KeysUnused", None)]
#[case::a_second_too_early(
    Some(record(Some("2026-03-08T12:00:01Z"), None, &[])), "False", "NotWatched", Some("2026-03-10T12:00:01Z"))]
#[case::since_a_gap(
    Some(record(Some("2026-03-10T00:00:00Z"), Some("x"), &[])), "False", "EvidenceGap", Some("2026-03-12T00:00:00Z"))]
#[case::long_after_a_gap(Some(record(Some("2026-03-01T00:00:00Z"), Some("x"), &[])), "True", "KeysUnused", None)]
#[case::time_stands_still(Some(record(None, Some("x"), &[])), "False", "EvidenceGap", None)]
#[case::time_has_not_begun(Some(record(None, None, &[])), "False", "NotWatched", None)]
#[case::used_today(
    Some(record(Some("2026-01-01T00:00:00Z"), None, &[("/a", "2026-03-10"), ("/b", "2026-01-02")])),
    "False", "LegacyKeysInUse", Some("2026-03-13T00:00:00Z"))]
#[case::used_up_to_midnight(
    Some(record(Some("2026-01-01T00:00:00Z"), None, &[("/a", "2026-03-08")])),
    "False", "LegacyKeysInUse", Some("2026-03-11T00:00:00Z"))]
#[case::used_long_ago(
    Some(record(Some("2026-01-01T00:00:00Z"), None, &[("/a", "2026-03-07")])), "True", "KeysUnused", None)]
#[case::used_and_not_watched_since(Some(record(None, Some("x"), &[("/a", "2026-03-07")])), "False", "EvidenceGap", None)]
fn keys_may_end_when_none_was_used_for_long_enough_and_nothing_can_have_been_missed(
    #[case] record: Option<LedgerRecord>,
    #[case] truth: &str,
    #[case] reason: &str,
    #[case] changes_at: Option<&str>,
) {
    let now = at("2026-03-10T12:00:00Z");
    let found = condition(&service("48h", true), record.as_ref(), now);
    assert_eq!((found.truth.as_str(), found.reason), (truth, reason), "{}", found.message);
    assert_eq!(found.changes_at, changes_at.map(at));
    let later = found.changes_at.map(|time| condition(&service("48h", true), record.as_ref(), time));
    assert_ne!(later.map(|later| later.truth), Some(found.truth), "it changes then");
    let none = condition(&service("48h", false), record.as_ref(), now);
    assert_eq!((none.truth, none.reason), (Truth::True, "NoKeys"));
    let at_once = condition(&service("0s", true), record.as_ref(), now);
    assert_eq!((at_once.truth, at_once.reason), (Truth::True, "KeysUnused"), "a period of 0s requires no evidence");
}

#[test]
fn the_first_callers_are_named_and_the_others_counted() {
    let used: Vec<(String, &str)> = (0..60).map(|number| (format!("/{number:02}"), "2026-03-10")).collect();
    let used: Vec<(&str, &str)> = used.iter().map(|(route, day)| (route.as_str(), *day)).collect();
    let record = record(Some("2026-01-01T00:00:00Z"), None, &used);
    let service = service("48h", true);
    let message = condition(&service, Some(&record), at("2026-03-10T12:00:00Z")).message;
    assert!(message.starts_with("used within 48h: key app by on /00 on 2026-03-10; key app by on /01"), "{message}");
    assert!(message.contains("and 55 more, see status.legacy; LegacyFree not before 2026-03-13T"), "{message}");
    let status = status(&service, Some(&record)).unwrap();
    assert_eq!((status.last_used_date.as_deref(), status.callers.len()), (Some("2026-03-10"), 50));
}
