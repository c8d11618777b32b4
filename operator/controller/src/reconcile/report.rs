//! Differences between two versions of a status: important ones, or counts and times alone.

use gaia_api::crd::condition::{RECONCILING, SERVED, STALLED, warning};
use gaia_api::crd::reason;
use serde_json::Value;

/// The condition of that type.
pub(super) fn condition<'a>(status: &'a Value, type_: &str) -> Option<&'a Value> {
    status["conditions"].as_array()?.iter().find(|condition| condition["type"] == type_)
}

/// Reason and message of each problem that was not reported before: that the object is stalled, that its TrustDomain does
/// not exist, and each warning.
pub(super) fn new_problems(before: &Value, after: &Value) -> Vec<(&'static str, String)> {
    let known = |status: &Value, type_: &str| {
        let found = condition(status, type_).filter(|found| found["status"] == "True")?;
        let reason = reason::ALL.iter().chain(warning::ALL).find(|known| found["reason"] == **known)?;
        let is_problem = type_ != RECONCILING || *reason == reason::TRUST_DOMAIN_NOT_FOUND;
        is_problem.then(|| (*reason, found["message"].as_str().unwrap_or_default().to_owned()))
    };
    let types = [STALLED, RECONCILING].iter().chain(warning::ALL);
    let news = types.filter_map(|type_| {
        let (reason, message) = known(after, type_)?;
        (known(before, type_).map(|(reason, _)| reason) != Some(reason)).then_some((reason, message))
    });
    news.collect()
}

/// Returns true if only values differ that change at every attempt and with every instance.
pub(super) fn is_same_but_for_counts(before: &Value, after: &Value) -> bool {
    without_counts(before) == without_counts(after)
}

/// Returns true if only values about instances differ. A value that was never reported before counts as another
/// difference.
pub(super) fn is_same_but_for_instances(before: &Value, after: &Value) -> bool {
    let without_served = |status: &Value| {
        let mut status = without_counts(status);
        for condition in conditions(&mut status).filter(|condition| condition["type"] == SERVED) {
            remove(condition, &["status", "reason", "message"]);
        }
        status
    };
    without_served(before) == without_served(after)
}

/// Returns true if every instance is current now and was not reported so, or instances are counted for the first time.
pub(super) fn is_whole_now(before: &Value, after: &Value) -> bool {
    SUMMARIES.iter().any(|pointer| {
        let summary = |status: &Value| status.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let (before, after) = (summary(before), summary(after));
        let is_whole = after.as_ref().and_then(|summary| summary.split_once('/')).is_some_and(|(n, of)| n == of);
        let is_first = before.as_ref().is_none_or(|summary| summary == "-");
        before != after && (is_whole || is_first)
    })
}

fn without_counts(status: &Value) -> Value {
    let mut status = status.clone();
    remove(
        &mut status,
        &[
            "failedAttempts",
            "lastFailureTime",
            "instances",
            "served",
            "laggards",
            "laggardCount",
            "lagging",
            "laggingCount",
            "legacy",
        ],
    );
    // They repeat a condition.
    remove(&mut status, &["reason", "message"]);
    if let Some(certificate) = status.get_mut("certificate") {
        remove(certificate, &["served"]);
    }
    if let Some(exposure) = status.get_mut("exposure") {
        remove(exposure, &["message"]);
    }
    for condition in conditions(&mut status) {
        remove(condition, &["lastTransitionTime"]);
        if COUNTING.iter().any(|reason| condition["reason"] == *reason) {
            remove(condition, &["message"]);
        }
    }
    status
}

fn conditions(status: &mut Value) -> impl Iterator<Item = &mut Value> {
    status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten()
}

fn remove(object: &mut Value, fields: &[&str]) {
    if let Some(object) = object.as_object_mut() {
        for field in fields {
            object.remove(*field);
        }
    }
}

