//! One odd object costs one object: objects that a schema accepts and a type of ours might not, made from the schemas.

use std::collections::BTreeMap;

use crate::common::Scene;
use crate::isolation_support::deviation::{deviations, filled};
use crate::isolation_support::full;
use futures::{StreamExt as _, stream};
use gaia_api::crd::{GaiaService, ServiceCertificate, TrustDomain};
use http::Request;
use http::header::CONTENT_TYPE;
use kube::CustomResourceExt;
use kube::api::{DynamicObject, PostParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// ISOLATION: everything that the schema accepts, the types accept. The API server judges each deviation in a dry run.
#[tokio::test]
async fn what_the_schema_accepts_the_types_accept() {
    let Some(scene) = Scene::begin().await else { return };
    let (namespace, domain) = (scene.namespace.clone(), scene.domain.clone());
    let other = format!("{domain}-full");
    let mut refused = BTreeMap::new();
    refused.extend(unread::<TrustDomain>(&scene, full::trust_domain(&other)).await);
    let own_ca = full::with_own_ca(&format!("{domain}-own"));
    refused.extend(unread::<TrustDomain>(&scene, own_ca).await);
    let certificate = full::certificate(&namespace, "full", &domain);
    refused.extend(unread::<ServiceCertificate>(&scene, certificate).await);
    let service = full::service(&namespace, "full-service", &domain);
    refused.extend(unread::<GaiaService>(&scene, service).await);
    assert_eq!(refused, BTreeMap::new(), "the API server accepts what the type does not");
    scene.end().await;
}

/// The deviations of spec and status that the API server accepts and the type does not, with the type's error.
async fn unread<K: DeserializeOwned + CustomResourceExt>(scene: &Scene, base: Value) -> BTreeMap<String, String> {
    let definition = serde_json::to_value(K::crd()).unwrap();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    let kind = base["kind"].as_str().unwrap().to_owned();
    let api = &scene.api(&kind, base["metadata"]["namespace"].as_str());
    let created = serde_json::to_value(scene.create(base.clone()).await).unwrap();
    let path = &status_path(&created);
    let mut whole = created.clone();
    whole["status"] = filled(&schema["status"]);
    try_status(scene, path, &whole["status"]).await.expect("a status with every field");

    let mut odd = deviations(&schema["spec"], &base, "/spec");
    for deviation in &mut odd {
        deviation.object["metadata"]["name"] = json!(format!("{}-odd", base["metadata"]["name"].as_str().unwrap()));
    }
    odd.extend(deviations(&schema["status"], &whole, "/status"));
    let all = odd.len();
    // What the type accepts needs no judge.
    odd.retain(|deviation| serde_json::from_value::<K>(deviation.object.clone()).is_err());
    println!("{kind}: the type refuses {} of {all} deviations", odd.len());
    assert!(odd.len() > 50, "{kind}: the deviations are odd");
    let judged = stream::iter(odd).map(|deviation| async move {
        let accepted = if deviation.name.starts_with("/status") {
            try_status(scene, path, &deviation.object["status"]).await.ok()?
        } else {
            let object: DynamicObject = serde_json::from_value(deviation.object).ok()?;
            serde_json::to_value(api.create(&dry_run(), &object).await.ok()?).unwrap()
        };
        let error = serde_json::from_value::<K>(accepted).err()?;
        Some((deviation.name, error.to_string()))
    });
    judged.buffer_unordered(AT_A_TIME).filter_map(async |found| found).collect().await
}

/// Asks the API server whether it accepts a status. The operator may write another one meanwhile.
async fn try_status(scene: &Scene, path: &str, status: &Value) -> Result<Value, kube::Error> {
    let patch = json!([{ "op": "add", "path": "/status", "value": status }]);
    let request = Request::patch(path).header(CONTENT_TYPE, "application/json-patch+json");
    scene.client.request(request.body(serde_json::to_vec(&patch).unwrap()).unwrap()).await
}

fn status_path(object: &Value) -> String {
    let meta = &object["metadata"];
    let place = meta["namespace"].as_str().map_or(String::new(), |namespace| format!("namespaces/{namespace}/"));
    let resource = format!("{}s", object["kind"].as_str().unwrap().to_lowercase());
    format!("/apis/gaia.dev/v1alpha1/{place}{resource}/{}/status?dryRun=All", meta["name"].as_str().unwrap())
}

fn dry_run() -> PostParams {
    PostParams { dry_run: true, ..PostParams::default() }
}

const AT_A_TIME: usize = 8;
