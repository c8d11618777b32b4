//! Parsed metadata of a stored leaf.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use gaia_api::crd::{KeyAlgorithm, PrivateKeySpec};
use gaia_api::names::annotation;
use gaia_pki::{KeySpec, sha256_hex};
use jiff::Timestamp;

use crate::object::{ObjectFacts, Version};
use crate::pacing::backoff::{saturating_add, saturating_sub, since};

/// A leaf Secret.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeafSecret {
    /// Metadata of the Secret, without the certificate.
    pub facts: ObjectFacts,
    /// The certificate; none if `tls.crt` or `tls.key` is missing or cannot be read.
    pub leaf: Option<LeafFacts>,
}

/// A stored leaf: never its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafFacts {
    /// Lower-case hex SHA-256 of its DER.
    pub fingerprint: String,
    /// Lower-case hex.
    pub serial: String,
    /// Start of validity.
    pub not_before: Timestamp,
    /// notAfter.
    pub not_after: Timestamp,
    /// True if `tls.key` belongs to it.
    pub key_matches: bool,
    /// Fingerprint of the known CA whose signature it has.
    pub issuer: Option<String>,
    /// Hash of its names, see [`names_hash`].
    pub names_hash: String,
    /// Those of its DNS names that mean something else as well (`crate::rules::name_policy::other_meaning`); nearly always none.
    pub ambiguous_names: Vec<String>,
}

impl LeafFacts {
    /// A part of a span that depends on the certificate alone, evenly spread over many: 0 to `span`.
    #[must_use]
    pub fn share_of(&self, span: Duration) -> Duration {
        let seconds = span.as_secs();
        Duration::from_secs(if seconds == 0 { 0 } else { dice(&self.fingerprint) % (seconds + 1) })
    }

    /// Its validity as requested, and the time of its renewal.
    #[must_use]
    pub fn lifetime(&self) -> Lifetime {
        Lifetime::of(self.not_before, self.not_after, &self.fingerprint)
    }
}

/// A leaf's validity from its issuance on, without the backdating that covers clock differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// From issuance to expiry.
    pub life: Duration,
    /// Two thirds of the validity after issuance, minus a jitter of at most 1 % of the validity and at most 6 h.
    pub renewal_time: Timestamp,
}

impl Lifetime {
    /// Computed from the certificate alone, so that every operator comes to the same result.
    fn of(not_before: Timestamp, not_after: Timestamp, fingerprint: &str) -> Self {
        let whole = since(not_after, not_before);
        // The inverse of `backdate`: whole = validity + min(5m, validity/10).
        let life = if whole >= BACKDATE * 11 { whole - BACKDATE } else { whole * 10 / 11 };
        let spread = (life / 100).min(Duration::from_secs(6 * 3600)).as_secs();
        let jitter = if spread == 0 { 0 } else { dice(fingerprint) % (spread + 1) };
        // Part of a second counts as a second: a renewal comes earlier, never later.
        let third = life / 3;
        let third = Duration::from_secs(third.as_secs() + u64::from(third.subsec_nanos() > 0));
        let due = saturating_sub(not_after, third);
        Self { life, renewal_time: saturating_sub(due, Duration::from_secs(jitter)) }
    }
}

/// Returns the time when a stored certificate was issued: from the operator's annotation on the Secret, else the latest
/// time that its validity allows.
#[must_use]
pub fn issued_at(facts: &ObjectFacts, leaf: &LeafFacts) -> Timestamp {
    issued_as_noted(facts.annotations.get(annotation::ISSUED_AT).map(String::as_str), leaf)
}

/// The same, given the annotation's value.
pub(crate) fn issued_as_noted(note: Option<&str>, leaf: &LeafFacts) -> Timestamp {
    let noted = note.and_then(|text| text.parse::<Timestamp>().ok());
    let latest = saturating_add(leaf.not_before, BACKDATE);
    noted.filter(|noted| *noted <= latest && *noted >= leaf.not_before).unwrap_or(latest)
}

/// The time by which a certificate's notBefore precedes its issuance: `min(5m, life/10)`.
#[must_use]
pub(crate) fn backdate(life: Duration) -> Duration {
    BACKDATE.min(life / 10)
}

