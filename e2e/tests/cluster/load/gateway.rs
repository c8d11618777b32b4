//! External programs call through gateway while gateway and all upstreams are replaced: no request fails.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use gaia_api::crd::{ServiceCertificate, TrustDomain};
use gaia_e2e::load::{Kind, Load};
use gaia_e2e::wait::{self, Seen};
use gaia_e2e::{ControlPlane, ControlPlaneOptions, Platform, PlatformOptions, ServiceProcess, progress, tier};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

/// Longer than a rotation takes on a loaded machine.
const LONG: Duration = Duration::from_secs(240);
/// auth-service, two instances of asset-service, two of gateway, and web.
const ALL: &str = "6/6";

async fn platform() -> Option<(ControlPlane, Platform)> {
    let plane = tier::own_control_plane(ControlPlaneOptions::default()).await?;
    let domain = json!({
        "propagation": { "minDelay": "3s", "deadline": "1m", "clockSkew": "1s" },
        "tokens": { "maxTTL": "60s" },
    });
    let options = PlatformOptions { asset_instances: 2, gateway_instances: 2, domain, ..PlatformOptions::default() };
    let platform = Platform::start(&plane, options).await.unwrap();
    wait_for(&platform, "every instance reports", |status| status["instances"]["summary"] == ALL).await;
    Some((plane, platform))
}

async fn wait_for(platform: &Platform, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let domains: Api<TrustDomain> = Api::all(platform.client.clone());
    let look = async || {
        let status = serde_json::to_value(domains.get(&platform.name).await.unwrap().status).unwrap();
        if is(&status) { Seen::Yes(status) } else { Seen::NotYet(status.to_string()) }
    };
    wait::until(what, LONG, look).await.unwrap()
}

/// The number of requests accepted by these instances of a service, by request id.
fn accepted(instances: &[ServiceProcess]) -> BTreeMap<String, u64> {
    let mut calls = BTreeMap::new();
    for instance in instances {
        let log = fs::read_to_string(instance.log()).unwrap();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        for line in lines.filter(|line| line["target"] == "gaia.audit" && line["result"] == "accepted") {
            // web calls directly, and sets no request id.
            if let Some(id) = line["request_id"].as_str() {
                *calls.entry(id.to_owned()).or_default() += 1;
            }
        }
    }
    calls
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_everything_is_replaced_and_restarted_no_request_fails_and_each_is_on_record_once() {
    let Some((_plane, platform)) = platform().await else { return };
    let load = Load::start(platform.load_through_gateway()).unwrap();
    let more = async |count: u64| {
        let before = load.counts().ok;
        wait::until("the load continues", LONG, async || load.counts().ok >= before + count).await.unwrap();
    };
    more(100).await;

    let certificates: Api<ServiceCertificate> = Api::namespaced(platform.client.clone(), &platform.name);
    let renew = json!({ "metadata": { "annotations": { "gaia.dev/renew-requested-at": "now" } } });
    for name in ["gateway", "asset-service", "auth-service"] {
        certificates.patch(name, &PatchParams::default(), &Patch::Merge(&renew)).await.unwrap();
    }
    let domains: Api<TrustDomain> = Api::all(platform.client.clone());
    let both = json!({ "spec": { "ca": { "rotationRevision": 2 }, "tokens": { "rotationRevision": 2 } } });
    domains.patch(&platform.name, &PatchParams::default(), &Patch::Merge(both)).await.unwrap();
    wait_for(&platform, "both rotations have begun", |status| status["rotating"] != "-").await;
    wait_for(&platform, "both rotations are over", |status| {
        let retires = |ring: &str| status[ring]["retiring"].as_array().is_some_and(|retiring| !retiring.is_empty());
        status["rotating"] == "-" && !retires("ca") && !retires("signingKeys") && status["instances"]["summary"] == ALL
    })
    .await;

    let instances = platform.gateways.iter().chain(&platform.assets).chain([&platform.auth]);
    for instance in instances {
        more(50).await;
        instance.sigterm(LONG).await.unwrap();
        instance.restart().unwrap();
        instance.wait_ready(LONG).await.unwrap();
    }
    more(200).await;

    let report = load.stop().await;
    progress::say(format_args!("{report}"));
    report.assert_none_failed();
    let made = report.counts_of(Kind::ApiKey);
    assert!(made.ok > 1000, "{report}");
    // Stopping writes the lines in the queue.
    for instance in platform.gateways.iter().chain(&platform.assets) {
        instance.sigterm(LONG).await.unwrap();
    }
    for instances in [&platform.gateways, &platform.assets] {
        let calls = accepted(instances);
        let twice: Vec<&String> = calls.iter().filter(|(_, times)| **times != 1).map(|(id, _)| id).collect();
        assert!(twice.is_empty(), "{twice:?}");
        assert_eq!(calls.len() as u64, made.ok, "each call once, at gateway and behind it");
    }
}
