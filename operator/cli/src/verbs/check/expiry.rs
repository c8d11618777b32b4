//! The dates of certificates, CAs and signing keys.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::snapshot::Snapshot;
use super::{DAY, Findings, after};

/// A date of the list.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Expiry {
    pub(super) name: String,
    /// `expires`, or `rotates` of a signing key, which does not expire.
    pub(super) event: &'static str,
    pub(super) time: Timestamp,
    /// Whole days until then; negative: since then.
    pub(super) days: i64,
}

/// The dates of all certificates, CAs and signing keys, the nearest first.
pub(super) fn list(snapshot: &Snapshot, now: Timestamp) -> Vec<Expiry> {
    let mut all = vec![];
    let mut add = |name: String, event, time: Timestamp| {
        let days = (time.as_second() - now.as_second()).div_euclid(i64::try_from(DAY).unwrap_or(1));
        all.push(Expiry { name, event, time, days });
    };
    for stored in &snapshot.certificates {
        let leaf = stored.secret.as_ref().and_then(|leaf| leaf.chain.as_ref().ok()?.first());
        if let Some(leaf) = leaf {
            add(format!("certificate {}/{}", stored.namespace, stored.name), "expires", leaf.not_after());
        }
    }
    for (domain, trust) in &snapshot.trust {
        for anchor in trust.anchors.iter().flatten() {
            add(format!("CA {} of {domain}", anchor.subject()), "expires", anchor.not_after());
        }
    }
    for domain in &snapshot.domains {
        let keys = domain.status.as_ref().and_then(|status| status.signing_keys.as_ref());
        if let Some(active) = keys.and_then(|keys| keys.active.as_ref()) {
            let name = domain.metadata.name.clone().unwrap_or_default();
            let rotates = after(active.since, domain.spec.tokens.rotation_period.value());
            add(format!("signing key {} of {name}", active.id), "rotates", rotates);
        }
    }
    all.sort_by(|a, b| (a.time, &a.name).cmp(&(b.time, &b.name)));
    all
}

/// Warns of certificates that expire within the longest threshold, and names the shortest that applies.
pub(super) fn check(all: &[Expiry], thresholds: &[Duration], now: Timestamp, findings: &mut Findings) {
    for item in all.iter().filter(|item| item.event == "expires" && item.time > now) {
        let applies = thresholds.iter().filter(|threshold| item.time <= after(now, **threshold));
        if let Some(threshold) = applies.min() {
            let within = match (threshold.as_secs() / DAY, threshold.as_secs() % DAY) {
                (days, 0) => format!("{days}d"),
                _ => format!("{}h", threshold.as_secs() / 3600),
            };
            findings.add("GAIA320", item.name.clone(), format!("it expires at {}, within {within}", item.time));
        }
    }
}
