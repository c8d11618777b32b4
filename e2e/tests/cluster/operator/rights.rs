//! The rights that the chart grants: the operator uses each of them, and needs no other.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use crate::common::conduct::Weather;
use crate::common::faults::proxy::Proxy;
use crate::common::{OPERATOR, OPERATOR_NAMESPACE, Plane, SOON, Scene};
use gaia_api::{Clock as _, SystemClock};
use gaia_e2e::audit::AuditMark;
use gaia_e2e::wait::{self, Seen};
use gaia_e2e::{AuditRecord, OperatorOptions, OperatorProcess};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

/// A verb on a resource of a group: `patch gaia.dev/trustdomains/status`.
type Right = String;

/// Kind: a right that no code path uses, and a call without a right. The operator's own namespace has a Role of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_granted_right_is_used_and_no_other_is_needed() {
    let Some(plane) = Plane::own(&["nudge.enabled=true", "restart.enabled=true"]).await else { return };
    let options = plane.operator().await.env("GAIA_NUDGE", "true").env("GAIA_RESTART", "true");
    let options = options.env("GAIA_LEADER_ELECTION", "true");
    let weather = Weather::default();
    let proxy = Proxy::start(&options.kubeconfig, plane.dir(), weather.clone()).await;
    let operator = OperatorProcess::start(OperatorOptions { kubeconfig: proxy.kubeconfig.clone(), ..options }).unwrap();
    operator.wait_ready(SOON).await.unwrap();
    let scene = plane.scene().await;
    // A conflict makes the operator read the object again.
    weather.contended.store(true, Ordering::SeqCst);
    let everywhere = granted(&scene, &["get", "clusterrole", "gaia-operator"]).await;
    let own = granted(&scene, &["get", "role", "gaia-operator", "-n", OPERATOR_NAMESPACE]).await;
    let servers = granted(&scene, &["get", "role", "gaia-operator-api-servers", "-n", "default"]).await;

    live(&scene, &weather).await;
    let look = async || {
        scene.plane.audit().settle(&scene.client).await.unwrap();
        let calls = calls(&scene);
        let used: BTreeSet<Right> = calls.iter().map(right).collect();
        let used_in_own: BTreeSet<Right> =
            calls.iter().filter(|call| call.namespace == OPERATOR_NAMESPACE).map(right).collect();
        // The lists and watches of a confined operator are of this namespace alone.
        let is_confined = |right: &&Right| ["list", "watch"].iter().any(|verb| right.starts_with(verb));
        let unused_in_own =
            own.iter().filter(|right| !is_confined(right)).filter(|right| !used_in_own.contains(*right));
        let unused: Vec<&Right> =
            everywhere.union(&servers).filter(|right| !used.contains(*right)).chain(unused_in_own).collect();
        if unused.is_empty() { Seen::Yes(used) } else { Seen::NotYet(format!("unused: {unused:?}")) }
    };
    let used = wait::until("each granted right is used", SOON, look).await.unwrap();
    let all: BTreeSet<Right> = everywhere.iter().chain(&own).chain(&servers).cloned().collect();
    assert_eq!(used.difference(&all).collect::<Vec<_>>(), [""; 0], "calls without a right");
    scene.end().await;
}

