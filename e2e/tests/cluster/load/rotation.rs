//! A platform under load while all its trusted and presented credentials are replaced: no request fails, and no removed credential is
//! accepted.

use std::sync::Arc;
use std::time::Duration;

use gaia_api::crd::{ServiceCertificate, TrustDomain};
use gaia_e2e::load::{Load, Negative, Traffic};
use gaia_e2e::platform::OPERATOR_NAMESPACE;
use gaia_e2e::wait::{self, Seen};
use gaia_e2e::{ControlPlane, ControlPlaneOptions, Platform, PlatformOptions, progress, tier};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

/// Longer than a rotation takes on a loaded machine.
const LONG: Duration = Duration::from_secs(240);

async fn platform() -> Option<(ControlPlane, Platform)> {
    let plane = tier::own_control_plane(ControlPlaneOptions::default()).await?;
    let domain = json!({
        "propagation": { "minDelay": "3s", "deadline": "1m", "clockSkew": "1s" },
        "tokens": { "maxTTL": "20s" },
    });
    let options = PlatformOptions { asset_instances: 2, domain, ..PlatformOptions::default() };
    let platform = Platform::start(&plane, options).await.unwrap();
    let all = async || match status(&platform).await["instances"]["summary"].as_str() {
        Some("4/4") => Seen::Yes(()),
        other => Seen::NotYet(format!("{other:?}")),
    };
    wait::until("every instance reports", LONG, all).await.unwrap();
    Some((plane, platform))
}

async fn status(platform: &Platform) -> Value {
    let domains: Api<TrustDomain> = Api::all(platform.client.clone());
    serde_json::to_value(domains.get(&platform.name).await.unwrap().status).unwrap()
}

