//! The objects from which each service directory is written, as the volumes of a pod name them.

use std::collections::BTreeMap;

use gaia_api::crd::{GaiaService, ServiceCertificate, TrustDomain};
use gaia_api::names::{self, key};
use gaia_plan::object::{ObjectKey, ObjectKind};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde::de::DeserializeOwned;
use zeroize::{Zeroize as _, Zeroizing};

use super::TLS_PEM;
use super::files::Contents;
use crate::api_server::Resource;
use crate::api_server::object::{Reading, read as parse};
use crate::cache::Place;
use crate::directory::disk::error::DirectoryError;
use crate::directory::disk::objects::Objects;

/// The sources of one directory.
pub(crate) struct Sources {
    pub(crate) parts: Vec<Part>,
}

/// A key of an object, and its file.
pub(crate) struct Part {
    pub(crate) object: ObjectKey,
    key: &'static str,
    file: String,
    /// A directory without it is not written, as a pod would not start.
    is_required: bool,
}

/// The sources of all directories, by name: one a ServiceCertificate.
pub(super) fn all(objects: &Objects) -> Result<BTreeMap<String, Sources>, DirectoryError> {
    let mut sources = BTreeMap::new();
    for place in objects.places(Resource::CERTIFICATE)? {
        sources.extend(one(objects, &place)?.map(|found| (place.1.clone(), found)));
    }
    Ok(sources)
}

/// The sources of the directory of a ServiceCertificate; none: it does not exist, or its TrustDomain does not.
pub(super) fn one(objects: &Objects, place: &Place) -> Result<Option<Sources>, DirectoryError> {
    let Some(certificate) = typed::<ServiceCertificate>(objects, Resource::CERTIFICATE, place)? else {
        return Ok(None);
    };
    let service = typed::<GaiaService>(objects, Resource::SERVICE, place)?;
    let domain = (String::new(), certificate.spec.trust_domain_ref.name.clone());
    let Some(domain) = typed::<TrustDomain>(objects, Resource::TRUST_DOMAIN, &domain)? else { return Ok(None) };
    Ok(Some(of(&place.0, &place.1, &certificate, service.as_ref(), &domain)))
}

fn of(
    namespace: &str,
    name: &str,
    certificate: &ServiceCertificate,
    service: Option<&GaiaService>,
    domain: &TrustDomain,
) -> Sources {
    let td = domain.metadata.name.as_deref().unwrap_or_default();
    let secret = |name: &str| ObjectKey::secret(namespace, name.to_owned());
    let map = |name: String| ObjectKey::config_map(namespace, name);
    let part = |object: ObjectKey, key: &'static str| Part { object, key, file: key.to_owned(), is_required: true };
    let leaf = certificate.secret_name();
    let mut parts = vec![part(secret(&leaf), key::TLS_CERT), part(secret(&leaf), key::TLS_KEY)];
    for key in [key::CA_CERT, key::JWKS, key::JWT_SIGNING_PUB, key::DENYLIST] {
        parts.push(part(map(names::trust(td)), key));
    }
    if let Some(service) = service {
        parts.push(part(map(names::policy(name)), key::POLICY));
        if let Some(keys) = &service.spec.auth.api_keys_secret_ref {
            parts.push(Part { is_required: false, ..part(secret(&keys.name), key::API_KEYS) });
        }
        for issuer in &domain.spec.user_token_issuers {
            if let Some(reference) = &issuer.api_key_secret_ref {
                let file = names::issuer_key(&issuer.name);
                let object = secret(&reference.name);
                parts.push(Part { object, key: key::ISSUER_API_KEY, file, is_required: false });
            }
        }
    }
    let issuer = domain.spec.tokens.issued_by.as_ref();
    if service.is_some() && issuer.is_some_and(|issuer| issuer.namespace == namespace && issuer.name == name) {
        parts.push(part(secret(&names::token_signer(td)), key::JWT_SIGNING_KEY));
        parts.push(part(map(names::grants(td)), key::GRANTS));
    }
    Sources { parts }
}

/// The files of a directory; none while a required object is missing.
pub(super) fn read(sources: &Sources, objects: &Objects) -> Result<Option<Contents>, DirectoryError> {
    let mut known: BTreeMap<&ObjectKey, BTreeMap<String, Zeroizing<Vec<u8>>>> = BTreeMap::new();
    let mut contents = Contents::new();
    for part in &sources.parts {
        if !known.contains_key(&part.object) {
            known.insert(&part.object, data(objects, &part.object)?);
        }
        match known.get(&part.object).and_then(|data| data.get(part.key)) {
            Some(content) => drop(contents.insert(part.file.clone(), content.clone())),
            None if part.is_required => return Ok(None),
            None => {}
        }
    }
    if let (Some(chain), Some(private)) = (contents.get(key::TLS_CERT), contents.get(key::TLS_KEY)) {
        let both = Zeroizing::new([private.as_slice(), chain.as_slice()].concat());
        contents.insert(TLS_PEM.to_owned(), both);
    }
    Ok(Some(contents))
}

/// The content of a Secret or ConfigMap; empty: it does not exist.
fn data(objects: &Objects, object: &ObjectKey) -> Result<BTreeMap<String, Zeroizing<Vec<u8>>>, DirectoryError> {
    let place = (object.namespace.clone(), object.name.clone());
    if object.kind == ObjectKind::ConfigMap {
        let map = typed::<ConfigMap>(objects, Resource::CONFIG_MAP, &place)?;
        let data = map.and_then(|map| map.data).unwrap_or_default();
        return Ok(data.into_iter().map(|(name, text)| (name, Zeroizing::new(text.into_bytes()))).collect());
    }
    let secret = typed::<Secret>(objects, Resource::SECRET, &place)?;
    let data = secret.and_then(|secret| secret.data).unwrap_or_default();
    let mut texts = BTreeMap::new();
    for (name, mut value) in data {
        texts.insert(name, Zeroizing::new(std::mem::take(&mut value.0)));
        value.0.zeroize();
    }
    Ok(texts)
}

/// A stored object; none: it does not exist, or cannot be read.
fn typed<K: DeserializeOwned>(
    objects: &Objects,
    resource: Resource,
    place: &Place,
) -> Result<Option<K>, DirectoryError> {
    let Some(text) = objects.read(resource, place)? else { return Ok(None) };
    match parse::<K>(text) {
        Ok(Reading::Object(object)) => Ok(Some(object)),
        Ok(Reading::Unreadable(_)) | Err(_) => Ok(None),
    }
}
