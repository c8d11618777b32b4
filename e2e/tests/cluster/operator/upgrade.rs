//! Upgrades: today's operator on an API server that holds what an earlier one wrote. The objects are recorded in
//! `operator/controller/fixtures/recorded`, and the operator's clock begins a minute after the time of the record.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::common::chronicle::ring_of;
use crate::common::faults::fake_time::{self, FakeTime};
use crate::common::objects::text;
use crate::common::{OPERATOR, OPERATOR_NAMESPACE, Plane, SOON, Scene};
use gaia_api::names::key;
use gaia_api::{Clock as _, SystemClock};
use gaia_e2e::audit::AuditMark;
use gaia_e2e::tier::{self, Tier};
use gaia_e2e::wait::{self, Seen};
use gaia_e2e::{ControlPlaneOptions, OperatorProcess, chart};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};

const OBJECTS: &str = include_str!("../../../../operator/controller/fixtures/recorded/objects.jsonl");
const DEFINITIONS: &str = include_str!("../../../../operator/controller/fixtures/recorded/definitions.json");
const RECORDED_AT: &str = "2026-11-30T15:12:11Z";

/// Kind: a rule that is tightened for new objects stops objects that were accepted before.
#[tokio::test]
async fn recorded_objects_keep_working_after_an_upgrade_and_rotate() {
    let Some(library) = tier::available(Tier::B, fake_time::library()) else { return };
    let Some(plane) = tier::own_control_plane(ControlPlaneOptions::default()).await else { return };
    let time = FakeTime::new(plane.dir(), library);
    let plane = Plane::Own(Arc::new(plane));
    let scene = plane.scene().await;
    restore(&scene).await;
    // New definitions replace the recorded ones under the objects, as in an upgrade of the chart.
    chart::install_without_deployment(&plane, OPERATOR_NAMESPACE, &[]).await.unwrap();
    let (leaves, rings) = (leaves(&scene).await, rings(&scene).await);
    assert_eq!((leaves.len(), rings.len()), (16, 12));

    let recorded_at: Timestamp = RECORDED_AT.parse().unwrap();
    let ahead = recorded_at.duration_since(SystemClock.now()) + SignedDuration::from_mins(1);
    time.jump(ahead);
    let options = time.env().into_iter().fold(plane.operator().await, |all, (name, value)| all.env(name, &value));
    let mark = scene.mark().await;
    let operator = OperatorProcess::start(options.env("GAIA_LEADER_ELECTION", "false")).unwrap();
    operator.wait_ready(SOON).await.unwrap();
    writes_end(&scene, mark).await;
    all_are_ready(&scene).await;
    assert_eq!(changed(&leaves, &self::leaves(&scene).await), [""; 0], "no certificate is issued again");
    assert_eq!(changed(&rings, &self::rings(&scene).await), [""; 0], "no ring is changed");
    let writes = plane.audit().writes_by(OPERATOR, mark).unwrap();
    let bad = writes.iter().filter(|write| write.verb == "delete" || !(write.succeeded() || write.code == 409));
    assert_eq!(bad.map(ToString::to_string).collect::<Vec<_>>(), [""; 0], "nothing is deleted or refused");

    // A rotation that is asked for.
    let raised = json!({ "spec": { "ca": { "rotationRevision": 3 }, "tokens": { "rotationRevision": 3 } } });
    scene.patch("TrustDomain", "turned", raised).await;
    let is_new = |name: &str, now: &BTreeMap<String, Value>| now[name] != rings[name] && is_settled(&now[name]);
    wait_for_rings(&scene, |now| ["turned-ca-ring", "turned-signing-ring"].iter().all(|ring| is_new(ring, now))).await;
    writes_end(&scene, mark).await;
    assert_eq!(changed(&leaves, &self::leaves(&scene).await), ["turned/desk-tls"]);

    // A leaf that is due, and a rotation that the earlier operator began.
    let restart_at = async |hours| {
        time.jump(ahead + SignedDuration::from_hours(hours));
        operator.kill9().unwrap();
        operator.restart().unwrap();
        operator.wait_ready(SOON).await.unwrap();
    };
    restart_at(5).await;
    let next = &rings["turning-ca-ring"][1]["id"];
    let is_active = |ring: &Value| {
        let generations = ring.as_array().unwrap().iter();
        generations.filter(|it| it["state"] == "Active").all(|it| it["id"] == *next)
    };
    wait_for_rings(&scene, |now| is_active(&now["turning-ca-ring"])).await;
    writes_end(&scene, mark).await;
    assert_eq!(changed(&leaves, &self::leaves(&scene).await), ["shop/courier-tls", "turned/desk-tls"]);
    // The certificates of the former CA are replaced `minDelay` later.
    restart_at(10).await;
    let renewed = ["shop/courier-tls", "turned/desk-tls", "turning/desk-tls"];
    let all_renewed = async || {
        let now = changed(&leaves, &self::leaves(&scene).await);
        if now == renewed { Seen::Yes(()) } else { Seen::NotYet(format!("{now:?}")) }
    };
    wait::until("the certificates of the former CA are replaced", SOON, all_renewed).await.unwrap();
    writes_end(&scene, mark).await;
    all_are_ready(&scene).await;
    scene.end().await;
}

