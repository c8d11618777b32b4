//! Executes plans: all of the I/O, none of the decisions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gaia_api::Clock;
use gaia_api::names::{self, key};
use gaia_pki::Ca;
use gaia_plan::keyring::ring::{CaRing, SigningRing};
use gaia_plan::object::{ObjectChange, ObjectKey, ObjectKind, OwnerRef, is_ours};
use gaia_plan::{Action, IssueLeaf, WriteSigner};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use crate::cache::facts::metadata_facts;
use crate::cache::{ClusterCache, SharedCache, lock};
use crate::execute::ca_cache::Signers;
use crate::execute::issue::{self, SecretData};
use crate::store::error::{ErrorClass, ExecuteError, StoreError};
use crate::store::{ObjectRef, Store, Stored};

/// The result of an action that did not fail.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is done; these keys must be planned again because of it.
    Done(std::collections::BTreeSet<ObjectRef>),
    /// The observed version was outdated; the snapshot now has a newer one. These keys must be planned again because of
    /// it.
    Replan(std::collections::BTreeSet<ObjectRef>),
    /// It could not be done, and no step depends on it.
    Skipped,
}

/// Executes actions on a store.
pub(crate) struct Executor<S> {
    pub(crate) store: S,
    pub(crate) world: SharedCache,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) signers: Signers,
}

impl<S: Store> Executor<S> {
    /// Does one action on behalf of a custom resource.
    pub(crate) async fn execute(&self, on_behalf_of: &ObjectRef, action: &Action) -> Result<Outcome, ExecuteError> {
        match action {
            Action::CreateRing(request) => {
                let data = self.first_ring(request).await?;
                self.write(on_behalf_of, &request.object, data).await
            }
            Action::Transition(transition) => self.transition(transition).await,
            Action::Restore(restore) => self.restore(restore).await,
            Action::Nudge { namespace, pod, uid, value } => {
                let nudged = self.store.nudge(namespace, pod, uid, value).await;
                self.touched(action, nudged, |world| world.record_nudge(&(namespace.clone(), pod.clone()), uid, value))
            }
            Action::RestartWorkload { target, value, .. } => {
                let restarted = self.store.restart(target, value).await;
                self.touched(action, restarted, |world| {
                    world.record_restart(target.clone(), value.clone());
                    BTreeSet::new()
                })
            }
            Action::Write(change) => self.write(on_behalf_of, change, SecretData::new()).await,
            Action::WriteSigner(signer) => {
                let data = self.signer_data(signer).await?;
                self.write(on_behalf_of, &signer.object, data).await
            }
            Action::IssueLeaf(leaf) => {
                let data = self.leaf_data(leaf).await?;
                self.write(on_behalf_of, &leaf.object, data).await
            }
            Action::CreateCertificate(certificate) => {
                let object = Stored::Certificate(certificate.clone());
                let key = object.key();
                let made = self.store.create(object).await;
                self.settle(on_behalf_of, &key, made).await
            }
            Action::PatchCertificate { key, version, patch, .. } => {
                let made = self.store.patch(key, version, patch.clone()).await;
                self.settle(on_behalf_of, key, made).await
            }
            Action::Delete { key, version } => match self.store.delete(key, version).await {
                Ok(()) => Ok(Outcome::Done(lock(&self.world).forget(key, Some(version)))),
                Err(StoreError::Conflict { .. }) => self.refresh(key).await,
                Err(error) => Err(error.into()),
            },
        }
    }

    /// One write: a POST without a GET before it, or a merge patch of what differs.
    async fn write(
        &self,
        on_behalf_of: &ObjectRef,
        change: &ObjectChange,
        private: SecretData,
    ) -> Result<Outcome, ExecuteError> {
        let made = match &change.on {
            None => self.store.create(new_object(change, private)).await,
            Some(version) => {
                let mut patch = patch_of(change, &private);
                if let Some(owners) = &change.owners {
                    // A merge patch replaces the whole list, and only the object itself has the references of others.
                    let meta = self.store.get_metadata(&change.key).await?;
                    let Some(meta) =
                        meta.filter(|meta| meta.resource_version == Some(version.resource_version.clone()))
                    else {
                        return self.refresh(&change.key).await;
                    };
                    patch["metadata"]["ownerReferences"] = json!(with_own(meta.owner_references, owners));
                }
                self.store.patch(&change.key, version, patch).await
            }
        };
        self.settle(on_behalf_of, &change.key, made).await
    }

