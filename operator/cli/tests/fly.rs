//! `gaia export fly`, and what `gaia fly` refuses before it runs `fly`.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gaia_api::SystemClock;
use gaia_cli::Console;
use gaia_pki::{Ca, CaRequest, KeySpec, LeafRequest, PrivateKey, Serial, Usage, Validity, issue_leaf};
use jiff::{SignedDuration, Timestamp};
use rstest::rstest;
use support::gaia;

const APP: &str = "gateway=gaia-gateway-production";

/// A service directory with certificates of now.
fn service(dir: &Path, service: &str, dns_names: &[&str]) {
    let now: Timestamp = fs::metadata("/proc/self").unwrap().modified().unwrap().try_into().unwrap();
    let validity = |hours| {
        let length = SignedDuration::from_hours(hours);
        Validity { not_before: now - SignedDuration::from_hours(1), not_after: now + length }
    };
    let key = || PrivateKey::generate(KeySpec::Ecdsa256).unwrap();
    let request = CaRequest {
        common_name: "test CA",
        trust_domain: "gaia.local",
        serial: Serial::from_random([7; 16]),
        validity: validity(48),
    };
    let ca = Ca::self_signed(&request, key()).unwrap();
    let (private, names) = (key(), dns_names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    let request = LeafRequest {
        spiffe_id: &format!("spiffe://gaia.local/ns/default/sa/{service}"),
        dns_names: &names,
        ip_addresses: &[],
        usages: &[Usage::ServerAuth, Usage::ClientAuth],
        serial: Serial::from_random([8; 16]),
        validity: validity(24),
    };
    let leaf = issue_leaf(&ca, &request, &private).unwrap();
    let path = dir.join(service);
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("tls.crt"), &leaf.chain_pem).unwrap();
    fs::write(path.join("tls.key"), private.to_pem().as_bytes()).unwrap();
    fs::write(path.join("ca.crt"), ca.certificate().to_pem()).unwrap();
    fs::write(path.join("jwks.json"), r#"{"keys":[]}"#).unwrap();
    // Names of the old guide are links, and are not sent twice.
    std::os::unix::fs::symlink("tls.crt", path.join("cert.pem")).unwrap();
}

fn names() -> Vec<String> {
    let app = "gaia-gateway-production";
    let prefixes = ["", "*.vm.", "*.process.", "*.nearest.of."];
    let mut names: Vec<String> = prefixes.iter().map(|prefix| format!("{prefix}{app}.internal")).collect();
    names.push(format!("{app}.flycast"));
    names
}

fn export(dir: &Path, form: &str) -> support::Ended {
    gaia(&["export", "fly", "--dir", dir.to_str().unwrap(), "--app", APP, form])
}

#[test]
fn each_secret_is_one_line_of_base64() {
    let dir = tempfile::tempdir().unwrap();
    service(dir.path(), "gateway", &names().iter().map(String::as_str).collect::<Vec<_>>());
    let ended = export(dir.path(), "--secrets");
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let secrets: Vec<(&str, &str)> = ended.stdout.lines().map(|line| line.split_once('=').unwrap()).collect();
    let names: Vec<&str> = secrets.iter().map(|secret| secret.0).collect();
    assert_eq!(names, ["ETC_GAIA_CA_CRT", "ETC_GAIA_JWKS_JSON", "ETC_GAIA_TLS_CRT", "ETC_GAIA_TLS_KEY"]);
    for ((_, value), file) in secrets.iter().zip(["ca.crt", "jwks.json", "tls.crt", "tls.key"]) {
        assert_eq!(STANDARD.decode(value).unwrap(), fs::read(dir.path().join("gateway").join(file)).unwrap());
    }
    assert!(names.iter().all(|name| ended.stderr.contains(name)) && !ended.stderr.contains(secrets[3].1));
}

#[test]
fn the_parts_of_fly_toml_name_each_secret() {
    let dir = tempfile::tempdir().unwrap();
    service(dir.path(), "gateway", &names().iter().map(String::as_str).collect::<Vec<_>>());
    let ended = export(dir.path(), "--files");
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    for text in [
        "kill_signal = \"SIGTERM\"\n",
        "kill_timeout = 35\n",
        "GAIA_MESH_ADDRESS = \"[::]:8443\"",
        "path = \"/readyz\"",
        "guest_path = \"/etc/gaia/tls.key\"\n  secret_name = \"ETC_GAIA_TLS_KEY\"\n",
    ] {
        assert!(ended.stdout.contains(text), "{text} in {}", ended.stdout);
    }
    assert!(!ended.stdout.contains("PRIVATE KEY"));
}

#[test]
fn names_that_the_certificate_lacks_are_a_warning_with_a_patch() {
    let dir = tempfile::tempdir().unwrap();
    service(dir.path(), "gateway", &["localhost"]);
    let manifest = "kind: TrustDomain\nmetadata: {name: gaia}\nspec: {allowedNames: [{namespaces: [shop], dnsNames: [kept.example]}]}\n---\n\
                    kind: GaiaService\nmetadata: {name: gateway, namespace: shop}\nspec: {certificate: {extraDNSNames: [localhost]}}\n";
    fs::write(dir.path().join("gaia.yaml"), manifest).unwrap();
    let ended = export(dir.path(), "--files");
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    for name in names() {
        assert!(ended.stderr.matches(&name).count() >= 3, "{name}: {}", ended.stderr);
    }
    // The lists are complete: a merge patch replaces them.
    assert!(ended.stderr.contains("- localhost") && ended.stderr.contains("- kept.example"), "{}", ended.stderr);
}

#[test]
fn secrets_are_not_written_to_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    service(dir.path(), "gateway", &["localhost"]);
    let console = Console {
        stdout: Box::new(std::io::sink()),
        stderr: Box::new(std::io::sink()),
        stdin: Box::new(std::io::empty()),
        is_terminal: true,
        can_ask: true,
        clock: Arc::new(SystemClock),
    };
    let arguments = ["gaia", "export", "fly", "--secrets", "--app", APP, "--dir", dir.path().to_str().unwrap()];
    assert_eq!(gaia_cli::run(arguments.map(Into::into), console).code(), 64);
}

