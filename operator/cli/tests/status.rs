//! `gaia status` on a directory.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod support;

use serde_json::{Value, json};
use support::gaia;
use support::platform::Platform;

fn platform() -> Platform {
    Platform::new("2026-11-30T12:00:00Z".parse().unwrap())
}

#[test]
fn generations_services_and_changes_are_shown() {
    let platform = platform();
    platform.file(
        "gaia.changes.yaml",
        "patches:\n- {kind: TrustDomain, name: gaia, patch: {spec: {ca: {rotationRevision: 2}}}}\n",
    );
    let ended = gaia(&["status", &platform.option()]);
    assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
    for part in ["TrustDomain gaia: ready True", "ca-one", "key-one", "default/gateway", "\"rotationRevision\":2"] {
        assert!(ended.stdout.contains(part), "{part}: {}", ended.stdout);
    }
    let document: Value = serde_json::from_str(&gaia(&["status", &platform.option(), "-o", "json"]).stdout).unwrap();
    assert_eq!(document["trustDomains"][0]["generations"][0]["ring"], "CA");
    assert_eq!((&document["schemaVersion"], &document["services"][0]["name"]), (&json!(1), &json!("gateway")));
}

#[test]
fn exit_codes_tell_warnings_from_objects_that_are_not_ready() {
    for (type_, status, code) in [("DurationClamped", "True", 1), ("Stalled", "True", 2), ("Ready", "False", 2)] {
        let platform = platform();
        platform.edit("servicecertificates", "default", "gateway", |object| {
            let conditions = object["status"]["conditions"].as_array_mut().unwrap();
            conditions.retain(|known| known["type"] != type_);
            conditions.push(platform.condition(type_, status, "AReason"));
        });
        for format in ["table", "json"] {
            assert_eq!(gaia(&["status", &platform.option(), "-o", format]).code, code, "{type_} {format}");
        }
    }
}

#[test]
fn an_unknown_trust_domain_and_no_platform_are_64() {
    let platform = platform();
    assert_eq!(gaia(&["status", "gaia", &platform.option()]).code, 0);
    let ended = gaia(&["status", "other", &platform.option()]);
    assert_eq!((ended.code, ended.stdout.as_str()), (64, ""));
    assert!(ended.stderr.contains("there is no TrustDomain other"), "{}", ended.stderr);
    assert_eq!(gaia(&["status"]).code, 64);
}
