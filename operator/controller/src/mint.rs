//! Making keys and certificates. Everything random comes from here; nothing is decided here.

use std::collections::BTreeMap;

use gaia_api::names::key;
use gaia_pki::{
    Ca, CaRequest, Certificate, Jwk, KeySpec, LeafRequest, PrivateKey, Serial, SigningAlgorithm, Validity, issue_leaf,
};
use gaia_plan::IssueLeaf;
use gaia_plan::ring::{CaMaterial, CaRing, FORMAT_VERSION, Generation, SigningMaterial, SigningRing, State, short_id};
use jiff::{SignedDuration, Timestamp};
use zeroize::Zeroizing;

use crate::error::ExecuteError;

/// Data keys of a Secret and their values; wiped when dropped.
pub(crate) type SecretData = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// The first generation of a CA ring: a new self-signed CA.
pub(crate) fn new_ca_ring(
    trust_domain: &str,
    key: KeySpec,
    life_seconds: u64,
    now: Timestamp,
) -> Result<SecretData, ExecuteError> {
    let private = PrivateKey::generate(key)?;
    let not_before = add_seconds(now, -BACKDATE_SECONDS)?;
    let life = i64::try_from(life_seconds).map_err(|_| ExecuteError::Internal("CA life".to_owned()))?;
    let not_after = add_seconds(now, life)?;
    // Generations must be told apart by name too: a verifier finds the issuer by it.
    let common_name = format!("Gaia CA {}", short_id(&private.public_key().fingerprint()));
    let ca = Ca::self_signed(
        &CaRequest {
            common_name: &common_name,
            trust_domain,
            serial: random_serial()?,
            validity: Validity { not_before, not_after },
        },
        private,
    )?;
    ca_ring(trust_domain, &ca, false, now)
}

/// The first generation of a CA ring: a CA brought from outside.
pub(crate) fn brought_ca_ring(trust_domain: &str, ca: &Ca, now: Timestamp) -> Result<SecretData, ExecuteError> {
    ca_ring(trust_domain, ca, true, now)
}

fn ca_ring(trust_domain: &str, ca: &Ca, brought: bool, now: Timestamp) -> Result<SecretData, ExecuteError> {
    let fingerprint = ca.certificate().fingerprint();
    let chain: String = if ca.chain().is_empty() {
        ca.certificate().to_pem()
    } else {
        ca.chain().iter().map(Certificate::to_pem).collect()
    };
    let generation = Generation {
        id: short_id(&fingerprint),
        state: State::Active,
        since: gaia_api::crd::whole_seconds(now),
        published_time: None,
        switched_time: None,
        material: CaMaterial {
            fingerprint,
            not_after: ca.not_after(),
            not_before: ca.not_before(),
            chain,
            root: ca.root().to_pem(),
            key: ca.key().spec(),
            brought,
        },
    };
    let key_name = generation.private_key_name();
    let ring = CaRing {
        format_version: FORMAT_VERSION,
        trust_domain: trust_domain.to_owned(),
        epoch: 1,
        max_ttl_high_water_seconds: None,
        generations: vec![generation],
    };
    Ok(BTreeMap::from([
        (key::RING.to_owned(), json(&ring)?),
        (key_name, Zeroizing::new(ca.key().to_pem().as_bytes().to_vec())),
    ]))
}

/// The first generations of a signing ring: the active key, and the next one, so that it is in the JWKS long before it
/// is used.
pub(crate) fn new_signing_ring(
    trust_domain: &str,
    key: KeySpec,
    max_ttl_seconds: u64,
    now: Timestamp,
) -> Result<SecretData, ExecuteError> {
    let mut data = SecretData::new();
    let mut generations = vec![];
    for state in [State::Active, State::Staged] {
        let private = PrivateKey::generate(key)?;
        let algorithm = if key.is_rsa() { SigningAlgorithm::Rs256 } else { SigningAlgorithm::Es256 };
        let jwk = Jwk::from_public_key(&private.public_key(), algorithm)?;
        let generation = Generation {
            id: short_id(jwk.kid()),
            state,
            since: gaia_api::crd::whole_seconds(now),
            published_time: None,
            switched_time: None,
            material: SigningMaterial { jwk, public_key: private.public_key().to_pem() },
        };
        data.insert(generation.private_key_name(), Zeroizing::new(private.to_pem().as_bytes().to_vec()));
        generations.push(generation);
    }
    let ring = SigningRing {
        format_version: FORMAT_VERSION,
        trust_domain: trust_domain.to_owned(),
        epoch: 1,
        max_ttl_high_water_seconds: Some(max_ttl_seconds),
        generations,
    };
    data.insert(key::RING.to_owned(), json(&ring)?);
    Ok(data)
}

/// A new key and a certificate for it.
pub(crate) fn leaf(ca: &Ca, request: &IssueLeaf) -> Result<SecretData, ExecuteError> {
    let private = PrivateKey::generate(request.key)?;
    let leaf = issue_leaf(
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

/// How far before now a new CA begins, for clocks that are behind.
const BACKDATE_SECONDS: i64 = 300;
