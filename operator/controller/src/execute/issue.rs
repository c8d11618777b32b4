//! Generates keys and certificates. All randomness comes from here; no decision is made here.

use std::collections::BTreeMap;

use gaia_api::SpiffeId;
use gaia_api::names::key;
use gaia_pki::{
    Ca, CaRequest, Certificate, Jwk, KeySpec, LeafRequest, PrivateKey, Serial, SigningAlgorithm, Usage, Validity,
    issue_leaf, issue_leaf_to,
};
use gaia_plan::IssueLeaf;
use gaia_plan::keyring::handled::Handled;
use gaia_plan::keyring::ring::{
    CaMaterial, CaPath, FORMAT_VERSION, Generation, Material, Ring, RingRequest, SigningMaterial, State, short_id,
};
use gaia_plan::trust_domain::ExternalCa;
use jiff::{SignedDuration, Timestamp};
use zeroize::Zeroizing;

use crate::store::error::ExecuteError;

/// Data keys of a Secret and their values; wiped when dropped.
pub(crate) type SecretData = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// The material of a generation: its public part, and its private key (PEM).
pub(crate) struct Made<M> {
    pub(crate) material: M,
    pub(crate) private: Zeroizing<Vec<u8>>,
}

/// A new self-signed CA.
pub(crate) fn new_ca(
    trust_domain: &str,
    key: KeySpec,
    life_seconds: u64,
    now: Timestamp,
) -> Result<Made<CaMaterial>, ExecuteError> {
    let private = PrivateKey::generate(key)?;
    let not_before = add_seconds(now, -BACKDATE_SECONDS)?;
    let life = i64::try_from(life_seconds).map_err(|_| ExecuteError::Internal("CA life".to_owned()))?;
    let not_after = add_seconds(now, life)?;
    // Generations must have distinct names: a verifier finds the issuer by its name. A certificate cannot hold its own
    // hash, so the id is that of its key, which is new for each CA (docs/adr/0014).
    let id = short_id(&private.public_key().fingerprint());
    let common_name = format!("Gaia CA {id}");
    let ca = Ca::self_signed(
        &CaRequest {
            common_name: &common_name,
            trust_domain,
            serial: random_serial()?,
            validity: Validity { not_before, not_after },
        },
        private,
    )?;
    let mut made = made_ca(&ca, false);
    made.material.subject_id = Some(id);
    Ok(made)
}

/// The material of a bring-your-own CA.
pub(crate) fn external_ca(ca: &Ca) -> Made<CaMaterial> {
    made_ca(ca, true)
}

/// The material of an adopted CA: rotations replace it as one that the operator generated.
pub(crate) fn adopted_ca(ca: &Ca) -> Made<CaMaterial> {
    made_ca(ca, false)
}

fn made_ca(ca: &Ca, is_external: bool) -> Made<CaMaterial> {
    let fingerprint = ca.certificate().fingerprint();
    let chain: String = if ca.chain().is_empty() {
        ca.certificate().to_pem()
    } else {
        ca.chain().iter().map(Certificate::to_pem).collect()
    };
    let root = ca.root().fingerprint();
    let material = CaMaterial {
        root_fingerprint: (root != fingerprint).then_some(root),
        fingerprint,
        not_after: ca.not_after(),
        not_before: ca.not_before(),
        chain,
        root: ca.root().to_pem(),
        subject_id: None,
        key: ca.key().spec(),
        is_external,
        path: CaPath::of(ca.path()),
    };
    Made { material, private: Zeroizing::new(ca.key().to_pem().as_bytes().to_vec()) }
}

/// A new signing key.
pub(crate) fn new_signing_key(key: KeySpec) -> Result<Made<SigningMaterial>, ExecuteError> {
    existing_signing_key(&PrivateKey::generate(key)?)
}

/// The material of a signing key.
pub(crate) fn existing_signing_key(private: &PrivateKey) -> Result<Made<SigningMaterial>, ExecuteError> {
    let algorithm = if private.spec().is_rsa() { SigningAlgorithm::Rs256 } else { SigningAlgorithm::Es256 };
    let jwk = Jwk::from_public_key(&private.public_key(), algorithm)?;
    Ok(Made {
        material: SigningMaterial { jwk, public_key: private.public_key().to_pem() },
        private: Zeroizing::new(private.to_pem().as_bytes().to_vec()),
    })
}

/// Checks a bring-your-own CA before it is used. It signs a trial certificate for the operator's own identity: a fault
/// for which peers refuse that one applies to every other one.
pub(crate) fn examine(ca: &Ca, trust_domain: &str, now: Timestamp) -> ExternalCa {
    let tried = || operator_leaf(ca, trust_domain, now).map(drop).map_err(|error| error.to_string());
    let (refused, not_strict) = match ca.check_peers() {
        Err(error) => (Some(error.to_string()), vec![]),
        Ok(not_strict) => (tried().err(), not_strict),
    };
    ExternalCa {
        fingerprint: ca.certificate().fingerprint(),
        not_before: ca.not_before(),
        not_after: ca.not_after(),
        path: CaPath::of(ca.path()),
        refused,
        not_strict,
    }
}

/// A client certificate of the operator itself, for probes of instances. It is kept in memory only.
pub(crate) fn operator_leaf(
    ca: &Ca,
    trust_domain: &str,
    now: Timestamp,
) -> Result<(Vec<u8>, PrivateKey), ExecuteError> {
    let private = PrivateKey::generate(KeySpec::Ecdsa256)?;
    let id = SpiffeId::operator(trust_domain);
    let not_after = add_seconds(now, OPERATOR_LEAF_SECONDS)?.min(ca.not_after());
    let not_before = add_seconds(now, -BACKDATE_SECONDS)?.max(ca.not_before());
    let leaf = issue_leaf(
        ca,
        &LeafRequest {
            spiffe_id: id.as_str(),
            dns_names: &[],
            ip_addresses: &[],
            usages: &[Usage::ClientAuth],
            serial: random_serial()?,
            validity: Validity { not_before, not_after },
        },
        &private,
    )?;
    Ok((leaf.chain_pem.into_bytes(), private))
}

