//! The identity in a verified chain, and the CAs above it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use gaia_api::SpiffeId;
use gaia_api::sync::lock;
use gaia_auth::{Denied, PeerIdentity};
use gaia_pki::{Certificate, Usage, sha256_hex, verify_path};
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;

use crate::credentials::parts::Bundle;

/// Parsed metadata of a peer's verified chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The leaf's only URI, which is a SPIFFE ID of the trust domain.
    pub(crate) identity: Option<PeerIdentity>,
    /// The fingerprint of the root of the chain. Of several, as with a CA that was renewed with the same key, the
    /// newest, because it expires last.
    pub(crate) root: Option<String>,
    /// SHA-256 of the public keys above the leaf: of every presented certificate, whether the path needs it or not, and
    /// of the root. None if one of them cannot be parsed.
    pub(crate) issuers: Option<Vec<String>>,
}

impl Seen {
    /// Returns true if `denylist.json` denies a CA above the leaf. An unparsable certificate counts as denied.
    pub(crate) fn is_below_revoked(&self, denied: &Denied) -> bool {
        denied.has_issuers()
            && self.issuers.as_ref().is_none_or(|issuers| issuers.iter().any(|key| denied.is_issuer_revoked(key)))
    }
}

/// Parses verified chains. The result is cached with the snapshot, because peers reconnect.
pub(crate) struct Peers {
    bundle: Arc<Bundle>,
    trust_domain: String,
    /// By the fingerprints of the whole chain.
    known: Mutex<HashMap<String, Arc<Seen>>>,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

impl Peers {
    pub(crate) fn new(bundle: Arc<Bundle>, trust_domain: &str) -> Self {
        Self { bundle, trust_domain: trust_domain.to_owned(), known: Mutex::default() }
    }

    /// Returns the metadata of a chain that was just verified with the roots of this snapshot.
    pub(crate) fn see(&self, leaf: &[u8], intermediates: &[CertificateDer<'_>], now: Timestamp) -> Arc<Seen> {
        let chain: String =
            std::iter::once(leaf).chain(intermediates.iter().map(AsRef::as_ref)).map(sha256_hex).collect();
        if let Some(seen) = lock(&self.known).get(&chain) {
            return Arc::clone(seen);
        }
        let seen = Arc::new(self.read(leaf, intermediates, now));
        let mut known = lock(&self.known);
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(chain, Arc::clone(&seen));
        seen
    }

    fn read(&self, leaf: &[u8], intermediates: &[CertificateDer<'_>], now: Timestamp) -> Seen {
        let Ok(leaf) = Certificate::from_der(leaf) else { return Seen::default() };
        let presented = intermediates.len();
        // Unparsable certificates cannot be part of the path.
        let intermediates: Vec<Certificate> =
            intermediates.iter().filter_map(|der| Certificate::from_der(der).ok()).collect();
        let root = root_of(&self.bundle.roots, &leaf, &intermediates, now);
        let are_known = root.is_some() && intermediates.len() == presented;
        let issuers = intermediates.iter().chain(root).map(|above| above.public_key().fingerprint());
        let issuers = are_known.then(|| issuers.collect());
        let root = root.map(Certificate::fingerprint);
        Seen { identity: identity(&leaf, &self.trust_domain), root, issuers }
    }
}

fn identity(leaf: &Certificate, trust_domain: &str) -> Option<PeerIdentity> {
    let [uri] = leaf.uris() else { return None };
    let spiffe_id = SpiffeId::parse(uri).ok().filter(|id| id.trust_domain() == trust_domain)?;
    Some(PeerIdentity {
        spiffe_id,
        fingerprint: leaf.fingerprint(),
        serial: leaf.serial().into(),
        not_after: leaf.not_after(),
    })
}

/// Returns the root of a verified chain.
fn root_of<'a>(
    roots: &'a [Certificate],
    leaf: &Certificate,
    intermediates: &[Certificate],
    now: Timestamp,
) -> Option<&'a Certificate> {
    // The handshake has verified the signatures; verifying them again would be the largest part of the cost of a peer.
    named_root(roots, leaf, intermediates, now).or_else(|| {
        let leads_to = |root: &&Certificate| verify_path(leaf, intermediates, root, Usage::ClientAuth, now).is_ok();
        newest(roots.iter().filter(leads_to))
    })
}

/// Finds the root by the names of issuers and the identifiers of their keys.
fn named_root<'a>(
    roots: &'a [Certificate],
    leaf: &Certificate,
    intermediates: &[Certificate],
    now: Timestamp,
) -> Option<&'a Certificate> {
    let mut below = leaf;
    for _ in 0..=intermediates.len() {
        let is_above =
            |root: &&Certificate| below.names_as_issuer(root) && (root.not_before()..=root.not_after()).contains(&now);
        if let Some(root) = newest(roots.iter().filter(is_above)) {
            return Some(root);
        }
        below = intermediates.iter().find(|above| below.names_as_issuer(above))?;
    }
    None
}

fn newest<'a>(roots: impl Iterator<Item = &'a Certificate>) -> Option<&'a Certificate> {
    roots.max_by_key(|root| root.not_before())
}

/// Cached chains: more than the callers of a service and their leaves of some days.
const MAX_KNOWN: usize = 1024;

#[cfg(test)]
mod tests {
    use gaia_pki::{Ca, CaRequest, KeySpec, LeafRequest, PrivateKey, Serial, Validity, issue_leaf};
    use jiff::SignedDuration;

