//! `gaia check` on a directory: each fault alone is found by exactly its id, and a healthy directory has none.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod support;

use std::os::unix::fs::symlink;
use std::sync::Arc;

use gaia_api::ManualClock;
use jiff::{Timestamp, ToSpan as _};
use rstest::rstest;
use serde_json::{Value, json};
use support::platform::{Platform, authority, leaf};
use support::{Ended, gaia, run_with};

fn platform() -> Platform {
    Platform::new("2026-11-30T12:00:00Z".parse().unwrap())
}

fn check_at(platform: &Platform, now: Timestamp, options: &[&str]) -> Ended {
    let option = platform.option();
    run_with(&[&["gaia", "check", &option], options].concat(), "", Arc::new(ManualClock::new(now)))
}

fn check(platform: &Platform, options: &[&str]) -> Ended {
    check_at(platform, platform.now, options)
}

/// The ids of all findings.
fn ids(platform: &Platform) -> Vec<String> {
    let ended = check(platform, &["-o", "json"]);
    let document: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{}", ended.stderr));
    let mut ids: Vec<String> =
        document["findings"].as_array().unwrap().iter().map(|found| found["id"].as_str().unwrap().to_owned()).collect();
    ids.dedup();
    ids
}

fn domain(platform: &Platform, change: impl FnOnce(&mut Value)) {
    platform.edit("trustdomains", "_", "gaia", change);
}

fn certificate(platform: &Platform, change: impl FnOnce(&mut Value)) {
    platform.edit("servicecertificates", "default", "gateway", change);
}

fn condition(platform: &Platform, object: &mut Value, type_: &str, status: &str, reason: &str) {
    let conditions = object["status"]["conditions"].as_array_mut().unwrap();
    conditions.retain(|known| known["type"] != type_);
    conditions.push(platform.condition(type_, status, reason));
}

/// Replaces the certificate by one with other dates.
fn leaf_valid(platform: &Platform, from: i64, hours: i64) {
    let begin = platform.now + from.hours();
    let (certificate, key) = leaf(&platform.ca, "gateway", begin + 1.hour(), begin + hours.hours());
    platform.replace_leaf(&certificate, &key);
}

fn stored_file(platform: &Platform, plural: &str, namespace: &str, name: &str) -> std::path::PathBuf {
    platform.path().join(".gaia/objects").join(plural).join(namespace).join(format!("{name}.json"))
}

