//! The store of objects: reads, and writes with a precondition.

pub(crate) mod epoch_key;
pub(crate) mod error;
use std::fmt;
use std::time::Duration;

use gaia_api::crd::{GaiaService, RestartKind, ServiceCertificate, TrustDomain};
use gaia_api::names::annotation;
use gaia_plan::instances::instance::Target;
use gaia_plan::object::{ObjectKey, ObjectKind, Version};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api_server::object::{read, read_metadata};
use crate::api_server::{Answer, ApiServer, CallError, Fault, Reading, Resource, Unreadable, within};
use crate::queue::work_queue::Laned;
use crate::store::error::StoreError;

/// An object that the operator writes.
#[derive(Clone)]
pub(crate) enum Stored {
    Secret(Secret),
    ConfigMap(ConfigMap),
    Certificate(Box<ServiceCertificate>),
}

/// A custom resource whose status is reported.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum ObjectRef {
    TrustDomain(String),
    Certificate(String, String),
    Service(String, String),
}

/// A custom resource after its status was written.
pub(crate) enum Reported {
    TrustDomain(Box<TrustDomain>),
    Certificate(Box<ServiceCertificate>),
    Service(Box<GaiaService>),
}

/// A custom resource as a read brings it.
pub(crate) enum Found {
    Object(Reported),
    /// Only its metadata can be read.
    Unreadable(Box<Unreadable>),
}

/// The store the executor writes to. One is the API server, the other a directory.
pub(crate) trait Store: Send + Sync + 'static {
    /// Creates an object; never replaces one.
    fn create(&self, object: Stored) -> impl Future<Output = Result<Stored, StoreError>> + Send;
    /// Merges a patch (RFC 7396) into the object, if it still has the version on which the patch was planned.
    fn patch(
        &self,
        key: &ObjectKey,
        on: &Version,
        patch: Value,
    ) -> impl Future<Output = Result<Stored, StoreError>> + Send;
    /// Replaces a Secret as a whole, if it still has the version on which that was planned.
    fn replace(&self, secret: Secret, on: &Version) -> impl Future<Output = Result<Stored, StoreError>> + Send;
    /// Annotates a pod so that the kubelet syncs its mounts; one with another UID is not changed.
    fn nudge(
        &self,
        namespace: &str,
        pod: &str,
        uid: &str,
        value: &str,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// Annotates a workload's pod template so that its pods are replaced.
    fn restart(&self, target: &Target, value: &str) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// Deletes the object, if it still has the version on which the deletion was planned.
    fn delete(&self, key: &ObjectKey, on: &Version) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// Reads the object.
    fn get(&self, key: &ObjectKey) -> impl Future<Output = Result<Option<Stored>, StoreError>> + Send;
    /// Reads only the object's metadata, which shows its owner.
    fn get_metadata(&self, key: &ObjectKey) -> impl Future<Output = Result<Option<ObjectMeta>, StoreError>> + Send;
    /// Reads a custom resource; none: it does not exist.
    fn get_resource(&self, key: &ObjectRef) -> impl Future<Output = Result<Option<Found>, StoreError>> + Send;
    /// Merges a patch into a custom resource's status, if the resource still has that version.
    fn patch_status(
        &self,
        key: &ObjectRef,
        on: &Version,
        status: Value,
    ) -> impl Future<Output = Result<Reported, StoreError>> + Send;
}

/// The API server.
#[derive(Clone)]
pub(crate) struct KubeStore {
    api: ApiServer,
}

impl KubeStore {
    pub(crate) fn new(client: Client) -> Self {
        Self { api: ApiServer::new(client) }
    }
}

impl Store for KubeStore {
    async fn create(&self, object: Stored) -> Result<Stored, StoreError> {
        let key = object.key();
        let (resource, namespace) = (resource(key.kind), Some(key.namespace.as_str()));
        let answer = match &object {
            Stored::Secret(secret) => call("create", &key, self.api.create(resource, namespace, secret)).await,
            Stored::ConfigMap(map) => call("create", &key, self.api.create(resource, namespace, map)).await,
            Stored::Certificate(certificate) => {
                call("create", &key, self.api.create(resource, namespace, certificate.as_ref())).await
            }
        };
        stored(&key, answer?)
    }

