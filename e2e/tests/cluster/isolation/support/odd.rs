//! Odd objects of every kind that the operator reads, on the API server.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, stream};
use gaia_api::crd::{GaiaService, ServiceCertificate, TrustDomain};
use gaia_e2e::tier;
use gaia_e2e::wait::{self, Seen};
use http::Request;
use kube::CustomResourceExt;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::deviation::{Deviation, deviations, refused};
use super::inline::schema_of;
use super::{full, path_of, post, set};
use crate::common::{OPERATOR_NAMESPACE, SOON, Scene};

/// An existing odd object.
pub struct Odd {
    pub kind: &'static str,
    pub name: String,
    /// Its deviation.
    pub deviation: String,
}

/// Makes the API server accept specs and statuses of any shape, as a newer release of the definitions might.
pub async fn widen_definitions(scene: &Scene) {
    for definition in [TrustDomain::crd(), ServiceCertificate::crd(), GaiaService::crd()] {
        let name = definition.metadata.name.clone().unwrap();
        let mut schema = json!(definition)["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
        for field in ["spec", "status"] {
            schema["properties"][field] = json!({ "x-kubernetes-preserve-unknown-fields": true });
        }
        schema.as_object_mut().unwrap().retain(|name, _| ["type", "properties"].contains(&name.as_str()));
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
        set(&scene.client, &path, "/spec/versions/0/schema/openAPIV3Schema", &schema).await.unwrap();
    }
}

/// Creates custom resources whose spec or status no type of ours holds.
pub async fn custom_resources(scene: &Scene) -> Vec<Odd> {
    let (namespace, domain) = (&scene.namespace, &scene.domain);
    let mut odd = unreadable::<TrustDomain>(scene, "TrustDomain", full::trust_domain("odd")).await;
    let certificate = full::certificate(namespace, "odd", domain);
    odd.extend(unreadable::<ServiceCertificate>(scene, "ServiceCertificate", certificate).await);
    odd.extend(unreadable::<GaiaService>(scene, "GaiaService", full::service(namespace, "odd", domain)).await);
    odd
}

async fn unreadable<K>(scene: &Scene, kind: &'static str, base: Value) -> Vec<Odd>
where
    K: DeserializeOwned + CustomResourceExt,
{
    let (statuses, specs) = refused::<K>(&base).0.into_iter().partition(Deviation::is_of_status);
    let (specs, statuses): (Vec<_>, Vec<_>) = (sample(specs), sample(statuses));
    let all = specs.into_iter().chain(statuses).enumerate().map(|(n, Deviation { name: deviation, mut object })| {
        let name = format!("odd-{}-{n}", kind.to_lowercase());
        object["metadata"]["name"] = json!(name);
        let status = object.as_object_mut().unwrap().remove("status");
        async move {
            // The API server loads a new schema with a delay.
            let create = async || match post(&scene.client, &path_of(&object, false), &object).await {
                Ok(_) => Seen::Yes(()),
                Err(error) => Seen::NotYet(error.to_string()),
            };
            wait::until(&format!("{kind} {name} with {deviation} is created"), SOON, create).await.unwrap();
            if let Some(status) = status {
                let path = format!("{}/status", path_of(&object, true));
                set(&scene.client, &path, "/status", &status).await.unwrap();
            }
            Odd { kind, name, deviation }
        }
    });
    stream::iter(all).buffer_unordered(AT_A_TIME).collect().await
}

/// The names of those that no type holds, as the API server stores them: it drops nulls, and changes the form of
/// numbers.
pub async fn names_of_unreadable(scene: &Scene) -> BTreeMap<&'static str, BTreeSet<String>> {
    let mut found = BTreeMap::new();
    found.insert("TrustDomain", unread_of::<TrustDomain>(scene, "trustdomains").await);
    found.insert("ServiceCertificate", unread_of::<ServiceCertificate>(scene, "servicecertificates").await);
    found.insert("GaiaService", unread_of::<GaiaService>(scene, "gaiaservices").await);
    found
}

async fn unread_of<K: DeserializeOwned>(scene: &Scene, resource: &str) -> BTreeSet<String> {
    let request = Request::get(format!("/apis/gaia.dev/v1alpha1/{resource}")).body(vec![]).unwrap();
    let list: Value = scene.client.request(request).await.unwrap();
    let all = list["items"].as_array().unwrap().iter();
    let unread = all.filter(|item| serde_json::from_value::<K>((*item).clone()).is_err());
    unread.map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

/// Creates odd objects of the built-in kinds: copies of the operator's objects, pods that mount it, namespaces, leases.
/// The API server refuses many of them. Returns how many it accepted of each kind.
pub async fn built_in_objects(scene: &Scene) -> Vec<(&'static str, usize)> {
    let elsewhere = format!("{}-elsewhere", scene.namespace);
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": elsewhere } });
    post(&scene.client, "/api/v1/namespaces", &namespace).await.unwrap();
    let live =
        async |path: String| scene.client.request::<Value>(Request::get(path).body(vec![]).unwrap()).await.unwrap();
    let ours = format!("/api/v1/namespaces/{}", scene.namespace);
    let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{OPERATOR_NAMESPACE}/leases");
    let lease = live(leases).await["items"][0].clone();
    let kinds = [
        ("Secret", "api/v1", live(format!("{ours}/secrets/worker-tls")).await),
        ("ConfigMap", "api/v1", live(format!("{ours}/configmaps/{}-trust", scene.domain)).await),
        ("Pod", "api/v1", full::pod(&scene.domain)),
        ("Namespace", "api/v1", live(format!("/api/v1/namespaces/{}", scene.namespace)).await),
        ("Lease", "apis/coordination.k8s.io/v1", lease),
    ];
    let mut accepted = vec![];
    for (kind, group, mut base) in kinds {
        base["kind"] = json!(kind);
        base["apiVersion"] = json!(group.split_once('/').unwrap().1);
        let meta = base["metadata"].as_object_mut().unwrap();
        for field in ["resourceVersion", "uid", "ownerReferences"] {
            meta.remove(field);
        }
        let homes: &[&str] = match kind {
            // A copy of a leaf in a selected namespace counts as one that is in use.
            "Secret" => &[&elsewhere],
            "ConfigMap" => &[&elsewhere, &scene.namespace],
            "Lease" => &[OPERATOR_NAMESPACE],
            _ => &[&elsewhere],
        };
        let schema = schema_of(&scene.client, group, kind).await;
        let all = sample(deviations(&schema, &base, ""));
        let mut count = 0;
        for (n, Deviation { mut object, .. }) in all.into_iter().enumerate() {
            for home in homes {
                let Some(meta) = object["metadata"].as_object_mut() else { continue };
                meta.insert("name".to_owned(), json!(format!("odd-{n}")));
                if kind != "Namespace" {
                    meta.insert("namespace".to_owned(), json!(home));
                    base["metadata"]["namespace"] = json!(home);
                }
                count += usize::from(post(&scene.client, &path_of(&base, false), &object).await.is_ok());
            }
        }
        accepted.push((kind, count));
    }
    accepted
}

/// The gate tries some of them, evenly chosen; `make test-long` all.
fn sample(all: Vec<Deviation>) -> Vec<Deviation> {
    let step = if tier::is_long() { 1 } else { all.len().div_ceil(SAMPLE).max(1) };
    all.into_iter().step_by(step).collect()
}

const SAMPLE: usize = 60;
const AT_A_TIME: usize = 8;