type Fault = (&'static str, fn(&Platform));

/// One fault for each finding.
const FAULTS: &[Fault] = &[
    ("GAIA201", |p| std::fs::remove_file(stored_file(p, "trustdomains", "_", "gaia")).unwrap()),
    ("GAIA202", |p| {
        let near = (p.now + 4000.hours()).to_string();
        domain(p, |domain| domain["status"]["ca"]["active"]["notAfter"] = json!(near));
    }),
    ("GAIA203", |p| {
        let past = (p.now - 1.hour()).to_string();
        domain(p, |domain| domain["status"]["ca"]["active"]["notAfter"] = json!(past));
    }),
    ("GAIA204", |p| domain(p, |domain| condition(p, domain, "Stalled", "True", "InvalidSpec"))),
    ("GAIA205", |p| domain(p, |domain| condition(p, domain, "CARotating", "True", "PastDeadline"))),
    ("GAIA206", |p| domain(p, |domain| condition(p, domain, "Stalled", "True", "RingMissing"))),
    ("GAIA207", |p| {
        domain(p, |domain| {
            let mut ca = domain["status"]["ca"]["active"].clone();
            ca["state"] = json!("Distrusted");
            domain["status"]["ca"]["distrusted"] = json!([ca]);
        });
    }),
    ("GAIA208", |p| domain(p, |domain| condition(p, domain, "LifetimesTooTight", "True", "LifetimesTooTight"))),
    ("GAIA209", |p| {
        std::fs::remove_file(stored_file(p, "configmaps", "default", "gaia-trust")).unwrap();
    }),
    ("GAIA210", |p| {
        let future = (p.now + 1.hour()).to_string();
        domain(p, |domain| domain["status"]["signingKeys"]["active"]["since"] = json!(future));
    }),
    ("GAIA301", |p| leaf_valid(p, -100, 90)),
    ("GAIA302", |p| leaf_valid(p, -100, 120)),
    ("GAIA303", |p| leaf_valid(p, 10, 100)),
    ("GAIA304", |p| {
        p.edit("secrets", "default", "gateway-tls", |secret| {
            let (_, other) = leaf(&p.ca, "gateway", p.now, p.now + 10.hours());
            secret["data"]["tls.key"] = json!(base64(&other));
        });
    }),
    ("GAIA305", |p| {
        std::fs::remove_file(stored_file(p, "secrets", "default", "gateway-tls")).unwrap();
        std::fs::remove_dir_all(p.path().join("gateway")).unwrap();
    }),
    ("GAIA306", |p| {
        let other = authority("Another CA", p.now);
        let (certificate, key) = leaf(&other, "gateway", p.now, p.now + 100.hours());
        p.replace_leaf(&certificate, &key);
    }),
    ("GAIA307", |p| certificate(p, |object| condition(p, object, "Stalled", "True", "SecretNotOwned"))),
    ("GAIA308", |p| certificate(p, |object| condition(p, object, "DurationClamped", "True", "DurationClamped"))),
    ("GAIA309", |p| certificate(p, |object| condition(p, object, "Served", "False", "NotServed"))),
    ("GAIA310", |p| {
        let (certificate, key) = leaf(&p.ca, "another", p.now, p.now + 100.hours());
        p.replace_leaf(&certificate, &key);
    }),
    ("GAIA801", |p| p.mode("gateway/..version-1/tls.key", 0o644)),
    ("GAIA802", |p| p.mode(".gaia", 0o755)),
    ("GAIA804", |p| p.mode("gateway", 0o770)),
    ("GAIA805", |p| {
        std::fs::remove_file(p.path().join("gateway/tls.crt")).unwrap();
        symlink("/etc/passwd", p.path().join("gateway/tls.crt")).unwrap();
    }),
    ("GAIA806", |p| std::fs::remove_file(p.path().join("gateway/..data/jwks.json")).unwrap()),
    ("GAIA807", |p| std::fs::write(p.path().join("gateway/..data/ca.crt"), "edited").unwrap()),
    ("GAIA808", |p| drop(p.file("ca.key", "old"))),
    ("GAIA809", |p| drop(p.file("gaia.yaml", "kind: TrustDomain\nspec: [\n"))),
    ("GAIA810", |p| {
        leaf_valid(p, -100, 120);
        p.set_heartbeat(p.now - 1.hour());
    }),
    ("GAIA811", |p| std::fs::remove_file(p.path().join(".gitignore")).unwrap()),
    ("GAIA812", |p| drop(p.file("ca.pem", "edited"))),
    ("GAIA813", |p| {
        let broken = stored_file(p, "gaiaservices", "default", "web");
        std::fs::create_dir_all(broken.parent().unwrap()).unwrap();
        std::fs::write(broken, "{").unwrap();
    }),
];

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[test]
fn a_healthy_directory_has_no_finding() {
    let platform = platform();
    let ended = check(&platform, &[]);
    assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("0 failures, 0 warnings"), "{}", ended.stdout);
}

#[test]
fn each_fault_alone_is_found_by_exactly_its_id() {
    for (id, inject) in FAULTS {
        let platform = platform();
        inject(&platform);
        assert_eq!(ids(&platform), [*id]);
    }
}

#[test]
fn every_finding_has_a_fault() {
    let listed = gaia(&["check", "--list", "-o", "short"]).stdout;
    // 320 is of an option; 803 needs a second user.
    let without: Vec<&str> = listed.lines().filter(|id| !FAULTS.iter().any(|(known, _)| known == id)).collect();
    assert_eq!(without, ["GAIA320", "GAIA803"]);
}

#[test]
fn a_folder_of_another_user_is_found() {
    let platform = platform();
    // Only root can give a folder away.
    if std::os::unix::fs::chown(platform.path().join("gateway"), Some(65_534), None).is_ok() {
        assert_eq!(ids(&platform), ["GAIA803"]);
    }
}