/// All that an operator has to do in its life, once.
async fn live(scene: &Scene, weather: &Weather) {
    let issuer = json!({ "namespace": scene.namespace, "name": "auth" });
    let propagation = json!({ "minDelay": "1s", "deadline": "10m", "clockSkew": "0s" });
    let spec = json!({ "propagation": propagation, "tokens": { "issuedBy": issuer } });
    scene.create(scene.trust_domain(spec)).await;
    scene.create(scene.service("auth", json!({}))).await;
    let kinds = ["Deployment", "StatefulSet", "DaemonSet"];
    let targets: Vec<Value> = kinds.iter().map(|kind| json!({ "kind": kind, "name": "missing" })).collect();
    scene.create(scene.service("orders", json!({ "workload": { "restartTargets": targets } }))).await;
    scene.wait_ready("GaiaService", &["auth", "orders"]).await;
    // Every second change is refused, whichever it is: statuses are written until one of each kind was.
    for round in 0..100 {
        scene.plane.audit().settle(&scene.client).await.unwrap();
        let used: BTreeSet<Right> = calls(scene).iter().map(right).collect();
        if ["trustdomains", "gaiaservices"].iter().all(|kind| used.contains(&format!("get gaia.dev/{kind}"))) {
            break;
        }
        let skew = json!({ "spec": { "propagation": { "clockSkew": format!("{}s", round % 2) } } });
        scene.patch("TrustDomain", &scene.domain, skew).await;
        let callers = if round % 2 == 0 { json!([{ "service": "auth" }]) } else { json!([]) };
        scene.patch("GaiaService", "orders", json!({ "spec": { "callers": callers } })).await;
        scene.wait_ready("GaiaService", &["orders"]).await;
    }
    // A refused call is not in the audit log of the API server.
    weather.contended.store(false, Ordering::SeqCst);
    for (name, mount) in [
        ("reloads", json!({ "mountPath": "/etc/gaia" })),
        ("stays", json!({ "mountPath": "/etc/ca.crt", "subPath": "ca.crt" })),
    ] {
        start_pod(scene, name, mount).await;
    }
    // Instances that need a nudge and a restart.
    scene.raise("ca", 2).await;
    // Repairs, twice each: the second one counts up the Event of the first.
    for _ in 0..2 {
        for name in ["orders-auth".to_owned(), format!("{}-trust", scene.domain)] {
            let before = scene.get("ConfigMap", &name).await.unwrap()["metadata"]["uid"].clone();
            scene.delete("ConfigMap", &name).await;
            let again =
                async || scene.get("ConfigMap", &name).await.is_some_and(|found| found["metadata"]["uid"] != before);
            wait::until("the ConfigMap is created again", SOON, again).await.unwrap();
        }
    }
    scene.patch("ServiceCertificate", "orders", json!({ "spec": { "duration": "100h" } })).await;
    let unlabelled = json!({ "metadata": { "labels": { "app.kubernetes.io/managed-by": null } } });
    let ring = format!("{}-ca-ring", scene.domain);
    scene.patch_in(OPERATOR_NAMESPACE, "Secret", &ring, unlabelled).await;
    // The signer and the grants are deleted with the issuer.
    let none = json!({ "spec": { "tokens": { "issuedBy": null } } });
    scene.patch("TrustDomain", &scene.domain, none).await;
}

/// A pod of orders whose container runs, as a kubelet would report it. No kubelet runs it, so its files never arrive.
async fn start_pod(scene: &Scene, name: &str, mut mount: Value) {
    mount["name"] = json!("gaia");
    let trust = format!("{}-trust", scene.domain);
    let sources = json!([{ "secret": { "name": "orders-tls" } }, { "configMap": { "name": trust } }]);
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": {
            "containers": [{ "name": "app", "image": "example.com/app:1", "volumeMounts": [mount] }],
            "volumes": [{ "name": "gaia", "projected": { "sources": sources } }],
        },
    }))
    .unwrap();
    let pods: Api<Pod> = Api::namespaced(scene.client.clone(), &scene.namespace);
    let create = async || pods.create(&PostParams::default(), &pod).await;
    wait::until("the namespace has its ServiceAccount", SOON, create).await.unwrap();
    let container = json!({
        "name": "app", "image": "example.com/app:1", "imageID": "", "ready": true, "restartCount": 0,
        "state": { "running": { "startedAt": SystemClock.now().to_string() } },
    });
    let status = json!({ "status": { "phase": "Running", "containerStatuses": [container] } });
    pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
}

/// The rights of a role.
async fn granted(scene: &Scene, role: &[&str]) -> BTreeSet<Right> {
    let text = scene.plane.kubectl(&[role, &["-o", "json"]].concat()).await.unwrap();
    let role: Value = serde_json::from_str(&text).unwrap();
    let texts = |rule: &Value, field: &str| -> Vec<String> {
        rule[field].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let mut rights = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        for group in texts(rule, "apiGroups") {
            for resource in texts(rule, "resources") {
                rights.extend(texts(rule, "verbs").iter().map(|verb| format!("{verb} {group}/{resource}")));
            }
        }
    }
    rights
}

/// The calls of the operator that are about resources.
fn calls(scene: &Scene) -> Vec<AuditRecord> {
    let mut calls = scene.plane.audit().by(OPERATOR, AuditMark::default()).unwrap();
    calls.retain(|call| !call.resource.is_empty());
    calls
}

fn right(call: &AuditRecord) -> Right {
    let subresource = if call.subresource.is_empty() { String::new() } else { format!("/{}", call.subresource) };
    format!("{} {}/{}{subresource}", call.verb, call.group, call.resource)
}