/// The summaries of instances: of a TrustDomain, a ServiceCertificate and a GaiaService.
const SUMMARIES: [&str; 3] = ["/instances/summary", "/served/summary", "/certificate/served"];
/// Reasons of conditions whose messages count and name instances or callers.
const COUNTING: [&str; 7] = [
    reason::WAITING_FOR_INSTANCES,
    reason::PAST_DEADLINE,
    reason::REISSUING,
    reason::NOT_SERVED,
    reason::LEGACY_KEYS_IN_USE,
    reason::EVIDENCE_GAP,
    reason::NOT_WATCHED,
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn certificate(summary: &str, truth: &str, reason: &str) -> Value {
        json!({ "served": { "summary": summary }, "notAfter": "2026-01-01T00:00:00Z", "conditions": [
            { "type": "Ready", "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": "x" },
            { "type": "Served", "status": truth, "reason": reason, "message": format!("{summary} do"),
              "lastTransitionTime": "x" },
        ] })
    }

    #[test]
    fn each_new_problem_is_one_event_and_progress_is_none() {
        let status = |conditions: &[(&str, &str)]| {
            let condition = |(type_, reason): &(&str, &str)| json!({ "type": type_, "status": "True", "reason": reason, "message": "why" });
            json!({ "conditions": conditions.iter().map(condition).collect::<Vec<_>>() })
        };
        let reasons = |before: &[(&str, &str)], after: &[(&str, &str)]| -> Vec<&str> {
            new_problems(&status(before), &status(after)).into_iter().map(|(reason, _)| reason).collect()
        };
        let stalled = ("Stalled", "NameNotAllowed");
        assert_eq!(reasons(&[], &[stalled]), ["NameNotAllowed"]);
        assert_eq!(reasons(&[stalled], &[stalled]), [""; 0]);
        assert_eq!(reasons(&[stalled], &[("Stalled", "CAExpired")]), ["CAExpired"]);
        assert_eq!(reasons(&[], &[("Reconciling", "TrustDomainNotFound")]), ["TrustDomainNotFound"]);
        assert_eq!(reasons(&[], &[("Reconciling", "Issuing"), ("Ready", "Ready")]), [""; 0]);
        let warnings: Vec<(&str, &str)> = warning::ALL.iter().map(|type_| (*type_, *type_)).collect();
        assert_eq!(reasons(&[], &warnings), warning::ALL, "every warning");
        assert_eq!(reasons(&warnings, &warnings), [""; 0]);
    }

    #[test]
    fn counts_and_whom_they_count_are_no_news() {
        let (before, after) = (certificate("1/3", "False", "NotServed"), certificate("2/3", "False", "NotServed"));
        assert!(is_same_but_for_counts(&before, &after));
        assert!(!is_whole_now(&before, &after));
    }

    #[test]
    fn a_condition_that_changes_is_news_unless_it_is_about_instances_that_were_not_asked() {
        let (before, after) = (certificate("3/3", "True", "AllServed"), certificate("0/3", "False", "NotServed"));
        assert!(!is_same_but_for_counts(&before, &after));
        assert!(is_same_but_for_instances(&before, &after));
        let mut renewed = after;
        renewed["notAfter"] = json!("2027-01-01T00:00:00Z");
        assert!(!is_same_but_for_instances(&before, &renewed));
        assert!(!is_same_but_for_instances(&json!({}), &renewed), "the first report is not delayed");
    }

    #[test]
    fn that_all_are_current_is_told_at_once() {
        let domain = |summary: &str| json!({ "instances": { "summary": summary } });
        assert!(is_whole_now(&domain("1/2"), &domain("2/2")));
        assert!(is_whole_now(&domain("-"), &domain("0/2")), "so is the presence of instances");
        assert!(!is_whole_now(&domain("2/2"), &domain("2/2")));
        assert!(!is_whole_now(&domain("2/2"), &domain("1/2")));
        let service = |summary: &str| json!({ "certificate": { "served": summary } });
        assert!(is_whole_now(&service("1/2"), &service("2/2")));
    }
}