    async fn settle(
        &self,
        on_behalf_of: &ObjectRef,
        key: &ObjectKey,
        made: Result<Stored, StoreError>,
    ) -> Result<Outcome, ExecuteError> {
        match made {
            Ok(object) => Ok(Outcome::Done(lock(&self.world).take_stored(object))),
            Err(StoreError::AlreadyExists { .. }) => self.look_closer(on_behalf_of, key).await,
            Err(StoreError::Conflict { .. } | StoreError::NotFound { .. }) => self.refresh(key).await,
            Err(error) => Err(error.into()),
        }
    }

    /// Reads an unknown object that exists under a desired name. Its metadata shows the owner; the content is read only
    /// if the operator owns it.
    pub(crate) async fn look_closer(&self, on_behalf_of: &ObjectRef, key: &ObjectKey) -> Result<Outcome, ExecuteError> {
        let Some(meta) = self.store.get_metadata(key).await? else {
            lock(&self.world).clear_foreign(key);
            return Ok(Outcome::Replan(std::collections::BTreeSet::new()));
        };
        let facts = metadata_facts(&meta);
        let owner = (on_behalf_of.kind(), on_behalf_of.names().1);
        let is_ring = key.kind == ObjectKind::Secret
            && key.namespace == lock(&self.world).operator_namespace()
            && matches!(on_behalf_of, ObjectRef::TrustDomain(_));
        if is_ring || is_ours(&facts.labels, &facts.annotations, &facts.owners, Some(owner)) {
            return self.refresh(key).await;
        }
        lock(&self.world).mark_foreign(key.clone());
        Ok(Outcome::Replan(std::collections::BTreeSet::new()))
    }

    /// Looks up an object that no watch has reported since it was created.
    pub(crate) async fn look_up(&self, key: &ObjectKey) -> Result<std::collections::BTreeSet<ObjectRef>, ExecuteError> {
        let seen = lock(&self.world).version(key);
        if self.store.get_metadata(key).await?.is_some() {
            return Ok(std::collections::BTreeSet::new());
        }
        Ok(lock(&self.world).forget(key, seen.as_ref()))
    }

    /// Reads an object again.
    async fn refresh(&self, key: &ObjectKey) -> Result<Outcome, ExecuteError> {
        let seen = lock(&self.world).version(key);
        let affected = match self.store.get(key).await? {
            Some(object) => lock(&self.world).take_stored(object),
            None => lock(&self.world).forget(key, seen.as_ref()),
        };
        Ok(Outcome::Replan(affected))
    }

    /// Reads `grants.json` where entries of it must stay as they were last written. Returns what rests on it.
    pub(crate) async fn read_written_grants(&self, trust_domain: &str) -> Result<BTreeSet<ObjectRef>, ExecuteError> {
        let Some(key) = lock(&self.world).grants_to_read(trust_domain) else { return Ok(BTreeSet::new()) };
        let Some(Stored::ConfigMap(map)) = self.store.get(&key).await? else { return Ok(BTreeSet::new()) };
        let text = map.data.as_ref().and_then(|data| data.get(key::GRANTS));
        if let Some(grants) = text.and_then(|text| gaia_api::mount::read(key::GRANTS, text.as_bytes()).ok()) {
            let mut world = lock(&self.world);
            world.take_written_grants(trust_domain, grants);
            return Ok(world.services_of(trust_domain));
        }
        Ok(BTreeSet::new())
    }

    /// The CA in a Secret that is not the operator's. The inner error is meant for the user who wrote that Secret.
    pub(crate) async fn read_external_ca(
        &self,
        name: &str,
        now: jiff::Timestamp,
    ) -> Result<Result<Ca, String>, StoreError> {
        let namespace = lock(&self.world).operator_namespace().to_owned();
        let Some(Stored::Secret(secret)) = self.store.get(&ObjectKey::secret(&namespace, name)).await? else {
            return Ok(Err("it does not exist".to_owned()));
        };
        let data = wiped(secret);
        let (Some(chain), Some(private)) = (data.get(key::TLS_CERT), data.get(key::TLS_KEY)) else {
            return Ok(Err("it must have the keys tls.crt and tls.key".to_owned()));
        };
        let Ok(private) = std::str::from_utf8(private) else { return Ok(Err("tls.key is not PEM".to_owned())) };
        let roots = data.get(key::CA_CERT).map(|roots| roots.as_slice());
        Ok(Ca::from_pem(chain, private, roots, now).map_err(|error| error.to_string()))
    }

