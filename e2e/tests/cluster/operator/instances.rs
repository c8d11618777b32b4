//! Instances: users of the operator's objects, found by the references of pods and by the certificates and reports of endpoints.

use crate::common::objects::merged;
use crate::common::{Plane, SOON, Scene};
use gaia_api::{Clock as _, SystemClock};
use gaia_e2e::wait::{self, Seen};
use gaia_e2e::{OperatorProcess, ServiceOptions, ServiceProcess, chart, tier};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

const AUTH: &str = "auth-service";

/// Times short enough to wait for.
fn quick() -> Value {
    json!({ "propagation": { "minDelay": "5s", "deadline": "10s", "clockSkew": "1s" } })
}

/// Waits until a field of an object's status is this.
async fn wait_status(scene: &Scene, kind: &str, name: &str, pointer: &str, expected: &str) {
    wait::until(&format!("{kind} {name} has {pointer} {expected}"), SOON, async || {
        let object = scene.get(kind, name).await.unwrap_or_default();
        let found = object["status"].pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        if found == expected { Seen::Yes(()) } else { Seen::NotYet(object["status"].to_string()) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn an_endpoint_with_a_report_counts_as_up_to_date_and_serves_the_renewed_leaf() {
    let Some(scene) = Scene::begin().await else { return };
    let domain = scene.domain.clone();
    let issuer = json!({ "tokens": { "issuedBy": { "namespace": scene.namespace, "name": AUTH } } });
    scene.ready_domain(merged(quick(), issuer)).await;
    scene.create(scene.service(AUTH, json!({}))).await;
    scene.wait_ready("GaiaService", &[AUTH]).await;
    scene.wait_for("GaiaService", AUTH, "Served=Unknown", "NoInstances", SOON).await;

    let dir = scene.plane.dir().join("mounts").join(&scene.namespace);
    let options = ServiceOptions::auth_service(&scene.plane, &scene.namespace, &domain).in_dir(&dir);
    let auth = ServiceProcess::start(&scene.plane, options).await.unwrap();
    auth.wait_ready(SOON).await.unwrap();
    let endpoint = auth.mesh_address().to_string();
    scene.patch("GaiaService", AUTH, json!({ "spec": { "endpoints": [endpoint] } })).await;
    scene.wait_for("GaiaService", AUTH, "Served=True", "AllServed", SOON).await;
    wait_status(&scene, "GaiaService", AUTH, "/certificate/served", "1/1").await;
    wait_status(&scene, "TrustDomain", &domain, "/instances/summary", "1/1").await;

    let before = auth.served_leaf().await.unwrap();
    let renew = json!({ "metadata": { "annotations": { "gaia.dev/renew-requested-at": "now" } } });
    scene.patch("ServiceCertificate", AUTH, renew).await;
    let what = "the endpoint is seen to serve the renewed certificate";
    wait::until(what, SOON, async || {
        let certificate = scene.get("ServiceCertificate", AUTH).await.unwrap_or_default();
        let status = &certificate["status"];
        let renewed = status["serialNumber"].as_str().is_some_and(|serial| serial != before.serial());
        let served = status["served"]["summary"] == "1/1";
        if renewed && served { Seen::Yes(()) } else { Seen::NotYet(status.to_string()) }
    })
    .await
    .unwrap();
    let after = auth.served_leaf().await.unwrap();
    assert_ne!(after.serial(), before.serial());
    scene.end().await;
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_named_with_the_reason() {
    let Some(scene) = Scene::begin().await else { return };
    let domain = scene.domain.clone();
    scene.ready_domain(quick()).await;
    // Nothing listens on the port of the discard service.
    scene.create(scene.service("web", json!({ "endpoints": ["127.0.0.1:9"] }))).await;
    let reason = "1 of 1 instances do not serve the stored certificate: 127.0.0.1:9: Unreachable: no verified answer from the endpoint";
    // Before its first probe, it is only reported as unknown.
    let told = async || {
        let message = scene.wait_for("GaiaService", "web", "Served=False", "NotServed", SOON).await;
        if message == reason { Seen::Yes(()) } else { Seen::NotYet(message) }
    };
    wait::until("the reason is reported", SOON, told).await.unwrap();
    wait_status(&scene, "TrustDomain", &domain, "/instances/summary", "0/1").await;
    // Without a change of a condition, it is written once a minute at most.
    wait::until("the instance that lags is in the status of its service", 2 * SOON, async || {
        let status = scene.get("GaiaService", "web").await.unwrap_or_default()["status"].clone();
        let first = &status["lagging"][0];
        let is_named = first["pod"] == "127.0.0.1:9" && first["part"] == "Certificate" && status["laggingCount"] == 1;
        if is_named { Seen::Yes(()) } else { Seen::NotYet(status.to_string()) }
    })
    .await
    .unwrap();
    let mark = scene.mark().await;
    assert_eq!(scene.writes(mark).await, [""; 0], "it is written once");
    scene.end().await;
}

/// As after an upgrade: GaiaServices have `spec.endpoints`, and no TrustDomain has `spec.allowedEndpoints`.
#[tokio::test]
async fn endpoint_that_is_not_allowed_is_a_warning_and_counts_by_time_alone() {
    let Some(scene) = Scene::begin().await else { return };
    let domain = scene.domain.clone();
    scene.ready_domain(merged(quick(), json!({ "allowedEndpoints": [] }))).await;
    let keys = json!({ "apiKeysSecretRef": { "name": "keys" } });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    scene.create(scene.service("web", json!({ "endpoints": [endpoint], "auth": keys }))).await;
    scene.wait_ready("GaiaService", &["web"]).await;
    let warning = scene.wait_for("GaiaService", "web", "EndpointNotAllowed=True", "EndpointNotAllowed", SOON).await;
    let field = format!("spec.allowedEndpoints of TrustDomain {domain}");
    assert!(warning.contains(&endpoint) && warning.contains(&field), "{warning}");
    let message = scene.wait_for("GaiaService", "web", "LegacyFree=False", "EvidenceGap", SOON).await;
    assert!(message.contains(&endpoint), "{message}");
    scene.wait_for("GaiaService", "web", "Served=Unknown", "NoInstances", SOON).await;

    let first = active_ca(&scene).await;
    scene.patch("TrustDomain", &domain, json!({ "spec": { "ca": { "rotationRevision": 2 } } })).await;
    wait::until("the new CA signs", SOON, async || active_ca(&scene).await != first).await.unwrap();
    let dialled = tokio::time::timeout(std::time::Duration::ZERO, listener.accept()).await;
    assert!(dialled.is_err(), "an endpoint that is not allowed was dialled");

    let allowed = gaia_e2e::services::loopback_endpoints(&[&scene.namespace]);
    scene.patch("TrustDomain", &domain, json!({ "spec": { "allowedEndpoints": allowed } })).await;
    tokio::time::timeout(SOON, listener.accept()).await.unwrap().unwrap();
    let what = "the warning is removed";
    wait::until(what, SOON, async || scene.condition("GaiaService", "web", "EndpointNotAllowed").await.is_none())
        .await
        .unwrap();
    scene.wait_for("GaiaService", "web", "Ready=True", "Ready", SOON).await;
    scene.end().await;
}

/// One probe of a name must not acknowledge for all its addresses.
#[tokio::test]
async fn each_address_of_the_name_of_an_endpoint_is_an_instance() {
    if tier::mount_namespace().await.is_none() {
        return;
    }
    let Some(plane) = Plane::own(&[]).await else { return };
    let hosts = plane.dir().join("hosts");
    let both = "127.0.0.1 localhost\n127.0.0.1 replicas.example\n127.0.0.2 replicas.example\n";
    std::fs::write(&hosts, both).unwrap();
    let operator = OperatorProcess::start(plane.operator().await.hosts(&hosts)).unwrap();
    operator.wait_ready(SOON).await.unwrap();
    let scene = plane.scene().await;
    let domain = scene.domain.clone();
    let spec = json!({
        "tokens": { "issuedBy": { "namespace": scene.namespace, "name": AUTH } },
        "allowedEndpoints": [{
            "namespaces": [scene.namespace], "hosts": ["replicas.example"], "cidrs": ["127.0.0.0/30"],
        }],
    });
    scene.ready_domain(merged(quick(), spec)).await;
    scene.create(scene.service(AUTH, json!({}))).await;
    scene.wait_ready("GaiaService", &[AUTH]).await;
    let dir = scene.plane.dir().join("mounts").join(&scene.namespace);
    let options = ServiceOptions::auth_service(&scene.plane, &scene.namespace, &domain).in_dir(&dir);
    let auth = ServiceProcess::start(&scene.plane, options).await.unwrap();
    auth.wait_ready(SOON).await.unwrap();

    // The instance listens on the first address only.
    let port = auth.mesh_address().port();
    scene.patch("GaiaService", AUTH, json!({ "spec": { "endpoints": [format!("replicas.example:{port}")] } })).await;
    wait_status(&scene, "GaiaService", AUTH, "/certificate/served", "1/2").await;
    let message = scene.wait_for("GaiaService", AUTH, "Served=False", "NotServed", SOON).await;
    assert!(message.contains(&format!("replicas.example:{port} (127.0.0.2)")), "{message}");
    assert!(!message.contains("127.0.0.1"), "{message}");

    // An address that is in no answer and refuses connections ends after `propagation.minDelay`.
    std::fs::write(&hosts, "127.0.0.1 localhost\n127.0.0.1 replicas.example\n").unwrap();
    scene.wait_for("GaiaService", AUTH, "Served=True", "AllServed", SOON).await;
    wait_status(&scene, "GaiaService", AUTH, "/certificate/served", "1/1").await;
    drop(auth);
    scene.end().await;
}

#[tokio::test]
async fn a_pod_that_never_reloads_holds_the_rotation_of_the_ca_and_is_named_until_it_is_restarted() {
    let Some(scene) = with_verifier().await else { return };
    let domain = scene.domain.clone();
    run_since(&scene, "2026-01-01T00:00:00Z").await;
    wait_status(&scene, "TrustDomain", &domain, "/instances/summary", "0/1").await;
    let first = active_ca(&scene).await;

    scene.patch("TrustDomain", &domain, json!({ "spec": { "ca": { "rotationRevision": 2 } } })).await;
    let message = scene.wait_for("TrustDomain", &domain, "CARotating=True", "PastDeadline", SOON).await;
    assert!(message.starts_with("1 of 1 instances do not"), "{message}");
    assert!(message.contains(&format!("{}/verifier: NotProbed", scene.namespace)), "{message}");
    let status = scene.get("TrustDomain", &domain).await.unwrap()["status"].clone();
    assert_eq!(status["laggards"][0]["pod"], "verifier", "{status}");
    assert_eq!(active_ca(&scene).await, first, "nothing was switched without it");
    let told = async || {
        let events = scene.events("TrustDomain", &domain).await;
        events.iter().filter(|(reason, ..)| reason == "RotationWaiting").map(|(_, count, _)| *count).collect::<Vec<_>>()
    };
    wait::until("the overdue rotation is reported once", SOON, async || told().await == [1]).await.unwrap();

    run_since(&scene, &SystemClock.now().to_string()).await;
    wait::until("the new CA signs", SOON, async || active_ca(&scene).await != first).await.unwrap();
    scene.end().await;
}

#[tokio::test]
async fn a_pod_that_crashes_again_and_again_holds_the_rotation_of_the_ca_and_is_named_until_it_runs() {
    let Some(scene) = with_verifier().await else { return };
    let domain = scene.domain.clone();
    crash(&scene).await;
    wait_status(&scene, "TrustDomain", &domain, "/instances/summary", "0/1").await;
    let first = active_ca(&scene).await;

    scene.patch("TrustDomain", &domain, json!({ "spec": { "ca": { "rotationRevision": 2 } } })).await;
    let message = scene.wait_for("TrustDomain", &domain, "CARotating=True", "PastDeadline", SOON).await;
    assert!(message.contains(&format!("{}/verifier: ", scene.namespace)), "{message}");
    assert_eq!(active_ca(&scene).await, first, "nothing was switched without it");
    run_since(&scene, &SystemClock.now().to_string()).await;
    wait::until("the new CA signs", SOON, async || active_ca(&scene).await != first).await.unwrap();
    scene.end().await;
}

#[tokio::test]
async fn pods_that_may_not_be_watched_are_not_known_and_hold_nothing_else_up() {
    let Some(plane) = crate::common::Plane::own(&[]).await else { return };
    let scene = plane.scene().await;
    let role = plane.kubectl(&["get", "clusterrole", chart::SERVICE_ACCOUNT, "-o", "json"]).await.unwrap();
    let mut role: Value = serde_json::from_str(&role).unwrap();
    let rules = role["rules"].as_array_mut().unwrap();
    rules.retain(|rule| rule["resources"] != json!(["pods"]));
    let rules = json!({ "rules": rules }).to_string();
    plane.kubectl(&["patch", "clusterrole", chart::SERVICE_ACCOUNT, "--type=merge", "-p", &rules]).await.unwrap();
    let operator = plane.start_operator().await;
    scene.ready_domain(quick()).await;
    scene.create(scene.certificate("web", json!({}))).await;
    scene.wait_ready("ServiceCertificate", &["web"]).await;
    let message = scene.wait_for("ServiceCertificate", "web", "Served=Unknown", "NotProbed", SOON).await;
    assert_eq!(message, "the operator may not list and watch pods");
    operator.check_running().unwrap();
}

/// A TrustDomain with a certificate, and the pod of [`create_verifier`].
async fn with_verifier() -> Option<Scene> {
    let scene = Scene::begin().await?;
    scene.ready_domain(quick()).await;
    scene.create(scene.certificate("web", json!({}))).await;
    scene.wait_ready("ServiceCertificate", &["web"]).await;
    create_verifier(&scene).await;
    Some(scene)
}

/// A pod that mounts the trust and has no port to probe. Nothing runs it here.
async fn create_verifier(scene: &Scene) {
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "verifier" } });
    let path = scene.plane.dir().join(format!("{}-account.json", scene.namespace));
    std::fs::write(&path, account.to_string()).unwrap();
    let path = path.to_str().unwrap();
    scene.plane.kubectl(&["apply", "-n", &scene.namespace, "-f", path]).await.unwrap();
    scene
        .create(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "namespace": scene.namespace, "name": "verifier" },
            "spec": {
                "serviceAccountName": "verifier",
                "automountServiceAccountToken": false,
                "containers": [{ "name": "app", "image": "verifier", "volumeMounts": [
                    { "name": "trust", "mountPath": "/etc/gaia" },
                ] }],
                "volumes": [{ "name": "trust", "configMap": { "name": format!("{}-trust", scene.domain) } }],
            },
        }))
        .await;
}