/// The fields of a new ring that do not depend on its keys.
pub(crate) struct RingStart {
    spiffe_trust_domain: String,
    epoch: u64,
    revision: i64,
    handled: Handled,
}

impl RingStart {
    /// A ring that is the first of its trust domain.
    pub(crate) fn new(spiffe_trust_domain: &str, revision: i64) -> Self {
        Self { spiffe_trust_domain: spiffe_trust_domain.to_owned(), epoch: 1, revision, handled: Handled::default() }
    }
}

impl From<&RingRequest> for RingStart {
    fn from(request: &RingRequest) -> Self {
        Self {
            spiffe_trust_domain: request.spiffe_trust_domain.clone(),
            epoch: request.epoch,
            revision: request.revision,
            handled: request.handled.clone(),
        }
    }
}

/// A ring's first state. The first generation signs; another one is staged.
pub(crate) fn first_ring<M: Material + Clone + serde::Serialize>(
    start: RingStart,
    made: Vec<Made<M>>,
    max_ttl_seconds: Option<u64>,
    now: Timestamp,
) -> Result<SecretData, ExecuteError> {
    let mut keys = SecretData::from([(key::EPOCH_MAC_KEY.to_owned(), crate::store::epoch_key::generate()?)]);
    let mut generations = vec![];
    for (index, Made { material, private }) in made.into_iter().enumerate() {
        let state = if index == 0 { State::Active } else { State::Staged };
        let generation = Generation::new(material.id(), state, now, material);
        keys.insert(generation.private_key_name(), private);
        generations.push(generation);
    }
    let ring = Ring {
        format_version: FORMAT_VERSION,
        trust_domain: start.spiffe_trust_domain,
        epoch: start.epoch,
        max_ttl_high_water_seconds: max_ttl_seconds,
        revision: start.revision,
        handled_distrust: None,
        restored_from: None,
        handled: start.handled,
        generations,
    };
    ring_data(&ring, &keys)
}

/// The content of a ring's Secret: the document, the key for its epochs' MACs, and the keys of generations that are
/// trusted and not compromised.
pub(crate) fn ring_data<M: serde::Serialize>(ring: &Ring<M>, keys: &SecretData) -> Result<SecretData, ExecuteError> {
    let mut data = SecretData::from([(key::RING.to_owned(), json(ring)?)]);
    let epoch_key = keys.get(key::EPOCH_MAC_KEY).map(|value| (key::EPOCH_MAC_KEY.to_owned(), value.clone()));
    data.extend(epoch_key);
    for generation in ring.trusted() {
        let name = generation.private_key_name();
        if let Some(private) = keys.get(&name) {
            data.insert(name, private.clone());
        }
    }
    Ok(data)
}

/// A ring's copy: without the keys of what leaked.
pub(crate) fn copy_data<M: serde::Serialize>(copy: &Ring<M>, keys: &SecretData) -> Result<SecretData, ExecuteError> {
    let mut data = ring_data(copy, keys)?;
    for generation in copy.generations.iter().filter(|generation| generation.distrust.is_some()) {
        data.remove(&generation.private_key_name());
    }
    Ok(data)
}

/// A new key and a certificate for it.
pub(crate) fn leaf(ca: &Ca, request: &IssueLeaf) -> Result<SecretData, ExecuteError> {
    let private = PrivateKey::generate(request.key)?;
    let leaf = issue_leaf_to(
        request.common_name.as_deref(),
        ca,
        &LeafRequest {
            spiffe_id: &request.spiffe_id,
            dns_names: &request.dns_names,
            ip_addresses: &request.ip_addresses,
            usages: &request.usages,
            serial: random_serial()?,
            validity: Validity { not_before: request.not_before, not_after: request.not_after },
        },
        &private,
    )?;
    Ok(BTreeMap::from([
        (key::TLS_CERT.to_owned(), Zeroizing::new(leaf.chain_pem.into_bytes())),
        (key::TLS_KEY.to_owned(), Zeroizing::new(private.to_pem().as_bytes().to_vec())),
    ]))
}

fn random_serial() -> Result<Serial, ExecuteError> {
    let mut bits = [0; 16];
    #[expect(clippy::disallowed_methods, reason = "this is the edge where serials are drawn")]
    aws_lc_rs::rand::fill(&mut bits).map_err(|_| ExecuteError::Entropy)?;
    Ok(Serial::from_random(bits))
}

fn add_seconds(time: Timestamp, seconds: i64) -> Result<Timestamp, ExecuteError> {
    let moved = gaia_api::crd::whole_seconds(time).checked_add(SignedDuration::from_secs(seconds));
    moved.map_err(|error| ExecuteError::Internal(error.to_string()))
}

fn json(value: &impl serde::Serialize) -> Result<Zeroizing<Vec<u8>>, ExecuteError> {
    serde_json::to_vec(value).map(Zeroizing::new).map_err(|error| ExecuteError::Internal(error.to_string()))
}

/// The time by which a new CA's notBefore precedes its creation, for clocks that are slow.
const BACKDATE_SECONDS: i64 = 300;
/// The validity of the operator's own certificates.
const OPERATOR_LEAF_SECONDS: i64 = 3600;
