//! Rings: created once, replaced as a whole after they were copied, restored from the copy.

use gaia_api::names::{self, COMPONENT_LABEL, MANAGED_BY, MANAGED_BY_LABEL, TRUST_DOMAIN_LABEL, key};
use gaia_pki::Ca;
use gaia_plan::keyring::ring::{CaMaterial, Material, MaterialRequest, Ring, RingKind, RingRequest, SigningMaterial};
use gaia_plan::keyring::transition::{Restore, Step, Transition};
use gaia_plan::object::{ObjectKey, Version};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Executor, Outcome, in_background, wiped};
use crate::cache::lock;
use crate::execute::issue::{self, Made, SecretData};
use crate::store::error::{ExecuteError, StoreError};
use crate::store::{Store, Stored};

/// A ring Secret, just read from the API server.
struct Found<M> {
    meta: ObjectMeta,
    ring: Ring<M>,
    data: SecretData,
}

impl<S: Store> Executor<S> {
    pub(super) async fn first_ring(&self, request: &RingRequest) -> Result<SecretData, ExecuteError> {
        let domain = &request.spiffe_trust_domain;
        let now = self.clock.now();
        match &request.material {
            material @ (MaterialRequest::NewCa { .. } | MaterialRequest::ExistingCa { .. }) => {
                let ca = self.make_ca(&request.trust_domain, domain, material, now).await?;
                issue::first_ring(request.into(), vec![ca], None, now)
            }
            MaterialRequest::SigningKeys { key, max_ttl_seconds } => {
                let keys = vec![self.make_key(*key).await?, self.make_key(*key).await?];
                issue::first_ring(request.into(), keys, Some(*max_ttl_seconds), now)
            }
            MaterialRequest::SigningKey { key } => {
                issue::first_ring(request.into(), vec![self.make_key(*key).await?], None, now)
            }
        }
    }

    async fn make_ca(
        &self,
        trust_domain: &str,
        spiffe_trust_domain: &str,
        request: &MaterialRequest,
        now: Timestamp,
    ) -> Result<Made<CaMaterial>, ExecuteError> {
        match request {
            MaterialRequest::NewCa { key, life_seconds } => {
                let (domain, key, life) = (spiffe_trust_domain.to_owned(), *key, *life_seconds);
                in_background(move || issue::new_ca(&domain, key, life, now)).await
            }
            MaterialRequest::ExistingCa { secret, fingerprint } => {
                let ca: Ca = self.read_external_ca(secret, now).await?.map_err(|why| self.ring_error(secret, &why))?;
                if ca.certificate().fingerprint() != *fingerprint {
                    return Err(ExecuteError::SignerChanged { what: "CA", trust_domain: trust_domain.to_owned() });
                }
                Ok(issue::external_ca(&ca))
            }
            other => Err(ExecuteError::Internal(format!("a CA cannot be generated from a {other}"))),
        }
    }

    async fn make_key(&self, key: gaia_pki::KeySpec) -> Result<Made<SigningMaterial>, ExecuteError> {
        in_background(move || issue::new_signing_key(key)).await
    }

    /// One transition: the copy, then the ring by PUT with the state it was planned on.
    pub(super) async fn transition(&self, transition: &Transition) -> Result<Outcome, ExecuteError> {
        let now = self.clock.now();
        match transition.kind {
            RingKind::Ca => {
                let mut made = vec![];
                for material in transition.steps.iter().filter_map(Step::material) {
                    let domain = &transition.spiffe_trust_domain;
                    made.push(self.make_ca(&transition.trust_domain, domain, material, now).await?);
                }
                self.replace_ring(transition, made, now).await
            }
            RingKind::SigningKeys => {
                let mut made = vec![];
                for material in transition.steps.iter().filter_map(Step::material) {
                    let MaterialRequest::SigningKey { key } = material else {
                        return Err(ExecuteError::Internal(format!(
                            "a signing key cannot be generated from a \
                                                                   {material}"
                        )));
                    };
                    made.push(self.make_key(*key).await?);
                }
                self.replace_ring(transition, made, now).await
            }
        }
    }

