//! `docs/messages.txt`: every text that users of the operator and the services may see, for review.
//!
//! These are the string literals of three or more words outside of tests: messages of conditions and Events, refusals, problem
//! documents, log lines, errors, and help of metrics. Help of flags and descriptions of fields are doc comments, which `--help`
//! and `crds/` show. `UPDATE_MESSAGES=1 cargo test -p gaia-text --test messages` writes the file again.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::collections::BTreeSet;
use std::path::Path;

use gaia_text::{files, literals, relative, root};

#[test]
fn the_list_of_messages_is_up_to_date() {
    let path = root().join("docs/messages.txt");
    let expected = list();
    if std::env::var_os("UPDATE_MESSAGES").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    let [new, old] = [(&expected, &stored), (&stored, &expected)].map(|(one, other)| {
        let known: BTreeSet<&str> = other.lines().collect();
        one.lines().filter(|line| !known.contains(line)).collect::<Vec<_>>().join("\n")
    });
    assert!(
        stored == expected,
        "docs/messages.txt differs from the code: run UPDATE_MESSAGES=1 cargo test -p gaia-text --test messages, and review \
         the difference.\nnew:\n{new}\nno longer in the code:\n{old}"
    );
}

fn list() -> String {
    let mut list =
        String::from("Every message of the operator and the services. Generated: see e2e/text/tests/messages.rs.\n");
    for area in AREAS {
        let sources = files(&format!("{area}/src"), "rs").into_iter().filter(|path| !is_of_tests(path));
        let messages: BTreeSet<String> = sources.flat_map(|path| messages(&path)).collect();
        list.push_str(&format!("\n{area}\n"));
        list.extend(messages.into_iter().map(|message| format!("  {message}\n")));
    }
    list
}

fn messages(path: &Path) -> Vec<String> {
    let source = std::fs::read_to_string(path).unwrap();
    let source = source.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let literals = literals(source).into_iter();
    // Attributes hold messages of errors and help; all others are for the compiler.
    let literals = literals.filter(|literal| ["", "error", "arg", "command"].contains(&literal.attribute.as_str()));
    let texts = literals.map(|literal| literal.text.split_whitespace().collect::<Vec<_>>().join(" "));
    texts.filter(|text| is_message(text)).collect()
}

/// True for three or more words, and not for code such as YAML, HTML or an expression of CEL.
fn is_message(text: &str) -> bool {
    let words = text.split_whitespace().filter(|word| word.chars().any(char::is_alphabetic)).count();
    words >= 3
        && !text.starts_with(['<', '#', '{', '['])
        && !["&&", "||", "==", "self."].iter().any(|code| text.contains(code))
        || words >= 3 && text.starts_with('{') && text.contains("} ")
}

fn is_of_tests(path: &Path) -> bool {
    const MODULES: [&str; 6] = ["tests", "testing", "fixtures", "scripted", "testkit", "test_support"];
    let path = relative(path);
    path.split(['/', '.']).any(|part| MODULES.contains(&part) || part.ends_with("_tests"))
}

const AREAS: [&str; 11] = [
    "operator/api",
    "operator/controller",
    "operator/pki",
    "operator/plan",
    "services/asset-service",
    "services/auth",
    "services/auth-service",
    "services/chat-service",
    "services/gateway",
    "services/runtime",
    "services/web-service",
];