/// The expiry of a validity that starts now.
pub(crate) fn end(now: Timestamp, life: Duration) -> Timestamp {
    saturating_add(gaia_api::crd::whole_seconds(now), life)
}

/// A hash of all subject alternative names, in any order.
#[must_use]
pub fn names_hash<'a>(
    uris: impl IntoIterator<Item = &'a str>,
    dns: impl IntoIterator<Item = &'a str>,
    ips: impl IntoIterator<Item = &'a IpAddr>,
) -> String {
    let mut names: Vec<String> = uris.into_iter().map(|uri| format!("uri:{uri}")).collect();
    names.extend(dns.into_iter().map(|name| format!("dns:{name}")));
    names.extend(ips.into_iter().map(|address| format!("ip:{address}")));
    names.sort();
    names.dedup();
    sha256_hex(names.join("\n").as_bytes())
}

/// A number that depends on the certificate alone.
fn dice(fingerprint: &str) -> u64 {
    fingerprint.get(..8).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or_default()
}

/// The key type of a spec. The schema has already rejected every combination that is not listed here.
#[must_use]
pub(crate) fn key_spec(spec: &PrivateKeySpec) -> KeySpec {
    match (spec.algorithm, spec.size) {
        (KeyAlgorithm::ECDSA, Some(384)) => KeySpec::Ecdsa384,
        (KeyAlgorithm::ECDSA, _) => KeySpec::Ecdsa256,
        (KeyAlgorithm::RSA, Some(4096)) => KeySpec::Rsa4096,
        (KeyAlgorithm::RSA, Some(3072)) => KeySpec::Rsa3072,
        (KeyAlgorithm::RSA, _) => KeySpec::Rsa2048,
    }
}

/// The properties of a leaf Secret that a TrustDomain needs. An index of ten thousand Secrets can store them in less
/// memory than [`ObjectFacts`].
pub trait LeafRecord: fmt::Debug {
    /// The value of an annotation.
    fn annotation(&self, name: &str) -> Option<&str>;

    /// Lower-case hex SHA-256 of a value in its data.
    fn data_hash(&self, key: &str) -> Option<&str>;

    /// Its UID and resource version.
    fn version(&self) -> Version;

    /// Its type.
    fn secret_type(&self) -> Option<&str>;

    /// Returns true if it is `immutable: true`.
    fn is_immutable(&self) -> bool;

    /// Returns true if it has an owner of group `gaia.dev`, with which it is deleted.
    fn has_owner(&self) -> bool;

    /// An annotation that holds a number.
    fn number(&self, annotation: &str) -> Option<u64> {
        self.annotation(annotation)?.parse().ok()
    }
}

impl LeafRecord for ObjectFacts {
    fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).map(String::as_str)
    }

    fn data_hash(&self, key: &str) -> Option<&str> {
        self.data.get(key).map(String::as_str)
    }

    fn version(&self) -> Version {
        Self::version(self)
    }

    fn secret_type(&self) -> Option<&str> {
        self.type_.as_deref()
    }

    fn is_immutable(&self) -> bool {
        self.immutable
    }

    fn has_owner(&self) -> bool {
        !self.owners.is_empty()
    }
}

/// The type of leaf Secrets.
pub(crate) const TLS_SECRET: &str = "kubernetes.io/tls";
const BACKDATE: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_life_is_found_again_from_the_certificate(life in 600u64..100_000_000, seed in any::<u32>()) {
            let now = Timestamp::from_second(1_800_000_000).unwrap();
            let life = Duration::from_secs(life);
            let not_before = gaia_api::crd::whole_seconds(saturating_sub(now, backdate(life)));
            let found = Lifetime::of(not_before, end(now, life), &format!("{seed:08x}"));
            let error = found.life.abs_diff(life);
            prop_assert!(error <= Duration::from_secs(2), "{life:?} found as {:?}", found.life);
            let two_thirds = saturating_add(now, life * 2 / 3);
            prop_assert!(found.renewal_time <= saturating_add(two_thirds, Duration::from_secs(2)));
            prop_assert!(found.renewal_time >= saturating_sub(two_thirds, life / 100 + Duration::from_secs(2)));
        }
    }
}