    async fn leaf_data(&self, leaf: &IssueLeaf) -> Result<SecretData, ExecuteError> {
        let ca = self.signing_ca(&leaf.trust_domain, &leaf.ca_fingerprint).await?;
        let leaf = leaf.clone();
        if leaf.key.is_rsa() {
            return in_background(move || issue::leaf(&ca, &leaf)).await;
        }
        issue::leaf(&ca, &leaf)
    }

    /// The active CA, from a ring read at most 5 s ago.
    pub(crate) async fn signing_ca(&self, trust_domain: &str, fingerprint: &str) -> Result<Arc<Ca>, ExecuteError> {
        let name = names::ca_ring(trust_domain);
        let version = lock(&self.world).ring_version(&name);
        if let Some(ca) = self.signers.get(trust_domain, version.as_deref()) {
            return self.check_signer(ca, trust_domain, fingerprint);
        }
        let (data, version) = self.read_ring(&name).await?;
        let ring: CaRing = self.parse_ring(&data, &name)?;
        let active = ring.active().ok_or_else(|| self.ring_error(&name, "no generation is active"))?;
        let private = private_key(&data, &active.private_key_name()).map_err(|why| self.ring_error(&name, &why))?;
        let root = active.material.root.as_bytes();
        let ca = Arc::new(Ca::load(active.material.chain.as_bytes(), &private, Some(root))?);
        self.signers.put(trust_domain, version, Arc::clone(&ca));
        self.check_signer(ca, trust_domain, fingerprint)
    }

    fn check_signer(&self, ca: Arc<Ca>, trust_domain: &str, fingerprint: &str) -> Result<Arc<Ca>, ExecuteError> {
        if ca.certificate().fingerprint() == fingerprint {
            return Ok(ca);
        }
        self.signers.forget(trust_domain);
        Err(ExecuteError::SignerChanged { what: "CA", trust_domain: trust_domain.to_owned() })
    }

    async fn signer_data(&self, signer: &WriteSigner) -> Result<SecretData, ExecuteError> {
        let name = names::signing_ring(&signer.trust_domain);
        let (data, _) = self.read_ring(&name).await?;
        let ring: SigningRing = self.parse_ring(&data, &name)?;
        let active = ring.active().ok_or_else(|| self.ring_error(&name, "no generation is active"))?;
        if active.material.jwk.kid() != signer.kid {
            let trust_domain = signer.trust_domain.clone();
            return Err(ExecuteError::SignerChanged { what: "signing key", trust_domain });
        }
        let private = data.get(&active.private_key_name()).cloned();
        let private = private.ok_or_else(|| self.ring_error(&name, "the active key is missing"))?;
        Ok(BTreeMap::from([(key::JWT_SIGNING_KEY.to_owned(), private)]))
    }

    /// Pods and workloads belong to users: one that was deleted, or may not be patched, delays nothing. The status still
    /// names the lagging instances. `record` keeps the action from being repeated before the next publication.
    fn touched(
        &self,
        action: &Action,
        result: Result<(), StoreError>,
        record: impl FnOnce(&mut ClusterCache) -> BTreeSet<ObjectRef>,
    ) -> Result<Outcome, ExecuteError> {
        match result {
            Ok(()) => Ok(Outcome::Done(record(&mut lock(&self.world)))),
            Err(error) if error.class() == ErrorClass::Transient => Err(error.into()),
            // Another writer was first: the next plan has the action again.
            Err(StoreError::Conflict { .. }) => Ok(Outcome::Skipped),
            Err(error) => {
                tracing::warn!(%action, %error, "skipped; retrying after the next publication");
                record(&mut lock(&self.world));
                Ok(Outcome::Skipped)
            }
        }
    }
}