/// Creates the recorded objects under the recorded definitions. This API server gives them UIDs of its own and the first generation.
async fn restore(scene: &Scene) {
    let definitions: Value = serde_json::from_str(DEFINITIONS).unwrap();
    let names = ["trustdomains.gaia.dev", "gaiaservices.gaia.dev", "servicecertificates.gaia.dev"];
    scene.plane.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": definitions }).to_string()).await.unwrap();
    let established = ["wait", "--for=condition=Established", "--timeout=30s", "crd"];
    scene.plane.kubectl(&[&established[..], &names].concat()).await.unwrap();
    let mut uids: HashMap<String, Value> = HashMap::new();
    for line in OBJECTS.lines() {
        let mut object: Value = serde_json::from_str(line).unwrap();
        let metadata = object["metadata"].as_object_mut().unwrap();
        let uid = metadata.remove("uid").unwrap();
        for field in ["resourceVersion", "creationTimestamp", "generation"] {
            metadata.remove(field);
        }
        for owner in metadata.get_mut("ownerReferences").and_then(Value::as_array_mut).into_iter().flatten() {
            owner["uid"] = uids[owner["uid"].as_str().unwrap()].clone();
        }
        if object["kind"] == "Namespace" {
            scene.plane.apply(&object.to_string()).await.unwrap();
            continue;
        }
        let mut status = object.as_object_mut().unwrap().remove("status").unwrap_or_default();
        let created = scene.create(object.clone()).await;
        uids.insert(uid.as_str().unwrap().to_owned(), json!(created.metadata.uid));
        if status.is_object() {
            set_generation(&mut status);
            let (kind, namespace) = (object["kind"].as_str().unwrap(), created.metadata.namespace.as_deref());
            let patch = Patch::Merge(json!({ "status": status }));
            let name = created.metadata.name.unwrap();
            scene.api(kind, namespace).patch_status(&name, &PatchParams::default(), &patch).await.unwrap();
        }
    }
}

/// The status is that of generation 1.
fn set_generation(status: &mut Value) {
    status["observedGeneration"] = json!(1);
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        condition["observedGeneration"] = json!(1);
    }
}

/// The certificates of all leaf Secrets, by namespace and name.
async fn leaves(scene: &Scene) -> BTreeMap<String, Value> {
    let secrets = recorded_secrets(scene).await.into_iter();
    let leaves = secrets.filter(|(_, secret)| secret.type_.as_deref() == Some("kubernetes.io/tls"));
    leaves.map(|(name, secret)| (name, json!(text(&secret, key::TLS_CERT)))).collect()
}

