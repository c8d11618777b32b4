//! The load generator: what it counts as failed, and that nothing fails on a platform at rest.

mod gateway;
mod rotation;
mod support;

use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use gaia_api::{Clock as _, SystemClock};
use gaia_e2e::load::{
    Caller, CallerOptions, Counts, Kind, Load, LoadOptions, Negative, Outcome, Report, Traffic, Verdict,
};
use gaia_e2e::platform::OPERATOR_NAMESPACE;
use gaia_e2e::{ControlPlane, ControlPlaneOptions, Platform, PlatformOptions, process, tier, wait};
use gaia_pki::{Ca, CaRequest, KeySpec, PrivateKey, Serial, Validity};
use jiff::SignedDuration;
use tokio::time::Instant;

use crate::load::support::StandIn;

const SOON: Duration = Duration::from_secs(30);

/// A separate platform for each test: they stop parts of it.
async fn platform(asset_instances: usize) -> Option<(ControlPlane, Platform)> {
    let plane = tier::own_control_plane(ControlPlaneOptions::default()).await?;
    let options = PlatformOptions { asset_instances, ..PlatformOptions::default() };
    let platform = Platform::start(&plane, options).await.unwrap();
    Some((plane, platform))
}

/// Waits until there are `more` further requests that `matching` selects.
async fn wait_for(load: &Load, what: &str, more: u64, matching: impl Fn(Counts) -> u64) {
    let before = matching(load.counts());
    wait::until(what, SOON, async || matching(load.counts()) >= before + more).await.unwrap();
}

#[tokio::test]
async fn on_a_platform_at_rest_nothing_fails_and_every_kind_of_request_is_made() {
    let Some((_plane, platform)) = platform(2).await else { return };
    let began = Instant::now();
    let load = Load::start(platform.load(Traffic::Both)).unwrap();
    wait_for(&load, "all are answered", 300, |counts| counts.ok).await;
    let report = load.stop().await;
    report.assert_none_failed();
    for kind in [Kind::Mtls, Kind::ApiKey, Kind::Token, Kind::Stranger] {
        assert!(report.counts_of(kind).ok > 0, "{kind}:\n{report}");
    }
    assert_eq!(report.counts_of(Kind::Token).made, 1, "a token is kept for half its life:\n{report}");
    let most = 100 * (began.elapsed().as_secs() + 1) + 50;
    assert!(report.total.made < most, "a hundred a second were asked for:\n{report}");
    for instance in &platform.assets {
        let metrics = instance.metrics().await.unwrap();
        assert!(metrics.contains("gaia_auth_requests_total"), "every instance is called:\n{metrics}");
    }
}

#[tokio::test]
async fn requests_to_a_service_that_was_killed_are_counted_as_failed() {
    let Some((_plane, platform)) = platform(1).await else { return };
    let load = Load::start(platform.load(Traffic::Both)).unwrap();
    wait_for(&load, "the load is on", 100, |counts| counts.ok).await;
    assert_eq!(load.counts().failed, 0);
    platform.assets[0].kill9().unwrap();
    wait_for(&load, "requests fail", 20, |counts| counts.failed).await;
    platform.assets[0].restart().unwrap();
    platform.assets[0].wait_ready(SOON).await.unwrap();
    wait_for(&load, "requests are answered again", 100, |counts| counts.ok).await;
    let report = load.stop().await;
    assert!(!report.is_clean());
    assert_eq!(report.failures.len(), 20, "the first twenty are listed:\n{report}");
    assert!(report.failures.iter().all(|failure| matches!(failure.record.outcome, Outcome::Failed(_))));
    assert!(report.to_string().contains("asset-service"), "{report}");
}

#[tokio::test]
async fn one_of_two_instances_can_be_stopped_in_good_order_without_a_failed_request() {
    let Some((_plane, platform)) = platform(2).await else { return };
    let load = Load::start(platform.load(Traffic::Both)).unwrap();
    for instance in &platform.assets {
        wait_for(&load, "the load is on", 100, |counts| counts.ok).await;
        instance.sigterm(SOON).await.unwrap();
        instance.restart().unwrap();
        instance.wait_ready(SOON).await.unwrap();
    }
    wait_for(&load, "requests are answered still", 100, |counts| counts.ok).await;
    load.stop().await.assert_none_failed();
}

#[tokio::test]
async fn an_api_key_that_is_wrong_is_counted_as_failed() {
    let Some((_plane, platform)) = platform(1).await else { return };
    let options = LoadOptions { api_key: Some("gk_test_wrong".into()), ..platform.load(Traffic::Both) };
    let load = Load::start(options).unwrap();
    wait_for(&load, "requests fail", 20, |counts| counts.failed).await;
    let report = load.stop().await;
    let (wrong, right) = (report.counts_of(Kind::ApiKey), report.counts_of(Kind::Mtls));
    assert_eq!((wrong.ok, wrong.failed), (0, wrong.made), "{report}");
    assert_eq!((right.ok, right.failed), (right.made, 0), "{report}");
    assert!(report.to_string().contains("401"), "{report}");
}

#[tokio::test]
async fn a_refused_token_is_requested_again_once_and_the_retry_is_counted() {
    let Some((_plane, platform)) = platform(1).await else { return };
    let first: OnceLock<String> = OnceLock::new();
    let report = load_on_stand_in(&platform, move |token| first.get_or_init(|| token.to_owned()) == token).await;
    report.assert_none_failed();
    assert!(report.total.retried > 0, "{report}");
    assert_eq!(report.counts_of(Kind::Token).made, 2, "one more token is used by all workers:\n{report}");
}