    use super::*;
    use crate::credentials::verifier::tests::{as_client, as_server};
    use crate::testing::{TRUST_DOMAIN, spiffe_id};

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    /// A CA that became valid some days ago, with that key.
    fn ca(key: &PrivateKey, days: i64) -> Ca {
        let request = CaRequest {
            common_name: "gaia test CA",
            trust_domain: TRUST_DOMAIN,
            serial: Serial::from_random([u8::try_from(days).unwrap(); 16]),
            validity: Validity {
                not_before: now() - SignedDuration::from_hours(24 * days),
                not_after: now() + SignedDuration::from_hours(240),
            },
        };
        Ca::self_signed(&request, PrivateKey::from_pem(&key.to_pem()).unwrap()).unwrap()
    }

    fn leaf(ca: &Ca, serial: u8) -> Certificate {
        let gateway = spiffe_id("gateway");
        let request = LeafRequest {
            spiffe_id: gateway.as_str(),
            dns_names: &[],
            ip_addresses: &[],
            usages: &[Usage::ClientAuth],
            serial: Serial::from_random([serial; 16]),
            validity: Validity { not_before: now(), not_after: now() + SignedDuration::from_hours(1) },
        };
        let leaf = issue_leaf(ca, &request, &PrivateKey::generate(KeySpec::Ecdsa256).unwrap()).unwrap();
        Certificate::chain_from_pem(leaf.chain_pem.as_bytes()).unwrap().remove(0)
    }

    #[test]
    fn of_two_roots_with_one_key_the_newer_counts() {
        let (key, other) =
            (PrivateKey::generate(KeySpec::Ecdsa256).unwrap(), PrivateKey::generate(KeySpec::Ecdsa256).unwrap());
        let (older, newer, stranger) = (ca(&key, 2), ca(&key, 1), ca(&other, 1));
        let leaf = leaf(&older, 9);
        let root = |roots: &[&Ca]| {
            let roots: Vec<Certificate> = roots.iter().map(|ca| ca.certificate().clone()).collect();
            root_of(&roots, &leaf, &[], now()).map(Certificate::fingerprint)
        };
        let fingerprint = |ca: &Ca| Some(ca.certificate().fingerprint());
        assert_eq!(root(&[&older, &newer, &stranger]), fingerprint(&newer));
        assert_eq!(root(&[&newer, &older]), fingerprint(&newer));
        assert_eq!(root(&[&stranger, &older]), fingerprint(&older));
        assert_eq!(root(&[&stranger]), None);
    }

    /// Kind: a leaked CA below a root that stays trusted. The Python example is tested with the same table.
    #[test]
    fn a_chain_with_a_denied_issuer_is_refused_as_the_vectors_say() {
        #[derive(serde::Deserialize)]
        struct Vectors {
            root: String,
            cases: Vec<Case>,
        }
        #[derive(serde::Deserialize)]
        struct Case {
            name: String,
            chain: Vec<String>,
            issuers: Vec<String>,
            accepted: bool,
        }
        let text = include_str!("../../../../docs/examples/vectors/issuers.json");
        let vectors: Vectors = serde_json::from_str(text).unwrap();
        let roots = Certificate::chain_from_pem(vectors.root.as_bytes()).unwrap();
        let now = roots[0].not_before() + SignedDuration::from_hours(1);
        for case in vectors.cases {
            let list = gaia_api::mount::Denylist { issuers: case.issuers, ..gaia_api::mount::Denylist::empty() };
            let chain = |pem: &String| Certificate::chain_from_pem(pem.as_bytes()).unwrap().remove(0);
            let chain: Vec<Certificate> = case.chain.iter().map(chain).collect();
            let as_client = as_client(&roots, &chain, &list, now);
            assert_eq!(as_client.is_ok(), case.accepted, "{}: {as_client:?}", case.name);
            let as_server = as_server(&roots, &chain, &list, now);
            assert_eq!(as_server.is_ok(), case.accepted, "{}: {as_server:?}", case.name);
        }
    }

    #[test]
    fn a_chain_that_was_read_is_read_as_it_was_and_the_oldest_are_forgotten() {
        let key = PrivateKey::generate(KeySpec::Ecdsa256).unwrap();
        let ca = ca(&key, 1);
        let roots = vec![ca.certificate().clone()];
        let bundle = Bundle { roots, store: Arc::new(rustls::RootCertStore::empty()), hash: String::new() };
        let bundle = Arc::new(bundle);
        let peers = Peers::new(Arc::clone(&bundle), TRUST_DOMAIN);
        let (first, second) = (leaf(&ca, 1), leaf(&ca, 2));
        let see = |leaf: &Certificate| peers.see(leaf.der(), &[], now());
        for leaf in [&first, &second, &first] {
            let seen = see(leaf);
            assert_eq!(seen.identity.as_ref().map(|peer| peer.fingerprint.clone()), Some(leaf.fingerprint()));
            assert_eq!(seen.root, Some(ca.certificate().fingerprint()));
        }
        assert!(Arc::ptr_eq(&see(&first), &see(&first)));
        for number in 0..=MAX_KNOWN {
            peers.see(&number.to_be_bytes(), &[], now());
        }
        assert!(lock(&peers.known).len() <= MAX_KNOWN);
        assert_eq!(Peers::new(bundle, "other.example").see(first.der(), &[], now()).identity, None);
    }
}
