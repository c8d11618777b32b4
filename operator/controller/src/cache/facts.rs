//! Parses objects from the store into metadata without secrets: no byte of a key leaves this file.

mod issuer;
mod packed;

use std::collections::BTreeMap;
use std::sync::Arc;

use gaia_api::ledger::LedgerRecord;
use gaia_api::names::{TRUST_DOMAIN_LABEL, key};
use gaia_pki::{Certificate, Jwk, PrivateKey, SigningAlgorithm, key_matches, sha256_hex};
use gaia_plan::keyring::ring::{CaRing, Generation, Material, Ring, RingError, RingKind, SigningRing};
use gaia_plan::leaf::{LeafFacts, LeafSecret, names_hash};
use gaia_plan::object::{ObjectFacts, OwnerRef, Version};
use gaia_plan::trust_domain::SignerSecret;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use zeroize::Zeroize as _;

pub(crate) use self::issuer::KnownCas;
pub(crate) use self::packed::PackedLeaf;
use crate::api_server::Fault;
use crate::store::epoch_key::EpochKey;

/// A Secret of the operator. Nearly all are leaves, so larger variants are boxed.
#[derive(Debug, Clone)]
pub(crate) enum SecretFacts {
    CaRing {
        facts: Box<ObjectFacts>,
        ring: Result<CaRing, RingError>,
        copy: bool,
        mac: Option<EpochKey>,
    },
    SigningRing {
        facts: Box<ObjectFacts>,
        ring: Result<SigningRing, RingError>,
        mac: Option<EpochKey>,
    },
    Signer(Box<SignerSecret>),
    /// Its content cannot be read, for this cause.
    Unreadable {
        facts: Box<ObjectFacts>,
        why: String,
    },
    /// `unproven`: the leaf's chain, until a known CA is found that signed it.
    Leaf {
        secret: PackedLeaf,
        unproven: Option<Arc<[Certificate]>>,
    },
}

impl SecretFacts {
    /// The object's metadata without the content of a ring or leaf; none for a leaf, whose metadata is packed.
    fn facts(&self) -> Option<&ObjectFacts> {
        match self {
            Self::CaRing { facts, .. } | Self::SigningRing { facts, .. } | Self::Unreadable { facts, .. } => {
                Some(facts)
            }
            Self::Signer(signer) => Some(&signer.facts),
            Self::Leaf { .. } => None,
        }
    }

    pub(crate) fn uid(&self) -> &str {
        match self {
            Self::Leaf { secret, .. } => secret.uid(),
            other => other.facts().map(|facts| facts.uid.as_str()).unwrap_or_default(),
        }
    }

    pub(crate) fn resource_version(&self) -> &str {
        match self {
            Self::Leaf { secret, .. } => secret.resource_version(),
            other => other.facts().map(|facts| facts.resource_version.as_str()).unwrap_or_default(),
        }
    }

    pub(crate) fn version(&self) -> Version {
        Version { uid: self.uid().to_owned(), resource_version: self.resource_version().to_owned() }
    }

    /// The TrustDomain that its label names.
    pub(crate) fn trust_domain(&self) -> Option<&str> {
        match self {
            Self::Leaf { secret, .. } => secret.trust_domain(),
            other => other.facts()?.labels.get(TRUST_DOMAIN_LABEL).map(String::as_str),
        }
    }

    /// Searches again for the CA that issued a leaf, because the known CAs, or the active one of two alike, have
    /// changed.
    pub(crate) fn prove(&mut self, cas: &KnownCas) {
        let Self::Leaf { secret, unproven } = self else { return };
        let Some(leaf) = secret.leaf_mut() else { return };
        match (&*unproven, &leaf.issuer) {
            (Some(chain), _) => leaf.issuer = cas.issuer(chain),
            (None, Some(known)) if cas.preferred(known) != known => leaf.issuer = Some(cas.preferred(known).to_owned()),
            (None, _) => return,
        }
        if leaf.issuer.is_some() {
            *unproven = None;
        }
    }
}

