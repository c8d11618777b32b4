//! Where objects are kept: read what exists, write with a precondition.

use std::fmt;
use std::time::Duration;

use gaia_api::crd::{GaiaService, RestartKind, ServiceCertificate, TrustDomain};
use gaia_api::names::annotation;
use gaia_plan::instance::Target;
use gaia_plan::object::{ObjectKey, ObjectKind, Version};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{DeleteParams, PatchParams, PostParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::StoreError;
use crate::queue::Laned;

/// An object that the operator writes.
#[derive(Clone)]
pub(crate) enum Stored {
    Secret(Secret),
    ConfigMap(ConfigMap),
    Certificate(Box<ServiceCertificate>),
}

/// A custom resource whose status is reported.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Key {
    TrustDomain(String),
    Certificate(String, String),
    Service(String, String),
}

/// A custom resource as it is after its status was written.
pub(crate) enum Reported {
    TrustDomain(Box<TrustDomain>),
    Certificate(Box<ServiceCertificate>),
    Service(Box<GaiaService>),
}

/// The store the executor writes to. The API server is the one that counts; a directory tree is to be another.
pub(crate) trait Store: Send + Sync + 'static {
    /// Creates an object; never replaces one.
    fn create(&self, object: Stored) -> impl Future<Output = Result<Stored, StoreError>> + Send;
    /// Merges a patch (RFC 7396) into the object, if it is still in the state the patch was planned on.
    fn patch(
        &self,
        key: &ObjectKey,
        on: &Version,
        patch: Value,
    ) -> impl Future<Output = Result<Stored, StoreError>> + Send;
    /// Replaces a Secret as a whole, if it is still in the state that was planned on.
    fn replace(&self, secret: Secret, on: &Version) -> impl Future<Output = Result<Stored, StoreError>> + Send;
    /// Annotates a pod so that kubelet looks at its mounts; one of another UID is left alone.
    fn nudge(
        &self,
        namespace: &str,
        pod: &str,
        uid: &str,
        value: &str,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// Annotates a workload's pod template so that its pods are replaced.
    fn restart(&self, target: &Target, value: &str) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// Deletes the object, if it is still in the state the deletion was planned on.
    fn delete(&self, key: &ObjectKey, on: &Version) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// Reads the object.
    fn get(&self, key: &ObjectKey) -> impl Future<Output = Result<Option<Stored>, StoreError>> + Send;
    /// Reads the object's metadata and nothing else: enough to tell whose it is.
    fn get_metadata(
        &self,
        key: &ObjectKey,
    ) -> impl Future<Output = Result<Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>, StoreError>> + Send;
    /// Merges a patch into a custom resource's status, if the resource is still in that state.
    fn patch_status(
        &self,
        key: &Key,
        on: &Version,
        status: Value,
    ) -> impl Future<Output = Result<Reported, StoreError>> + Send;
}

/// The API server.
#[derive(Clone)]
pub(crate) struct KubeStore {
    client: Client,
}

impl KubeStore {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }
}

impl Store for KubeStore {
    async fn create(&self, object: Stored) -> Result<Stored, StoreError> {
        let key = object.key();
        let pp = PostParams::default();
        match object {
            Stored::Secret(secret) => {
                let api: Api<Secret> = self.api(&key.namespace);
                call("create", &key, api.create(&pp, &secret)).await.map(Stored::Secret)
            }
            Stored::ConfigMap(map) => {
                let api: Api<ConfigMap> = self.api(&key.namespace);
                call("create", &key, api.create(&pp, &map)).await.map(Stored::ConfigMap)
            }
            Stored::Certificate(certificate) => {
                let api: Api<ServiceCertificate> = self.api(&key.namespace);
                call("create", &key, api.create(&pp, &certificate))
                    .await
                    .map(|made| Stored::Certificate(Box::new(made)))
            }
        }
    }

    async fn patch(&self, key: &ObjectKey, on: &Version, mut patch: Value) -> Result<Stored, StoreError> {
        condition(&mut patch, on);
        match key.kind {
            ObjectKind::Secret => merge(self.api(&key.namespace), key, &patch).await.map(Stored::Secret),
            ObjectKind::ConfigMap => merge(self.api(&key.namespace), key, &patch).await.map(Stored::ConfigMap),
            ObjectKind::ServiceCertificate => {
                merge(self.api(&key.namespace), key, &patch).await.map(|made| Stored::Certificate(Box::new(made)))
            }
        }
    }

