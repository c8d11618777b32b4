//! The units of `gaia local unit`, checked by systemd's own tools.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use rstest::rstest;
use support::gaia;

/// The limit of `systemd-analyze security`, which rates the exposure from 0.0 to 10.0, in tenths.
const MAX_EXPOSURE: &str = "20";

#[rstest]
#[case::usual("/var/lib/gaia/certs")]
#[case::home("/home/dev/certs")]
#[case::specifiers_and_blanks("/srv/100% ours/$certs")]
fn units_pass_the_checks_of_systemd(#[case] dir: &str) {
    if !is_installed() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let units = root.path().join("etc/systemd/system");
    machine(root.path(), &units);
    let out = units.to_str().unwrap();
    let options =
        ["--form", "both", "--group", "987", "--program", "/usr/bin/gaia", "--services", "gateway,web-service=web"];
    let ended = gaia(&[&["local", "unit", "--dir", dir, "--out", out], &options[..]].concat());
    assert_eq!((ended.code, ended.stdout.as_str()), (0, ""), "{}", ended.stderr);

    for unit in [
        "gaia.service",
        "gaia-once.service",
        "gaia-once.timer",
        "gaia-renew@gateway.service",
        "gaia-renew@gateway.timer",
        "gaia-failure@gaia.service",
        "gateway.service",
        "web.service",
    ] {
        let verified = analyze(&["verify", "--man=no", "--root", root.path().to_str().unwrap(), unit]);
        let text = String::from_utf8_lossy(&verified.stderr).into_owned();
        assert!(verified.status.success() && text.is_empty(), "{unit}: {text}");
    }
    for unit in ["gaia.service", "gaia-once.service", "gaia-renew@.service"] {
        let path = units.join(unit);
        let rated =
            analyze(&["security", "--offline=true", "--no-pager", "--threshold", MAX_EXPOSURE, path.to_str().unwrap()]);
        let table = String::from_utf8_lossy(&rated.stdout).into_owned();
        assert!(rated.status.success(), "{unit}: {table}{}", String::from_utf8_lossy(&rated.stderr));
    }
}

#[test]
fn a_wrong_setting_is_found_by_the_check() {
    if !is_installed() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let units = root.path().join("etc/systemd/system");
    machine(root.path(), &units);
    fs::write(units.join("bad.service"), "[Service]\nExecStart=/usr/bin/gaia\nWatchdogSeconds=5\n").unwrap();
    let verified = analyze(&["verify", "--man=no", "--root", root.path().to_str().unwrap(), "bad.service"]);
    assert!(String::from_utf8_lossy(&verified.stderr).contains("WatchdogSeconds"));
}

#[test]
fn units_are_printed_with_their_names() {
    let ended = gaia(&["local", "unit", "--group", "987", "--services", "gateway"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    for name in ["# gaia.service\n", "# gaia-failure@.service\n", "# gateway.service.d/gaia.conf\n"] {
        assert!(ended.stdout.contains(name), "{name}");
    }
    let missing = gaia(&["local", "unit", "--group", "no-such-group"]);
    assert_eq!((missing.code, missing.stdout.as_str()), (64, ""));
    assert!(missing.stderr.contains("next: groupadd --system no-such-group"), "{}", missing.stderr);
}

/// A root file system with the units and programs that those of Gaia refer to.
fn machine(root: &Path, units: &Path) {
    fs::create_dir_all(units).unwrap();
    let targets = ["sysinit", "basic", "shutdown", "network-online", "multi-user", "timers", "time-sync", "time-set"];
    for target in targets {
        fs::write(units.join(format!("{target}.target")), "[Unit]\nDescription=a target\n").unwrap();
    }
    for program in ["usr/bin/gaia", "bin/echo", "usr/bin/web"] {
        let path = root.join(program);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    for unit in ["gateway.service", "web.service"] {
        fs::write(units.join(unit), "[Service]\nExecStart=/usr/bin/web\n").unwrap();
    }
}

fn analyze(arguments: &[&str]) -> Output {
    Command::new("systemd-analyze").args(arguments).env("LC_ALL", "C").output().unwrap()
}

/// True if `systemd-analyze` exists. Where the machine must run every test (`REQUIRE_NODE=1`), it must.
fn is_installed() -> bool {
    let found = Command::new("systemd-analyze").arg("--version").output().is_ok_and(|output| output.status.success());
    let is_required = std::env::var_os("REQUIRE_NODE").is_some_and(|value| value == "1");
    assert!(found || !is_required, "systemd-analyze is missing, and REQUIRE_NODE is set: run `make deps`");
    found
}