/// Parses a Secret and wipes it. Rings are identified by namespace and name, whatever their labels are.
pub(crate) fn read_secret(mut secret: Secret, operator_namespace: &str, cas: &KnownCas) -> SecretFacts {
    let name = secret.metadata.name.clone().unwrap_or_default();
    let ring = ring_of(secret.metadata.namespace.as_deref() == Some(operator_namespace), &name);
    let data = secret.data.take().unwrap_or_default();
    let facts = secret_facts(&secret, &data);
    let mac = data.get(key::EPOCH_MAC_KEY).and_then(|value| EpochKey::read(&value.0));
    let read = if let Some((RingKind::Ca, copy)) = ring {
        SecretFacts::CaRing { ring: read_ca_ring(&data, copy), facts: Box::new(facts), copy, mac }
    } else if let Some((RingKind::SigningKeys, copy)) = ring {
        SecretFacts::SigningRing { ring: read_signing_ring(&data, copy), facts: Box::new(facts), mac }
    } else if name.ends_with("-token-signer") && !data.contains_key(key::TLS_CERT) {
        SecretFacts::Signer(Box::new(SignerSecret { kid: signer_kid(&data), facts }))
    } else {
        let (leaf, chain) = read_leaf(&data, cas).map_or((None, None), |(leaf, chain)| (Some(leaf), Some(chain)));
        let proven = leaf.as_ref().is_none_or(|leaf| leaf.issuer.is_some());
        let secret = PackedLeaf::pack(LeafSecret { facts, leaf });
        SecretFacts::Leaf { secret, unproven: chain.filter(|_| !proven).map(Arc::from) }
    };
    for mut value in data.into_values() {
        value.0.zeroize();
    }
    read
}

/// A Secret of which only the metadata can be parsed. A ring is identified by its name.
pub(crate) fn unreadable_secret(
    (namespace, name): &(String, String),
    facts: ObjectFacts,
    operator_namespace: &str,
    fault: &Fault,
) -> SecretFacts {
    let (facts, why) = (Box::new(facts), fault.to_string());
    match ring_of(namespace == operator_namespace, name) {
        Some((RingKind::Ca, copy)) => SecretFacts::CaRing { facts, ring: Err(RingError::Secret(why)), copy, mac: None },
        Some((RingKind::SigningKeys, _)) => {
            SecretFacts::SigningRing { facts, ring: Err(RingError::Secret(why)), mac: None }
        }
        None => SecretFacts::Unreadable { facts, why },
    }
}

/// Which ring a Secret holds by its name, and whether it is the copy.
fn ring_of(in_operator_namespace: bool, name: &str) -> Option<(RingKind, bool)> {
    let base = name.strip_suffix("-previous");
    let ring_name = base.unwrap_or(name);
    let kind = if ring_name.ends_with("-ca-ring") {
        RingKind::Ca
    } else if ring_name.ends_with("-signing-ring") {
        RingKind::SigningKeys
    } else {
        return None;
    };
    in_operator_namespace.then_some((kind, base.is_some()))
}

/// The ledger in a ConfigMap that should hold one; none: it is another one, or cannot be read.
pub(crate) fn ledger_record(map: &ConfigMap) -> Option<LedgerRecord> {
    let text = map.data.as_ref()?.get(key::LEDGER)?;
    gaia_api::mount::read(key::LEDGER, text.as_bytes()).ok()
}

pub(crate) fn config_map_facts(map: &ConfigMap) -> ObjectFacts {
    let mut data: BTreeMap<String, String> =
        map.data.iter().flatten().map(|(key, value)| (key.clone(), sha256_hex(value.as_bytes()))).collect();
    let binary = map.binary_data.iter().flatten();
    data.extend(binary.map(|(key, value)| (key.clone(), sha256_hex(&value.0))));
    ObjectFacts { data, immutable: map.immutable.unwrap_or(false), ..metadata_facts(&map.metadata) }
}

/// Labels, annotations, owners and the state.
pub(crate) fn metadata_facts(meta: &ObjectMeta) -> ObjectFacts {
    let owners = meta.owner_references.iter().flatten();
    ObjectFacts {
        uid: meta.uid.clone().unwrap_or_default(),
        resource_version: meta.resource_version.clone().unwrap_or_default(),
        is_deleting: meta.deletion_timestamp.is_some(),
        labels: meta.labels.clone().unwrap_or_default(),
        annotations: meta.annotations.clone().unwrap_or_default(),
        owners: owners
            .filter(|owner| owner.api_version.starts_with("gaia.dev/"))
            .map(|owner| OwnerRef { kind: owner.kind.clone(), name: owner.name.clone(), uid: owner.uid.clone() })
            .collect(),
        ..ObjectFacts::default()
    }
}

