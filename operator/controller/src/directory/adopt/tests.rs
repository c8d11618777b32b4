//! Adoption of real trees, made by the commands of the old scripts.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use gaia_api::crd::{AuthMode, TlsMode};
use gaia_api::{Clock as _, ManualClock, SystemClock};
use gaia_pki::{Certificate, PrivateKey};
use jiff::{SignedDuration, Timestamp};
use rstest::rstest;

use super::*;
use crate::directory::disk::dir::Budget;
use crate::directory::tests::{Scratch, options, tree as content};
use crate::directory::{Directory, Engine, EngineSettings, Environment, InitOptions, init};

const PATIENCE: Duration = Duration::from_secs(60);

fn old_tree(scratch: &Scratch, form: &str) -> PathBuf {
    let certs = scratch.certs();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../e2e/old-scripts/setup-dev-ca.sh");
    let output = Command::new("sh").arg(script).arg(&certs).arg(form).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    certs
}

fn adopting() -> InitOptions {
    InitOptions { adopt: true, ..options() }
}

fn read_text(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn certificates(path: impl AsRef<Path>) -> Vec<Certificate> {
    Certificate::chain_from_pem(&std::fs::read(path).unwrap()).unwrap()
}

/// Kind: a command overwrites keys that it did not write.
#[rstest]
#[case::scripts("scripts", "ca.key")]
#[case::guide("guide", "ca-key.pem")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn init_without_adopt_names_each_foreign_file_and_changes_nothing(#[case] form: &str, #[case] ca_key: &str) {
    let scratch = Scratch::new("refuse");
    let certs = old_tree(&scratch, form);
    let before = content(&certs);
    let error = init(&certs, options()).await.unwrap_err().to_string();
    for file in ["ca.pem", "ca.srl", "jwt-signing.key", "jwt-signing.pub", "chat-service/key.pem", ca_key] {
        assert!(error.contains(&format!("\n  {file}  ")), "{file}: {error}");
    }
    assert!(error.contains("gaia local init --adopt"), "{error}");
    assert_eq!(content(&certs), before);
    assert!(!certs.parent().unwrap().join(".env").exists());
}

#[rstest]
#[case::scripts("scripts", "{algorithm: RSA, size: 4096}")]
#[case::guide("guide", "{algorithm: RSA, size: 2048}")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adopted_keys_are_active_and_nothing_is_replaced(#[case] form: &str, #[case] key: &str) {
    let scratch = Scratch::new("adopt");
    let certs = old_tree(&scratch, form);
    let (old_ca, old_pub) = (certificates(certs.join("ca.pem")), read_text(certs.join("jwt-signing.pub")));
    let done = init(&certs, adopting()).await.unwrap();
    assert_eq!(done.waiting, []);
    assert_eq!(done.issued.len(), 5);
    assert!(done.warnings.iter().any(|warning| warning.contains("has no keyUsage extension")), "{:?}", done.warnings);
    assert_eq!(certificates(certs.join("ca.pem")), old_ca);
    assert_eq!(read_text(certs.join("jwt-signing.pub")), old_pub);
    let manifests = read_text(certs.join("gaia.yaml"));
    assert!(manifests.contains(&format!("ca: {{privateKey: {key}}}")), "{manifests}");
    let directory = Directory::open(&certs).unwrap();
    let domain = directory.trust_domains().unwrap().remove(0);
    assert_eq!(domain.spec.auth.default_mode, AuthMode::APIKeyOnly);
    let status = domain.status.unwrap();
    assert_eq!(status.ca.unwrap().active.unwrap().fingerprint, Some(old_ca[0].fingerprint()));
    for service in directory.services().unwrap() {
        assert_eq!(service.spec.tls.mode, TlsMode::Permissive);
        let folder = certs.join(service.metadata.name.as_deref().unwrap());
        let leaf = certificates(folder.join("cert.pem")).remove(0);
        assert!(leaf.is_signed_by(&old_ca[0]) && !leaf.is_version_1());
        assert!(leaf.dns_names().iter().any(|name| name == "localhost") && !leaf.uris().is_empty());
        let private = PrivateKey::from_pem(&read_text(folder.join("key.pem"))).unwrap();
        assert!(gaia_pki::key_matches(&leaf, &private));
        assert_eq!(certificates(folder.join("ca.pem")), old_ca);
    }
    let keys = directory.adopted_keys().unwrap();
    let states: Vec<_> = keys.iter().map(|key| (key.file.as_str(), key.state.as_str(), key.next)).collect();
    let ca_key = if form == "scripts" { "ca.key" } else { "ca-key.pem" };
    let expected = [(ca_key, "Active", "gaia rotate ca"), ("jwt-signing.key", "Active", "gaia rotate signing-key")];
    assert_eq!(states, expected);
    let Finish::Held(reasons) = directory.finish_adoption(false).unwrap() else { panic!("finished too early") };
    assert_eq!(reasons.len(), 3, "{reasons:?}");
    // The next signing key is published in the meantime: rings and statuses change.
    let files = || content(&certs).into_iter().filter(|(path, _)| !path.starts_with(certs.join(".gaia")));
    let before: Vec<_> = files().collect();
    for options in [adopting(), options()] {
        init(&certs, options).await.unwrap();
        for (found, expected) in files().zip(&before) {
            assert!(found == *expected, "changed by a second run: {}", found.0.display());
        }
    }
}

