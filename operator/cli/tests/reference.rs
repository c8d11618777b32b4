//! The generated pages are up to date. `UPDATE_REFERENCE=1 cargo test -p gaia-cli --test reference` writes them.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::path::Path;

#[test]
fn the_page_of_the_command_line_is_up_to_date() {
    check("cli.md", &gaia_cli::cli_reference());
}

#[test]
fn the_page_of_findings_is_up_to_date() {
    check("findings.md", &gaia_cli::findings_reference());
}

fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference").join(name);
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == text, "docs/reference/{name} differs: UPDATE_REFERENCE=1 cargo test -p gaia-cli --test reference");
}
