//! Public keys of compromised CAs. Distrust applies to the key: its holder can sign with every certificate of it.

use gaia_api::crd::{DistrustMode, TrustDomainSpec};

use crate::keyring::ring::{CaMaterial, CaPath, CaRing, State, short_id};

/// Every key that leaked, by the spec and by what the ring has recorded.
#[derive(Debug, Default)]
pub(crate) struct LeakedKeys(Vec<LeakedKey>);

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeakedKey {
    /// Of the certificate that was distrusted: lower-case hex SHA-256 of its DER.
    fingerprint: String,
    /// Lower-case hex SHA-256 of its public key, if the certificate is known.
    key: Option<String>,
    /// The short id of its generation, else of the fingerprint.
    pub(crate) id: String,
    pub(crate) mode: DistrustMode,
}

impl LeakedKeys {
    /// The keys of a TrustDomain; `external` is the path of the CA in `existingSecretRef`.
    pub(crate) fn of(spec: &TrustDomainSpec, ring: Option<&CaRing>, external: Option<&CaPath>) -> Self {
        let generations = || ring.into_iter().flat_map(|ring| &ring.generations);
        let key_of = |fingerprint: &str| {
            let paths = generations().map(|generation| &generation.material.path).chain(external);
            paths.filter_map(|path| path.key_of(fingerprint)).next().map(str::to_owned)
        };
        let listed = spec.ca.distrusted.iter().map(|entry| LeakedKey {
            fingerprint: entry.fingerprint.clone(),
            key: key_of(&entry.fingerprint),
            id: generations()
                .find(|generation| generation.material.fingerprint == entry.fingerprint)
                .map_or_else(|| short_id(&entry.fingerprint), |generation| generation.id.clone()),
            mode: entry.mode,
        });
        let recorded = generations().filter_map(|generation| {
            Some(LeakedKey {
                fingerprint: generation.material.fingerprint.clone(),
                key: generation.material.path.signing_key().map(str::to_owned),
                id: generation.id.clone(),
                mode: generation.distrust?.mode,
            })
        });
        Self(listed.chain(recorded).collect())
    }

    /// The compromised key in the path of a CA. Of several, one whose mode is `Immediate` comes first.
    pub(crate) fn in_path(&self, fingerprint: &str, path: &CaPath) -> Option<&LeakedKey> {
        let matches = |leaked: &&LeakedKey| {
            leaked.fingerprint == fingerprint
                || path.key_of(&leaked.fingerprint).is_some()
                || leaked.key.as_ref().is_some_and(|key| path.has_key(key))
        };
        self.0.iter().filter(matches).max_by_key(|leaked| leaked.mode == DistrustMode::Immediate)
    }

    /// The same for a CA in the ring.
    pub(crate) fn of_ca(&self, ca: &CaMaterial) -> Option<&LeakedKey> {
        self.in_path(&ca.fingerprint, &ca.path)
    }
}

impl LeakedKey {
    /// Returns true for the distrusted certificate itself, false for another certificate of its key.
    pub(crate) fn is(&self, fingerprint: &str) -> bool {
        self.fingerprint == fingerprint
    }
}

/// For `denylist.json`: the keys of CAs that are refused from now on, sorted. A key that a trusted CA rests on is not among
/// them: it could not be enforced without refusing that CA too.
pub(crate) fn denied_issuers(spec: &TrustDomainSpec, ring: &CaRing) -> Vec<String> {
    let refused = ring.generations.iter().filter(|generation| generation.state == State::Distrusted);
    let own = refused.clone().filter_map(|generation| generation.material.path.signing_key());
    // An entry may name a certificate above the one that signs.
    let above = refused.flat_map(|generation| {
        let path = &generation.material.path;
        spec.ca.distrusted.iter().filter_map(|entry| path.key_of(&entry.fingerprint))
    });
    let is_trusted = |key: &&str| ring.trusted().any(|generation| generation.material.path.has_key(key));
    let mut keys: Vec<String> = own.chain(above).filter(|key| !is_trusted(key)).map(str::to_owned).collect();
    keys.sort();
    keys.dedup();
    keys
}