    async fn replace_ring<M>(
        &self,
        transition: &Transition,
        made: Vec<Made<M>>,
        now: Timestamp,
    ) -> Result<Outcome, ExecuteError>
    where
        M: Material + Clone + Serialize + DeserializeOwned,
    {
        let Some(found) = self.find_ring::<M>(&transition.key).await? else {
            return self.refresh(&transition.key).await;
        };
        if version(&found.meta) != transition.on {
            return self.refresh(&transition.key).await;
        }
        let mut keys = found.data;
        let mut materials = vec![];
        for Made { material, private } in made {
            keys.insert(format!("{}.key", material.id()), private);
            materials.push(material);
        }
        let copied_keys = keys.clone();
        if transition.steps.contains(&Step::AddEpochKey) {
            keys.insert(key::EPOCH_MAC_KEY.to_owned(), crate::store::epoch_key::generate()?);
        }
        let after = found.ring.after(&transition.steps, materials, now);
        let after = after.map_err(|error| self.ring_error(&transition.key.name, &error.to_string()))?;
        let mut affected = std::collections::BTreeSet::new();
        if !transition.steps.iter().all(Step::only_records) {
            let copy = found.ring.copy_before(&after);
            match self.copy_ring(transition, issue::copy_data(&copy, &copied_keys)?).await? {
                Outcome::Done(copied) => affected = copied,
                other => return Ok(other),
            }
        }
        let stored = ring_secret(found.meta, issue::ring_data(&after, &keys)?);
        self.signers.forget(&transition.trust_domain);
        match self.store.replace(stored, &transition.on).await {
            Ok(object) => {
                affected.extend(lock(&self.world).take_stored(object));
                Ok(Outcome::Done(affected))
            }
            Err(StoreError::Conflict { .. } | StoreError::NotFound { .. }) => self.refresh(&transition.key).await,
            Err(error) => Err(error.into()),
        }
    }

