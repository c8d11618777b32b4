//! `renew`, `rotate`, `distrust` and `revoke` on a directory that `gaia local init` made.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod support;

use serde_json::Value;
use support::{Ended, gaia};
use tempfile::TempDir;

struct Certs(TempDir);

impl Certs {
    fn new() -> Self {
        let certs = Self(tempfile::tempdir().unwrap());
        let ended = certs.run(&["local", "init"]);
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        certs
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        gaia(&[arguments, &[&format!("--dir={}/certs", self.0.path().display())]].concat())
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.run(&["status", "-o", "json"]).stdout).unwrap()
    }

    fn certificate(&self, service: &str) -> String {
        std::fs::read_to_string(self.0.path().join("certs").join(service).join("tls.crt")).unwrap()
    }

    fn generation(&self, ring: &str) -> Value {
        let status = self.status();
        let all = status["trustDomains"][0]["generations"].as_array().unwrap().clone();
        all.into_iter().find(|it| it["ring"] == ring && it["state"] == "Active").unwrap()
    }
}

#[test]
fn a_directory_of_init_has_no_finding() {
    let certs = Certs::new();
    let ended = certs.run(&["check"]);
    assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
}

/// Kind: a command that acts on, or passes, a `gaia.yaml` that the engine refuses.
#[test]
fn a_fault_in_gaia_yaml_is_found_and_refuses_changes_by_its_line() {
    let certs = Certs::new();
    let file = certs.0.path().join("certs/gaia.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.clone() + "unknownField: 1\n").unwrap();
    let place = format!("gaia.yaml:{}: unknownField: unknown field", text.lines().count() + 1);
    let found = certs.run(&["check", "-o", "json"]);
    assert!(found.stdout.contains("GAIA809") && found.stdout.contains(&place), "{}", found.stdout);
    let before = certs.status();
    let refused = certs.run(&["rotate", "ca"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (64, ""), "{}", refused.stderr);
    assert!(refused.stderr.contains(&place), "{}", refused.stderr);
    assert_eq!(certs.status(), before, "nothing was changed");
}

#[test]
fn renew_replaces_the_named_certificates_only() {
    let certs = Certs::new();
    let (gateway, chat) = (certs.certificate("gateway"), certs.certificate("chat-service"));
    let ended = certs.run(&["renew", "gateway", "-o", "json"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stdout.contains("\"renewed\""), "{}", ended.stdout);
    assert_ne!(certs.certificate("gateway"), gateway);
    assert_eq!(certs.certificate("chat-service"), chat);
    let unknown = certs.run(&["renew", "other"]);
    assert_eq!((unknown.code, unknown.stdout.as_str()), (64, ""));
    assert_eq!(certs.run(&["renew"]).code, 64, "an empty selection is no success");
}

#[test]
fn rotate_stages_the_next_generation_and_print_patch_changes_nothing() {
    let certs = Certs::new();
    let printed = certs.run(&["rotate", "ca", "--print-patch"]);
    assert_eq!((printed.code, printed.stdout.as_str()), (0, "{\"spec\":{\"ca\":{\"rotationRevision\":2}}}\n"));
    assert_eq!(certs.status()["changes"], Value::Null);
    for ring in ["ca", "signing-key"] {
        let ended = certs.run(&["rotate", ring]);
        assert_eq!(ended.code, 0, "{}", ended.stderr);
    }
    let status = certs.status();
    assert!(status["changes"][0]["patch"]["spec"]["ca"]["rotationRevision"] == 2, "{status}");
    assert!(status["trustDomains"][0]["rotating"].as_str().unwrap().contains("CA"), "{status}");
    assert_eq!(certs.run(&["rotate", "ca", "--abort", "no-generation"]).code, 64);
}

#[test]
fn distrust_and_revoke_ask_first_and_refuse_unknown_names() {
    let certs = Certs::new();
    let id = certs.generation("CA")["id"].as_str().unwrap().to_owned();
    let asked = certs.run(&["distrust", "ca", &id]);
    assert_eq!(asked.code, 64);
    assert!(asked.stderr.contains("--yes"), "{}", asked.stderr);
    assert_eq!(certs.status()["changes"], Value::Null, "nothing was changed");
    assert_eq!(certs.run(&["distrust", "ca", "unknown", "--yes"]).code, 64);
    assert_eq!(certs.run(&["revoke", "leaf", "unknown", "--yes"]).code, 64);
    let revoked = certs.run(&["revoke", "jti", "a-token-id", "--yes"]);
    assert_eq!(revoked.code, 0, "{}", revoked.stderr);
    let denylist = std::fs::read_to_string(certs.0.path().join("certs/gateway/denylist.json")).unwrap();
    assert!(denylist.contains("a-token-id"), "{denylist}");
    let distrusted = certs.run(&["distrust", "ca", &id, "--yes"]);
    assert_eq!(distrusted.code, 0, "{}", distrusted.stderr);
    // A replacement is published first (AfterReissue).
    let status = certs.status();
    let generations = status["trustDomains"][0]["generations"].as_array().unwrap();
    assert_eq!(generations.iter().filter(|it| it["ring"] == "CA").count(), 2, "{status}");
    let changes = status["changes"].to_string();
    assert!(changes.contains("distrusted"), "{changes}");
}