fn private_key(data: &SecretData, name: &str) -> Result<Zeroizing<String>, String> {
    let pem = data.get(name).ok_or_else(|| format!("{name} is missing"))?;
    let pem = std::str::from_utf8(pem).map_err(|_| format!("{name} is not PEM"))?;
    Ok(Zeroizing::new(pem.to_owned()))
}

/// The content of a Secret, in memory that is wiped.
fn wiped(mut secret: Secret) -> SecretData {
    let data = secret.data.take().unwrap_or_default();
    data.into_iter().map(|(name, value)| (name, Zeroizing::new(value.0))).collect()
}

/// RSA keys take long enough to make that other work must not wait for them.
async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ExecuteError> + Send + 'static,
) -> Result<T, ExecuteError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ExecuteError::Internal(error.to_string()))?
}

fn new_object(change: &ObjectChange, private: SecretData) -> Stored {
    let set = |map: &BTreeMap<String, Option<String>>| -> BTreeMap<String, String> {
        map.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?))).collect()
    };
    let metadata = ObjectMeta {
        name: Some(change.key.name.clone()),
        namespace: Some(change.key.namespace.clone()),
        labels: Some(set(&change.labels)),
        annotations: Some(set(&change.annotations)).filter(|map| !map.is_empty()),
        owner_references: change.owners.as_ref().map(|owners| owners.iter().map(owner_reference).collect()),
        ..Default::default()
    };
    if change.key.kind == ObjectKind::ConfigMap {
        return Stored::ConfigMap(ConfigMap { metadata, data: Some(set(&change.data)), ..Default::default() });
    }
    let mut data: BTreeMap<String, ByteString> =
        set(&change.data).into_iter().map(|(key, value)| (key, ByteString(value.into_bytes()))).collect();
    data.extend(private.into_iter().map(|(key, value)| (key, ByteString(value.to_vec()))));
    let type_ = change.secret_type.map(str::to_owned);
    Stored::Secret(Secret { metadata, data: Some(data), type_, ..Default::default() })
}

/// The merge patch of a change; `null` removes.
fn patch_of(change: &ObjectChange, private: &SecretData) -> Value {
    let mut metadata = Map::new();
    if !change.labels.is_empty() {
        metadata.insert("labels".to_owned(), json!(change.labels));
    }
    if !change.annotations.is_empty() {
        metadata.insert("annotations".to_owned(), json!(change.annotations));
    }
    let mut data = Map::new();
    let is_secret = change.key.kind == ObjectKind::Secret;
    for (key, value) in &change.data {
        let value = value.as_ref().map(|text| if is_secret { base64_json(text.as_bytes()) } else { json!(text) });
        data.insert(key.clone(), value.unwrap_or(Value::Null));
    }
    for (key, value) in private {
        data.insert(key.clone(), base64_json(value));
    }
    let mut patch = json!({ "metadata": metadata });
    if !is_secret && !data.is_empty() {
        // The same key may be in `binaryData`, which must not hold what `data` does, and from which it is removed alike.
        let keys = data.keys().map(|key| (key.clone(), Value::Null));
        patch["binaryData"] = Value::Object(keys.collect());
    }
    if !data.is_empty() {
        patch["data"] = Value::Object(data);
    }
    patch
}

fn base64_json(bytes: &[u8]) -> Value {
    serde_json::to_value(ByteString(bytes.to_vec())).unwrap_or(Value::Null)
}

/// The owner references of others unchanged, and the operator's as desired.
fn with_own(present: Option<Vec<OwnerReference>>, own: &[OwnerRef]) -> Vec<OwnerReference> {
    let is_own = |owner: &OwnerReference| owner.api_version.starts_with("gaia.dev/");
    let mut owners: Vec<OwnerReference> = present.unwrap_or_default().into_iter().filter(|o| !is_own(o)).collect();
    // The API server accepts one controller.
    let has_controller = owners.iter().any(|owner| owner.controller == Some(true));
    let own = own.iter().map(owner_reference);
    owners.extend(own.map(|owner| OwnerReference { controller: (!has_controller).then_some(true), ..owner }));
    owners
}

fn owner_reference(owner: &OwnerRef) -> OwnerReference {
    OwnerReference {
        api_version: "gaia.dev/v1alpha1".to_owned(),
        kind: owner.kind.clone(),
        name: owner.name.clone(),
        uid: owner.uid.clone(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

mod rings;
#[cfg(test)]
mod tests;