#[test]
fn a_file_that_does_not_fit_into_a_secret_is_named() {
    let dir = tempfile::tempdir().unwrap();
    service(dir.path(), "gateway", &["localhost"]);
    fs::write(dir.path().join("gateway/grants.json"), vec![b' '; 48 * 1024 + 1]).unwrap();
    let ended = export(dir.path(), "--secrets");
    assert_eq!((ended.code, ended.stdout.as_str()), (2, ""));
    assert!(ended.stderr.contains("gateway/grants.json") && ended.stderr.contains("49152"), "{}", ended.stderr);
}

#[rstest]
#[case::no_app(&["fly", "deploy"])]
#[case::app_without_service(&["fly", "deploy", "--app", "gaia-gateway"])]
#[case::unknown_service(&["fly", "deploy", "--app", "no-such-service=a"])]
#[case::two_services_of_one_app(&["fly", "verify", "--app", "gateway=a", "--app", "gateway=a"])]
#[case::window(&["fly", "deploy", "--app", APP, "--within", "at night"])]
#[case::two_apps_for_a_stream(&["export", "fly", "--secrets", "--app", APP, "--app", "gateway=b"])]
#[case::no_form(&["export", "fly", "--app", APP])]
fn a_wrong_command_line_is_64_and_changes_nothing(#[case] arguments: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    service(dir.path(), "gateway", &["localhost"]);
    let ended = gaia(&[arguments, &["--dir", dir.path().to_str().unwrap()]].concat());
    assert_eq!((ended.code, ended.stdout.as_str()), (64, ""), "{}", ended.stderr);
    assert!(!dir.path().join("fly.json").exists());
}

#[test]
fn a_missing_fly_is_an_unknown_state() {
    let dir = tempfile::tempdir().unwrap();
    service(dir.path(), "gateway", &["localhost"]);
    let ended = gaia(&["fly", "verify", "--app", APP, "--fly", "/no/such/fly", "--dir", dir.path().to_str().unwrap()]);
    assert_eq!(ended.code, 3, "{}", ended.stderr);
    assert!(ended.stderr.contains("/no/such/fly") && ended.stderr.contains("next: install flyctl"), "{}", ended.stderr);
}