async fn patch(platform: &Platform, patch: Value) {
    let domains: Api<TrustDomain> = Api::all(platform.client.clone());
    domains.patch(&platform.name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

/// The id of the active generation.
async fn active(platform: &Platform, ring: &str) -> String {
    status(platform).await[ring]["active"]["id"].as_str().unwrap().to_owned()
}

/// Waits until the status is as expected; else reports the present one.
async fn wait_for(platform: &Platform, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let look = async || {
        let status = status(platform).await;
        if is(&status) { Seen::Yes(status) } else { Seen::NotYet(status.to_string()) }
    };
    wait::until(what, LONG, look).await.unwrap()
}

/// Nothing rotates, nothing retires, and every instance is up to date.
fn is_at_rest(status: &Value) -> bool {
    let retires = |ring: &str| status[ring]["retiring"].as_array().is_some_and(|retiring| !retiring.is_empty());
    status["rotating"] == "-" && !retires("ca") && !retires("signingKeys") && status["instances"]["summary"] == "4/4"
}

async fn stolen_ca(platform: &Platform) -> Negative {
    let caller = Arc::clone(&platform.caller);
    Negative::with_ca(&platform.client, OPERATOR_NAMESPACE, &platform.name, None, caller).await.unwrap()
}

async fn stolen_key(platform: &Platform) -> Negative {
    let caller = Arc::clone(&platform.caller);
    Negative::with_signing_key(&platform.client, OPERATOR_NAMESPACE, &platform.name, None, caller).await.unwrap()
}

async fn refused_everywhere(platform: &Platform, stolen: &Negative) {
    for asset in &platform.assets {
        stolen.expect_refused(asset.server_name(), asset.mesh_address()).await.unwrap();
    }
}

async fn end(load: Load) {
    let report = load.stop().await;
    progress::say(format_args!("{report}"));
    report.assert_none_failed();
    assert!(report.total.made > 500, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_leaves_ca_and_signing_key_are_replaced_and_the_operator_restarts_no_request_fails() {
    let Some((_plane, platform)) = platform().await else { return };
    let (old_ca, old_key) = (active(&platform, "ca").await, active(&platform, "signingKeys").await);
    let (ca, key) = (stolen_ca(&platform).await, stolen_key(&platform).await);
    let load = Load::start(platform.load(Traffic::Both)).unwrap();

    let certificates: Api<ServiceCertificate> = Api::namespaced(platform.client.clone(), &platform.name);
    let renew = json!({ "metadata": { "annotations": { "gaia.dev/renew-requested-at": "now" } } });
    for name in ["asset-service", "auth-service", "web"] {
        certificates.patch(name, &PatchParams::default(), &Patch::Merge(&renew)).await.unwrap();
    }
    for name in ["asset-service", "auth-service", "web"] {
        let served = async || {
            let status = certificates.get(name).await.unwrap().status.unwrap();
            let counts = status.served.unwrap_or_default();
            if status.revision == Some(2) && counts.total > 0 && counts.current == counts.total {
                Seen::Yes(())
            } else {
                Seen::NotYet(format!("revision {:?}, {counts:?}", status.revision))
            }
        };
        wait::until(&format!("every instance of {name} serves its renewed leaf"), LONG, served).await.unwrap();
    }

    let both = json!({ "spec": { "ca": { "rotationRevision": 2 }, "tokens": { "rotationRevision": 2 } } });
    patch(&platform, both).await;
    wait_for(&platform, "the new CA signs", |status| status["ca"]["active"]["id"] != old_ca.as_str()).await;
    platform.operator.kill9().unwrap();
    platform.operator.restart().unwrap();
    let status = wait_for(&platform, "both rotations are over", |status| {
        status["ca"]["active"]["id"] != old_ca.as_str()
            && status["signingKeys"]["active"]["id"] != old_key.as_str()
            && is_at_rest(status)
    })
    .await;
    assert_eq!(status["exposure"], Value::Null);
    refused_everywhere(&platform, &ca).await;
    refused_everywhere(&platform, &key).await;
    end(load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotations_that_are_aborted_after_the_switch_cost_no_request() {
    let Some((_plane, platform)) = platform().await else { return };
    for (ring, spec) in [("ca", "ca"), ("signingKeys", "tokens")] {
        let old = active(&platform, ring).await;
        let load = Load::start(platform.load(Traffic::Both)).unwrap();
        let mut revision = json!({ "spec": {} });
        revision["spec"][spec]["rotationRevision"] = json!(2);
        patch(&platform, revision).await;
        let switched = |status: &Value| status[ring]["active"]["id"] != old.as_str();
        let status = wait_for(&platform, "the new generation signs", switched).await;
        let new = status[ring]["active"]["id"].as_str().unwrap().to_owned();
        patch(&platform, json!({ "metadata": { "annotations": { "gaia.dev/abort": new } } })).await;
        wait_for(&platform, "the old generation signs again, alone", |status| {
            status[ring]["active"]["id"] == old.as_str() && is_at_rest(status)
        })
        .await;
        end(load).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ca_that_leaked_is_replaced_and_refused_with_the_key_that_signed_under_it_and_no_request_fails() {
    let Some((_plane, platform)) = platform().await else { return };
    let before = status(&platform).await;
    let (ca, key) = (stolen_ca(&platform).await, stolen_key(&platform).await);
    let load = Load::start(platform.load(Traffic::Both)).unwrap();
    let leaked = before["ca"]["active"]["fingerprint"].clone();
    patch(&platform, json!({ "spec": { "ca": { "distrusted": [{ "fingerprint": leaked }] } } })).await;
    let after = wait_for(&platform, "it is refused everywhere", |status| {
        !status["exposure"]["until"].is_null() && is_at_rest(status)
    })
    .await;
    let distrusted = |ring: &str| after[ring]["distrusted"].as_array().cloned().unwrap_or_default();
    assert_eq!(distrusted("ca")[0]["fingerprint"], leaked);
    assert_eq!(distrusted("signingKeys")[0]["kid"], before["signingKeys"]["active"]["kid"]);
    let seconds =
        |field: &str| after["exposure"][field].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_second();
    let exposed = seconds("until") - seconds("from");
    progress::say(format_args!("AfterReissue: exposed for {exposed} s"));
    assert!((0..=330).contains(&exposed), "{exposed}");
    refused_everywhere(&platform, &ca).await;
    refused_everywhere(&platform, &key).await;
    end(load).await;

    // A distrust is permanent, whatever the spec is later.
    patch(&platform, json!({ "spec": { "ca": { "distrusted": null } } })).await;
    platform.wait_until_ready().await.unwrap();
    refused_everywhere(&platform, &ca).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_immediately_distrusted_ca_is_refused_and_the_platform_recovers() {
    let Some((_plane, platform)) = platform().await else { return };
    let ca = stolen_ca(&platform).await;
    let leaked = status(&platform).await["ca"]["active"]["fingerprint"].clone();
    let entry = json!({ "fingerprint": leaked, "mode": "Immediate" });
    patch(&platform, json!({ "spec": { "ca": { "distrusted": [entry] } } })).await;
    let after = wait_for(&platform, "it is refused everywhere", |status| {
        !status["exposure"]["until"].is_null() && is_at_rest(status)
    })
    .await;
    let text = after["exposure"].to_string();
    progress::say(format_args!("Immediate: {text}"));
    refused_everywhere(&platform, &ca).await;
    let load = Load::start(platform.load(Traffic::Both)).unwrap();
    let enough = async || load.counts().ok > 600;
    wait::until("requests are answered again", LONG, enough).await.unwrap();
    end(load).await;
}