    async fn patch(&self, key: &ObjectKey, on: &Version, mut patch: Value) -> Result<Stored, StoreError> {
        condition(&mut patch, on);
        let (resource, namespace) = (resource(key.kind), Some(key.namespace.as_str()));
        let answer = call("patch", key, self.api.patch(resource, namespace, &key.name, None, &patch)).await?;
        stored(key, answer)
    }

    async fn replace(&self, mut secret: Secret, on: &Version) -> Result<Stored, StoreError> {
        secret.metadata.uid = Some(on.uid.clone());
        secret.metadata.resource_version = Some(on.resource_version.clone());
        let secret = Stored::Secret(secret);
        let key = secret.key();
        let Stored::Secret(secret) = &secret else { return Err(StoreError::NotFound { key: key.to_string() }) };
        let request = self.api.replace(Resource::SECRET, Some(&key.namespace), &key.name, secret);
        let answer = call("replace", &key, request).await?;
        stored(&key, answer)
    }

    async fn nudge(&self, namespace: &str, pod: &str, uid: &str, value: &str) -> Result<(), StoreError> {
        let annotations = serde_json::json!({ annotation::NUDGE: value });
        let patch = serde_json::json!({ "metadata": { "uid": uid, "annotations": annotations } });
        let key = format!("Pod {namespace}/{pod}");
        let request = self.api.patch_metadata(Resource::POD, Some(namespace), pod, &patch);
        call("annotate", &key, request).await.map(drop)
    }

    async fn restart(&self, target: &Target, value: &str) -> Result<(), StoreError> {
        let annotations = serde_json::json!({ annotation::RESTARTED_AT: value });
        let patch = serde_json::json!({ "spec": { "template": { "metadata": { "annotations": annotations } } } });
        let resource = match target.kind {
            RestartKind::Deployment => Resource::DEPLOYMENT,
            RestartKind::StatefulSet => Resource::STATEFUL_SET,
            RestartKind::DaemonSet => Resource::DAEMON_SET,
        };
        let request = self.api.patch_metadata(resource, Some(&target.namespace), &target.name, &patch);
        call("restart", target, request).await.map(drop)
    }

