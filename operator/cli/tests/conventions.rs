//! The conventions of every verb: exit codes, streams and formats.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod support;

use rstest::rstest;
use support::gaia;

#[rstest]
#[case::no_verb(&[])]
#[case::unknown_verb(&["frobnicate"])]
#[case::unknown_option(&["version", "--colour"])]
#[case::unknown_format(&["version", "-o", "xml"])]
#[case::format_of_another_verb(&["version", "-o", "junit"])]
fn a_wrong_command_line_is_64_and_writes_to_stderr_only(#[case] arguments: &[&str]) {
    let ended = gaia(arguments);
    assert_eq!((ended.code, ended.stdout.as_str()), (64, ""), "{}", ended.stderr);
    assert!(!ended.stderr.is_empty());
}

#[rstest]
#[case::help(&["--help"])]
#[case::help_of_a_verb(&["version", "--help"])]
#[case::version(&["--version"])]
fn help_is_a_result(#[case] arguments: &[&str]) {
    let ended = gaia(arguments);
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    assert!(!ended.stdout.is_empty());
}

#[test]
fn documents_have_a_schema_version() {
    let ended = gaia(&["version", "-o", "json"]);
    let document: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(document["schemaVersion"], 1);
    assert_eq!(document["client"], env!("CARGO_PKG_VERSION"));
    let yaml: serde_json::Value = serde_yaml_ng::from_str(&gaia(&["version", "-o", "yaml"]).stdout).unwrap();
    assert_eq!(yaml, document);
    assert_eq!(gaia(&["version", "-o", "short"]).stdout.trim(), env!("CARGO_PKG_VERSION"));
}

#[test]
fn the_help_of_the_plugin_names_kubectl() {
    let ended = support::run(&["/usr/local/bin/kubectl-gaia", "version", "--help"]);
    assert!(ended.stdout.contains("Usage: kubectl gaia version"), "{}", ended.stdout);
    assert!(gaia(&["version", "--help"]).stdout.contains("Usage: gaia version"));
}

#[rstest]
fn every_shell_has_a_completion_script(#[values("bash", "zsh", "fish", "powershell")] shell: &str) {
    let ended = gaia(&["completion", shell]);
    assert_eq!(ended.code, 0);
    assert!(ended.stdout.contains("version"));
}