/// Kind: after a crash during an adoption, the next command generates other keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_adoption_is_continued_with_the_same_keys() {
    let scratch = Scratch::new("crash");
    let certs = old_tree(&scratch, "guide");
    let old_ca = certificates(certs.join("ca.pem"));
    let domain = Environment::Dev.trust_domain();
    for writes in 0.. {
        let root = Dir::open(&certs).unwrap();
        let adoption = read(&root, &domain, SystemClock.now()).unwrap().unwrap();
        let ring_of =
            TrustDomain::new("gaia", serde_json::from_value(serde_json::json!({"trustDomain": domain})).unwrap());
        let limited = root.clone().with_budget(Budget::of(writes));
        let written = adoption.write_rings(&limited, &ring_of, &SystemClock).await;
        if written.is_ok() {
            break;
        }
        let is_recorded = certs.join(".gaia/adopted.json").exists();
        let error = init(&certs, options()).await.unwrap_err().to_string();
        let next = if is_recorded { "continue it with `gaia local init --adopt`" } else { "take them over with" };
        assert!(error.contains(next), "after {writes} writes: {error}");
    }
    let error = init(&certs, options()).await.unwrap_err().to_string();
    assert!(error.contains("was interrupted"), "{error}");
    let done = init(&certs, adopting()).await.unwrap();
    assert_eq!(done.issued.len(), 5);
    assert_eq!(certificates(certs.join("ca.pem")), old_ca);
    assert_eq!(Directory::open(&certs).unwrap().adopted_keys().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_key_files_are_moved_once_both_keys_are_replaced() {
    let scratch = Scratch::new("finish");
    let certs = old_tree(&scratch, "guide");
    init(&certs, adopting()).await.unwrap();
    let manifests = read_text(certs.join("gaia.yaml"));
    let rotating = manifests
        .replace("ca: {privateKey", "ca: {rotationRevision: 2, privateKey")
        .replace("  tokens:\n", "  tokens:\n    rotationRevision: 2\n");
    std::fs::write(certs.join("gaia.yaml"), &rotating).unwrap();
    let start = SystemClock.now();
    let clock = Arc::new(ManualClock::new(start));
    let names = ["auth-service", "asset-service", "chat-service", "gateway", "web-service"];
    let endpoints = names.map(|name| (name.to_owned(), vec![])).into();
    let settings = EngineSettings { probes: false, endpoints, ..EngineSettings::new(Arc::clone(&clock) as _) };
    let engine = Engine::start(&certs, settings).await.unwrap();
    let directory = Directory::open(&certs).unwrap();
    let mut minutes = 0;
    while !directory.adopted_keys().unwrap().is_empty() {
        minutes += 2;
        assert!(minutes < 600, "not replaced: {:?}", directory.trust_domains().unwrap()[0].status);
        clock.set(later(start, minutes));
        engine.requeue_all();
        assert!(engine.settle(PATIENCE).await);
    }
    engine.stop().await;
    let Finish::Held(reasons) = directory.finish_adoption(false).unwrap() else { panic!("old services may run") };
    assert_eq!(reasons.len(), 1);
    assert!(reasons[0].contains("accept API keys") && reasons[0].contains("--old-services-stopped"), "{reasons:?}");
    let key = read_text(certs.join("ca-key.pem"));
    let moved = directory.finish_adoption(true).unwrap();
    assert_eq!(moved, Finish::Moved(vec!["ca-key.pem".to_owned(), "jwt-signing.key".to_owned()]));
    assert!(!certs.join("ca-key.pem").exists() && !certs.join("jwt-signing.key").exists());
    assert_eq!(read_text(certs.join(".gaia/adopted/ca-key.pem")), key);
    assert_eq!(directory.finish_adoption(true).unwrap(), Finish::Moved(vec![]));
}

fn later(start: Timestamp, minutes: i64) -> Timestamp {
    start.checked_add(SignedDuration::from_mins(minutes)).unwrap()
}

#[test]
fn certificates_are_shorter_than_the_rest_of_the_adopted_ca() {
    let now = SystemClock.now();
    let of = |days: i64| leaf_hours(now.checked_add(SignedDuration::from_hours(days * 24)).unwrap(), now);
    assert_eq!(
        [of(3650), of(360), of(200), of(90), of(20), of(2)],
        [None, None, Some(1440), Some(720), Some(168), Some(24)]
    );
}
