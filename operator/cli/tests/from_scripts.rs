//! The commands of docs/how-to/from-scripts.md: each one in the table is run.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::path::Path;
use std::process::{Command, Output};

const GAIA: &str = env!("CARGO_BIN_EXE_gaia");
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Runs a command line in a folder.
fn run(folder: &Path, line: &str) -> Output {
    let words: Vec<&str> = line.split(' ').skip(1).collect();
    Command::new(GAIA).args(words).current_dir(folder).output().unwrap()
}

/// The commands in the second column of the table of scripts, in order.
fn commands(page: &str) -> Vec<String> {
    let (_, table) = page.split_once("## Scripts and commands").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let cells = table.lines().filter(|line| line.starts_with("| ")).filter_map(|line| line.split('|').nth(2));
    let cells = cells.filter_map(|cell| cell.trim().strip_prefix('`')?.strip_suffix('`'));
    cells.map(str::to_owned).collect()
}

/// The exit codes that the page documents.
fn expected(command: &str) -> &'static [i32] {
    match command {
        // Not due.
        "gaia local needs-renewal gateway" => &[1],
        // Nothing is replaced yet.
        "gaia local adopt --finish --dir certs-old" => &[2],
        // No service runs here, which is a warning.
        check if check.starts_with("gaia check ") => &[0, 1],
        _ => &[0],
    }
}

/// Kind: a page that documents a command that does not exist.
#[test]
fn every_successor_of_a_script_runs() {
    let page = std::fs::read_to_string(Path::new(ROOT).join("docs/how-to/from-scripts.md")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let old = Command::new("sh")
        .arg(Path::new(ROOT).join("e2e/old-scripts/setup-dev-ca.sh"))
        .args([folder.path().join("certs-old").as_os_str(), "guide".as_ref()])
        .output()
        .unwrap();
    assert!(old.status.success(), "{old:?}");
    let refused = run(folder.path(), "gaia local init --dir certs-old");
    assert_eq!(refused.status.code(), Some(64), "{refused:?}");
    let commands = commands(&page);
    assert!(commands.len() >= 10, "{commands:?}");
    for command in commands {
        let ended = run(folder.path(), &command);
        let output = format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        let code = ended.status.code().unwrap();
        assert!(expected(&command).contains(&code), "{command}: {code}: {output}");
        assert!(!output.contains("PRIVATE KEY"), "{command} printed a private key");
    }
}
