//! The CA that issued a stored leaf.
//!
//! A CA is identified by its certificate, not by its name or key: a certificate renewed with both is another
//! generation. A leaf's issuer is the CA whose intermediates it includes. Roots that sign directly include nothing, so
//! a leaf does not distinguish two of them with one name and key: its issuer is then the active generation, else the
//! newest.

use std::collections::BTreeMap;

use gaia_pki::Certificate;
use gaia_plan::keyring::ring::{CaRing, State};

/// All CAs of all readable rings.
#[derive(Debug, Clone, Default)]
pub(crate) struct KnownCas {
    /// The preferred one first.
    all: Vec<KnownCa>,
    /// Each CA that leaves do not distinguish from a preferred one, with that one, by fingerprint.
    preferred: BTreeMap<String, String>,
}

#[derive(Debug, Clone)]
struct KnownCa {
    fingerprint: String,
    certificate: Certificate,
    /// Fingerprints of the intermediates that `tls.crt` holds after the leaf.
    shipped: Vec<String>,
}

impl KnownCas {
    /// The CAs of these rings.
    pub(crate) fn of<'a>(rings: impl Iterator<Item = &'a CaRing>) -> Self {
        let mut all: Vec<KnownCa> = vec![];
        for ring in rings {
            // The active one first, then those that have signed from the newest on, then those that have not.
            let mut generations: Vec<_> = ring.generations.iter().enumerate().collect();
            generations.sort_by_key(|(index, generation)| {
                let rank = match generation.state {
                    State::Active => 0,
                    _ if generation.activated_time.is_some() => 1,
                    _ => 2,
                };
                (rank, std::cmp::Reverse((generation.activated_time, *index)))
            });
            all.extend(generations.into_iter().filter_map(|(_, generation)| {
                let chain = Certificate::chain_from_pem(generation.material.chain.as_bytes()).ok()?;
                let certificate = chain.first()?.clone();
                let shipped = if certificate.is_self_signed() { &[][..] } else { &chain[..] };
                let shipped = shipped.iter().map(Certificate::fingerprint).collect();
                Some(KnownCa { fingerprint: generation.material.fingerprint.clone(), certificate, shipped })
            }));
        }
        let mut preferred = BTreeMap::new();
        for (index, ca) in all.iter().enumerate() {
            if let Some(first) = all[..index].iter().find(|first| first.is_alike(ca)) {
                preferred.insert(ca.fingerprint.clone(), first.fingerprint.clone());
            }
        }
        Self { all, preferred }
    }

    /// The CA that issued the first certificate of `chain`, by fingerprint; the rest must be what that CA's leaves ship.
    pub(crate) fn issuer(&self, chain: &[Certificate]) -> Option<String> {
        let (leaf, rest) = chain.split_first()?;
        let shipped: Vec<String> = rest.iter().map(Certificate::fingerprint).collect();
        let ca = self.all.iter().find(|ca| ca.shipped == shipped && leaf.is_issued_by(&ca.certificate))?;
        Some(ca.fingerprint.clone())
    }

    /// The CA that counts as the issuer of a leaf that was found to be issued by the one of this fingerprint.
    pub(crate) fn preferred<'a>(&'a self, fingerprint: &'a str) -> &'a str {
        self.preferred.get(fingerprint).map_or(fingerprint, String::as_str)
    }
}

impl KnownCa {
    /// Returns true if leaves do not distinguish these two CAs.
    fn is_alike(&self, other: &Self) -> bool {
        self.shipped == other.shipped && self.certificate.is_same_issuer(&other.certificate)
    }
}

#[cfg(test)]
mod tests {
    use gaia_pki::{Ca, CaRequest, KeySpec, LeafRequest, PrivateKey, Serial, Usage, Validity, issue_leaf};
    use gaia_plan::keyring::ring::{FORMAT_VERSION, Generation, Ring, short_id};
    use jiff::{SignedDuration, Timestamp};

    use super::*;
    use crate::execute::issue;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    /// A root with that key, of one name with all others.
    fn root(key: &PrivateKey, serial: u8) -> Ca {
        let validity = Validity { not_before: now(), not_after: now() + SignedDuration::from_hours(240) };
        let serial = Serial::from_random([serial; 16]);
        let request = CaRequest { common_name: "Corporate CA", trust_domain: "gaia.local", serial, validity };
        Ca::self_signed(&request, PrivateKey::from_pem(&key.to_pem()).unwrap()).unwrap()
    }

    fn ring(generations: &[(&Ca, State)]) -> CaRing {
        let generations = generations.iter().map(|(ca, state)| {
            let material = issue::external_ca(ca).material;
            let mut generation = Generation::new(short_id(&material.fingerprint), State::Active, now(), material);
            generation.state = *state;
            generation.activated_time = generation.activated_time.filter(|_| *state != State::Staged);
            generation
        });
        Ring {
            format_version: FORMAT_VERSION,
            trust_domain: "gaia.local".to_owned(),
            epoch: 1,
            max_ttl_high_water_seconds: None,
            revision: 1,
            handled_distrust: None,
            restored_from: None,
            handled: gaia_plan::keyring::handled::Handled::default(),
            generations: generations.collect(),
        }
    }

    fn leaf(ca: &Ca) -> Vec<Certificate> {
        let request = LeafRequest {
            spiffe_id: "spiffe://gaia.local/ns/shop/sa/web",
            dns_names: &[],
            ip_addresses: &[],
            usages: &[Usage::ServerAuth],
            serial: Serial::from_random([9; 16]),
            validity: Validity { not_before: now(), not_after: now() + SignedDuration::from_hours(1) },
        };
        let leaf = issue_leaf(ca, &request, &PrivateKey::generate(KeySpec::Ecdsa256).unwrap()).unwrap();
        Certificate::chain_from_pem(leaf.chain_pem.as_bytes()).unwrap()
    }

    /// Kind: a CA found by name or key. Renewed with both, every leaf was re-issued without end.
    #[test]
    fn a_root_renewed_with_key_and_name_issues_what_the_active_one_issues() {
        let key = PrivateKey::generate(KeySpec::Ecdsa256).unwrap();
        let (old, renewed) = (root(&key, 1), root(&key, 2));
        let other = root(&PrivateKey::generate(KeySpec::Ecdsa256).unwrap(), 3);
        let name = |ca: &Ca| Some(ca.certificate().fingerprint());
        for (states, issuer) in [
            ([State::Active, State::Staged], &old),
            ([State::Retiring, State::Active], &renewed),
            // An abort.
            ([State::Active, State::Retiring], &old),
            ([State::Removed, State::Active], &renewed),
        ] {
            let ring = ring(&[(&old, states[0]), (&renewed, states[1]), (&other, State::Retiring)]);
            let cas = KnownCas::of(std::iter::once(&ring));
            for signer in [&old, &renewed] {
                assert_eq!(cas.issuer(&leaf(signer)), name(issuer), "{states:?}");
                assert_eq!(Some(cas.preferred(&signer.certificate().fingerprint()).to_owned()), name(issuer));
            }
            assert_eq!(cas.issuer(&leaf(&other)), name(&other));
        }
    }
}
