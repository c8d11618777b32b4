//! The decision whether callers without a client certificate may be refused.

use gaia_api::crd::condition::PLAIN_FREE;
use gaia_api::crd::{GaiaService, TlsMode, Truth, reason};
use gaia_api::ledger::{LedgerEntry, LedgerRecord, PLAIN};
use jiff::Timestamp;

use super::condition::{Evidence, UsageCondition, Words, list};
use crate::api_key_usage::served;

/// The condition `PlainFree`. `ran`: the TLS mode that ran last.
pub(super) fn condition(
    service: &GaiaService,
    record: Option<&LedgerRecord>,
    ran: Option<TlsMode>,
    now: Timestamp,
) -> UsageCondition {
    let say =
        |truth, reason, message: &str| UsageCondition { truth, reason, message: message.to_owned(), changes_at: None };
    match ran {
        None => return say(Truth::Unknown, reason::STRICT, "no policy is published yet"),
        Some(TlsMode::Strict) => {
            return say(
                Truth::True,
                reason::STRICT,
                "tls.mode Strict runs: every caller presents a client certificate",
            );
        }
        Some(TlsMode::Permissive) => {}
    }
    let span = &service.spec.auth.legacy_free_for;
    if span.value().is_zero() {
        let message = "spec.auth.legacyFreeFor is 0s: no evidence is required";
        return say(Truth::True, reason::PLAIN_UNUSED, message);
    }
    let Some(plain) = record.and_then(|record| record.plain.as_ref()) else {
        if served::awaits_strict(service, record) {
            return say(Truth::False, reason::NOT_WATCHED, "no instance's ledger was read yet");
        }
        let message = "callers without a client certificate are counted once spec.tls.mode is Strict";
        return say(Truth::Unknown, reason::NOT_WATCHED, message);
    };
    let evidence = Evidence { entries: &plain.entries, since: plain.watched_since, gap: plain.gap.as_ref() };
    let words = Words {
        condition: PLAIN_FREE,
        in_use: reason::PLAIN_IN_USE,
        unused: reason::PLAIN_UNUSED,
        used: "accepted without a client certificate",
        nothing: "no request was accepted without a client certificate",
        unread: "not every instance reports its callers without a client certificate",
        list: |entries| list(entries, describe, "ConfigMap <service>-ledger"),
    };
    evidence.condition(&words, span, now)
}

fn describe(entry: &LedgerEntry, caller: &str) -> String {
    let how = if entry.key == PLAIN { "plain HTTP" } else { "TLS" };
    format!("{caller} by {how}")
}
