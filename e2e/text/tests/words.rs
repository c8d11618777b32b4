//! Plain English: the share of comments, openings of doc comments, strings and pages with a listed word, by area.
//!
//! The bounds are a ratchet: they only go down. Lower them when a change removes some.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::fmt::Write as _;
use std::path::Path;

use gaia_text::{comments, files, hits, is_riddle_opener, literals, pages, relative};

/// Area and bounds: comments, openings and strings with a hit, in thousandths.
const BOUNDS: [(&str, [usize; 3]); 14] = [
    ("e2e", [5, 10, 5]),
    ("fuzz", [5, 10, 5]),
    ("operator/api", [5, 10, 5]),
    ("operator/cli", [5, 10, 5]),
    ("operator/controller", [5, 10, 5]),
    ("operator/pki", [5, 10, 5]),
    ("operator/plan", [5, 10, 5]),
    ("services/asset-service", [5, 10, 5]),
    ("services/auth", [5, 10, 5]),
    ("services/auth-service", [5, 10, 5]),
    ("services/chat-service", [5, 10, 5]),
    ("services/gateway", [5, 10, 5]),
    ("services/runtime", [5, 10, 5]),
    ("services/web-service", [5, 15, 5]),
];

/// Hits in pages and descriptions of CRDs, for 10,000 words.
const PAGES: usize = 5;

#[test]
fn sources_are_written_in_plain_english() {
    let mut over = String::new();
    let mut rows = String::new();
    for (area, bounds) in BOUNDS {
        let counts = count(area);
        let shares = counts.each_ref().map(|count| (1000 * count.hits.len()).div_ceil(count.all.max(1)));
        writeln!(rows, "    (\"{area}\", {shares:?}),").unwrap();
        for ((count, kind), (share, bound)) in counts.iter().zip(KINDS).zip(shares.into_iter().zip(bounds)) {
            if share > bound {
                writeln!(over, "{area}: {share} of 1,000 {kind}, at most {bound}:").unwrap();
                count.hits.iter().for_each(|hit| writeln!(over, "  {hit}").unwrap());
            }
        }
    }
    println!("measured:\n{rows}");
    assert!(over.is_empty(), "{over}Rewrite them (CONTRIBUTING.md, Language); the bounds only go down.");
}

#[test]
fn pages_are_written_in_plain_english() {
    let (mut found, mut words) = (vec![], 0);
    for page in pages().into_iter().chain(files("crds", "yaml")) {
        for (number, line) in std::fs::read_to_string(&page).unwrap().lines().enumerate() {
            words += line.split_whitespace().count();
            found.extend(report(&page, number + 1, line));
        }
    }
    let share = (10_000 * found.len()).div_ceil(words);
    println!("measured: {share}");
    assert!(share <= PAGES, "{share} hits for 10,000 words, at most {PAGES}:\n{}", found.join("\n"));
}

const KINDS: [&str; 3] = ["comments", "openings of doc comments", "strings"];

#[derive(Default)]
struct Count {
    all: usize,
    hits: Vec<String>,
}

fn count(area: &str) -> [Count; 3] {
    let [mut lines, mut openings, mut strings] = <[Count; 3]>::default();
    for file in files(area, "rs") {
        // This crate lists the words.
        if relative(&file).starts_with("e2e/text/") {
            continue;
        }
        let source = std::fs::read_to_string(&file).unwrap();
        for (line, text, is_opening) in comments(&source) {
            lines.all += 1;
            lines.hits.extend(report(&file, line, text));
            openings.all += usize::from(is_opening);
            if is_opening && is_riddle_opener(text) {
                openings.hits.push(format!("{}:{line}: {text}", relative(&file)));
            }
        }
        for literal in literals(&source).into_iter().filter(|literal| literal.text.split_whitespace().count() >= 4) {
            strings.all += 1;
            strings.hits.extend(report(&file, literal.line, &literal.text));
        }
    }
    [lines, openings, strings]
}

/// The first listed phrase of a text, with its place.
fn report(file: &Path, line: usize, text: &str) -> Option<String> {
    let hit = hits(text).into_iter().next()?;
    Some(format!("{}:{line}: \"{}\" ({}): {text}", relative(file), hit.phrase, hit.instead))
}
