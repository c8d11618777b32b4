//! One odd object affects only itself: objects that a schema accepts and a type might not, generated from the schemas.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use crate::common::{Plane, SOON, Scene};
use crate::isolation::support::deviation::refused;
use crate::isolation::support::{full, odd, path_of, set};
use futures::{StreamExt as _, stream};
use gaia_api::crd::{GaiaService, ServiceCertificate, TrustDomain};
use gaia_e2e::OperatorProcess;
use gaia_e2e::wait::{self, Seen};
use kube::CustomResourceExt;
use kube::api::{DynamicObject, PostParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The types accept everything that the schema accepts. The API server validates each deviation in a dry run.
#[tokio::test]
async fn types_accept_every_object_that_the_schema_accepts() {
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

/// One object affects only itself, also after a restart, and it is named.
#[tokio::test]
async fn odd_objects_of_every_kind_stop_nothing() {
    let Some(plane) = Plane::own(&[]).await else { return };
    let operator = plane.start_operator().await;
    let scene = plane.scene().await;
    let _seen = scene.rotating(json!({ "tokens": { "maxTTL": "10s" } }), "1s").await;
    scene.create(scene.service("orders", json!({}))).await;
    scene.wait_ready("GaiaService", &["orders"]).await;

    odd::widen_definitions(&scene).await;
    let unreadable = odd::custom_resources(&scene).await;
    let accepted = odd::built_in_objects(&scene).await;
    assert!(accepted.iter().all(|(_, count)| *count > 0), "{accepted:?}");
    names_them(&scene, &operator, &unreadable).await;
    everything_works(&scene, 2).await;

    operator.restart().unwrap();
    operator.wait_ready(SOON).await.unwrap();
    names_them(&scene, &operator, &unreadable).await;
    everything_works(&scene, 3).await;
    scene.end().await;
}

/// Each object is in a line of the log and, where its status holds conditions, in one of those; the metric counts them.
async fn names_them(scene: &Scene, operator: &OperatorProcess, unreadable: &[odd::Odd]) {
    let counted = async || {
        let refused = odd::names_of_unreadable(scene).await;
        let Ok(metrics) = operator.metrics().await else { return Seen::NotYet("no metrics".to_owned()) };
        let line = |(kind, names): (&&str, &BTreeSet<String>)| {
            format!("gaia_unreadable_objects{{kind=\"{kind}\"}} {}", names.len())
        };
        let missing: Vec<String> =
            refused.iter().map(line).filter(|line| !metrics.lines().any(|found| found == line)).collect();
        if missing.is_empty() { Seen::Yes(refused) } else { Seen::NotYet(format!("missing: {missing:?}")) }
    };
    let refused = wait::until("the metric counts them", SOON, counted).await.unwrap();
    let log = std::fs::read_to_string(operator.log()).unwrap();
    for odd in unreadable.iter().filter(|odd| refused[odd.kind].contains(&odd.name)) {
        let named = |line: &str| line.contains("an object cannot be read") && line.contains(&odd.name);
        assert!(log.lines().any(named), "{} {} with {} is not in the log", odd.kind, odd.name, odd.deviation);
        if odd.deviation.starts_with("/spec") {
            scene.wait_for(odd.kind, &odd.name, "Stalled=True", "ObjectUnreadable", SOON).await;
        }
    }
    assert!(refused.values().all(|names| names.len() > 50), "{refused:?}");
}

/// Certificates are issued, repaired and rotated.
async fn everything_works(scene: &Scene, revision: u32) {
    let name = format!("new-{revision}");
    scene.create(scene.certificate(&name, json!({}))).await;
    scene.create(scene.service(&format!("service-{revision}"), json!({}))).await;
    scene.wait_ready("ServiceCertificate", &[&name, "worker"]).await;
    scene.wait_ready("GaiaService", &[&format!("service-{revision}"), "orders"]).await;
    scene.delete("Secret", "worker-tls").await;
    let repaired = async || scene.leaf_is_whole("worker-tls").await;
    wait::until("worker-tls is there again", SOON, repaired).await.unwrap();
    for (part, id) in [("ca", "/ca/active/id"), ("tokens", "/signingKeys/active/id")] {
        let id = |status: &Value| status.pointer(id).cloned();
        let before = scene.get("TrustDomain", &scene.domain).await.unwrap()["status"].clone();
        scene.raise(part, revision).await;
        let rotated = async || {
            let status = scene.get("TrustDomain", &scene.domain).await.unwrap()["status"].clone();
            if id(&status) == id(&before) { Seen::NotYet(status.to_string()) } else { Seen::Yes(()) }
        };
        wait::until(&format!("the rotation of {part} has begun"), SOON, rotated).await.unwrap();
        scene.wait_rotated().await;
    }
}

/// The deviations of spec and status that the API server accepts and the type does not, with the type's error.
async fn unread<K: DeserializeOwned + CustomResourceExt>(scene: &Scene, base: Value) -> BTreeMap<String, String> {
    let kind = base["kind"].as_str().unwrap().to_owned();
    let api = &scene.api(&kind, base["metadata"]["namespace"].as_str());
    let created = serde_json::to_value(scene.create(base.clone()).await).unwrap();
    let path = &format!("{}/status?dryRun=All", path_of(&created, true));
    // A deviation that the type accepts needs no check.
    let (mut odd, whole) = refused::<K>(&base);
    set(&scene.client, path, "/status", &whole).await.expect("a status with every field");
    for deviation in odd.iter_mut().filter(|deviation| !deviation.is_of_status()) {
        deviation.object["metadata"]["name"] = json!(format!("{}-odd", base["metadata"]["name"].as_str().unwrap()));
    }
    assert!(odd.len() > 50, "{kind}: the deviations are odd");
    let judged = stream::iter(odd).map(|deviation| async move {
        let accepted = if deviation.is_of_status() {
            set(&scene.client, path, "/status", &deviation.object["status"]).await.ok()?
        } else {
            let object: DynamicObject = serde_json::from_value(deviation.object).ok()?;
            serde_json::to_value(api.create(&dry_run(), &object).await.ok()?).unwrap()
        };
        let error = serde_json::from_value::<K>(accepted).err()?;
        Some((deviation.name, error.to_string()))
    });
    judged.buffer_unordered(AT_A_TIME).filter_map(async |found| found).collect().await
}

fn dry_run() -> PostParams {
    PostParams { dry_run: true, ..PostParams::default() }
}

const AT_A_TIME: usize = 8;
