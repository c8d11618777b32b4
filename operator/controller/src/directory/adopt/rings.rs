//! The rings of an adopted tree.
//!
//! They are as the planner's bootstrap has them created, with the adopted keys in place of generated ones: the first
//! generation is Active, the next signing key is Staged. From here on the ordinary rules apply.

use gaia_api::Clock;
use gaia_api::crd::TrustDomain;
use gaia_api::names::{self, MANAGED_BY, MANAGED_BY_LABEL, key};
use gaia_plan::keyring::ring::{CaMaterial, Material, Ring, SigningMaterial};
use gaia_plan::projection;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;

use super::record::Record;
use super::tree::OldTree;
use crate::api_server::Resource;
use crate::cache::Place;
use crate::directory::disk::error::DirectoryError;
use crate::directory::disk::objects::{Objects, WriteError, wipe};
use crate::directory::engine::RINGS_NAMESPACE;
use crate::execute::issue::{self, RingStart, SecretData};
use crate::store::error::ExecuteError;

/// Creates the rings. Those of an interrupted adoption are kept.
pub(super) fn create(
    objects: &mut Objects,
    tree: &OldTree,
    domain: &TrustDomain,
    clock: &dyn Clock,
) -> Result<(), DirectoryError> {
    let (spec, record, now) = (&domain.spec, Record::of(tree), clock.now());
    let start = |revision| RingStart::new(&spec.trust_domain, revision);
    let name = domain.metadata.name.as_deref().unwrap_or_default();
    if let (Some(signing), Some(kid)) = (&tree.signing_key, &record.kid) {
        let max_ttl = spec.tokens.max_ttl.value().as_secs();
        let keys = issue::existing_signing_key(&signing.key)
            .and_then(|adopted| Ok(vec![adopted, issue::new_signing_key(signing.key.spec())?]));
        let data =
            keys.and_then(|keys| issue::first_ring(start(spec.tokens.rotation_revision), keys, Some(max_ttl), now));
        let ring = (names::signing_ring(name), projection::labels(name, "signing-ring"));
        create_one::<SigningMaterial>(objects, ring, data, kid, clock)?;
    }
    let data = issue::first_ring(start(spec.ca.rotation_revision), vec![issue::adopted_ca(&tree.ca)], None, now);
    let ring = (names::ca_ring(name), projection::labels(name, "ca-ring"));
    create_one::<CaMaterial>(objects, ring, data, &record.ca, clock)
}

fn create_one<M: Material + DeserializeOwned>(
    objects: &mut Objects,
    (name, mut labels): (String, std::collections::BTreeMap<String, String>),
    data: Result<SecretData, ExecuteError>,
    adopted: &str,
    clock: &dyn Clock,
) -> Result<(), DirectoryError> {
    let place = (RINGS_NAMESPACE.to_owned(), name);
    let path = objects.path(Resource::SECRET, &place);
    let failed = |why: String| DirectoryError::hazard(&path, why, "run the command again");
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    let data = data.map_err(|error| failed(error.to_string()))?;
    let mut secret = Secret {
        metadata: ObjectMeta { labels: Some(labels), ..ObjectMeta::default() },
        type_: Some("Opaque".to_owned()),
        data: Some(data.into_iter().map(|(name, value)| (name, ByteString(value.to_vec()))).collect()),
        ..Secret::default()
    };
    let value = serde_json::to_value(&secret);
    for value in secret.data.iter_mut().flat_map(|data| data.values_mut()) {
        zeroize::Zeroize::zeroize(&mut value.0);
    }
    match objects.create(Resource::SECRET, &place, value.map_err(|error| failed(error.to_string()))?, clock) {
        Ok(_) => Ok(()),
        Err(WriteError::Exists) => {
            let ring = read::<M>(objects, &place)?;
            if ring.is_some_and(|ring| ring.generations.iter().any(|known| known.material.name() == adopted)) {
                return Ok(());
            }
            Err(DirectoryError::hazard(&path, "it is a ring of other keys", "name another directory with --dir"))
        }
        Err(WriteError::Directory(error)) => Err(error),
        Err(WriteError::Missing | WriteError::Conflict) => Err(failed("another process changed it".to_owned())),
    }
}

/// The adopted keys that a ring still trusts, by their files: until they are replaced, what they sign is accepted.
pub(super) fn trusted(
    objects: &Objects,
    domain: &str,
    record: &Record,
) -> Result<Vec<(String, String)>, DirectoryError> {
    let place = |name: String| (RINGS_NAMESPACE.to_owned(), name);
    let ca = read::<CaMaterial>(objects, &place(names::ca_ring(domain)))?;
    let ca = ca.and_then(|ring| {
        let found = ring.generations.iter().find(|known| known.material.fingerprint == record.ca)?;
        Some(found.state)
    });
    let signing = read::<SigningMaterial>(objects, &place(names::signing_ring(domain)))?;
    let signing = signing.and_then(|ring| {
        let found = ring.generations.iter().find(|known| Some(known.material.name()) == record.kid.as_deref())?;
        Some(found.state)
    });
    let files = [(record.ca_key_file.as_str(), ca), (super::tree::SIGNING_KEY, signing)];
    let trusted = files.into_iter().filter_map(|(file, state)| Some((file, state.filter(|state| state.is_trusted())?)));
    Ok(trusted.map(|(file, state)| (file.to_owned(), state.as_str().to_owned())).collect())
}

/// The public part of a ring; none: it does not exist.
fn read<M: Material + DeserializeOwned>(objects: &Objects, place: &Place) -> Result<Option<Ring<M>>, DirectoryError> {
    let Some(mut secret) = objects.value(Resource::SECRET, place)? else { return Ok(None) };
    let json = serde_json::from_value::<ByteString>(secret["data"][key::RING].clone());
    wipe(&mut secret);
    let unreadable = |why: String| DirectoryError::Unreadable { path: objects.path(Resource::SECRET, place), why };
    let json = json.map_err(|_| unreadable(format!("it has no {}", key::RING)))?;
    Ring::parse(&json.0).map(Some).map_err(|error| unreadable(error.to_string()))
}
