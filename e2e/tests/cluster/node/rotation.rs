//! Rotation on a user's cluster: pods that reload, a pod that never does, under load.

use std::sync::Arc;
use std::time::Duration;

use crate::node::support::manifests::API_KEY;
use crate::node::support::{NAMESPACE, Platform, SYSTEM};
use gaia_api::SystemClock;
use gaia_api::crd::TrustDomain;
use gaia_e2e::load::{Caller, CallerOptions, Load, LoadOptions, Negative, Traffic};
use gaia_e2e::wait::{self, Seen};
use gaia_e2e::{KeptProjection, Projection, progress, services};
use kube::Api;
use serde_json::{Value, json};

/// Longer than a rotation with kubelet takes.
const LONG: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_never_reloads_holds_the_rotation_until_it_is_restarted_and_no_request_fails() {
    let Some(platform) = Platform::begin().await else { return };
    quicken(&platform, json!(null)).await;
    let before = status(&platform).await;
    let old = before["ca"]["active"]["id"].clone();
    let (caller, _mount) = caller(&platform).await;
    let stolen = Negative::with_ca(&platform.client, SYSTEM, "gaia", None, Arc::clone(&caller)).await.unwrap();
    let load = Load::start(load(&caller)).unwrap();

    // The gateway's pod is curl: it mounts everything, and cannot be probed.
    rotate(&platform, &["ca", "tokens"]).await;
    let gateway = platform.pod("gateway").await["metadata"]["name"].as_str().unwrap().to_owned();
    let held = wait_for(&platform, "the rotation waits for the gateway alone", |status| {
        let laggards = status["laggards"].as_array().cloned().unwrap_or_default();
        let is_alone = laggards.len() == 1 && laggards[0]["pod"] == gateway.as_str();
        is_alone && condition(status, "CARotating").starts_with("WaitingForInstances: ")
    })
    .await;
    let message = condition(&held, "CARotating");
    assert!(message.contains(&gateway), "{message}");
    assert_eq!(held["ca"]["active"]["id"], old, "nothing was switched");

    platform.kubectl(&["rollout", "restart", "deployment/gateway"]).await;
    wait_for(&platform, "the new CA signs", |status| status["ca"]["active"]["id"] != old).await;
    // Its leaf is a new one now, which it does not load either. From here on the operator restarts it.
    platform.helm(&["upgrade"], &["--reuse-values", "--set", "restart.enabled=true"]).await;
    let targets = json!([{ "kind": "Deployment", "name": "gateway" }]);
    workload(&platform, json!({ "restartTargets": targets })).await;
    wait_for(&platform, "both rotations are over", |status| {
        let instances = &status["instances"];
        status["rotating"] == "-" && instances["current"] == instances["total"] && status["ca"]["active"]["id"] != old
    })
    .await;

    let asset = address(&platform, "asset-service").await;
    stolen.expect_refused(&server_name("asset-service"), asset).await.unwrap();
    let report = load.stop().await;
    progress::say(format_args!("{report}"));
    report.assert_none_failed();
    let served =
        platform.kubectl(&["get", "servicecertificate", "asset-service", "-o", "jsonpath={.status.served.summary}"]);
    assert_eq!(served.await, "1/1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aborted_rotation_and_a_leaked_ca_cost_no_request_of_pods_that_reload() {
    let Some(platform) = Platform::begin().await else { return };
    quicken(&platform, json!({ "acknowledgement": "BestEffort" })).await;
    let (caller, _mount) = caller(&platform).await;
    let stolen = Negative::with_ca(&platform.client, SYSTEM, "gaia", None, Arc::clone(&caller)).await.unwrap();
    let load = Load::start(load(&caller)).unwrap();

    for (ring, spec) in [("ca", "ca"), ("signingKeys", "tokens")] {
        let old = status(&platform).await[ring]["active"]["id"].clone();
        rotate(&platform, &[spec]).await;
        let switched = |status: &Value| status[ring]["active"]["id"] != old;
        let status = wait_for(&platform, "the new generation signs", switched).await;
        let new = status[ring]["active"]["id"].clone();
        patch(&platform, json!({ "metadata": { "annotations": { "gaia.dev/abort": new } } })).await;
        wait_for(&platform, "the old generation signs again, alone", |status| {
            status[ring]["active"]["id"] == old && status["rotating"] == "-"
        })
        .await;
    }

    let before = status(&platform).await;
    let leaked = before["ca"]["active"]["fingerprint"].clone();
    patch(&platform, json!({ "spec": { "ca": { "distrusted": [{ "fingerprint": leaked }] } } })).await;
    let after = wait_for(&platform, "the leaked CA is refused everywhere", |status| {
        !status["exposure"]["until"].is_null() && status["rotating"] == "-"
    })
    .await;
    progress::say(format_args!("AfterReissue: {}", after["exposure"]));
    assert_eq!(after["ca"]["distrusted"][0]["fingerprint"], leaked);
    assert_eq!(after["signingKeys"]["distrusted"][0]["kid"], before["signingKeys"]["active"]["kid"]);
    for service in ["asset-service", "auth-service"] {
        stolen.expect_refused(&server_name(service), address(&platform, service).await).await.unwrap();
    }
    let report = load.stop().await;
    progress::say(format_args!("{report}"));
    report.assert_none_failed();
}

/// Times in which a test can observe a rotation, and the acknowledgement of the gateway, whose pod is curl.
async fn quicken(platform: &Platform, gateway: Value) {
    workload(platform, gateway).await;
    platform.helm(&["upgrade"], &["--reuse-values", "--set", "nudge.enabled=true"]).await;
    let times = json!({ "minDelay": "8s", "deadline": "1m", "clockSkew": "1s" });
    patch(platform, json!({ "spec": { "propagation": times } })).await;
    wait_for(platform, "every pod reports, if perhaps not the gateway", |status| {
        status["instances"]["current"].as_u64() >= Some(2)
    })
    .await;
}

/// Acknowledgement of a rotation by the gateway's pods.
async fn workload(platform: &Platform, workload: Value) {
    let spec = json!({ "spec": { "workload": workload } }).to_string();
    platform.kubectl(&["patch", "gaiaservice", "gateway", "--type=merge", "-p", &spec]).await;
}

/// Requests a rotation of these parts of the spec.
async fn rotate(platform: &Platform, parts: &[&str]) {
    let domains: Api<TrustDomain> = Api::all(platform.client.clone());
    let spec = serde_json::to_value(domains.get("gaia").await.unwrap().spec).unwrap();
    let revision = |part: &str| json!({ "rotationRevision": spec[part]["rotationRevision"].as_i64().unwrap() + 1 });
    let parts = parts.iter().map(|part| ((*part).to_owned(), revision(part)));
    patch(platform, json!({ "spec": parts.collect::<serde_json::Map<_, _>>() })).await;
}

/// A service in this process acts as the gateway, with its files.
async fn caller(platform: &Platform) -> (Arc<Caller>, KeptProjection) {
    let dir = platform.cluster.dir().join("gateway");
    let mount = Projection::new(platform.client.clone(), NAMESPACE, dir, services::mount("gateway", "gaia"));
    mount.sync_once().await.unwrap();
    let mount = mount.keep();
    let mut hosts = Vec::new();
    for service in ["auth-service", "asset-service"] {
        hosts.push((server_name(service), address(platform, service).await));
    }
    let options = CallerOptions {
        service: "gateway".to_owned(),
        dir: mount.dir().to_owned(),
        mesh_address: ([127, 0, 0, 1], 0).into(),
        hosts: hosts.into_iter().collect(),
        clock: Arc::new(SystemClock),
    };
    (Arc::new(Caller::start(options).await.unwrap()), mount)
}

fn load(caller: &Arc<Caller>) -> LoadOptions {
    let url = |service: &str| format!("https://{}", server_name(service)).parse().unwrap();
    LoadOptions {
        caller: Arc::clone(caller),
        auth_url: url("auth-service"),
        asset_url: url("asset-service"),
        api_key: Some(API_KEY.into()),
        traffic: Traffic::Both,
        rate: 50,
        workers: 4,
        duration: Duration::from_secs(900),
    }
}

fn server_name(service: &str) -> String {
    format!("{service}.{NAMESPACE}.svc")
}

async fn address(platform: &Platform, service: &str) -> std::net::SocketAddr {
    let pod = platform.pod(service).await;
    format!("{}:8443", pod["status"]["podIP"].as_str().unwrap()).parse().unwrap()
}

async fn status(platform: &Platform) -> Value {
    let domains: Api<TrustDomain> = Api::all(platform.client.clone());
    serde_json::to_value(domains.get("gaia").await.unwrap().status).unwrap()
}

async fn patch(platform: &Platform, patch: Value) {
    platform.kubectl(&["patch", "trustdomain", "gaia", "--type=merge", "-p", &patch.to_string()]).await;
}

async fn wait_for(platform: &Platform, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let look = async || {
        let status = status(platform).await;
        if is(&status) { Seen::Yes(status) } else { Seen::NotYet(status.to_string()) }
    };
    wait::until(what, LONG, look).await.unwrap()
}

/// Reason and message of a condition.
fn condition(status: &Value, type_: &str) -> String {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let found = conditions.into_iter().find(|condition| condition["type"] == type_);
    let text = |field: &str| found.and_then(|found| found[field].as_str()).unwrap_or_default().to_owned();
    format!("{}: {}", text("reason"), text("message"))
}
