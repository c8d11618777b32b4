//! CAs and leaves for tests.

use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use gaia_pki::{Ca, CaRequest, KeySpec, Leaf, LeafError, LeafRequest, PrivateKey, Serial, Usage, Validity, issue_leaf};
use jiff::{SignedDuration, Timestamp};

pub(crate) const SPIFFE_ID: &str = "spiffe://gaia.local/ns/default/sa/auth-service";
pub(crate) const BOTH: [Usage; 2] = [Usage::ServerAuth, Usage::ClientAuth];

/// Which of two keys of a kind: a CA and its leaf never share one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum For {
    Ca,
    Leaf,
}

/// A key of its kind, generated once per run, because RSA 4096 takes seconds.
pub(crate) fn key(spec: KeySpec, whose: For) -> PrivateKey {
    static KEYS: LazyLock<Mutex<BTreeMap<(KeySpec, For), PrivateKey>>> = LazyLock::new(Mutex::default);
    let mut keys = KEYS.lock().unwrap_or_else(PoisonError::into_inner);
    keys.entry((spec, whose)).or_insert_with(|| PrivateKey::generate(spec).unwrap()).clone()
}

pub(crate) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub(crate) fn validity(not_before: &str, not_after: &str) -> Validity {
    Validity { not_before: at(not_before), not_after: at(not_after) }
}

pub(crate) fn root_with(spec: KeySpec, validity: Validity) -> Ca {
    let serial = Serial::from_random([0x81; 16]);
    let request = CaRequest { common_name: "Gaia CA 1", trust_domain: "gaia.local", serial, validity };
    Ca::self_signed(&request, key(spec, For::Ca)).unwrap()
}

/// A root that holds from 2026 to 2036.
pub(crate) fn root(spec: KeySpec) -> Ca {
    root_with(spec, validity("2026-01-01T00:00:00Z", "2036-01-01T00:00:00Z"))
}

pub(crate) fn names() -> Vec<String> {
    ["auth-service", "auth-service.default.svc", "*.auth-service.default.svc"].map(str::to_owned).to_vec()
}

/// A leaf of 90 days from the CA's notBefore on, with `names` and both usages.
pub(crate) fn leaf(ca: &Ca, names: &[String], spec: KeySpec) -> Result<Leaf, LeafError> {
    let not_before = ca.not_before();
    let validity = Validity { not_before, not_after: not_before + SignedDuration::from_hours(24 * 90) };
    let request = LeafRequest {
        spiffe_id: SPIFFE_ID,
        dns_names: names,
        ip_addresses: &[],
        usages: &BOTH,
        serial: Serial::from_random(*b"sixteen letters!"),
        validity,
    };
    issue_leaf(ca, &request, &key(spec, For::Leaf))
}