#[rstest]
fn exit_codes_are_the_same_in_every_format(#[values("table", "wide", "short", "json", "yaml", "junit")] format: &str) {
    let code = |platform: &Platform, options: &[&str]| check(platform, &[&["-o", format], options].concat()).code;
    let (warned, failing) = (platform(), platform());
    std::fs::remove_file(warned.path().join(".gitignore")).unwrap();
    failing.mode(".gaia", 0o755);
    assert_eq!((code(&platform(), &[]), code(&warned, &[]), code(&failing, &[])), (0, 1, 2));
    assert_eq!((code(&warned, &["--fail-on=failure"]), code(&failing, &["--fail-on=failure"])), (0, 2));
    assert_eq!((code(&warned, &["--fail-on=never"]), code(&failing, &["--fail-on=never"])), (0, 0));
    assert_eq!((code(&failing, &["--skip=GAIA802"]), code(&failing, &["--only", "GAIA801"])), (0, 0));
    assert_eq!((code(&failing, &["--only", "gaia801,gaia802"]), code(&failing, &["--only", "GAIA999"])), (2, 64));
    assert_eq!((code(&failing, &["--skip", "GAIA999"]), gaia(&["check", "-o", format]).code), (64, 64));
}

#[test]
fn every_finding_names_object_cause_and_next_step() {
    let platform = platform();
    platform.mode("gateway/..version-1/tls.key", 0o644);
    let ended = check(&platform, &[]);
    for part in ["failure GAIA801", "gateway/tls.key: its mode is 0644", "next: ", "chmod 600"] {
        assert!(ended.stdout.contains(part), "{part}: {}", ended.stdout);
    }
    let junit = check(&platform, &["-o", "junit"]).stdout;
    assert!(junit.contains("failures=\"1\"") && junit.contains("<testcase classname=\"gaia\" name=\"GAIA801\">"));
}

#[test]
fn dates_are_listed_and_warned_of_within_the_given_times() {
    let platform = platform();
    let ended = check(&platform, &["--expires-in", "30d,7d,1d"]);
    assert_eq!(ended.code, 0, "{}", ended.stdout);
    for name in ["certificate default/gateway", "CA CN=Gaia CA 1 of gaia", "signing key key-one of gaia"] {
        assert!(ended.stdout.contains(name), "{name}: {}", ended.stdout);
    }
    let late = platform.now + (84 * 24).hours();
    platform.set_heartbeat(late);
    let ended = check_at(&platform, late, &["--expires-in", "30d,7d,1d", "--skip", "GAIA302"]);
    assert_eq!(ended.code, 1);
    assert!(ended.stdout.contains("within 7d"), "{}", ended.stdout);
    let alias = check_at(&platform, late, &["--alert-days", "30", "--only", "GAIA320"]);
    assert_eq!(alias.code, 1);
    assert!(alias.stdout.contains("within 30d"), "{}", alias.stdout);
    assert_eq!(check(&platform, &["--expires-in", "soon"]).code, 64);
}

#[test]
fn nothing_that_check_prints_is_a_key() {
    let platform = platform();
    for (_, inject) in FAULTS.iter().filter(|(id, _)| !matches!(*id, "GAIA201" | "GAIA209" | "GAIA305")) {
        let platform = platform_with(inject);
        let ended = check(&platform, &["-o", "json"]);
        let body = platform.leaf_key.lines().nth(1).unwrap();
        assert!(!ended.stdout.contains(body) && !ended.stderr.contains(body));
    }
    drop(platform);
}

fn platform_with(inject: &fn(&Platform)) -> Platform {
    let platform = platform();
    inject(&platform);
    platform
}

#[test]
fn each_id_is_explained_offline() {
    let listed = gaia(&["check", "--list", "-o", "short"]).stdout;
    for id in listed.lines() {
        let ended = gaia(&["explain", &id.to_lowercase()]);
        assert_eq!(ended.code, 0);
        assert!(ended.stdout.contains(id) && ended.stdout.contains("To mend it:"), "{}", ended.stdout);
    }
    assert_eq!(gaia(&["explain", "GAIA999"]).code, 64);
}