fn secret_facts(secret: &Secret, data: &BTreeMap<String, ByteString>) -> ObjectFacts {
    ObjectFacts {
        // The hash of a private key has no use, and so is not kept.
        data: data
            .iter()
            .filter(|(name, _)| !is_private(name))
            .map(|(name, value)| (name.clone(), sha256_hex(&value.0)))
            .collect(),
        immutable: secret.immutable.unwrap_or(false),
        type_: secret.type_.clone(),
        ..metadata_facts(&secret.metadata)
    }
}

fn is_private(name: &str) -> bool {
    name.ends_with(".key")
}

fn read_leaf(data: &BTreeMap<String, ByteString>, cas: &KnownCas) -> Option<(LeafFacts, Vec<Certificate>)> {
    let chain = Certificate::chain_from_pem(&data.get(key::TLS_CERT)?.0).ok()?;
    let certificate = chain.first()?;
    let private = PrivateKey::from_pem(std::str::from_utf8(&data.get(key::TLS_KEY)?.0).ok()?).ok()?;
    let facts = LeafFacts {
        fingerprint: certificate.fingerprint(),
        serial: certificate.serial(),
        not_before: certificate.not_before(),
        not_after: certificate.not_after(),
        key_matches: key_matches(certificate, &private),
        issuer: cas.issuer(&chain),
        ambiguous_names: ambiguous(certificate.dns_names()),
        names_hash: names_hash(
            certificate.uris().iter().map(String::as_str),
            certificate.dns_names().iter().map(String::as_str),
            certificate.ip_addresses(),
        ),
    };
    Some((facts, chain))
}

fn ambiguous(names: &[String]) -> Vec<String> {
    names.iter().filter(|name| gaia_plan::rules::name_policy::other_meaning(name).is_some()).cloned().collect()
}

fn read_ca_ring(data: &BTreeMap<String, ByteString>, copy: bool) -> Result<CaRing, RingError> {
    let ring: CaRing = parse_ring(data)?;
    check_keys(&ring, data, copy, |generation, key| {
        let chain = Certificate::chain_from_pem(generation.material.chain.as_bytes()).ok();
        let first = chain.and_then(|chain| chain.into_iter().next());
        first.is_some_and(|first| first.fingerprint() == generation.material.fingerprint && key_matches(&first, key))
    })?;
    Ok(ring)
}

fn read_signing_ring(data: &BTreeMap<String, ByteString>, copy: bool) -> Result<SigningRing, RingError> {
    let ring: SigningRing = parse_ring(data)?;
    check_keys(&ring, data, copy, |generation, key| {
        let public = Jwk::from_public_key(&key.public_key(), generation.material.jwk.algorithm());
        public.is_ok_and(|jwk| jwk.kid() == generation.material.jwk.kid())
    })?;
    Ok(ring)
}

fn parse_ring<M: serde::de::DeserializeOwned + Material>(
    data: &BTreeMap<String, ByteString>,
) -> Result<Ring<M>, RingError> {
    let json = data.get(key::RING).ok_or(RingError::NoRing)?;
    Ring::parse(&json.0)
}

/// Every trusted generation must still have its key: it is active, or about to be. A copy has no compromised keys.
fn check_keys<M>(
    ring: &Ring<M>,
    data: &BTreeMap<String, ByteString>,
    copy: bool,
    fits: impl Fn(&Generation<M>, &PrivateKey) -> bool,
) -> Result<(), RingError> {
    for generation in ring.trusted().filter(|generation| !copy || generation.distrust.is_none()) {
        let pem = data.get(&generation.private_key_name()).and_then(|value| std::str::from_utf8(&value.0).ok());
        let key = pem.and_then(|pem| PrivateKey::from_pem(pem).ok());
        if !key.is_some_and(|key| fits(generation, &key)) {
            return Err(RingError::KeyMismatch(generation.id.clone()));
        }
    }
    Ok(())
}

/// The kid of the key in a signer Secret, computed from the key and not from its data key `kid`.
fn signer_kid(data: &BTreeMap<String, ByteString>) -> Option<String> {
    let pem = std::str::from_utf8(&data.get(key::JWT_SIGNING_KEY)?.0).ok()?;
    let private = PrivateKey::from_pem(pem).ok()?;
    let algorithm = if private.spec().is_rsa() { SigningAlgorithm::Rs256 } else { SigningAlgorithm::Es256 };
    Jwk::from_public_key(&private.public_key(), algorithm).ok().map(|jwk| jwk.kid().to_owned())
}