/// The generations of all rings with their states, by name.
async fn rings(scene: &Scene) -> BTreeMap<String, Value> {
    let secrets = recorded_secrets(scene).await.into_iter();
    let rings =
        secrets.filter_map(|(name, secret)| Some((name.strip_suffix("-ring")?.rsplit_once('/')?.1.to_owned(), secret)));
    let outline = |secret: &Secret| {
        let ring = ring_of(secret);
        let generations = ring["generations"].as_array().unwrap().iter();
        generations.map(|it| json!({ "id": it["id"], "state": it["state"] })).collect::<Value>()
    };
    rings.map(|(name, secret)| (format!("{name}-ring"), outline(&secret))).collect()
}

async fn recorded_secrets(scene: &Scene) -> BTreeMap<String, Secret> {
    let all: Api<Secret> = Api::all(scene.client.clone());
    let all = all.list(&ListParams::default().labels("app.kubernetes.io/managed-by=gaia-operator")).await.unwrap();
    let name = |secret: &Secret| {
        let meta = &secret.metadata;
        format!("{}/{}", meta.namespace.as_deref().unwrap(), meta.name.as_deref().unwrap())
    };
    all.items.into_iter().map(|secret| (name(&secret), secret)).collect()
}

/// The names whose values differ, or that one of both lacks.
fn changed(before: &BTreeMap<String, Value>, now: &BTreeMap<String, Value>) -> Vec<String> {
    let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    names.into_iter().filter(|name| before.get(*name) != now.get(*name)).cloned().collect()
}

/// Returns true if no generation of a ring is between two states.
fn is_settled(ring: &Value) -> bool {
    let states = ring.as_array().unwrap().iter().map(|generation| &generation["state"]);
    states.filter(|state| !["Removed", "Published"].contains(&state.as_str().unwrap())).eq(["Active"])
}

async fn wait_for_rings(scene: &Scene, are_as_wanted: impl Fn(&BTreeMap<String, Value>) -> bool) {
    let look = async || {
        let now = rings(scene).await;
        if are_as_wanted(&now) { Seen::Yes(()) } else { Seen::NotYet(format!("{now:?}")) }
    };
    wait::until("the rings are rotated", SOON, look).await.unwrap();
}

/// Waits until the operator has written nothing for two seconds.
async fn writes_end(scene: &Scene, mark: AuditMark) {
    let count = async || {
        scene.plane.audit().settle(&scene.client).await.unwrap();
        scene.plane.audit().writes_by(OPERATOR, mark).unwrap().iter().filter(|write| write.resource != "leases").count()
    };
    let (mut seen, mut quiet) = (0, 0);
    for _ in 0..300 {
        let now = count().await;
        quiet = if now > 0 && now == seen { quiet + 1 } else { 0 };
        seen = now;
        if quiet == 20 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    unreachable!("the operator has not stopped writing: {seen} writes");
}

async fn all_are_ready(scene: &Scene) {
    for line in OBJECTS.lines() {
        let recorded: Value = serde_json::from_str(line).unwrap();
        if recorded["apiVersion"] != "gaia.dev/v1alpha1" {
            continue;
        }
        let part = |name: &str| recorded["metadata"][name].as_str().unwrap_or_default();
        let (kind, name) = (recorded["kind"].as_str().unwrap(), part("name"));
        let found = scene.get_in(part("namespace"), kind, name).await.unwrap();
        let conditions = found["status"]["conditions"].as_array().unwrap();
        for (type_, wanted) in [("Ready", "True"), ("Stalled", "False")] {
            let condition = conditions.iter().find(|condition| condition["type"] == type_).unwrap();
            assert_eq!(condition["status"], wanted, "{kind} {name}: {condition:#}");
        }
        assert_eq!(found["status"]["observedGeneration"], found["metadata"]["generation"], "{kind} {name}");
    }
}
