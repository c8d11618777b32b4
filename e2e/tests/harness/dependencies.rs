//! The direction of dependencies, and forbidden ones.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// The workspace crates that each crate may depend on; its tests may use [`IN_TESTS`] as well. A crate that is not listed here fails the
/// test: add it with its dependencies.
const MAY_USE: &[(&str, &[&str])] = &[
    ("gaia-api", &[]),
    ("gaia-pki", &["gaia-api"]),
    ("gaia-plan", &["gaia-api", "gaia-pki"]),
    ("gaia-operator", &["gaia-api", "gaia-pki", "gaia-plan"]),
    (
        "gaia-cli",
        &[
            "gaia-api",
            "gaia-pki",
            "gaia-plan",
            "gaia-operator",
            "gaia-auth",
            "gaia-runtime",
            "gaia-auth-service",
            "gaia-asset-service",
            "gaia-chat-service",
            "gaia-gateway",
            "gaia-web-service",
        ],
    ),
    ("gaia-auth", &["gaia-api"]),
    ("gaia-runtime", &["gaia-api", "gaia-pki", "gaia-auth"]),
    ("gaia-auth-service", &["gaia-api", "gaia-auth", "gaia-runtime"]),
    ("gaia-asset-service", &["gaia-api", "gaia-auth", "gaia-runtime"]),
    ("gaia-chat-service", &["gaia-api", "gaia-auth", "gaia-runtime"]),
    ("gaia-gateway", &["gaia-api", "gaia-auth", "gaia-runtime"]),
    ("gaia-web-service", &["gaia-api", "gaia-auth", "gaia-runtime"]),
    ("gaia-fuzz", &["gaia-api", "gaia-pki", "gaia-auth"]),
    ("gaia-text", &[]),
    ("gaia-stand-ins", &["gaia-api", "gaia-pki"]),
    (
        "gaia-e2e",
        &[
            "gaia-stand-ins",
            "gaia-api",
            "gaia-pki",
            "gaia-operator",
            "gaia-auth",
            "gaia-runtime",
            "gaia-auth-service",
            "gaia-asset-service",
            "gaia-gateway",
        ],
    ),
];

/// The workspace crates that the tests of every crate may use as well. The harness is not one of them: it depends on the services.
const IN_TESTS: [&str; 4] = ["gaia-pki", "gaia-auth", "gaia-runtime", "gaia-stand-ins"];

/// Crates without input or output, and the dependencies that would add it.
const PURE: [&str; 3] = ["gaia-api", "gaia-pki", "gaia-plan"];
const IMPURE: [&str; 5] = ["tokio", "kube-client", "kube-runtime", "reqwest", "hyper"];

/// One provider of cryptography, aws-lc-rs.
const BANNED: [&str; 4] = ["ring", "openssl", "openssl-sys", "native-tls"];

#[test]
fn our_crates_use_each_other_in_one_direction_only() {
    let allowed: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    for (is_dev, more) in [(false, &[][..]), (true, &IN_TESTS)] {
        for (name, used) in own_dependencies(is_dev) {
            let allowed = allowed.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not in MAY_USE"));
            let may_use = |used: &&String| allowed.contains(&used.as_str()) || more.contains(&used.as_str());
            let wrong: Vec<&String> = used.iter().filter(|used| !may_use(used)).collect();
            assert!(
                wrong.is_empty(),
                "{name} must not use {wrong:?} (tests: {is_dev}); it may use {allowed:?} {more:?}"
            );
        }
    }
}

#[test]
fn pure_crates_bring_in_no_runtime_and_no_client() {
    for name in PURE {
        let tree = tree(&["--package", name, "--edges", "normal,build", "--all-features"]);
        let impure: Vec<&str> = IMPURE.into_iter().filter(|impure| tree.contains(*impure)).collect();
        assert!(impure.is_empty(), "{name} is pure and brings in {impure:?}");
    }
}

#[test]
fn there_is_one_provider_of_cryptography() {
    let tree = tree(&["--workspace", "--edges", "normal,build,dev"]);
    let banned: Vec<&str> = BANNED.into_iter().filter(|banned| tree.contains(*banned)).collect();
    assert!(banned.is_empty(), "in the tree: {banned:?}; `cargo tree --workspace -i {}` says why", banned[0]);
    assert!(tree.contains("aws-lc-rs"), "the tree was not read");
}

/// Each crate of the workspace, with its dependencies in the workspace, or those of its tests.
fn own_dependencies(is_dev: bool) -> BTreeMap<String, BTreeSet<String>> {
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--format-version=1", "--no-deps"])).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let name = |value: &Value| value["name"].as_str().unwrap().to_owned();
    let ours: BTreeSet<String> = packages.iter().map(name).collect();
    let used = |package: &Value| {
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        dependencies
            .filter(|used| (used["kind"] == "dev") == is_dev)
            .map(name)
            .filter(|used| ours.contains(used))
            .collect()
    };
    packages.iter().map(|package| (name(package), used(package))).collect()
}

/// The names of all packages that are built, with the features that are on.
fn tree(args: &[&str]) -> BTreeSet<String> {
    let all = [&["tree", "--prefix=none", "--format={p}"], args].concat();
    cargo(&all).lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

fn cargo(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(args)
        .args(["--offline", "--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml")])
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