/// A kubelet's status once the pod's container has started.
async fn run_since(scene: &Scene, time: &str) {
    let seconds = time.split('.').next().unwrap().trim_end_matches('Z');
    say(scene, json!({ "running": { "startedAt": format!("{seconds}Z") } }), 0).await;
}

/// A kubelet's status of a container that it will start again later.
async fn crash(scene: &Scene) {
    say(scene, json!({ "waiting": { "reason": "CrashLoopBackOff" }, "running": null }), 7).await;
}

async fn say(scene: &Scene, state: Value, restarts: u32) {
    let runs = restarts == 0;
    let status = json!({ "status": {
        "phase": "Running",
        "podIP": "127.0.0.1",
        "podIPs": [{ "ip": "127.0.0.1" }],
        "containerStatuses": [{
            "name": "app", "image": "verifier", "imageID": "", "ready": runs, "restartCount": restarts,
            "started": runs, "state": state,
        }],
    } });
    let pods = scene.api("Pod", Some(&scene.namespace));
    pods.patch_status("verifier", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
}

async fn active_ca(scene: &Scene) -> String {
    let domain = scene.get("TrustDomain", &scene.domain).await.unwrap();
    domain["status"]["ca"]["active"]["id"].as_str().unwrap_or_default().to_owned()
}