#[tokio::test]
async fn a_second_token_that_is_refused_too_is_a_failure() {
    let Some((_plane, platform)) = platform(1).await else { return };
    let report = load_on_stand_in(&platform, |_| true).await;
    let counts = report.counts_of(Kind::Mtls);
    assert_eq!((counts.ok, counts.retried, counts.failed), (0, 0, counts.made), "{report}");
    assert!(report.to_string().contains("with a second token"), "{report}");
}

/// Two seconds of load on a stand-in with the name and the leaf of asset-service that refuses those tokens.
async fn load_on_stand_in(platform: &Platform, is_refused: impl Fn(&str) -> bool + Send + Sync + 'static) -> Report {
    let (auth, assets) = (&platform.auth, &platform.assets[0]);
    let stand_in = StandIn::start(assets.dir(), is_refused).await;
    let hosts = [(auth.server_name(), auth.mesh_address()), (assets.server_name(), stand_in.address)];
    let caller = Caller::start(CallerOptions {
        service: platform.caller.service().to_owned(),
        dir: platform.caller.dir().to_owned(),
        mesh_address: ([127, 0, 0, 1], 0).into(),
        hosts: hosts.into_iter().map(|(name, address)| (name.to_owned(), address)).collect(),
        clock: Arc::new(SystemClock),
    });
    let caller = Arc::new(caller.await.unwrap());
    let load = LoadOptions { caller, duration: Duration::from_secs(2), ..platform.load(Traffic::Mtls) };
    Load::start(load).unwrap().end().await
}

#[tokio::test]
async fn keys_in_force_are_accepted_and_untrusted_ones_refused() {
    let Some((_plane, platform)) = platform(1).await else { return };
    let (client, caller) = (&platform.client, || platform.caller.clone());
    let at = |service: &gaia_e2e::ServiceProcess| (service.server_name().to_owned(), service.mesh_address());
    let services = [at(&platform.auth), at(&platform.assets[0])];

    let ca = Negative::with_ca(client, OPERATOR_NAMESPACE, &platform.name, None, caller()).await.unwrap();
    let nobodys = Negative::with_any_ca("of nobody", own_ca(), caller());
    for (name, address) in &services {
        assert_eq!(ca.ask(name, *address).await.unwrap(), Verdict::Accepted);
        let words = nobodys.expect_refused(name, *address).await.unwrap();
        assert_eq!(words, "no peer", "in Permissive the handshake succeeds and no identity is read");
        let error = ca.expect_refused(name, *address).await.unwrap_err().to_string();
        assert!(error.contains("should be refused"), "{error}");
    }
    let (name, address) = &services[1];
    let signer = Negative::with_signing_key(client, OPERATOR_NAMESPACE, &platform.name, None, caller()).await.unwrap();
    assert_eq!(signer.ask(name, *address).await.unwrap(), Verdict::Accepted);
    let nobodys = Negative::with_any_signing_key(&PrivateKey::generate(KeySpec::Rsa2048).unwrap(), caller()).unwrap();
    nobodys.expect_refused(name, *address).await.unwrap();

    platform.assets[0].kill9().unwrap();
    for negative in [&ca, &signer] {
        let verdict = negative.ask(name, *address).await.unwrap();
        assert!(matches!(verdict, Verdict::Unclear(_)), "silence is no refusal: {verdict:?}");
    }
}

#[tokio::test]
async fn the_command_prints_a_table_and_ends_with_1_if_a_request_failed() {
    let Some((plane, platform)) = platform(1).await else { return };
    for (api_key, code) in [(&*platform.api_key, 0), ("gk_test_wrong", 1)] {
        let key = plane.dir().join("api-key");
        std::fs::write(&key, api_key).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_gaia-e2e"));
        command.args(["load", "--duration", "3s", "--kind", "both", "--dir"]).arg(platform.caller.dir());
        command.arg("--api-key-file").arg(key);
        for (flag, service) in [("--auth-url", &platform.auth), ("--asset-url", &platform.assets[0])] {
            let (name, address) = (service.server_name(), service.mesh_address());
            command.args([flag, &format!("https://{name}:8443"), "--resolve", &format!("{name}={address}")]);
        }
        let output = process::output(command).await.unwrap();
        let (table, progress) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!(output.status.code(), Some(code), "{table}\n{progress}");
        for word in ["REQUESTS", "mtls", "api-key", "token", "stranger", "P99"] {
            assert!(table.contains(word), "{table}");
        }
        assert!(progress.contains(" requests: "), "{progress}");
        assert!(!table.contains(api_key) && !progress.contains(api_key), "the key is not printed");
    }
}

fn own_ca() -> Ca {
    let now = SystemClock.now();
    let request = CaRequest {
        common_name: "an unknown CA",
        trust_domain: "shop.example",
        serial: Serial::from_random([7; 16]),
        validity: Validity {
            not_before: now - SignedDuration::from_hours(1),
            not_after: now + SignedDuration::from_hours(1),
        },
    };
    Ca::self_signed(&request, PrivateKey::generate(KeySpec::Ecdsa256).unwrap()).unwrap()
}