    async fn replace(&self, mut secret: Secret, on: &Version) -> Result<Stored, StoreError> {
        secret.metadata.uid = Some(on.uid.clone());
        secret.metadata.resource_version = Some(on.resource_version.clone());
        let key = Stored::Secret(secret.clone()).key();
        let api: Api<Secret> = self.api(&key.namespace);
        let pp = PostParams::default();
        call("replace", &key, api.replace(&key.name, &pp, &secret)).await.map(Stored::Secret)
    }

    async fn nudge(&self, namespace: &str, pod: &str, uid: &str, value: &str) -> Result<(), StoreError> {
        let annotations = serde_json::json!({ annotation::NUDGE: value });
        let patch = serde_json::json!({ "metadata": { "uid": uid, "annotations": annotations } });
        let key = format!("Pod {namespace}/{pod}");
        let api: Api<Pod> = self.api(namespace);
        call("annotate", &key, api.patch_metadata(pod, &PatchParams::default(), &kube::api::Patch::Merge(patch)))
            .await
            .map(drop)
    }

    async fn restart(&self, target: &Target, value: &str) -> Result<(), StoreError> {
        let annotations = serde_json::json!({ annotation::RESTARTED_AT: value });
        let patch = serde_json::json!({ "spec": { "template": { "metadata": { "annotations": annotations } } } });
        let Target { namespace, kind, name } = target;
        match kind {
            RestartKind::Deployment => annotate(self.api::<Deployment>(namespace), target, name, &patch).await,
            RestartKind::StatefulSet => annotate(self.api::<StatefulSet>(namespace), target, name, &patch).await,
            RestartKind::DaemonSet => annotate(self.api::<DaemonSet>(namespace), target, name, &patch).await,
        }
    }

    async fn delete(&self, key: &ObjectKey, on: &Version) -> Result<(), StoreError> {
        let params = DeleteParams::default().preconditions(Preconditions {
            uid: Some(on.uid.clone()),
            resource_version: Some(on.resource_version.clone()),
        });
        match key.kind {
            ObjectKind::Secret => remove::<Secret>(self.api(&key.namespace), key, &params).await,
            ObjectKind::ConfigMap => remove::<ConfigMap>(self.api(&key.namespace), key, &params).await,
            ObjectKind::ServiceCertificate => {
                remove::<ServiceCertificate>(self.api(&key.namespace), key, &params).await
            }
        }
    }

    async fn get(&self, key: &ObjectKey) -> Result<Option<Stored>, StoreError> {
        let name = &key.name;
        Ok(match key.kind {
            ObjectKind::Secret => {
                let api: Api<Secret> = self.api(&key.namespace);
                call("get", key, api.get_opt(name)).await?.map(Stored::Secret)
            }
            ObjectKind::ConfigMap => {
                let api: Api<ConfigMap> = self.api(&key.namespace);
                call("get", key, api.get_opt(name)).await?.map(Stored::ConfigMap)
            }
            ObjectKind::ServiceCertificate => {
                let api: Api<ServiceCertificate> = self.api(&key.namespace);
                call("get", key, api.get_opt(name)).await?.map(|found| Stored::Certificate(Box::new(found)))
            }
        })
    }

    async fn get_metadata(
        &self,
        key: &ObjectKey,
    ) -> Result<Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>, StoreError> {
        match key.kind {
            ObjectKind::Secret => metadata::<Secret>(self.api(&key.namespace), key).await,
            ObjectKind::ConfigMap => metadata::<ConfigMap>(self.api(&key.namespace), key).await,
            ObjectKind::ServiceCertificate => metadata::<ServiceCertificate>(self.api(&key.namespace), key).await,
        }
    }

