//! A rotation of the CA with many certificates during faults of the API server: it ends as without faults, and each
//! certificate is re-issued exactly once.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::common::chronicle::{Chronicle, states_of};
use crate::common::conduct::Weather;
use crate::common::faults::proxy::Proxy;
use crate::common::objects::merged;
use crate::common::{OPERATOR, OPERATOR_NAMESPACE, Plane, Scene};
use futures::StreamExt as _;
use gaia_e2e::process::memory_mib;
use gaia_e2e::wait::{self, Seen};
use gaia_e2e::{OperatorOptions, OperatorProcess};
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_refuses_every_third_call_for_half_a_minute_delays_a_rotation_and_no_more() {
    let Some(day) = Day::begin().await else { return };
    day.weather.overloaded.store(true, Ordering::SeqCst);
    day.scene.raise("ca", 2).await;
    wait::throughout("the operator runs", HALF_A_MINUTE, async || day.operator.is_running()).await.unwrap();
    let often = async || day.weather.refused() >= 10;
    wait::until("calls were refused often enough", LONG, often).await.unwrap();
    day.weather.overloaded.store(false, Ordering::SeqCst);
    day.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_on_which_every_second_change_conflicts_delays_a_rotation_and_no_more() {
    let Some(day) = Day::begin().await else { return };
    day.weather.contended.store(true, Ordering::SeqCst);
    day.scene.raise("ca", 2).await;
    day.is_over().await;
    assert!(day.weather.refused() >= CERTIFICATES, "{} calls were refused", day.weather.refused());
    day.weather.contended.store(false, Ordering::SeqCst);
    day.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_dies_three_times_delays_a_rotation_and_no_more() {
    let Some(day) = Day::begin().await else { return };
    day.scene.raise("ca", 2).await;
    day.reaches(&["Active", "Published"]).await;
    for _ in 0..3 {
        day.scene.plane.kill_apiserver().unwrap();
        day.scene.plane.restart_apiserver().await.unwrap();
        // On a slow machine all may be over by then.
        day.has_switched().await;
    }
    day.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gone_on_every_watch_only_delays_a_rotation() {
    let Some(day) = Day::begin().await else { return };
    day.scene.raise("ca", 2).await;
    for (times, states) in [(2, &["Active", "Published"]), (4, &["Retiring", "Active"])] {
        day.reaches(states).await;
        day.weather.forgetful.store(true, Ordering::SeqCst);
        day.proxy.forget_watches();
        wait::until("every watch was begun in vain, in either way", LONG, async || {
            let forgotten = day.weather.forgotten();
            let all = WATCHED.iter().all(|path| forgotten.get(*path).is_some_and(|count| *count >= times));
            if all { Seen::Yes(()) } else { Seen::NotYet(format!("{forgotten:?}\n{}", day.operator.log_tail())) }
        })
        .await
        .unwrap();
        day.weather.forgetful.store(false, Ordering::SeqCst);
    }
    day.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_lags_behind_a_whole_rotation_changes_nothing() {
    let Some(day) = Day::begin().await else { return };
    day.scene.raise("ca", 2).await;
    day.reaches(&["Active", "Published"]).await;
    // From here on the operator sees its own writes only in their answers.
    day.proxy.blind_watches();
    day.is_over().await;
    day.proxy.show_watches();
    day.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_recreated_during_a_watch_gap_gets_its_own_secret() {
    let Some(day) = Day::begin().await else { return };
    let scene = &day.scene;
    let before = scene.get("ServiceCertificate", "worker").await.unwrap();
    day.proxy.blind_watches();
    scene.delete("ServiceCertificate", "worker").await;
    let gone = async || scene.get("ServiceCertificate", "worker").await.is_none();
    wait::until("it is gone", LONG, gone).await.unwrap();
    scene.create(scene.certificate("worker", json!({}))).await;
    let unseen = async || scene.get("ServiceCertificate", "worker").await.unwrap()["status"].is_null();
    wait::throughout("the operator does not know of it", Duration::from_secs(2), unseen).await.unwrap();
    day.proxy.forget_watches();
    scene.wait_ready("ServiceCertificate", &["worker"]).await;
    let is_its_own = async || {
        let certificate = scene.get("ServiceCertificate", "worker").await.unwrap();
        assert_ne!(certificate["metadata"]["uid"], before["metadata"]["uid"]);
        let secret = scene.get("Secret", "worker-tls").await.unwrap_or_default();
        let owner = &secret["metadata"]["ownerReferences"][0]["uid"];
        *owner == certificate["metadata"]["uid"] && scene.leaf_is_whole("worker-tls").await
    };
    wait::until("its Secret is its own", LONG, is_its_own).await.unwrap();
    // The Event about it may follow later.
    scene.writes(scene.mark().await).await;
    let mark = scene.mark().await;
    assert_eq!(scene.writes(mark).await, [""; 0], "it is at rest");
    assert!(is_its_own().await);
    day.seen.catch_up().await;
    day.seen.nothing_twice();
    for name in day.names.iter().filter(|name| *name != "worker") {
        assert_eq!(day.seen.revision(&format!("{name}-tls")), 1, "{name} is unchanged");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_sleeps_for_half_a_minute_delays_a_rotation_and_no_more() {
    let Some(day) = Day::begin().await else { return };
    day.scene.raise("ca", 2).await;
    day.reaches(&["Active", "Published"]).await;
    day.scene.plane.pause_apiserver().unwrap();
    wait::throughout("the operator runs", HALF_A_MINUTE, async || day.operator.is_running()).await.unwrap();
    day.scene.plane.resume_apiserver().unwrap();
    day.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_ended_in_an_api_server_pause_continues_the_rotation() {
    let Some(day) = Day::with_election("true").await else { return };
    day.scene.raise("ca", 2).await;
    day.reaches(&["Retiring", "Active"]).await;
    let asleep = Instant::now();
    day.scene.plane.pause_apiserver().unwrap();
    // It gets no confirmation that it still leads.
    let status = day.operator.ended(HALF_A_MINUTE).await.unwrap();
    assert!(!status.success(), "it exits with an error: {status}");
    assert!(day.operator.log_tail().contains("the lease is lost"), "{}", day.operator.log_tail());
    let rest = HALF_A_MINUTE.saturating_sub(asleep.elapsed());
    wait::throughout("it has ended", rest, async || !day.operator.is_running()).await.unwrap();
    day.scene.plane.resume_apiserver().unwrap();
    // As kubelet does.
    day.operator.restart().unwrap();
    day.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_secrets_of_others_are_never_touched_and_take_no_memory() {
    let Some(day) = Day::begin().await else { return };
    let before = memory_mib(day.operator.pid(), "VmHWM").unwrap();
    let others = day.scene.plane.namespace().await.unwrap();
    let mark = day.scene.mark().await;
    create_secrets_of_others(&day.scene, &others).await;
    // It lists everything again, and then rotates.
    day.operator.kill9().unwrap();
    day.operator.restart().unwrap();
    day.scene.raise("ca", 2).await;
    day.is_over().await;
    day.scene.wait_rotated().await;
    let after = memory_mib(day.operator.pid(), "VmHWM").unwrap();
    assert!(after < before + GROWTH_MIB, "it took {before:.1} MiB at most, and with them {after:.1} MiB");
    day.scene.mark().await;
    let mut asked = day.scene.plane.audit().by(OPERATOR, mark).unwrap();
    asked.retain(|record| record.namespace == others);
    assert!(asked.is_empty(), "it asked about them: {asked:?}");
    day.ends_well().await;
}

/// As in any cluster: of programs, of helm, of other operators that issue certificates.
async fn create_secrets_of_others(scene: &Scene, namespace: &str) {
    let kinds = [
        ("Opaque", json!({}), "password"),
        ("helm.sh/release.v1", json!({ "owner": "helm", "status": "deployed" }), "release"),
        ("kubernetes.io/tls", json!({ "app.kubernetes.io/managed-by": "cert-manager" }), "tls.key"),
        ("Opaque", json!({ "app.kubernetes.io/managed-by": "Helm" }), "token"),
    ];
    let payload = "x".repeat(SIZE_BYTES);
    let create = async |n: usize| {
        let (type_, labels, key) = &kinds[n % kinds.len()];
        let data = json!({ *key: payload, "tls.crt": "a certificate" });
        let secret = scene.secret(namespace, &format!("worker{n}-tls"), type_, data);
        scene.create(merged(secret, json!({ "metadata": { "labels": labels } }))).await;
    };
    futures::stream::iter(0..SECRETS).for_each_concurrent(64, create).await;
}

/// A platform with many certificates, and an operator whose calls go through a proxy.
struct Day {
    scene: Scene,
    seen: Chronicle,
    weather: Weather,
    operator: OperatorProcess,
    names: Vec<String>,
    before: BTreeSet<String>,
    proxy: Proxy,
}

impl Day {
    async fn begin() -> Option<Self> {
        Self::with_election("false").await
    }

    async fn with_election(election: &str) -> Option<Self> {
        let plane = Plane::own(&[]).await?;
        let scene = plane.scene().await;
        let options = plane.operator().await.env("GAIA_LEADER_ELECTION", election).env("GAIA_REISSUE_PER_SECOND", "0");
        let weather = Weather::default();
        let proxy = Proxy::start(&options.kubeconfig, plane.dir(), weather.clone()).await;
        let options = OperatorOptions { kubeconfig: proxy.kubeconfig.clone(), ..options };
        let operator = OperatorProcess::start(options).unwrap();
        let seen = scene.rotating(json!({}), "2s").await;
        let names: Vec<String> = (1..CERTIFICATES).map(|n| format!("worker{n}")).collect();
        for name in &names {
            scene.create(scene.certificate(name, json!({}))).await;
        }
        let names: Vec<String> = names.into_iter().chain(["worker".to_owned()]).collect();
        scene.wait_ready("ServiceCertificate", &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
        scene.wait_rotated().await;
        let before = objects(&scene).await;
        Some(Self { scene, seen, weather, operator, names, before, proxy })
    }

    /// The new CA signs.
    async fn has_switched(&self) {
        wait::until("the previous CA signs no further certificates", LONG, async || {
            states_of(&self.seen.ring("ca")).first().is_some_and(|state| state != "Active")
        })
        .await
        .unwrap();
    }

    async fn is_over(&self) {
        self.reaches(&["Removed", "Active"]).await;
    }

    async fn reaches(&self, states: &[&str]) {
        wait::until(&format!("the ring of the CA is {states:?}"), LONG, async || {
            let ring = self.seen.ring("ca");
            if states_of(&ring) == states { Seen::Yes(()) } else { Seen::NotYet(ring.to_string()) }
        })
        .await
        .unwrap();
    }

    async fn ends_well(self) {
        self.is_over().await;
        self.scene.wait_rotated().await;
        self.scene.wait_ready("ServiceCertificate", &self.names.iter().map(String::as_str).collect::<Vec<_>>()).await;
        assert!(self.operator.is_running());
        self.seen.catch_up().await;
        self.seen.nothing_twice();
        assert_eq!(self.seen.succession("ca"), SUCCESSION);
        for name in &self.names {
            let secret = format!("{name}-tls");
            assert_eq!(self.seen.revision(&secret), 2, "{name} was re-issued once");
            assert!(self.scene.leaf_is_whole(&secret).await, "{name}");
        }
        let mut after = objects(&self.scene).await;
        assert!(after.remove(&format!("{}-ca-ring-previous", self.scene.domain)));
        assert_eq!(after, self.before, "nothing else is there than before");
        let mark = self.scene.mark().await;
        assert_eq!(self.scene.writes(mark).await, [""; 0], "it is at rest");
    }
}

async fn objects(scene: &Scene) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (kind, namespace) in
        [("Secret", &*scene.namespace), ("ConfigMap", &*scene.namespace), ("Secret", OPERATOR_NAMESPACE)]
    {
        let found = scene.api(kind, Some(namespace)).list(&ListParams::default()).await.unwrap();
        names.extend(found.items.iter().map(ResourceExt::name_any));
    }
    names
}

/// The operator's watches.
const WATCHED: [&str; 7] = [
    "/apis/gaia.dev/v1alpha1/trustdomains",
    "/apis/gaia.dev/v1alpha1/servicecertificates",
    "/apis/gaia.dev/v1alpha1/gaiaservices",
    "/api/v1/namespaces",
    "/api/v1/configmaps",
    "/api/v1/secrets",
    "/api/v1/pods",
];
const CERTIFICATES: usize = 50;
const HALF_A_MINUTE: Duration = Duration::from_secs(30);
/// Secrets of others, and the size of each: together five times the permitted growth.
const SECRETS: usize = 10_000;
const SIZE_BYTES: usize = 4096;
const GROWTH_MIB: f64 = 8.0;
/// Longer than any step takes.
const LONG: Duration = Duration::from_secs(180);
const SUCCESSION: [&str; 6] = [
    "epoch 1, revision 1: Active",
    "epoch 2, revision 2: Active, Staged",
    "epoch 2, revision 2: Active, Published",
    "epoch 2, revision 2: Retiring (signedUntil), Active",
    "epoch 2, revision 2: Retiring (switchedTime) (signedUntil), Active",
    "epoch 3, revision 2: Removed (switchedTime) (signedUntil), Active",
];
