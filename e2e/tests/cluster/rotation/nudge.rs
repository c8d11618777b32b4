//! The operator's patches of lagging pods and workloads, where the chart allows them.

use crate::common::{OPERATOR, Plane, SOON, Scene};
use gaia_api::{Clock as _, SystemClock};
use gaia_e2e::{OperatorProcess, wait};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

#[tokio::test]
async fn a_lagging_pod_is_nudged_once_per_generation() {
    let Some((scene, _operator)) = begin().await else { return };
    let pods: Api<Pod> = Api::namespaced(scene.client.clone(), &scene.namespace);
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": "orders-1", "annotations": { "example.com/owner": "shop" } },
        "spec": mounting(&scene, json!({ "mountPath": "/etc/gaia" })),
    }))
    .unwrap();
    let create = async || pods.create(&PostParams::default(), &pod).await;
    let made = wait::until("the namespace has its ServiceAccount", SOON, create).await.unwrap();
    report_running(&pods, "orders-1").await;
    let nudged = async |before: Option<String>| {
        let look = async || {
            let annotations = pods.get("orders-1").await.unwrap().metadata.annotations.unwrap();
            annotations.get("gaia.dev/nudge").cloned().filter(|value| Some(value) != before.as_ref())
        };
        wait::until(&format!("the pod is nudged, after {before:?}"), SOON, look).await.unwrap()
    };
    let first = nudged(None).await;
    // Nudges are distinguished by the second: the next one must not be in the same second.
    let time = first.parse().unwrap();
    wait::until("that second is over", SOON, async || SystemClock.now() > time).await.unwrap();
    scene.patch("TrustDomain", &scene.domain, json!({ "spec": { "ca": { "rotationRevision": 2 } } })).await;
    let second = nudged(Some(first)).await;

    let now = pods.get("orders-1").await.unwrap();
    assert_eq!(now.spec, made.spec);
    let annotations = json!({ "example.com/owner": "shop", "gaia.dev/nudge": second });
    assert_eq!(serde_json::to_value(&now.metadata.annotations).unwrap(), annotations);
    // A staged generation counts, too: at most a third nudge.
    let patches = patches(&scene, "pods").await;
    assert!((2..=3).contains(&patches.len()), "{patches:?}");
    scene.end().await;
}

#[tokio::test]
async fn a_workload_whose_pods_do_not_reload_is_restarted_when_a_rotation_waits_for_it() {
    let Some((scene, _operator)) = begin().await else { return };
    let targets = json!([{ "kind": "Deployment", "name": "missing" }, { "kind": "Deployment", "name": "orders" }]);
    scene.create(scene.service("orders", json!({ "workload": { "restartTargets": targets } }))).await;
    scene.wait_ready("GaiaService", &["orders"]).await;
    let by_sub_path = mounting(&scene, json!({ "mountPath": "/etc/ca.crt", "subPath": "ca.crt" }));
    let deployments: Api<Deployment> = Api::namespaced(scene.client.clone(), &scene.namespace);
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": { "name": "orders" },
        "spec": {
            "selector": { "matchLabels": { "app": "orders" } },
            "template": { "metadata": { "labels": { "app": "orders" } }, "spec": by_sub_path },
        },
    }))
    .unwrap();
    let made = deployments.create(&PostParams::default(), &deployment).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(scene.client.clone(), &scene.namespace);
    let created = async || pods.list(&ListParams::default()).await.ok()?.items.pop()?.metadata.name;
    let pod = wait::until("the Deployment has a pod", SOON, created).await.unwrap();
    report_running(&pods, &pod).await;
    scene.patch("TrustDomain", &scene.domain, json!({ "spec": { "ca": { "rotationRevision": 2 } } })).await;

    let restarted = async || {
        let template = deployments.get("orders").await.unwrap().spec.unwrap().template;
        template.metadata.unwrap().annotations?.contains_key("gaia.dev/restarted-at").then_some(template.spec)
    };
    let spec = wait::until("the Deployment is restarted", SOON, restarted).await.unwrap();
    assert_eq!(spec, made.spec.unwrap().template.spec);
    // A missing one does not affect the others, and is in no status.
    scene.wait_for("TrustDomain", &scene.domain, "CARotating=True", "WaitingForInstances", SOON).await;
    scene.plane.audit().settle(&scene.client).await.unwrap();
    assert_eq!(patches(&scene, "deployments").await, ["missing", "orders"]);
    scene.end().await;
}

/// A TrustDomain that takes seconds to publish, under an operator with both abilities and the chart's rights for them.
async fn begin() -> Option<(Scene, OperatorProcess)> {
    let plane = Plane::own(&["nudge.enabled=true", "restart.enabled=true"]).await?;
    let options = plane.operator().await.env("GAIA_NUDGE", "true").env("GAIA_RESTART", "true");
    let operator = OperatorProcess::start(options).unwrap();
    operator.wait_ready(SOON).await.unwrap();
    let scene = plane.scene().await;
    let propagation = json!({ "minDelay": "2s", "deadline": "10m", "clockSkew": "1s" });
    scene.ready_domain(json!({ "propagation": propagation })).await;
    scene.create(scene.certificate("worker", json!({}))).await;
    scene.wait_ready("ServiceCertificate", &["worker"]).await;
    Some((scene, operator))
}

/// Reports the container as running, as a kubelet would: a pod whose containers never started holds no rotation.
async fn report_running(pods: &Api<Pod>, name: &str) {
    let container = json!({
        "name": "app", "image": "example.com/app:1", "imageID": "", "ready": true, "restartCount": 0,
        "state": { "running": { "startedAt": SystemClock.now().to_string() } },
    });
    let status = json!({ "status": { "phase": "Running", "containerStatuses": [container] } });
    pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
}

/// The spec of a pod that mounts trust and certificate. No kubelet runs it, so its files never arrive.
fn mounting(scene: &Scene, mut mount: Value) -> Value {
    mount["name"] = json!("gaia");
    let sources = json!([
        { "secret": { "name": "worker-tls", "optional": true } },
        { "secret": { "name": "orders-tls", "optional": true } },
        { "configMap": { "name": format!("{}-trust", scene.domain) } },
    ]);
    json!({
        "containers": [{ "name": "app", "image": "example.com/app:1", "volumeMounts": [mount] }],
        "volumes": [{ "name": "gaia", "projected": { "sources": sources } }],
    })
}

/// The names of the objects that the operator patched, in order.
async fn patches(scene: &Scene, resource: &str) -> Vec<String> {
    scene.plane.audit().settle(&scene.client).await.unwrap();
    let records = scene.plane.audit().writes_by(OPERATOR, gaia_e2e::audit::AuditMark::default()).unwrap();
    let patched = records.into_iter().filter(|record| record.resource == resource && record.verb == "patch");
    patched.map(|record| record.name).collect()
}
