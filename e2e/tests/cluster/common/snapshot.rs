//! All objects of a scene, without values that differ between runs.

use gaia_api::names::{annotation, key};
use gaia_pki::{Certificate, PrivateKey, key_matches};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DynamicObject, ListParams};
use serde_json::{Map, Value, json};

use super::objects::text;
use super::{OPERATOR_NAMESPACE, Scene, chronicle};

impl Scene {
    /// Every object of the scene and of its rings, by kind and name; the TrustDomain and the namespace are `td`.
    pub async fn snapshot(&self) -> Value {
        let mut all = Map::new();
        for kind in ["Secret", "ConfigMap", "ServiceCertificate", "GaiaService"] {
            self.collect(&mut all, kind, &self.namespace, "").await;
        }
        self.collect(&mut all, "Secret", OPERATOR_NAMESPACE, &self.domain).await;
        self.collect(&mut all, "TrustDomain", "", &self.domain).await;
        let text = Value::Object(all).to_string().replace(&self.namespace, "td");
        serde_json::from_str(&text).unwrap()
    }

    async fn collect(&self, all: &mut Map<String, Value>, kind: &str, namespace: &str, prefix: &str) {
        let found = self.api(kind, Some(namespace)).list(&ListParams::default()).await.unwrap();
        for object in found.items {
            let name = object.metadata.name.clone().unwrap();
            if name.starts_with(prefix) && name != "kube-root-ca.crt" {
                all.insert(format!("{kind} {name}"), outline(&object));
            }
        }
    }

    /// Checks that key, certificate and bundle of a leaf Secret fit each other and the published bundle.
    pub async fn leaf_is_whole(&self, name: &str) -> bool {
        let Some(secret) = self.secrets().get_opt(name).await.unwrap() else { return false };
        let chain = Certificate::chain_from_pem(text(&secret, "tls.crt").as_bytes()).unwrap();
        let key = PrivateKey::from_pem(&text(&secret, "tls.key")).unwrap();
        key_matches(&chain[0], &key) && text(&secret, "ca.crt") == self.trust("ca.crt").await
    }
}

fn outline(object: &DynamicObject) -> Value {
    let meta = &object.metadata;
    let owners: Vec<Value> =
        meta.owner_references.iter().flatten().map(|owner| json!([owner.kind, owner.name])).collect();
    let told = [annotation::REVISION, annotation::CA_EPOCH, annotation::SIGNING_EPOCH];
    let annotations: Map<String, Value> = meta
        .annotations
        .iter()
        .flatten()
        .map(|(key, value)| (key.clone(), json!(told.contains(&key.as_str()).then_some(value))))
        .collect();
    let keys = |field: &str| {
        let mut keys: Vec<String> = object.data[field].as_object()?.keys().map(|key| shape(key)).collect();
        keys.sort();
        Some(keys)
    };
    let ring = serde_json::from_value::<Secret>(json!({ "data": object.data["data"] })).ok();
    let ring = ring.filter(|secret| !text(secret, key::RING).is_empty());
    let conditions = object.data["status"]["conditions"].as_array().into_iter().flatten();
    let conditions: Vec<Value> =
        conditions.map(|condition| json!([condition["type"], condition["status"], condition["reason"]])).collect();
    json!({
        "labels": meta.labels,
        "annotations": annotations,
        "owners": owners,
        "type": object.data["type"],
        "data": keys("data"),
        "ring": ring.map(|secret| chronicle::outline(&chronicle::ring_of(&secret))),
        "spec": without_names(object.data["spec"].clone()),
        "status": keys("status"),
        "conditions": conditions,
        "revision": object.data["status"]["revision"],
    })
}

/// A spec that is the same whichever generation is distrusted.
fn without_names(mut spec: Value) -> Value {
    for (part, name) in [("ca", "fingerprint"), ("tokens", "kid")] {
        let listed = spec.get_mut(part).and_then(|part| part.get_mut("distrusted")).and_then(Value::as_array_mut);
        for entry in listed.into_iter().flatten() {
            entry[name] = json!(format!("<{name}>"));
        }
    }
    spec
}

/// Keys of rings are named after their content: `3f9a0b1c.key`.
fn shape(key: &str) -> String {
    match key.strip_suffix(".key") {
        Some(id) if id.len() == 8 => "<id>.key".to_owned(),
        _ => key.to_owned(),
    }
}

/// The objects that two snapshots have in different forms.
pub fn differences(one: &Value, other: &Value) -> Vec<String> {
    let (one, other) = (one.as_object().unwrap(), other.as_object().unwrap());
    let names: std::collections::BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let differ = names.into_iter().filter(|name| one.get(*name) != other.get(*name));
    let show = |value: Option<&Value>| value.map_or_else(|| "not there".to_owned(), Value::to_string);
    differ.map(|name| format!("{name}:\n  {}\n  {}", show(one.get(name)), show(other.get(name)))).collect()
}
