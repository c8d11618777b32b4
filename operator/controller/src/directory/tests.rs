//! The engine on a directory in this process.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gaia_api::SystemClock;

use super::*;

mod crashes;
mod hostile;
mod locks;
mod rotations;

/// A new folder below the target folder, which is removed at the end.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("gaia-{name}-{}", disk::lock::random_id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(super) fn certs(&self) -> PathBuf {
        self.0.join("certs")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(super) fn options() -> InitOptions {
    InitOptions { environment: None, from: vec![], adopt: false, engine: EngineSettings::new(Arc::new(SystemClock)) }
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn init_issues_every_service_and_a_second_run_changes_nothing() {
    let scratch = Scratch::new("init");
    let certs = scratch.certs();
    let first = init(&certs, options()).await.unwrap();
    assert!(first.is_new && first.waiting.is_empty(), "{first:?}");
    assert_eq!(first.trust_domain, "dev.gaia.local");
    let names: Vec<&str> = first.issued.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["asset-service", "auth-service", "chat-service", "gateway", "web-service"]);
    for name in names {
        let folder = certs.join(name);
        assert_eq!(mode(&folder), 0o750);
        for file in ["tls.crt", "tls.key", "ca.crt", "jwks.json", "denylist.json", "policy.json", "cert.pem", "key.pem"]
        {
            assert!(std::fs::metadata(folder.join(file)).unwrap().len() > 0, "{name}/{file}");
        }
        assert_eq!(folder.join("jwt-signing.key").exists(), name == "auth-service", "{name}");
        assert_eq!(mode(&folder.join("tls.key")), 0o600);
    }
    assert_eq!([mode(&certs), mode(&certs.join(".gaia")), mode(&certs.join("ca.pem"))], [0o755, 0o700, 0o644]);
    let before = tree(&certs);
    let second = init(&certs, options()).await.unwrap();
    assert!(!second.is_new);
    assert_eq!(second.issued, first.issued);
    assert_eq!(tree(&certs), before);
}

/// Every file with its content, apart from the heartbeat.
pub(super) fn tree(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = vec![];
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_symlink() {
                let target = std::fs::read_link(entry.path()).unwrap();
                found.push((entry.path(), target.into_os_string().into_encoded_bytes()));
            } else if entry.file_name() != "heartbeat" {
                found.push((entry.path(), std::fs::read(entry.path()).unwrap()));
            }
        }
    }
    found.sort();
    found
}