    async fn patch_status(&self, key: &Key, on: &Version, status: Value) -> Result<Reported, StoreError> {
        let mut patch = serde_json::json!({ "status": status });
        condition(&mut patch, on);
        match key {
            Key::TrustDomain(name) => {
                let api: Api<TrustDomain> = Api::all(self.client.clone());
                report(api, name, key, &patch).await.map(|found| Reported::TrustDomain(Box::new(found)))
            }
            Key::Certificate(namespace, name) => {
                report(self.api(namespace), name, key, &patch).await.map(|found| Reported::Certificate(Box::new(found)))
            }
            Key::Service(namespace, name) => {
                report(self.api(namespace), name, key, &patch).await.map(|found| Reported::Service(Box::new(found)))
            }
        }
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

impl Key {
    /// Namespace (empty for a TrustDomain) and name.
    pub(crate) fn names(&self) -> (&str, &str) {
        match self {
            Self::TrustDomain(name) => ("", name),
            Self::Certificate(namespace, name) | Self::Service(namespace, name) => (namespace, name),
        }
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::TrustDomain(_) => "TrustDomain",
            Self::Certificate(..) => "ServiceCertificate",
            Self::Service(..) => "GaiaService",
        }
    }
}

impl Laned for Key {
    fn lane(&self) -> &str {
        self.names().0
    }
}

impl fmt::Display for Key {
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

async fn merge<K>(api: Api<K>, key: &ObjectKey, patch: &Value) -> Result<K, StoreError>
where
    K: Clone + DeserializeOwned + fmt::Debug,
{
    call("patch", key, api.patch(&key.name, &PatchParams::default(), &kube::api::Patch::Merge(patch))).await
}

async fn annotate<K>(api: Api<K>, target: &Target, name: &str, patch: &Value) -> Result<(), StoreError>
where
    K: Clone + DeserializeOwned + fmt::Debug,
{
    call("restart", target, api.patch(name, &PatchParams::default(), &kube::api::Patch::Merge(patch))).await.map(drop)
}

async fn report<K>(api: Api<K>, name: &str, key: &Key, patch: &Value) -> Result<K, StoreError>
where
    K: Clone + DeserializeOwned + fmt::Debug,
{
    let params = PatchParams::default();
    call("report the status of", key, api.patch_status(name, &params, &kube::api::Patch::Merge(patch))).await
}

async fn remove<K>(api: Api<K>, key: &ObjectKey, params: &DeleteParams) -> Result<(), StoreError>
where
    K: Clone + DeserializeOwned + fmt::Debug,
{
    match call("delete", key, api.delete(&key.name, params)).await {
        Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn metadata<K>(
    api: Api<K>,
    key: &ObjectKey,
) -> Result<Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>, StoreError>
where
    K: Clone + DeserializeOwned + fmt::Debug,
{
    let found: Option<PartialObjectMeta<K>> = call("get", key, api.get_metadata_opt(&key.name)).await?;
    Ok(found.map(|found| found.metadata))
}

/// Every call has a timeout, and its failure a class.
async fn call<T>(
    verb: &'static str,
    key: &impl fmt::Display,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(TIMEOUT, request).await {
        Err(_) => Err(StoreError::Timeout { verb, key: key.to_string(), seconds: TIMEOUT.as_secs() }),
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(classify(verb, key.to_string(), &error)),
    }
}

fn classify(verb: &'static str, key: String, error: &kube::Error) -> StoreError {
    let kube::Error::Api(status) = error else {
        return StoreError::Transient { verb, key, message: error.to_string() };
    };
    let message = status.message.clone();
    match (status.code, status.reason.as_str()) {
        (409, "AlreadyExists") => StoreError::AlreadyExists { key },
        (409, _) => StoreError::Conflict { key, message },
        (404, _) if verb == "create" => StoreError::Transient { verb, key, message },
        (404, _) => StoreError::NotFound { key },
        (401 | 403, _) => StoreError::Forbidden { verb, key, message },
        (400 | 422 | 413, _) => StoreError::Invalid { verb, key, message },
        _ => StoreError::Transient { verb, key, message },
    }
}

const TIMEOUT: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: u16, reason: &str) -> StoreError {
        let status = kube::core::Status::failure("why", reason).with_code(code);
        classify("create", ObjectKey::secret("shop", "x").to_string(), &kube::Error::Api(Box::new(status)))
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