    /// Copies the ring before the transition to `…-previous`, and replaces the copy there. If it is there already, an
    /// earlier attempt stopped after it.
    async fn copy_ring(&self, transition: &Transition, data: SecretData) -> Result<Outcome, ExecuteError> {
        let copy = ObjectKey::secret(&transition.key.namespace, names::previous(&transition.key.name));
        let component = match transition.kind {
            RingKind::Ca => "ca-ring-previous",
            RingKind::SigningKeys => "signing-ring-previous",
        };
        let labels = [
            (MANAGED_BY_LABEL, MANAGED_BY),
            (TRUST_DOMAIN_LABEL, transition.trust_domain.as_str()),
            (COMPONENT_LABEL, component),
        ];
        let meta = ObjectMeta {
            name: Some(copy.name.clone()),
            namespace: Some(copy.namespace.clone()),
            labels: Some(labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
            ..ObjectMeta::default()
        };
        if data.get(key::RING).is_some_and(|json| lock(&self.world).is_copied(&copy, json)) {
            return Ok(Outcome::Done(std::collections::BTreeSet::new()));
        }
        let known = lock(&self.world).version(&copy);
        let copied = match known {
            Some(on) => {
                // What others have put on the copy stays.
                let found = self.store.get_metadata(&copy).await?.unwrap_or_default();
                let mut labels = found.labels.unwrap_or_default();
                labels.extend(meta.labels.clone().unwrap_or_default());
                let (annotations, owner_references) = (found.annotations, found.owner_references);
                let meta = ObjectMeta { labels: Some(labels), annotations, owner_references, ..meta };
                self.store.replace(ring_secret(meta, data), &on).await
            }
            None => {
                let mut secret = ring_secret(meta, data);
                secret.type_ = Some("Opaque".to_owned());
                self.store.create(Stored::Secret(secret)).await
            }
        };
        match copied {
            Ok(object) => Ok(Outcome::Done(lock(&self.world).take_stored(object))),
            Err(StoreError::AlreadyExists { .. } | StoreError::Conflict { .. } | StoreError::NotFound { .. }) => {
                self.refresh(&copy).await
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn restore(&self, restore: &Restore) -> Result<Outcome, ExecuteError> {
        match restore.kind {
            RingKind::Ca => self.restore_ring::<CaMaterial>(restore).await,
            RingKind::SigningKeys => self.restore_ring::<SigningMaterial>(restore).await,
        }
    }

    /// Restores a ring from its copy. The copy is not changed: it is the only one.
    async fn restore_ring<M>(&self, restore: &Restore) -> Result<Outcome, ExecuteError>
    where
        M: Material + Clone + Serialize + DeserializeOwned,
    {
        let key = &restore.object.key;
        let copy_key = ObjectKey::secret(&key.namespace, names::previous(&key.name));
        let Some(copy) = self.find_ring::<M>(&copy_key).await? else {
            return Err(self.ring_error(&copy_key.name, "it does not exist"));
        };
        if copy.ring.epoch != restore.epoch {
            return self.refresh(&copy_key).await;
        }
        let (meta, current, mut keys) = self.current_ring::<M>(key).await?;
        if meta.as_ref().map(version) != restore.object.on {
            return self.refresh(key).await;
        }
        let restored = copy.ring.restored(current.as_ref(), restore.new_epoch, self.clock.now());
        let mut restored = restored.map_err(|error| self.ring_error(&copy_key.name, &error.to_string()))?;
        restored.handled = restored.handled.merged(&restore.handled);
        // Projections carry MACs by the key of the ring in force, if there is one.
        let epoch_key = keys.remove_entry(key::EPOCH_MAC_KEY);
        keys.extend(copy.data);
        keys.extend(epoch_key);
        let data = issue::ring_data(&restored, &keys)?;
        if let Some(missing) = restored.trusted().find(|generation| !data.contains_key(&generation.private_key_name()))
        {
            let why = format!("the private key of generation {} is missing", missing.id);
            return Err(self.ring_error(&copy_key.name, &why));
        }
        self.signers.forget(&restore.trust_domain);
        let made = match (meta, &restore.object.on) {
            (Some(meta), Some(on)) => self.store.replace(ring_secret(meta, data), on).await,
            _ => self.store.create(super::new_object(&restore.object, data)).await,
        };
        match made {
            Ok(object) => Ok(Outcome::Done(lock(&self.world).take_stored(object))),
            Err(StoreError::AlreadyExists { .. } | StoreError::Conflict { .. } | StoreError::NotFound { .. }) => {
                self.refresh(key).await
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The ring that is there, as far as it can be read.
    async fn current_ring<M: DeserializeOwned + Material>(
        &self,
        key: &ObjectKey,
    ) -> Result<(Option<ObjectMeta>, Option<Ring<M>>, SecretData), ExecuteError> {
        let Some(Stored::Secret(secret)) = self.store.get(key).await? else {
            return Ok((None, None, SecretData::new()));
        };
        let meta = secret.metadata.clone();
        let data = wiped(secret);
        let ring = data.get(key::RING).and_then(|json| Ring::parse(json).ok());
        Ok((Some(meta), ring, data))
    }

    async fn find_ring<M: DeserializeOwned + Material>(
        &self,
        key: &ObjectKey,
    ) -> Result<Option<Found<M>>, ExecuteError> {
        let Some(Stored::Secret(secret)) = self.store.get(key).await? else { return Ok(None) };
        let meta = secret.metadata.clone();
        let data = wiped(secret);
        let ring = self.parse_ring(&data, &key.name)?;
        Ok(Some(Found { meta, ring, data }))
    }

    pub(super) async fn read_ring(&self, name: &str) -> Result<(SecretData, Option<String>), ExecuteError> {
        let namespace = lock(&self.world).operator_namespace().to_owned();
        match self.store.get(&ObjectKey::secret(&namespace, name)).await? {
            Some(Stored::Secret(secret)) => {
                let version = secret.metadata.resource_version.clone();
                Ok((wiped(secret), version))
            }
            _ => Err(self.ring_error(name, "it does not exist")),
        }
    }

    pub(super) fn parse_ring<M: DeserializeOwned + Material>(
        &self,
        data: &SecretData,
        name: &str,
    ) -> Result<Ring<M>, ExecuteError> {
        let text = data.get(key::RING).map(|json| json.as_slice()).unwrap_or_default();
        Ring::parse(text).map_err(|error| self.ring_error(name, &error.to_string()))
    }

    pub(super) fn ring_error(&self, name: &str, message: &str) -> ExecuteError {
        let namespace = lock(&self.world).operator_namespace().to_owned();
        ExecuteError::Ring { namespace, name: name.to_owned(), message: message.to_owned() }
    }
}

fn version(meta: &ObjectMeta) -> Version {
    Version {
        uid: meta.uid.clone().unwrap_or_default(),
        resource_version: meta.resource_version.clone().unwrap_or_default(),
    }
}

fn ring_secret(metadata: ObjectMeta, data: SecretData) -> Secret {
    let metadata = ObjectMeta { managed_fields: None, ..metadata };
    let data = data.into_iter().map(|(name, value)| (name, ByteString(value.to_vec()))).collect();
    Secret { metadata, data: Some(data), ..Secret::default() }
}
