//! Changes around the operator: rights that are withdrawn and granted, deleted namespaces, contradictory
//! edits.

use crate::common::chronicle::states_of;
use crate::common::{Plane, SOON, Scene};
use gaia_e2e::wait::{self, Seen};
use gaia_e2e::{OperatorProcess, chart};
use gaia_pki::{Certificate, KeySpec};
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};

#[tokio::test]
async fn a_rotation_waits_for_the_right_to_write_secrets() {
    let Some(plane) = Plane::own(&[]).await else { return };
    let operator = steady_operator(&plane).await;
    let scene = plane.scene().await;
    let seen = scene.rotating(json!({}), "2s").await;
    let granted = rules(&plane).await;
    let mut less = granted.clone();
    for rule in
        less.as_array_mut().unwrap().iter_mut().filter(|rule| rule["resources"] == json!(["secrets", "configmaps"]))
    {
        rule["verbs"] = json!(["get", "list", "watch"]);
    }
    assert_ne!(less, granted);
    grant(&plane, &less).await;
    // Only the namespaces of services are forbidden: the rings may be written.
    scene.raise("ca", 2).await;
    let domain = scene.domain.clone();
    let refused = format!("may not patch ConfigMap {}/{domain}-trust", scene.namespace);
    wait::until("people are told", SOON, async || {
        let events = scene.events("TrustDomain", &domain).await;
        let told = events.iter().any(|(reason, _, note)| reason == "WriteFailed" && note.contains(&refused));
        if told { Seen::Yes(()) } else { Seen::NotYet(format!("{events:?}")) }
    })
    .await
    .unwrap();
    let bundle = scene.trust("ca.crt").await;
    scene.create(scene.certificate("late", json!({}))).await;
    let message = scene.wait_for("ServiceCertificate", "late", "Ready=False", "WriteFailed", SOON).await;
    assert!(message.contains("late-tls"), "{message}");
    let ready = scene.condition("ServiceCertificate", "worker", "Ready").await.unwrap();
    assert_eq!(ready.status, "True", "what it has is good: {ready:?}");

    assert_eq!(states_of(&seen.ring("ca")), ["Active", "Staged"], "an unpublished generation never signs");
    assert_eq!(scene.trust("ca.crt").await, bundle);

    grant(&plane, &granted).await;
    scene.wait_ready("ServiceCertificate", &["late", "worker"]).await;
    seen.wait_for_states("ca", &["Removed", "Active"]).await;
    scene.wait_rotated().await;
    seen.catch_up().await;
    seen.nothing_twice();
    assert_eq!(seen.revision("worker-tls"), 2, "it was re-issued once");
    for secret in ["worker-tls", "late-tls"] {
        assert!(scene.leaf_is_whole(secret).await, "{secret}");
    }
    operator.check_running().unwrap();
    // Not `scene.end()`: rights were missing on purpose.
}

#[tokio::test]
async fn a_namespace_deleted_during_issuance_blocks_nothing() {
    let Some(plane) = Plane::own(&[]).await else { return };
    let operator = steady_operator(&plane).await;
    let scene = plane.scene().await;
    let doomed = plane.namespace().await.unwrap();
    let both = json!([{ "key": "kubernetes.io/metadata.name", "operator": "In", "values": [scene.namespace, doomed] }]);
    let selector = json!({ "matchLabels": null, "matchExpressions": both });
    let mut domain = scene.trust_domain(json!({}));
    domain["spec"]["namespaceSelector"] = selector;
    let times = json!({ "minDelay": "2s", "clockSkew": "0s", "deadline": "30s", "requireAcknowledgement": false });
    domain["spec"]["propagation"] = times;
    scene.create(domain).await;
    for n in 0..CERTIFICATES {
        let mut certificate = scene.certificate(&format!("doomed{n}"), json!({}));
        certificate["metadata"]["namespace"] = json!(doomed);
        scene.create(certificate).await;
    }
    let some =
        async || !scene.api("Secret", Some(&doomed)).list(&ListParams::default()).await.unwrap().items.is_empty();
    wait::until("the first is issued", SOON, some).await.unwrap();
    let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> = kube::Api::all(scene.client.clone());
    namespaces.delete(&doomed, &DeleteParams::default()).await.unwrap();
    scene.create(scene.certificate("worker", json!({}))).await;
    scene.wait_ready("ServiceCertificate", &["worker"]).await;
    let gone = async || namespaces.get_opt(&doomed).await.unwrap().is_none();
    wait::until("the namespace is gone", SOON, gone).await.unwrap();

    let seen = scene.chronicle().await;
    scene.raise("ca", 2).await;
    seen.wait_for_states("ca", &["Removed", "Active"]).await;
    scene.wait_rotated().await;
    scene.wait_ready("TrustDomain", &[&scene.domain]).await;
    assert!(scene.leaf_is_whole("worker-tls").await);
    let mark = scene.mark().await;
    assert_eq!(scene.writes(mark).await, [""; 0], "it is at rest");
    operator.check_running().unwrap();
    // Not `scene.end()`: creations in a namespace that is being deleted are answered with 403.
}

