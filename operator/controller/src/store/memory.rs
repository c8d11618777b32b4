//! A store for tests: objects in memory, each call with the same latency.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gaia_plan::instances::instance::Target;
use gaia_plan::object::merge::apply_patch;
use gaia_plan::object::{ObjectKey, ObjectKind, Version};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Found, ObjectRef, Reported, Store, Stored};
use crate::store::error::StoreError;

/// See the module.
pub(crate) struct MemoryStore {
    latency: Duration,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    objects: BTreeMap<ObjectKey, Value>,
    resources: BTreeMap<ObjectRef, Value>,
    versions: u64,
    /// When each object was created last.
    created: BTreeMap<ObjectKey, Instant>,
}

impl MemoryStore {
    pub(crate) fn new(latency: Duration) -> Self {
        Self { latency, inner: Mutex::default() }
    }

    /// Adds a custom resource as a user creates it, and returns it.
    pub(crate) fn add<K: DeserializeOwned>(&self, key: &ObjectRef, mut resource: Value) -> K {
        let mut inner = self.lock();
        let version = inner.next_version();
        resource["metadata"]["uid"] = json!(format!("uid-{version}"));
        resource["metadata"]["resourceVersion"] = json!(version);
        resource["metadata"]["generation"] = json!(1);
        inner.resources.insert(key.clone(), resource.clone());
        serde_json::from_value(resource).unwrap()
    }

    /// Removes an object as another client does.
    pub(crate) fn remove(&self, key: &ObjectKey) {
        let mut inner = self.lock();
        inner.objects.remove(key);
        inner.created.remove(key);
    }

    /// When an object that exists was created.
    pub(crate) fn created(&self, key: &ObjectKey) -> Option<Instant> {
        self.lock().created.get(key).copied()
    }

    /// The number of Secrets in a namespace.
    pub(crate) fn secrets_in(&self, namespace: &str) -> usize {
        self.lock().objects.keys().filter(|key| key.kind == ObjectKind::Secret && key.namespace == namespace).count()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes an object that is still in that state.
    fn change(&self, key: &ObjectKey, on: &Version, change: impl FnOnce(&mut Value)) -> Result<Stored, StoreError> {
        let mut inner = self.lock();
        let version = inner.next_version();
        let object = inner.objects.get_mut(key).ok_or_else(|| StoreError::NotFound { key: key.to_string() })?;
        if object["metadata"]["resourceVersion"] != json!(on.resource_version) {
            return Err(StoreError::Conflict { key: key.to_string(), message: String::new() });
        }
        let uid = object["metadata"]["uid"].clone();
        change(object);
        object["metadata"]["uid"] = uid;
        object["metadata"]["resourceVersion"] = json!(version);
        Ok(stored(key.kind, object.clone()))
    }
}

impl Inner {
    fn next_version(&mut self) -> String {
        self.versions += 1;
        self.versions.to_string()
    }
}

impl Store for MemoryStore {
    async fn create(&self, object: Stored) -> Result<Stored, StoreError> {
        tokio::time::sleep(self.latency).await;
        let key = object.key();
        let mut inner = self.lock();
        if inner.objects.contains_key(&key) {
            return Err(StoreError::AlreadyExists { key: key.to_string() });
        }
        let version = inner.next_version();
        let mut value = value_of(&object);
        value["metadata"]["uid"] = json!(format!("uid-{version}"));
        value["metadata"]["resourceVersion"] = json!(version);
        inner.objects.insert(key.clone(), value.clone());
        inner.created.insert(key.clone(), Instant::now());
        Ok(stored(key.kind, value))
    }

    async fn patch(&self, key: &ObjectKey, on: &Version, patch: Value) -> Result<Stored, StoreError> {
        tokio::time::sleep(self.latency).await;
        self.change(key, on, |object| apply_patch(object, &patch))
    }

    async fn replace(&self, secret: Secret, on: &Version) -> Result<Stored, StoreError> {
        tokio::time::sleep(self.latency).await;
        let secret = Stored::Secret(secret);
        self.change(&secret.key(), on, |object| *object = value_of(&secret))
    }

    async fn nudge(&self, _: &str, _: &str, _: &str, _: &str) -> Result<(), StoreError> {
        Ok(())
    }

    async fn restart(&self, _: &Target, _: &str) -> Result<(), StoreError> {
        Ok(())
    }

    async fn delete(&self, key: &ObjectKey, _: &Version) -> Result<(), StoreError> {
        tokio::time::sleep(self.latency).await;
        self.remove(key);
        Ok(())
    }

    async fn get(&self, key: &ObjectKey) -> Result<Option<Stored>, StoreError> {
        tokio::time::sleep(self.latency).await;
        Ok(self.lock().objects.get(key).map(|object| stored(key.kind, object.clone())))
    }

    async fn get_metadata(&self, key: &ObjectKey) -> Result<Option<ObjectMeta>, StoreError> {
        tokio::time::sleep(self.latency).await;
        let inner = self.lock();
        Ok(inner.objects.get(key).map(|object| serde_json::from_value(object["metadata"].clone()).unwrap()))
    }

    async fn get_resource(&self, key: &ObjectRef) -> Result<Option<Found>, StoreError> {
        tokio::time::sleep(self.latency).await;
        Ok(self.lock().resources.get(key).map(|resource| Found::Object(reported(key, resource.clone()))))
    }

    async fn patch_status(&self, key: &ObjectRef, _: &Version, status: Value) -> Result<Reported, StoreError> {
        tokio::time::sleep(self.latency).await;
        let mut inner = self.lock();
        let version = inner.next_version();
        // A ServiceCertificate of a GaiaService is an object of the operator.
        let resource = match key {
            ObjectRef::Certificate(namespace, name) if !inner.resources.contains_key(key) => {
                let (namespace, name) = (namespace.clone(), name.clone());
                let object = ObjectKey { kind: ObjectKind::ServiceCertificate, namespace, name };
                inner.objects.get_mut(&object)
            }
            _ => inner.resources.get_mut(key),
        };
        let resource = resource.ok_or_else(|| StoreError::NotFound { key: key.to_string() })?;
        apply_patch(resource, &json!({ "status": status }));
        resource["metadata"]["resourceVersion"] = json!(version);
        Ok(reported(key, resource.clone()))
    }
}

fn value_of(object: &Stored) -> Value {
    match object {
        Stored::Secret(secret) => serde_json::to_value(secret),
        Stored::ConfigMap(map) => serde_json::to_value(map),
        Stored::Certificate(certificate) => serde_json::to_value(certificate),
    }
    .unwrap()
}

fn stored(kind: ObjectKind, value: Value) -> Stored {
    match kind {
        ObjectKind::Secret => Stored::Secret(serde_json::from_value(value).unwrap()),
        ObjectKind::ConfigMap => Stored::ConfigMap(serde_json::from_value(value).unwrap()),
        ObjectKind::ServiceCertificate => Stored::Certificate(Box::new(serde_json::from_value(value).unwrap())),
    }
}

fn reported(key: &ObjectRef, value: Value) -> Reported {
    match key {
        ObjectRef::TrustDomain(_) => Reported::TrustDomain(Box::new(serde_json::from_value(value).unwrap())),
        ObjectRef::Certificate(..) => Reported::Certificate(Box::new(serde_json::from_value(value).unwrap())),
        ObjectRef::Service(..) => Reported::Service(Box::new(serde_json::from_value(value).unwrap())),
    }
}