    async fn delete(&self, key: &ObjectKey, on: &Version) -> Result<(), StoreError> {
        let request = self.api.delete(resource(key.kind), Some(&key.namespace), &key.name, on);
        match call("delete", key, request).await {
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn get(&self, key: &ObjectKey) -> Result<Option<Stored>, StoreError> {
        let request = self.api.get(resource(key.kind), Some(&key.namespace), &key.name);
        call("get", key, request).await?.map(|answer| stored(key, answer)).transpose()
    }

    async fn get_metadata(&self, key: &ObjectKey) -> Result<Option<ObjectMeta>, StoreError> {
        let request = self.api.get_metadata(resource(key.kind), Some(&key.namespace), &key.name);
        let Some(answer) = call("get", key, request).await? else { return Ok(None) };
        let unreadable = |fault| StoreError::Unreadable { key: key.to_string(), fault };
        read_metadata(&answer).map(Some).map_err(unreadable)
    }

    async fn get_resource(&self, key: &ObjectRef) -> Result<Option<Found>, StoreError> {
        let (namespace, name) = key.names();
        let namespace = Some(namespace).filter(|namespace| !namespace.is_empty());
        let Some(answer) = call("get", key, self.api.get(key.resource(), namespace, name)).await? else {
            return Ok(None);
        };
        found_of(key, answer).map(Some)
    }

    async fn patch_status(&self, key: &ObjectRef, on: &Version, status: Value) -> Result<Reported, StoreError> {
        let mut patch = serde_json::json!({ "status": status });
        condition(&mut patch, on);
        let (namespace, name) = key.names();
        let (resource, namespace) = (key.resource(), Some(namespace).filter(|namespace| !namespace.is_empty()));
        let request = self.api.patch(resource, namespace, name, Some("status"), &patch);
        let answer = call("report the status of", key, request).await?;
        reported_of(key, answer)
    }
}

pub(crate) fn resource(kind: ObjectKind) -> Resource {
    match kind {
        ObjectKind::Secret => Resource::SECRET,
        ObjectKind::ConfigMap => Resource::CONFIG_MAP,
        ObjectKind::ServiceCertificate => Resource::CERTIFICATE,
    }
}

/// An object in an answer.
pub(crate) fn stored(key: &ObjectKey, answer: Answer) -> Result<Stored, StoreError> {
    match key.kind {
        ObjectKind::Secret => object(key, answer).map(Stored::Secret),
        ObjectKind::ConfigMap => object(key, answer).map(Stored::ConfigMap),
        ObjectKind::ServiceCertificate => object(key, answer).map(|found| Stored::Certificate(Box::new(found))),
    }
}

/// A custom resource in an answer.
pub(crate) fn reported_of(key: &ObjectRef, answer: Answer) -> Result<Reported, StoreError> {
    match key {
        ObjectRef::TrustDomain(_) => object(key, answer).map(|found| Reported::TrustDomain(Box::new(found))),
        ObjectRef::Certificate(..) => object(key, answer).map(|found| Reported::Certificate(Box::new(found))),
        ObjectRef::Service(..) => object(key, answer).map(|found| Reported::Service(Box::new(found))),
    }
}

/// A custom resource in an answer, as far as it can be read.
pub(crate) fn found_of(key: &ObjectRef, answer: Answer) -> Result<Found, StoreError> {
    let found = match key {
        ObjectRef::TrustDomain(_) => found(read(answer), |domain| Reported::TrustDomain(Box::new(domain))),
        ObjectRef::Certificate(..) => found(read(answer), |certificate| Reported::Certificate(Box::new(certificate))),
        ObjectRef::Service(..) => found(read(answer), |service| Reported::Service(Box::new(service))),
    };
    found.map_err(|fault| StoreError::Unreadable { key: key.to_string(), fault })
}

fn found<K>(reading: Result<Reading<K>, Fault>, reported: impl Fn(K) -> Reported) -> Result<Found, Fault> {
    Ok(match reading? {
        Reading::Object(object) => Found::Object(reported(object)),
        Reading::Unreadable(unreadable) => Found::Unreadable(unreadable),
    })
}

fn object<K: DeserializeOwned>(key: &impl fmt::Display, answer: Answer) -> Result<K, StoreError> {
    match read(answer) {
        Ok(Reading::Object(object)) => Ok(object),
        Ok(Reading::Unreadable(unreadable)) => {
            Err(StoreError::Unreadable { key: key.to_string(), fault: unreadable.fault })
        }
        Err(fault) => Err(StoreError::Unreadable { key: key.to_string(), fault }),
    }
}

impl Stored {
    pub(crate) fn key(&self) -> ObjectKey {
        let (kind, meta) = match self {
            Self::Secret(secret) => (ObjectKind::Secret, &secret.metadata),
            Self::ConfigMap(map) => (ObjectKind::ConfigMap, &map.metadata),
            Self::Certificate(certificate) => (ObjectKind::ServiceCertificate, &certificate.metadata),
        };
        ObjectKey {
            kind,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

impl Reported {
    pub(crate) fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::TrustDomain(domain) => &domain.metadata,
            Self::Certificate(certificate) => &certificate.metadata,
            Self::Service(service) => &service.metadata,
        }
    }

    pub(crate) fn key(&self) -> ObjectRef {
        let meta = self.metadata();
        let (namespace, name) = (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
        match self {
            Self::TrustDomain(_) => ObjectRef::TrustDomain(name),
            Self::Certificate(_) => ObjectRef::Certificate(namespace, name),
            Self::Service(_) => ObjectRef::Service(namespace, name),
        }
    }
}

impl ObjectRef {
    /// Namespace (empty for a TrustDomain) and name.
    pub(crate) fn names(&self) -> (&str, &str) {
        match self {
            Self::TrustDomain(name) => ("", name),
            Self::Certificate(namespace, name) | Self::Service(namespace, name) => (namespace, name),
        }
    }

    pub(crate) fn kind(&self) -> &'static str {
        self.resource().kind
    }

    pub(crate) fn resource(&self) -> Resource {
        match self {
            Self::TrustDomain(_) => Resource::TRUST_DOMAIN,
            Self::Certificate(..) => Resource::CERTIFICATE,
            Self::Service(..) => Resource::SERVICE,
        }
    }
}

impl Laned for ObjectRef {
    fn lane(&self) -> &str {
        self.names().0
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.names() {
            ("", name) => write!(f, "{} {name}", self.kind()),
            (namespace, name) => write!(f, "{} {namespace}/{name}", self.kind()),
        }
    }
}

/// Both parts of the state go into the patch: with the resource version alone, a patch could re-create a deleted object.
fn condition(patch: &mut Value, on: &Version) {
    patch["metadata"]["uid"] = Value::from(on.uid.clone());
    patch["metadata"]["resourceVersion"] = Value::from(on.resource_version.clone());
}

/// Every call has a timeout, and its failure a class.
async fn call<T>(
    verb: &'static str,
    key: &impl fmt::Display,
    request: impl Future<Output = Result<T, CallError>>,
) -> Result<T, StoreError> {
    within(TIMEOUT, request).await.map_err(|error| classify(verb, key.to_string(), error))
}

fn classify(verb: &'static str, key: String, error: CallError) -> StoreError {
    let (code, reason, message) = match error {
        CallError::Refused { code, reason, message } => (code, reason, message),
        CallError::Timeout(seconds) => return StoreError::Timeout { verb, key, seconds },
        CallError::InvalidName => return StoreError::Invalid { verb, key, message: error.to_string() },
        error => return StoreError::Transient { verb, key, message: error.to_string() },
    };
    // A change of a custom resource by another owner is reported in full.
    let is_certificate = key.starts_with(&format!("{:?} ", ObjectKind::ServiceCertificate));
    if let Some(cause) = local_cause::of(verb, code, &message).filter(|_| !is_certificate) {
        return StoreError::InNamespace { verb, key, cause };
    }
    match (code, reason.as_str()) {
        (409, "AlreadyExists") => StoreError::AlreadyExists { key },
        (409, _) => StoreError::Conflict { key, message },
        (404, _) if verb == "create" => StoreError::Transient { verb, key, message },
        (404, _) => StoreError::NotFound { key },
        (401 | 403, _) => StoreError::Forbidden { verb, key, message },
        (400 | 422 | 413, _) => StoreError::Invalid { verb, key, message },
        _ => StoreError::Transient { verb, key, message },
    }
}

mod local_cause;
#[cfg(test)]
pub(crate) mod memory;

const TIMEOUT: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: u16, reason: &str) -> StoreError {
        let refused = CallError::Refused { code, reason: reason.to_owned(), message: "why".to_owned() };
        classify("create", ObjectKey::secret("shop", "x").to_string(), refused)
    }

    #[test]
    fn answers_of_the_api_server_are_told_apart() {
        assert!(matches!(error(409, "AlreadyExists"), StoreError::AlreadyExists { .. }));
        assert!(matches!(error(409, "Conflict"), StoreError::Conflict { .. }));
        assert!(matches!(error(403, "Forbidden"), StoreError::Forbidden { .. }));
        assert!(matches!(error(422, "Invalid"), StoreError::Invalid { .. }));
        for code in [429, 500, 503, 504] {
            assert!(matches!(error(code, "whatever"), StoreError::Transient { .. }), "{code}");
        }
    }

    #[test]
    fn a_patch_carries_uid_and_resource_version() {
        let mut patch = serde_json::json!({ "metadata": { "labels": { "a": "b" } } });
        condition(&mut patch, &Version { uid: "u".into(), resource_version: "7".into() });
        assert_eq!(
            patch,
            serde_json::json!({ "metadata": { "labels": { "a": "b" }, "uid": "u", "resourceVersion": "7" } })
        );
    }
}
