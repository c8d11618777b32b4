//! [`Store`] on a directory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gaia_api::Clock;
use gaia_plan::instances::instance::Target;
use gaia_plan::object::{ObjectKey, Version};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::disk::error::DirectoryError;
use super::disk::objects::{Objects, WriteError, patched};
use super::projection::Projection;
use crate::api_server::Resource;
use crate::api_server::object::read_metadata;
use crate::cache::Place;
use crate::store::error::StoreError;
use crate::store::{Found, ObjectRef, Reported, Store, Stored, found_of, reported_of, resource, stored};

/// The objects of a directory, and the service directories that are written from them.
#[derive(Clone)]
pub(crate) struct DirStore {
    inner: Arc<Mutex<Inner>>,
    clock: Arc<dyn Clock>,
}

struct Inner {
    objects: Objects,
    projection: Projection,
    /// The last failed access to the disk, until a write succeeds.
    failure: Option<String>,
}

impl DirStore {
    pub(crate) fn new(objects: Objects, projection: Projection, clock: Arc<dyn Clock>) -> Self {
        let inner = Inner { objects, projection, failure: None };
        Self { inner: Arc::new(Mutex::new(inner)), clock }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads or changes the objects under the lock.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Objects, &mut Projection) -> T) -> T {
        let Inner { objects, projection, .. } = &mut *self.lock();
        work(objects, projection)
    }

    /// The last failed access to the disk, if no write has succeeded since.
    pub(crate) fn failure(&self) -> Option<String> {
        self.lock().failure.clone()
    }

    /// Compares all service directories with the objects and restores those that differ. Returns the failures.
    pub(crate) fn repair(&self) -> Vec<DirectoryError> {
        let mut inner = self.lock();
        let Inner { objects, projection, .. } = &mut *inner;
        projection.mark_all();
        let failures: Vec<DirectoryError> = projection.write_due(objects).into_iter().map(|(_, error)| error).collect();
        inner.failure = failures.first().map(ToString::to_string);
        failures
    }

    /// Creates or updates a custom resource as a user does; returns its text if that changed it.
    pub(crate) fn apply(
        &self,
        resource: Resource,
        place: &Place,
        manifest: &Value,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, DirectoryError> {
        let mut inner = self.lock();
        let present = inner.objects.value(resource, place)?;
        let written = match present {
            None => inner.objects.create(resource, place, manifest.clone(), self.clock.as_ref()),
            Some(present) if is_applied(&present, manifest) => return Ok(None),
            Some(_) => inner.objects.change(resource, place, None, |object| {
                object["spec"] = manifest["spec"].clone();
                for field in ["labels", "annotations"] {
                    object["metadata"][field] = manifest["metadata"][field].clone();
                }
            }),
        };
        let text = written.map_err(|error| match error {
            WriteError::Directory(error) => error,
            WriteError::Exists | WriteError::Missing | WriteError::Conflict => {
                let path = inner.objects.path(resource, place);
                DirectoryError::Busy { path, why: "another process changes the objects".to_owned() }
            }
        })?;
        inner.projection.forget_sources();
        Ok(Some(text))
    }

    fn write(
        &self,
        verb: &'static str,
        key: &dyn std::fmt::Display,
        object: Option<&ObjectKey>,
        work: impl FnOnce(&mut Objects) -> Result<Zeroizing<Vec<u8>>, WriteError>,
    ) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let mut inner = self.lock();
        let written = work(&mut inner.objects).map_err(|error| classify(verb, key, error));
        let Inner { objects, projection, failure } = &mut *inner;
        let mut failed = None;
        let done = written.and_then(|text| {
            let Some(object) = object else {
                failed = failure.take().filter(|_| projection.has_due());
                return Ok(text);
            };
            let holders = projection.mark(object, objects).map_err(|error| unavailable(verb, key, &error))?;
            let failures = projection.write_due(objects);
            failed = failures.first().map(|(_, error)| error.to_string());
            // A directory that cannot be written holds up its own objects alone. The write is repeated on the next plan.
            let is_its = |(name, _): &&(String, DirectoryError)| name.is_empty() || holders.contains(name);
            match failures.iter().find(is_its) {
                Some((_, error)) => Err(unavailable(verb, key, error)),
                None => Ok(text),
            }
        });
        *failure = match &done {
            Err(StoreError::Transient { message, .. }) => Some(message.clone()),
            Err(_) => failure.take(),
            Ok(_) => failed,
        };
        done
    }
}

impl Store for DirStore {
    async fn create(&self, object: Stored) -> Result<Stored, StoreError> {
        let key = object.key();
        let value = match &object {
            Stored::Secret(secret) => serde_json::to_value(secret),
            Stored::ConfigMap(map) => serde_json::to_value(map),
            Stored::Certificate(certificate) => serde_json::to_value(certificate),
        };
        let value = value.map_err(|error| unavailable("create", &key, &error))?;
        let place = place(&key);
        let text = self.write("create", &key, Some(&key), |objects| {
            objects.create(resource(key.kind), &place, value, self.clock.as_ref())
        })?;
        stored(&key, text)
    }

