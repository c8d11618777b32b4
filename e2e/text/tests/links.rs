//! Links and paths in the documentation: files, headings and items of the code that they name exist.
//!
//! A link whose text is an item in backticks and whose target is a file in Rust, such as
//! `` [`Reconciler::reconcile`](../operator/controller/src/reconcile.rs) ``, needs a definition of that item in the file.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::collections::BTreeSet;
use std::path::Path;

use gaia_text::{pages, relative, root};

#[test]
fn every_link_resolves_to_a_file_a_heading_or_an_item() {
    let mut broken = vec![];
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for (line, item, target) in links(&text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            if let Err(problem) = resolve(&page, &item, &target) {
                broken.push(format!("{}:{line}: [{item}]({target}): {problem}", relative(&page)));
            }
        }
    }
    assert!(broken.is_empty(), "{} broken links; correct the path or the item:\n{}", broken.len(), broken.join("\n"));
}

/// Paths in backticks, such as `services/auth/src/lib.rs`, from the root of the repository.
#[test]
fn every_path_in_backticks_exists() {
    const FOLDERS: [&str; 6] = ["charts/", "docs/", "e2e/", "fuzz/", "operator/", "services/"];
    let root = root();
    let mut missing = vec![];
    for page in pages().into_iter().filter(|page| !page.ends_with("CHANGELOG.md")) {
        for (number, line) in std::fs::read_to_string(&page).unwrap().lines().enumerate() {
            for path in line.split('`').skip(1).step_by(2) {
                let is_plain = !path.contains(['*', '<', '{', ' ', '…', '$']);
                if FOLDERS.iter().any(|folder| path.starts_with(folder)) && is_plain && !root.join(path).exists() {
                    missing.push(format!("{}:{}: `{path}`", relative(&page), number + 1));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{} paths without a file; correct them:\n{}", missing.len(), missing.join("\n"));
}

#[test]
fn broken_links_are_named() {
    let page = root().join("docs/architecture.md");
    let resolve = |item: &str, target: &str| resolve(&page, item, target);
    assert_eq!(resolve("`links`", "../e2e/text/tests/links.rs"), Ok(()));
    assert_eq!(resolve("Rights", "#rights"), Ok(()));
    assert_eq!(resolve("x", "../nowhere.rs").unwrap_err(), "no such file");
    assert_eq!(resolve("x", "#nowhere").unwrap_err(), "no heading with this anchor");
    let missing = resolve("`Type::nothing`", "../e2e/text/src/lib.rs").unwrap_err();
    assert_eq!(missing, "the file defines no item `nothing`");
}

fn resolve(page: &Path, item: &str, target: &str) -> Result<(), String> {
    let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let file = if path.is_empty() { page.to_owned() } else { page.parent().unwrap_or(page).join(path) };
    if !file.exists() {
        return Err("no such file".to_owned());
    }
    if file.is_dir() {
        return Ok(());
    }
    let is_code = file.extension().is_some_and(|extension| extension == "rs");
    let text =
        if is_code || anchor.is_some() { std::fs::read_to_string(&file).unwrap_or_default() } else { String::new() };
    if let Some(anchor) = anchor
        && !headings(&text).contains(anchor)
    {
        return Err("no heading with this anchor".to_owned());
    }
    match item.strip_prefix('`').and_then(|item| item.strip_suffix('`')) {
        Some(item) if is_code => {
            let name = item.rsplit("::").next().unwrap_or(item).trim_end_matches("()");
            if defines(&text, name) { Ok(()) } else { Err(format!("the file defines no item `{name}`")) }
        }
        _ => Ok(()),
    }
}

/// True if a line of the file defines `name`: a function, a type, a constant, a module or a variant.
fn defines(text: &str, name: &str) -> bool {
    const KEYWORDS: [&str; 9] = ["fn", "struct", "enum", "trait", "type", "const", "static", "mod", "macro_rules!"];
    let is_end = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    text.lines().map(str::trim_start).any(|line| {
        let is_variant = line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['(', ',', ' ', '{']));
        let is_item = KEYWORDS.iter().any(|keyword| {
            line.split_once(&format!("{keyword} {name}"))
                .is_some_and(|(before, rest)| is_end(rest) && (before.is_empty() || before.ends_with([' ', ')'])))
        });
        !line.starts_with("//") && (is_variant || is_item)
    })
}

/// The anchors of a page's headings, as GitHub derives them.
fn headings(text: &str) -> BTreeSet<String> {
    let anchor = |title: &str| {
        let kept = title.trim().to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    text.lines().filter(|line| line.starts_with('#')).map(|line| anchor(line.trim_start_matches('#'))).collect()
}

/// Line, text and target of each link outside of code blocks.
fn links(text: &str) -> Vec<(usize, String, String)> {
    let mut is_code = false;
    let mut found = vec![];
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        }
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("](").filter(|_| !is_code) {
            let Some((target, tail)) = after.split_once(')') else { break };
            let item = before.rsplit('[').next().unwrap_or_default();
            found.push((number + 1, item.to_owned(), target.to_owned()));
            rest = tail;
        }
    }
    found
}