#[tokio::test]
async fn contradictory_edits_end_in_the_state_of_the_last_one() {
    let Some(scene) = Scene::begin().await else { return };
    let seen = scene.rotating(json!({}), "1s").await;
    for _ in 0..FLIPS {
        for size in [384, 256] {
            let asked = json!({ "spec": { "privateKey": { "algorithm": "ECDSA", "size": size } } });
            scene.patch("ServiceCertificate", "worker", asked).await;
        }
    }
    scene.wait_ready("ServiceCertificate", &["worker"]).await;
    let mark = scene.mark().await;
    assert_eq!(scene.writes(mark).await, [""; 0], "it is at rest");
    let chain = scene.secret_text("worker-tls", "tls.crt").await;
    let leaf = Certificate::chain_from_pem(chain.as_bytes()).unwrap().remove(0);
    assert_eq!(leaf.public_key().spec(), Some(KeySpec::Ecdsa256));
    assert!(scene.leaf_is_whole("worker-tls").await);
    seen.catch_up().await;
    seen.nothing_twice();
    let issued = seen.revision("worker-tls");
    assert!(issued <= 1 + 2 * FLIPS, "it was issued {issued} times");
    let status = scene.get("ServiceCertificate", "worker").await.unwrap()["status"].clone();
    assert_eq!(status["revision"], issued, "{status}");
    scene.end().await;
}

/// An operator without leader election, which a slow machine cannot end: an end of it is a fault.
async fn steady_operator(plane: &Plane) -> OperatorProcess {
    let options = plane.operator().await.env("GAIA_LEADER_ELECTION", "false");
    let operator = OperatorProcess::start(options).unwrap();
    operator.wait_ready(SOON).await.unwrap();
    operator
}

/// The rules of the operator's ClusterRole.
async fn rules(plane: &Plane) -> Value {
    let role = plane.kubectl(&["get", "clusterrole", chart::SERVICE_ACCOUNT, "-o", "json"]).await.unwrap();
    let role: Value = serde_json::from_str(&role).unwrap();
    role["rules"].clone()
}

/// Changes the operator's rights, and waits until they are in force.
async fn grant(plane: &Plane, rules: &Value) {
    let patch = json!({ "rules": rules }).to_string();
    plane.kubectl(&["patch", "clusterrole", chart::SERVICE_ACCOUNT, "--type=merge", "-p", &patch]).await.unwrap();
    let writes = rules.as_array().unwrap().iter().any(|rule| {
        rule["resources"] == json!(["secrets", "configmaps"])
            && rule["verbs"].as_array().unwrap().contains(&json!("create"))
    });
    let account = format!("--as={}", crate::common::OPERATOR);
    // Its exit status is "no".
    let allowed =
        async || plane.kubectl(&["auth", "can-i", "create", "secrets", "-n", "default", &account]).await.is_ok();
    wait::until("the rights are as they should be", SOON, async || allowed().await == writes).await.unwrap();
}

const CERTIFICATES: usize = 30;
/// Within the budget of a certificate.
const FLIPS: usize = 3;
