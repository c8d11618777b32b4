//! Directories that another user, another tool or a fault has changed: each is refused by its path, and unchanged.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;

use gaia_api::ManualClock;
use rstest::rstest;

use super::{Scratch, init, options, tree};
use crate::directory::{Directory, DirectoryError, Engine, EngineSettings, InitOptions, RequestAction, RequestOutcome};

async fn refusal(certs: &Path) -> String {
    init(certs, options()).await.map(drop).unwrap_err().to_string()
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[rstest]
#[case::root_key("ca.key")]
#[case::guide_key("ca-key.pem")]
#[case::bundle("ca.pem")]
#[case::signing_key("jwt-signing.key")]
#[case::service_key("gateway/key.pem")]
#[tokio::test]
async fn a_tree_of_the_old_scripts_is_refused_with_its_files(#[case] file: &str) {
    let scratch = Scratch::new("old");
    let path = scratch.certs().join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "theirs").unwrap();
    let before = tree(&scratch.certs());
    let why = refusal(&scratch.certs()).await;
    assert!(why.contains(file), "{why}");
    assert_eq!(tree(&scratch.certs()), before);
}

#[rstest]
#[case::rings(".gaia")]
#[case::objects(".gaia/objects")]
#[case::secrets(".gaia/objects/secrets")]
#[case::service("gateway")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_or_a_writable_folder_is_refused(#[case] folder: &str) {
    let scratch = Scratch::new("hostile");
    let certs = scratch.certs();
    init(&certs, options()).await.unwrap();
    let path = certs.join(folder);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    for writable in [0o770, 0o707] {
        set_mode(&path, writable);
        let why = refusal(&certs).await;
        assert!(why.contains(folder) && why.contains("lets other users change it"), "{why}");
    }
    set_mode(&path, mode);
    let moved = scratch.0.join("moved");
    std::fs::rename(&path, &moved).unwrap();
    symlink(&moved, &path).unwrap();
    let before = tree(&moved);
    let why = refusal(&certs).await;
    assert!(why.contains(folder) && why.contains("is a link"), "{why}");
    assert_eq!(tree(&moved), before, "nothing is written through a link");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_changed_by_hand_are_restored() {
    let scratch = Scratch::new("repair");
    let certs = scratch.certs();
    init(&certs, options()).await.unwrap();
    let contents = |file: &str| std::fs::read(certs.join(file)).unwrap();
    let before = ["gateway/tls.key", "gateway/ca.crt", "web-service/policy.json", "ca.pem"].map(contents);
    std::fs::write(certs.join("gateway/tls.key"), "edited").unwrap();
    std::fs::remove_file(certs.join("gateway/ca.crt")).unwrap();
    std::fs::remove_dir_all(certs.join("web-service")).unwrap();
    std::fs::write(certs.join("ca.pem"), "edited").unwrap();
    init(&certs, options()).await.unwrap();
    assert_eq!(["gateway/tls.key", "gateway/ca.crt", "web-service/policy.json", "ca.pem"].map(contents), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_engine_is_refused_and_a_refused_manifest_keeps_the_accepted_objects() {
    let scratch = Scratch::new("two");
    let certs = scratch.certs();
    init(&certs, options()).await.unwrap();
    let settings = EngineSettings { probes: false, ..options().engine };
    let mut engine = Engine::start(&certs, settings.clone()).await.unwrap();
    let second = Engine::start(&certs, settings).await.map(drop).unwrap_err();
    assert!(matches!(second, DirectoryError::Busy { .. }), "{second}");
    assert!(Directory::open(&certs).unwrap().is_held().await.unwrap());
    let yaml = std::fs::read_to_string(certs.join("gaia.yaml")).unwrap();
    std::fs::write(certs.join("gaia.yaml"), yaml.replace("mode: Strict", "mode: Loose")).unwrap();
    for _ in 0..2 {
        engine.tick().unwrap();
    }
    let fault = engine.manifest_fault().unwrap().to_owned();
    assert!(fault.contains("gaia.yaml:") && fault.contains("spec.tls.mode"), "{fault}");
    assert_eq!(Directory::open(&certs).unwrap().services().unwrap().len(), 5);
    std::fs::write(certs.join("gaia.yaml"), yaml).unwrap();
    for _ in 0..2 {
        engine.tick().unwrap();
    }
    assert_eq!(engine.manifest_fault(), None);
    engine.stop().await;
}

#[tokio::test]
async fn a_clock_in_1970_issues_nothing() {
    let scratch = Scratch::new("clock");
    let clock = Arc::new(ManualClock::new("1970-01-01T00:00:30Z".parse().unwrap()));
    let options = InitOptions { engine: EngineSettings::new(clock), ..options() };
    let why = init(&scratch.certs(), options).await.map(drop).unwrap_err().to_string();
    assert!(why.contains("the clock of this machine says 1970-01-01"), "{why}");
    assert!(!scratch.certs().exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_keeps_its_directory_until_it_is_pruned() {
    let scratch = Scratch::new("prune");
    let certs = scratch.certs();
    init(&certs, options()).await.unwrap();
    let settings = EngineSettings { probes: false, ..options().engine };
    let mut engine = Engine::start(&certs, settings).await.unwrap();
    let directory = Directory::open(&certs).unwrap();
    let prune = || {
        let action = RequestAction::Prune { service: "chat-service".to_owned() };
        directory.request(vec![action], gaia_api::Clock::now(&gaia_api::SystemClock)).unwrap()
    };
    let refused = engine.carry_out(&prune());
    assert_eq!(refused.outcome, RequestOutcome::Refused);
    assert!(refused.message.contains("is in gaia.yaml"), "{}", refused.message);
    let yaml = std::fs::read_to_string(certs.join("gaia.yaml")).unwrap();
    let documents: Vec<&str> = yaml.split("---\n").filter(|text| !text.contains("name: chat-service")).collect();
    std::fs::write(certs.join("gaia.yaml"), documents.join("---\n")).unwrap();
    for _ in 0..2 {
        engine.tick().unwrap();
    }
    engine.settle(std::time::Duration::from_secs(10)).await;
    assert!(certs.join("chat-service/tls.crt").exists());
    let request = prune();
    directory.submit(&request).unwrap();
    engine.tick().unwrap();
    let answer = directory.answer(&request.id).unwrap().unwrap();
    assert_eq!((answer.outcome, answer.message.as_str()), (RequestOutcome::Done, ""));
    engine.settle(std::time::Duration::from_secs(10)).await;
    engine.repair();
    assert!(!certs.join("chat-service").exists());
    assert_eq!(directory.services().unwrap().len(), 4);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_old_stale_or_not_allowed_change_nothing() {
    let scratch = Scratch::new("requests");
    let certs = scratch.certs();
    init(&certs, options()).await.unwrap();
    let settings = EngineSettings { probes: false, ..options().engine };
    let mut engine = Engine::start(&certs, settings).await.unwrap();
    let directory = Directory::open(&certs).unwrap();
    let now = gaia_api::Clock::now(&gaia_api::SystemClock);
    let patch = |kind: &str, namespace: &str, name: &str, patch| RequestAction::Patch {
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        patch,
    };
    let revision = |value: i64| {
        patch("TrustDomain", "", "gaia", serde_json::json!({ "spec": { "ca": { "rotationRevision": value } } }))
    };
    let mut old = directory.request(vec![revision(2)], now - jiff::SignedDuration::from_mins(11)).unwrap();
    assert_eq!(engine.carry_out(&old).outcome, RequestOutcome::Expired);
    old.made = now;
    old.epochs.ca = Some("999".to_owned());
    assert_eq!(engine.carry_out(&old).outcome, RequestOutcome::Stale);
    let empty = serde_json::json!({ "data": {} });
    for action in [
        patch("Secret", "gaia-system", "gaia-ca-ring", empty.clone()),
        patch("Secret", "gaia", "gateway-tls", empty.clone()),
        patch("Pod", "gaia", "web", empty),
        revision(-1),
    ] {
        let request = directory.request(vec![action], now).unwrap();
        let answer = engine.carry_out(&request);
        assert_eq!(answer.outcome, RequestOutcome::Refused, "{}", answer.message);
    }
    assert!(!certs.join("gaia.changes.yaml").exists());
    let request = directory.request(vec![revision(2)], now).unwrap();
    assert_eq!(engine.carry_out(&request).outcome, RequestOutcome::Done);
    assert_eq!(engine.carry_out(&request).outcome, RequestOutcome::Done, "a repeated request is answered as before");
    assert_eq!(directory.changes().unwrap().len(), 1);
    assert_eq!(directory.trust_domains().unwrap()[0].spec.ca.rotation_revision, 2);
    engine.stop().await;
}

/// One directory that cannot be written delays its own service: the certificates of others are still issued.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_cannot_be_written_delays_its_own_service_only() {
    let scratch = Scratch::new("one");
    let certs = scratch.certs();
    init(&certs, options()).await.unwrap();
    set_mode(&certs.join("gateway"), 0o777);
    let settings = EngineSettings { probes: false, ..options().engine };
    let mut engine = Engine::start(&certs, settings).await.unwrap();
    let directory = Directory::open(&certs).unwrap();
    let before = directory.file("web-service", "tls.crt").unwrap();
    for name in ["web-service", "gateway"] {
        let patch = serde_json::json!({ "metadata": { "annotations": { "gaia.dev/renew-requested-at": "now" } } });
        let (kind, namespace, name) = ("ServiceCertificate".to_owned(), "gaia".to_owned(), name.to_owned());
        let action = RequestAction::Patch { kind, namespace, name, patch };
        let request = directory.request(vec![action], gaia_api::Clock::now(&gaia_api::SystemClock)).unwrap();
        engine.carry_out(&request);
    }
    engine.settle(std::time::Duration::from_secs(10)).await;
    assert_ne!(directory.file("web-service", "tls.crt").unwrap(), before);
    let failure = engine.disk_failure().unwrap();
    assert!(failure.contains("gateway") && failure.contains("lets other users change it"), "{failure}");
    engine.stop().await;
}
