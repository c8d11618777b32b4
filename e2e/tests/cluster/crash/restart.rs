//! Crashes at any time: the work is continued, nothing is issued twice, and nothing is lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::common::conduct::{AtChange, Moment};
use crate::common::faults::proxy::Proxy;
use crate::common::snapshot::differences;
use crate::common::{OPERATOR, OPERATOR_NAMESPACE, Plane, SOON, Scene};
use gaia_e2e::{OperatorProcess, wait};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde_json::{Value, json};

// ---- killed in the middle of a first issuance ----------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_issuance_survives_a_kill_before_any_write() {
    killed_at_every_write(Moment::BeforeItIsSent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_issuance_survives_a_kill_after_any_write() {
    killed_at_every_write(Moment::AfterItIsDone).await;
}

async fn killed_at_every_write(moment: Moment) {
    let Some(plane) = Plane::own(&[]).await else { return };
    let undisturbed = first_issuance(&plane, usize::MAX, moment).await;
    assert!(undisturbed.changes >= 12, "{undisturbed:#?}");
    let mut n = 1;
    loop {
        let killed = first_issuance(&plane, n, moment).await;
        let differ = differences(&killed.state, &undisturbed.state);
        assert!(differ.is_empty(), "the end state after a kill at change {n}, {moment:?}: {}", differ.join("\n"));
        assert_eq!(killed.writes, undisturbed.writes, "the writes with a kill at change {n}, {moment:?}");
        if killed.changes < n {
            break;
        }
        n += 1;
    }
    assert!(n > 12, "{n}");
    plane.scene().await.end().await;
}

#[derive(Debug)]
struct Issuance {
    /// Changes requested through the proxy: all, or up to the fatal one.
    changes: usize,
    state: Value,
    /// Every write of an object except statuses and Events, including refused ones, with its count.
    writes: BTreeMap<String, usize>,
}

/// A first issuance with a kill at change `fatal`; from there on, an undisturbed operator.
async fn first_issuance(plane: &Plane, fatal: usize, moment: Moment) -> Issuance {
    let scene = plane.scene().await;
    let mark = scene.mark().await;
    let issuer = json!({ "issuedBy": { "namespace": scene.namespace, "name": "auth" } });
    scene.create(scene.trust_domain(json!({ "tokens": issuer }))).await;
    scene.create(scene.service("auth", json!({ "callers": [{ "service": "web" }] }))).await;
    scene.create(scene.certificate("worker", json!({}))).await;

    // A killed leader's lease has to expire first. A test below covers that.
    let options = plane.operator().await.env("GAIA_LEADER_ELECTION", "false");
    let direct = options.kubeconfig.clone();
    let proxy = Proxy::start(&direct, plane.dir(), AtChange::new(fatal, moment)).await;
    let proxied = gaia_e2e::OperatorOptions { kubeconfig: proxy.kubeconfig.clone(), ..options };
    let operator = Arc::new(OperatorProcess::start(proxied).unwrap());
    proxy.aim_at(&operator);
    let done = async || proxy.has_fired() || is_settled(&scene).await;
    wait::until("the operator is killed, or has nothing left to do", SOON, done).await.unwrap();
    if proxy.has_fired() {
        assert!(!operator.is_running());
        let kubeconfig = direct.into_os_string();
        operator.restart_with(|spec| drop(spec.env.insert("KUBECONFIG".to_owned(), kubeconfig))).unwrap();
    }
    let settled = wait::until("all is settled", SOON, async || is_settled(&scene).await).await;
    settled.unwrap_or_else(|error| panic!("{error:#}; the end of the operator's log:\n{}", operator.log_tail()));
    let mut writes = BTreeMap::new();
    for write in scene.writes(mark).await {
        if !write.contains("/status ") && !write.contains(" events ") {
            *writes.entry(write).or_insert(0) += 1;
        }
    }
    assert!(is_settled(&scene).await);
    assert!(scene.leaf_is_whole("worker-tls").await && scene.leaf_is_whole("auth-tls").await);
    operator.kill9().unwrap();
    Issuance { changes: proxy.changes(), state: scene.snapshot().await, writes }
}

async fn is_settled(scene: &Scene) -> bool {
    let objects = [
        ("TrustDomain", scene.domain.as_str()),
        ("GaiaService", "auth"),
        ("ServiceCertificate", "auth"),
        ("ServiceCertificate", "worker"),
    ];
    for (kind, name) in objects {
        for (condition, status) in [("Ready", "True"), ("Reconciling", "False"), ("Stalled", "False")] {
            if scene.condition(kind, name, condition).await.is_none_or(|seen| seen.status != status) {
                return false;
            }
        }
    }
    let signer = format!("{}-token-signer", scene.domain);
    scene.get("Secret", &signer).await.is_some()
}

// ---- rings and TrustDomains that are deleted -----------------------------------------------------------------------

#[tokio::test]
async fn a_lost_ca_ring_is_never_replaced_unless_a_person_says_so() {
    let Some(scene) = Scene::begin().await else { return };
    a_lost_ring(&scene, "ca-ring").await;
    scene.end().await;
}

#[tokio::test]
async fn a_lost_signing_ring_is_never_replaced_unless_a_person_says_so() {
    let Some(scene) = Scene::begin().await else { return };
    a_lost_ring(&scene, "signing-ring").await;
    scene.end().await;
}

async fn a_lost_ring(scene: &Scene, which: &str) {
    populate(scene).await;
    let domain = scene.domain.clone();
    let ring = format!("{domain}-{which}");
    let before = material(scene).await;
    let mark = scene.mark().await;
    scene.delete_in(OPERATOR_NAMESPACE, "Secret", &ring).await;
    let message = scene.wait_for("TrustDomain", &domain, "Stalled=True", "RingMissing", SOON).await;
    assert!(message.contains(&format!("Secret {OPERATOR_NAMESPACE}/{ring} is missing")), "{message}");
    assert!(message.contains("gaia.dev/bootstrap"), "{message}");
    // A new certificate cannot be issued now.
    scene.create(scene.certificate("late", json!({}))).await;
    scene.wait_for("ServiceCertificate", "late", "Ready=False", "TrustDomainNotReady", SOON).await;
    let annotate = |uid: &str| json!({ "metadata": { "annotations": { "gaia.dev/bootstrap": uid } } });
    scene.patch("TrustDomain", &domain, annotate("another-uid")).await;
    let minted: Vec<String> = scene
        .writes(mark)
        .await
        .into_iter()
        .filter(|write| !write.contains("/status ") && !write.contains(" events "))
        .collect();
    assert_eq!(minted, [""; 0], "nothing is minted");
    assert_eq!(material(scene).await, before);
    let ready = scene.condition("ServiceCertificate", "worker", "Ready").await.unwrap();
    assert_eq!(ready.status, "True", "issued certificates are still valid: {ready:?}");
    scene.wait_for("TrustDomain", &domain, "Stalled=True", "RingMissing", SOON).await;

    let asked = message.split_once("gaia.dev/bootstrap=").unwrap().1.to_owned();
    scene.patch("TrustDomain", &domain, annotate(&asked)).await;
    scene.wait_for("TrustDomain", &domain, "Ready=True", "Ready", SOON).await;
    scene.wait_for("TrustDomain", &domain, "Stalled=False", "Settled", SOON).await;
    scene.wait_ready("ServiceCertificate", &["worker", "late"]).await;
    let whole = async || scene.leaf_is_whole("worker-tls").await && scene.leaf_is_whole("late-tls").await;
    wait::until("the leaves are of the ring in force", SOON, whole).await.unwrap();
    assert_ne!(material(scene).await, before);
}

#[tokio::test]
async fn a_ring_that_is_restored_is_gone_on_with() {
    let Some(scene) = Scene::begin().await else { return };
    populate(&scene).await;
    let domain = scene.domain.clone();
    let before = material(&scene).await;
    let mut backup = scene.rings().get(&format!("{domain}-ca-ring")).await.unwrap();
    scene.delete_in(OPERATOR_NAMESPACE, "Secret", &format!("{domain}-ca-ring")).await;
    scene.wait_for("TrustDomain", &domain, "Stalled=True", "RingMissing", SOON).await;
    backup.metadata.resource_version = None;
    backup.metadata.uid = None;
    scene.rings().create(&PostParams::default(), &backup).await.unwrap();
    scene.wait_for("TrustDomain", &domain, "Stalled=False", "Settled", SOON).await;
    scene.wait_for("TrustDomain", &domain, "Ready=True", "Ready", SOON).await;
    scene.wait_ready("ServiceCertificate", &["worker"]).await;
    assert_eq!(material(&scene).await, before);
    scene.end().await;
}

#[tokio::test]
async fn a_trust_domain_that_is_deleted_and_created_again_has_the_same_ca() {
    let Some(scene) = Scene::begin().await else { return };
    populate(&scene).await;
    let domain = scene.domain.clone();
    let status = async || scene.get("TrustDomain", &domain).await.unwrap()["status"].clone();
    let before = (material(&scene).await, status().await);
    let mark = scene.mark().await;
    scene.delete("TrustDomain", &domain).await;
    let gone = async || scene.get("TrustDomain", &domain).await.is_none();
    wait::until("the TrustDomain is gone", SOON, gone).await.unwrap();
    scene.wait_for("ServiceCertificate", "worker", "Reconciling=True", "TrustDomainNotFound", SOON).await;
    let ready = scene.condition("ServiceCertificate", "worker", "Ready").await.unwrap();
    assert_eq!(ready.status, "True", "issued certificates are still valid: {ready:?}");
    scene.ready_domain(json!({})).await;
    scene.wait_ready("ServiceCertificate", &["worker"]).await;
    let after = (material(&scene).await, status().await);
    assert_eq!(after.0, before.0);
    assert_eq!(after.1["ca"]["active"], before.1["ca"]["active"]);
    assert_eq!(after.1["signingKeys"], before.1["signingKeys"]);
    let objects: Vec<String> = scene
        .writes(mark)
        .await
        .into_iter()
        .filter(|write| !write.contains("/status ") && !write.contains(" events "))
        .collect();
    assert_eq!(objects, [""; 0], "rings, bundle and leaves stay as they are");
    scene.end().await;
}

/// A TrustDomain and a certificate, Ready.
async fn populate(scene: &Scene) {
    scene.ready_domain(json!({})).await;
    scene.create(scene.certificate("worker", json!({}))).await;
    scene.wait_ready("ServiceCertificate", &["worker"]).await;
}

/// The trusted roots and the presented leaves.
async fn material(scene: &Scene) -> [String; 3] {
    let leaf = scene.secret_text("worker-tls", "tls.crt").await;
    [scene.trust("ca.crt").await, scene.trust("jwks.json").await, leaf]
}

// ---- the API server, and the operator as a whole -------------------------------------------------------------------

#[tokio::test]
async fn an_api_server_that_dies_in_the_middle_only_delays() {
    let Some(plane) = Plane::own(&[]).await else { return };
    let operator = plane.start_operator().await;
    let scene = plane.scene().await;
    let mark = scene.mark().await;
    scene.ready_domain(json!({})).await;
    let names: Vec<String> = (0..30).map(|n| format!("worker{n}")).collect();
    for name in &names {
        scene.create(scene.certificate(name, json!({}))).await;
    }
    let some = async || !scene.secrets().list(&ListParams::default()).await.unwrap().items.is_empty();
    wait::until("it has begun", SOON, some).await.unwrap();
    for _ in 0..2 {
        plane.kill_apiserver().unwrap();
        plane.restart_apiserver().await.unwrap();
    }
    let leases: Api<Lease> = Api::namespaced(scene.client.clone(), OPERATOR_NAMESPACE);
    let renewed = async || leases.get("gaia-operator").await.unwrap().spec.unwrap().renew_time;
    let last = renewed().await;
    let decided = async || !operator.is_running() || renewed().await != last;
    wait::until("the lease is renewed, or given up", SOON, decided).await.unwrap();
    if !operator.is_running() {
        // On a slow machine it cannot renew its lease in time, and ends, as a leader must: kubelet restarts it.
        assert!(operator.log_tail().contains("the lease is lost"), "{}", operator.log_tail());
        operator.restart().unwrap();
    }
    scene.wait_ready("ServiceCertificate", &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut created: BTreeMap<String, usize> = BTreeMap::new();
    for write in scene
        .writes(mark)
        .await
        .into_iter()
        .filter(|write| write.starts_with("create secrets") && !write.contains("->"))
    {
        *created.entry(write).or_insert(0) += 1;
    }
    assert!(created.values().all(|count| *count == 1), "{created:?}");
    // A killed API server may have stored objects that its audit log does not have, so the Secrets are compared too.
    for name in &names {
        let secret = scene.get("Secret", &format!("{name}-tls")).await.unwrap();
        assert_eq!(secret["metadata"]["annotations"]["gaia.dev/revision"], "1", "{name} was issued once");
        assert!(scene.leaf_is_whole(&format!("{name}-tls")).await);
    }
    // Not `scene.end()`: an API server that has just started answers 403 until it has read its roles.
}

#[tokio::test]
async fn sigterm_ends_well_gives_the_lease_up_and_another_replica_takes_over() {
    let Some(plane) = Plane::own(&[]).await else { return };
    let first = plane.start_operator().await;
    let scene = plane.scene().await;
    populate(&scene).await;
    let options = plane.operator().await.named("gaia-operator-second");
    let second = OperatorProcess::start(options).unwrap();
    second.wait_ready(SOON).await.unwrap();
    assert!(leads(&first).await && !leads(&second).await);

    assert_eq!(first.sigterm(SOON).await.unwrap().code(), Some(0));
    wait::until("the other one leads", Duration::from_secs(6), async || leads(&second).await).await.unwrap();
    repairs_a_deleted_secret(&scene).await;

    assert_eq!(second.sigterm(SOON).await.unwrap().code(), Some(0));
    assert_eq!(holder(&scene).await, Some(String::new()), "no operator holds the lease");
    scene.end().await;
}

#[tokio::test]
async fn a_killed_leader_is_replaced_once_its_lease_has_run_out() {
    let Some(plane) = Plane::own(&[]).await else { return };
    let first = plane.start_operator().await;
    let scene = plane.scene().await;
    populate(&scene).await;
    let second = OperatorProcess::start(plane.operator().await.named("gaia-operator-second")).unwrap();
    second.wait_ready(SOON).await.unwrap();
    let before = holder(&scene).await;
    first.kill9().unwrap();
    wait::until("the other one leads", Duration::from_secs(25), async || leads(&second).await).await.unwrap();
    assert_ne!(holder(&scene).await, before);
    repairs_a_deleted_secret(&scene).await;
    let leases = plane.audit().writes_by(OPERATOR, gaia_e2e::audit::AuditMark::default()).unwrap();
    let made = leases.iter().filter(|write| write.resource == "leases" && write.verb == "create").count();
    assert_eq!(made, 1);
    scene.end().await;
}

async fn leads(operator: &OperatorProcess) -> bool {
    operator.metrics().await.is_ok_and(|all| all.lines().any(|line| line == "gaia_leader 1"))
}

async fn holder(scene: &Scene) -> Option<String> {
    let leases: Api<Lease> = Api::namespaced(scene.client.clone(), OPERATOR_NAMESPACE);
    leases.get("gaia-operator").await.unwrap().spec.unwrap().holder_identity
}

async fn repairs_a_deleted_secret(scene: &Scene) {
    scene.delete("Secret", "worker-tls").await;
    let repaired = async || scene.leaf_is_whole("worker-tls").await;
    wait::until("it is repaired", crate::common::REPAIR, repaired).await.unwrap();
}
