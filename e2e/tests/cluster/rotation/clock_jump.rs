//! The programs as shipped, on a clock that jumps: libfaketime changes their time, with a new value every second.

use std::sync::Arc;
use std::time::Duration;

use crate::common::faults::fake_time::{self, FakeTime, Offset};
use crate::common::{OPERATOR, Plane, SOON, Scene};
use futures::StreamExt as _;
use gaia_api::crd::{ServiceCertificate, TrustDomain};
use gaia_api::{Clock, SystemClock};
use gaia_e2e::load::{Load, Traffic};
use gaia_e2e::platform::OPERATOR_NAMESPACE;
use gaia_e2e::tier::{self, Tier};
use gaia_e2e::wait::{self, Seen};
use gaia_e2e::{ControlPlane, ControlPlaneOptions, OperatorOptions, OperatorProcess, Platform, PlatformOptions, chart};
use jiff::{SignedDuration, Timestamp};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

const LONG: Duration = Duration::from_secs(180);
const CERTIFICATES: usize = 500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_jump_of_a_quarter_renews_everything_once() {
    let Some(library) = tier::available(Tier::B, fake_time::library()) else { return };
    let Some(plane) = tier::own_control_plane(ControlPlaneOptions::default()).await else { return };
    let time = FakeTime::new(plane.dir(), library);
    let platform = platform(&plane, &time, Told::Everybody).await;
    let (key, leaves) = (signing_key(&platform).await, revisions(&platform).await);
    assert_eq!(leaves, [("asset-service", 1), ("auth-service", 1), ("web", 1)].map(|(name, n)| (name.to_owned(), n)));

    let load = Load::start(platform.load(Traffic::Both)).unwrap();
    wait::until("the load is on", SOON, async || load.counts().ok > 200).await.unwrap();
    time.jump(SignedDuration::from_hours(91 * 24));
    // A timer is for an hour at most and is not affected by a clock that was set.
    platform.operator.kill9().unwrap();
    platform.operator.restart().unwrap();
    let rotated = async || {
        let (now, leaves) = (signing_key(&platform).await, revisions(&platform).await);
        let is_over = now.0 != key.0 && now.1 == 0 && leaves.iter().all(|(_, revision)| *revision == 2);
        if is_over { Seen::Yes(()) } else { Seen::NotYet(format!("{now:?}, {leaves:?}")) }
    };
    wait::until("leaves and signing key are renewed, and the old key is gone", LONG, rotated).await.unwrap();
    platform.wait_until_ready().await.unwrap();
    load.stop().await.assert_none_failed();

    time.jump(SignedDuration::from_hours(91 * 24) - SignedDuration::from_mins(10));
    let mark = plane.audit().settle(&platform.client).await.unwrap();
    platform.operator.kill9().unwrap();
    platform.operator.restart().unwrap();
    platform.operator.wait_ready(SOON).await.unwrap();
    let nothing = async || {
        let mut writes = plane.audit().writes_by(OPERATOR, mark).unwrap();
        writes.retain(|write| write.resource != "leases");
        if writes.is_empty() { Seen::Yes(()) } else { Seen::NotYet(format!("{writes:?}")) }
    };
    wait::throughout("nothing is written", Duration::from_secs(10), nothing).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_with_a_clock_five_minutes_ahead_fails_no_request() {
    rotates_with_a_clock_that_is_off_by(SignedDuration::from_mins(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_with_a_clock_five_minutes_behind_fails_no_request() {
    rotates_with_a_clock_that_is_off_by(SignedDuration::from_mins(-5)).await;
}

async fn rotates_with_a_clock_that_is_off_by(skew: SignedDuration) {
    let Some(library) = tier::available(Tier::B, fake_time::library()) else { return };
    let Some(plane) = tier::own_control_plane(ControlPlaneOptions::default()).await else { return };
    let time = FakeTime::new(plane.dir(), library);
    time.jump(skew);
    let platform = platform(&plane, &time, Told::TheOperator).await;
    let (key, leaves) = (signing_key(&platform).await, revisions(&platform).await);
    let load = Load::start(platform.load(Traffic::Both)).unwrap();
    wait::until("the load is on", SOON, async || load.counts().ok > 200).await.unwrap();
    let raised = json!({ "spec": { "ca": { "rotationRevision": 2 }, "tokens": { "rotationRevision": 2 } } });
    let domains: Api<TrustDomain> = Api::all(platform.client.clone());
    domains.patch(&platform.name, &PatchParams::default(), &Patch::Merge(raised)).await.unwrap();
    let rotated = async || {
        let status = serde_json::to_value(domains.get(&platform.name).await.unwrap().status).unwrap();
        let (now, issued) = (signing_key(&platform).await, revisions(&platform).await);
        let anew = issued.iter().zip(&leaves).all(|(now, before)| now.1 == before.1 + 1);
        let is_over = status["rotating"] == "-" && now.0 != key.0 && now.1 == 0 && anew;
        if is_over { Seen::Yes(()) } else { Seen::NotYet(format!("{issued:?}, {status}")) }
    };
    wait::until("CA and signing key are rotated, and every leaf is replaced", LONG, rotated).await.unwrap();
    platform.wait_until_ready().await.unwrap();
    load.stop().await.assert_none_failed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_due_certificates_are_renewed_once_at_the_limited_rate() {
    let Some(library) = tier::available(Tier::B, fake_time::library()) else { return };
    let Some(plane) = Plane::own(&[]).await else { return };
    let time = FakeTime::new(plane.dir(), library);
    let options = time.env().into_iter().fold(plane.operator().await, |all, (name, value)| all.env(name, &value));
    // On a slow machine a leader could lose its lease.
    let options = options.env("GAIA_REISSUE_PER_SECOND", "50").env("GAIA_LEADER_ELECTION", "false");
    let operator = OperatorProcess::start(options).unwrap();
    let scene = plane.scene().await;
    scene.ready_domain(json!({ "tokens": { "rotationPeriod": "26280h" } })).await;
    let create = async |n| drop(scene.create(scene.certificate(&format!("worker{n}"), json!({}))).await);
    futures::stream::iter(0..CERTIFICATES).for_each_concurrent(16, create).await;
    all_are(&scene, 1).await;

    let mark = scene.mark().await;
    time.jump(SignedDuration::from_hours(91 * 24));
    operator.kill9().unwrap();
    operator.restart().unwrap();
    all_are(&scene, 2).await;
    let renewed = async || {
        let mut writes = scene.writes_now(mark).await;
        writes.retain(|write| write.resource == "secrets" && write.name.starts_with("worker") && write.succeeded());
        writes
    };
    let exactly = async || Seen::from(renewed().await.len() == CERTIFICATES);
    wait::throughout("each is renewed once", Duration::from_secs(3), exactly).await.unwrap();
    let mut times: Vec<Timestamp> = renewed().await.iter().map(|write| write.received).collect();
    times.sort();
    let took = times[CERTIFICATES - 1].duration_since(times[0]);
    assert!(took >= SignedDuration::from_secs(9), "500 at 50 in a second, in {took:#}");
}

/// Waits until all certificates of a scene are Ready, issued so often.
async fn all_are(scene: &Scene, revision: i64) {
    let certificates: Api<ServiceCertificate> = Api::namespaced(scene.client.clone(), &scene.namespace);
    wait::until(&format!("all have been issued {revision} times"), LONG, async || {
        let all = certificates.list(&ListParams::default()).await.unwrap();
        let are = all.iter().filter_map(|found| found.status.as_ref()?.revision).filter(|n| *n == revision).count();
        if are == CERTIFICATES { Seen::Yes(()) } else { Seen::NotYet(format!("{are} have")) }
    })
    .await
    .unwrap();
}

/// The programs with the changed clock.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Everybody,
    TheOperator,
}

async fn platform(plane: &ControlPlane, time: &FakeTime, told: Told) -> Platform {
    let kubeconfig = chart::install_without_deployment(plane, OPERATOR_NAMESPACE, &[]).await.unwrap();
    let mut operator = OperatorOptions::new(plane, &kubeconfig, OPERATOR_NAMESPACE);
    let mut options = PlatformOptions::default();
    for (name, value) in time.env() {
        operator = operator.env(name, &value);
        if told == Told::Everybody {
            options.env.insert(name.to_owned(), value);
        }
    }
    let clock: Arc<dyn Clock> = match told {
        Told::Everybody => Arc::<Offset>::clone(&time.clock),
        Told::TheOperator => Arc::new(SystemClock),
    };
    options.domain = json!({
        "propagation": { "minDelay": "3s", "deadline": "1m", "clockSkew": "1s" },
        "tokens": { "maxTTL": "20s" },
    });
    let operator = OperatorProcess::start(operator).unwrap();
    operator.wait_ready(SOON).await.unwrap();
    Platform::start_beside(plane, operator, options, clock).await.unwrap()
}

/// The active key, and the number of keys so far.
async fn signing_key(platform: &Platform) -> (String, usize) {
    let domains: Api<TrustDomain> = Api::all(platform.client.clone());
    let status = serde_json::to_value(domains.get(&platform.name).await.unwrap().status).unwrap();
    let keys = &status["signingKeys"];
    let retiring = keys["retiring"].as_array().map_or(0, Vec::len);
    (keys["active"]["id"].as_str().unwrap().to_owned(), retiring)
}

/// Every certificate, and the number of its issuances.
async fn revisions(platform: &Platform) -> Vec<(String, i64)> {
    let certificates: Api<ServiceCertificate> = Api::namespaced(platform.client.clone(), &platform.name);
    let certificates = certificates.list(&ListParams::default()).await.unwrap();
    let revision = |certificate: ServiceCertificate| {
        (certificate.metadata.name.unwrap(), certificate.status.and_then(|status| status.revision).unwrap_or_default())
    };
    let mut revisions: Vec<_> = certificates.into_iter().map(revision).collect();
    revisions.sort();
    revisions
}