    async fn patch(&self, key: &ObjectKey, on: &Version, patch: Value) -> Result<Stored, StoreError> {
        let text = self.write("patch", key, Some(key), |objects| {
            objects.change(resource(key.kind), &place(key), Some(on), |object| patched(object, patch))
        })?;
        stored(key, text)
    }

    /// Replaces a ring only when all service directories hold what the objects do: a step of a rotation must not
    /// precede the files that it depends on.
    async fn replace(&self, secret: Secret, on: &Version) -> Result<Stored, StoreError> {
        let secret = Stored::Secret(secret);
        let key = secret.key();
        {
            let Inner { objects, projection, .. } = &mut *self.lock();
            if let Some((_, error)) = projection.write_due(objects).first() {
                return Err(unavailable("replace", &key, error));
            }
        }
        let Stored::Secret(secret) = &secret else { return Err(StoreError::NotFound { key: key.to_string() }) };
        let value = serde_json::to_value(secret).map_err(|error| unavailable("replace", &key, &error))?;
        let text = self.write("replace", &key, Some(&key), |objects| {
            objects.change(Resource::SECRET, &place(&key), Some(on), |object| {
                let type_ = object["type"].clone();
                super::disk::objects::wipe(object);
                *object = value;
                if object["type"].is_null() {
                    object["type"] = type_;
                }
            })
        })?;
        stored(&key, text)
    }

    async fn nudge(&self, namespace: &str, pod: &str, _: &str, _: &str) -> Result<(), StoreError> {
        Err(StoreError::NotFound { key: format!("Pod {namespace}/{pod}") })
    }

    async fn restart(&self, target: &Target, _: &str) -> Result<(), StoreError> {
        Err(StoreError::NotFound { key: target.to_string() })
    }

    async fn delete(&self, key: &ObjectKey, on: &Version) -> Result<(), StoreError> {
        self.write("delete", key, Some(key), |objects| {
            objects.delete(resource(key.kind), &place(key), Some(on)).map(|()| Zeroizing::new(vec![]))
        })
        .map(drop)
    }

    async fn get(&self, key: &ObjectKey) -> Result<Option<Stored>, StoreError> {
        let found = self.lock().objects.read(resource(key.kind), &place(key));
        let found = found.map_err(|error| unavailable("get", key, &error))?;
        found.map(|text| stored(key, text)).transpose()
    }

    async fn get_metadata(&self, key: &ObjectKey) -> Result<Option<ObjectMeta>, StoreError> {
        let found = self.lock().objects.read(resource(key.kind), &place(key));
        let Some(text) = found.map_err(|error| unavailable("get", key, &error))? else { return Ok(None) };
        let unreadable = |fault| StoreError::Unreadable { key: key.to_string(), fault };
        read_metadata(&text).map(Some).map_err(unreadable)
    }

    async fn get_resource(&self, key: &ObjectRef) -> Result<Option<Found>, StoreError> {
        let (namespace, name) = key.names();
        let found = self.lock().objects.read(key.resource(), &(namespace.to_owned(), name.to_owned()));
        let found = found.map_err(|error| unavailable("get", key, &error))?;
        found.map(|text| found_of(key, text)).transpose()
    }

    async fn patch_status(&self, key: &ObjectRef, on: &Version, status: Value) -> Result<Reported, StoreError> {
        let (namespace, name) = key.names();
        let place = (namespace.to_owned(), name.to_owned());
        let text = self.write("report the status of", key, None, |objects| {
            objects.change(key.resource(), &place, Some(on), |object| patched(object, json!({ "status": status })))
        })?;
        reported_of(key, text)
    }
}

fn place(key: &ObjectKey) -> Place {
    (key.namespace.clone(), key.name.clone())
}

/// Returns true if an object has the spec, labels and annotations of its manifest.
fn is_applied(present: &Value, manifest: &Value) -> bool {
    let same = |field: &str| present["metadata"][field] == manifest["metadata"][field];
    present["spec"] == manifest["spec"] && same("labels") && same("annotations")
}

fn classify(verb: &'static str, key: &dyn std::fmt::Display, error: WriteError) -> StoreError {
    let key = key.to_string();
    match error {
        WriteError::Exists => StoreError::AlreadyExists { key },
        WriteError::Missing => StoreError::NotFound { key },
        WriteError::Conflict => StoreError::Conflict { key, message: "it has another version".to_owned() },
        WriteError::Directory(error) => StoreError::Transient { verb, key, message: error.to_string() },
    }
}

fn unavailable(verb: &'static str, key: &dyn std::fmt::Display, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Transient { verb, key: key.to_string(), message: error.to_string() }
}
