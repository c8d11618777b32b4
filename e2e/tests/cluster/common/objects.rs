//! Custom resources of a scene, and waiting for their states.

use std::time::Duration;

use gaia_api::crd::{GaiaService, ServiceCertificate, TrustDomain};
use gaia_e2e::services::loopback_endpoints;
use gaia_e2e::wait::{self, Seen};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::api::events::v1::Event;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Resource as _};
use serde_json::{Value, json};

use super::{OPERATOR_NAMESPACE, SOON, Scene};

/// A condition as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seemed {
    pub status: String,
    pub reason: String,
    pub message: String,
}

impl Scene {
    /// The scene's TrustDomain: it selects the scene's namespace and allows endpoints on the loopback address.
    pub fn trust_domain(&self, spec: Value) -> Value {
        let base = json!({
            "apiVersion": "gaia.dev/v1alpha1",
            "kind": "TrustDomain",
            "metadata": { "name": self.domain },
            "spec": {
                "trustDomain": format!("{}.example", self.domain),
                "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": self.namespace } },
                "tokens": { "algorithm": "ES256" },
                "allowedEndpoints": loopback_endpoints(&[&self.namespace]),
            },
        });
        merged(base, json!({ "spec": spec }))
    }

    /// A ServiceCertificate in the scene's namespace.
    pub fn certificate(&self, name: &str, spec: Value) -> Value {
        self.object("ServiceCertificate", name, spec)
    }

    /// A GaiaService in the scene's namespace.
    pub fn service(&self, name: &str, spec: Value) -> Value {
        self.object("GaiaService", name, spec)
    }

    fn object(&self, kind: &str, name: &str, spec: Value) -> Value {
        let base = json!({
            "apiVersion": "gaia.dev/v1alpha1",
            "kind": kind,
            "metadata": { "name": name, "namespace": self.namespace },
            "spec": { "trustDomainRef": { "name": self.domain } },
        });
        merged(base, json!({ "spec": spec }))
    }

    /// A Secret in a namespace.
    pub fn secret(&self, namespace: &str, name: &str, type_: &str, data: Value) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": name, "namespace": namespace },
            "type": type_,
            "stringData": data,
        })
    }

    /// Creates an object of any kind that the tests support.
    pub async fn try_create(&self, manifest: Value) -> Result<DynamicObject, kube::Error> {
        let object: DynamicObject = serde_json::from_value(manifest).unwrap();
        let kind = object.types.clone().unwrap().kind;
        self.api(&kind, object.metadata.namespace.as_deref()).create(&PostParams::default(), &object).await
    }

    /// As [`Self::try_create`]; it must not be refused.
    pub async fn create(&self, manifest: Value) -> DynamicObject {
        self.try_create(manifest).await.unwrap()
    }

    /// Creates an object in a dry run.
    pub async fn time_of_creation(&self, manifest: Value) -> String {
        let object: DynamicObject = serde_json::from_value(manifest).unwrap();
        let params = PostParams { dry_run: true, ..PostParams::default() };
        let api = self.api(&object.types.clone().unwrap().kind, object.metadata.namespace.as_deref());
        let found = serde_json::to_value(api.create(&params, &object).await.unwrap()).unwrap();
        found["metadata"]["creationTimestamp"].as_str().unwrap().to_owned()
    }

    /// The API server's refusal of an object, which is required.
    pub async fn refusal(&self, manifest: Value) -> String {
        match self.try_create(manifest).await {
            Err(kube::Error::Api(status)) => status.message,
            other => unreachable!("the API server should refuse it: {other:?}"),
        }
    }

    /// Merges a patch into an object of the scene.
    pub async fn patch(&self, kind: &str, name: &str, patch: Value) {
        self.patch_in(&self.namespace, kind, name, patch).await;
    }

    /// Merges a patch into an object in a namespace.
    pub async fn patch_in(&self, namespace: &str, kind: &str, name: &str, patch: Value) {
        let api = self.api(kind, Some(namespace));
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// Deletes an object of the scene.
    pub async fn delete(&self, kind: &str, name: &str) {
        self.delete_in(&self.namespace, kind, name).await;
    }

    /// Deletes an object in a namespace.
    pub async fn delete_in(&self, namespace: &str, kind: &str, name: &str) {
        self.api(kind, Some(namespace)).delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// An object of the scene at present; none if it does not exist.
    pub async fn get(&self, kind: &str, name: &str) -> Option<Value> {
        self.get_in(&self.namespace, kind, name).await
    }

    /// An object in a namespace at present; none if it does not exist.
    pub async fn get_in(&self, namespace: &str, kind: &str, name: &str) -> Option<Value> {
        let found = self.api(kind, Some(namespace)).get_opt(name).await.unwrap();
        found.map(|found| serde_json::to_value(found).unwrap())
    }

    /// The Secrets of the scene's namespace.
    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The Secrets of the operator's namespace.
    pub fn rings(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), OPERATOR_NAMESPACE)
    }

    /// The text of a key of a Secret in the scene's namespace.
    pub async fn secret_text(&self, name: &str, key: &str) -> String {
        text(&self.secrets().get(name).await.unwrap(), key)
    }

    /// The text of a key of `<td>-trust`.
    pub async fn trust(&self, key: &str) -> String {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let trust = maps.get(&format!("{}-trust", self.domain)).await.unwrap();
        trust.data.unwrap()[key].clone()
    }

    /// The client for a kind; the namespace is left out for kinds of the cluster.
    pub fn api(&self, kind: &str, namespace: Option<&str>) -> Api<DynamicObject> {
        let resource = match kind {
            "TrustDomain" => ApiResource::erase::<TrustDomain>(&()),
            "ServiceCertificate" => ApiResource::erase::<ServiceCertificate>(&()),
            "GaiaService" => ApiResource::erase::<GaiaService>(&()),
            "Secret" => ApiResource::erase::<Secret>(&()),
            "ConfigMap" => ApiResource::erase::<ConfigMap>(&()),
            "Pod" => ApiResource::erase::<Pod>(&()),
            other => unreachable!("{other}"),
        };
        if kind == TrustDomain::kind(&()) {
            return Api::all_with(self.client.clone(), &resource);
        }
        Api::namespaced_with(self.client.clone(), namespace.unwrap(), &resource)
    }

    /// A condition of an object for its present generation.
    pub async fn condition(&self, kind: &str, name: &str, type_: &str) -> Option<Seemed> {
        let object = self.get(kind, name).await?;
        if object["status"]["observedGeneration"] != object["metadata"]["generation"] {
            return None;
        }
        let conditions = object["status"]["conditions"].as_array()?;
        let found = conditions.iter().find(|condition| condition["type"] == type_)?;
        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        Some(Seemed { status: text("status"), reason: text("reason"), message: text("message") })
    }

    /// Waits for `<type>=<status>` with a reason, and returns the message.
    pub async fn wait_for(&self, kind: &str, name: &str, condition: &str, reason: &str, within: Duration) -> String {
        let (type_, status) = condition.split_once('=').unwrap();
        let what = format!("{kind} {name} has {condition}, {reason}");
        wait::until(&what, within, async || match self.condition(kind, name, type_).await {
            Some(seen) if seen.status == status && seen.reason == reason => Seen::Yes(seen.message),
            other => Seen::NotYet(format!("{other:?}")),
        })
        .await
        .unwrap()
    }

    /// Waits until objects are Ready, without an ongoing change.
    pub async fn wait_ready(&self, kind: &str, names: &[&str]) {
        for name in names {
            self.wait_for(kind, name, "Ready=True", "Ready", SOON).await;
            self.wait_for(kind, name, "Reconciling=False", "Settled", SOON).await;
        }
    }

    /// Creates the scene's TrustDomain and waits for it.
    pub async fn ready_domain(&self, spec: Value) {
        self.create(self.trust_domain(spec)).await;
        let domain = self.domain.clone();
        self.wait_ready("TrustDomain", &[&domain]).await;
    }

    /// The Events about an object: reason, count, note; the oldest first.
    pub async fn events(&self, kind: &str, name: &str) -> Vec<(String, i32, String)> {
        let namespace = if kind == "TrustDomain" { "default" } else { &self.namespace };
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let mut found = api.list(&ListParams::default()).await.unwrap().items;
        found.retain(|event| {
            let about = event.regarding.clone().unwrap_or_default();
            about.kind.as_deref() == Some(kind) && about.name.as_deref() == Some(name)
        });
        found.sort_by_key(|event| event.event_time.clone().map(|time| time.0));
        let count = |event: &Event| event.series.as_ref().map_or(1, |series| series.count);
        found
            .iter()
            .map(|event| {
                (event.reason.clone().unwrap_or_default(), count(event), event.note.clone().unwrap_or_default())
            })
            .collect()
    }
}

/// The text of a key of a Secret; empty if it does not exist.
pub fn text(secret: &Secret, key: &str) -> String {
    let value = secret.data.as_ref().and_then(|data| data.get(key));
    value.map(|value| String::from_utf8(value.0.clone()).unwrap()).unwrap_or_default()
}

/// JSON merge patch (RFC 7396) without removal.
pub fn merged(mut base: Value, over: Value) -> Value {
    match (base.as_object_mut(), over) {
        (Some(map), Value::Object(over)) => {
            for (key, value) in over {
                let before = map.remove(&key).unwrap_or(Value::Null);
                map.insert(key, merged(before, value));
            }
            base
        }
        (_, Value::Null) => base,
        (_, over) => over,
    }
}
