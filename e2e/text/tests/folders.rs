//! Files and folders: their sizes, and the direction of the imports between the folders of a crate.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::collections::{BTreeMap, BTreeSet};

use gaia_text::{files, relative};

const MAX_LINES: usize = 450;
const MAX_FILES: usize = 12;

/// Crates whose folders must not import each other in a circle.
const LAYERED: [&str; 4] = ["operator/plan", "operator/controller", "services/auth", "services/runtime"];

#[test]
fn files_and_folders_are_small() {
    let mut folders: BTreeMap<String, usize> = BTreeMap::new();
    let mut wrong = vec![];
    for path in files("", "rs") {
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        if lines > MAX_LINES {
            wrong.push(format!("{}: {lines} lines, at most {MAX_LINES}: split it by subject", relative(&path)));
        }
        *folders.entry(relative(path.parent().unwrap())).or_default() += 1;
    }
    for (folder, files) in folders {
        if files > MAX_FILES {
            wrong.push(format!("{folder}: {files} files, at most {MAX_FILES}: group some in a folder"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn folders_of_a_crate_import_each_other_in_one_direction() {
    for crate_ in LAYERED {
        let imports = imports(crate_);
        for start in imports.keys() {
            let path = path_back(start, &imports).unwrap_or_default();
            assert!(path.is_empty(), "{crate_}: {} is a circle: move what both need to a third", path.join(" -> "));
        }
    }
}

#[test]
fn imports_are_found_in_groups_and_in_code() {
    let source = "use crate::a::{b, c};\nuse crate::{d, e::{f, g}, H};\nfn x() { crate::i::j() }\n// crate::k\n#[cfg(test)]\nmod tests {\nuse crate::l;";
    assert_eq!(imported(source), BTreeSet::from(["a", "d", "e", "i"].map(str::to_owned)));
    let circle = BTreeMap::from([
        ("a".to_owned(), BTreeSet::from(["b".to_owned()])),
        ("b".to_owned(), BTreeSet::from(["c".to_owned(), "a".to_owned()])),
        ("c".to_owned(), BTreeSet::new()),
    ]);
    assert_eq!(path_back("a", &circle), Some(vec!["a".to_owned(), "b".to_owned(), "a".to_owned()]));
    assert_eq!(path_back("c", &circle), None);
}

/// The modules of a crate's root, with those that each imports.
fn imports(crate_: &str) -> BTreeMap<String, BTreeSet<String>> {
    let source = format!("{crate_}/src/");
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in files(&source, "rs") {
        let name = relative(&path);
        let inner = name.strip_prefix(&source).unwrap();
        let is_of_tests = |part: &str| part.contains("test") || ["fixtures", "scripted", "memory"].contains(&part);
        if inner.split(['/', '.']).any(is_of_tests) {
            continue;
        }
        let module = inner.split(['/', '.']).next().unwrap().to_owned();
        let imported = imported(&std::fs::read_to_string(&path).unwrap());
        found.entry(module).or_default().extend(imported);
    }
    for (module, imported) in &mut found {
        imported.remove(module);
    }
    found
}

/// The modules of the root that a file imports, outside of its tests. Names of types are those of the root.
fn imported(source: &str) -> BTreeSet<String> {
    let source = source.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let code: String =
        source.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(group) => found.extend(heads(group)),
            None => found.extend(head(rest)),
        }
    }
    found
}

/// The first names of the parts of a group, up to its closing brace.
fn heads(group: &str) -> Vec<String> {
    let (mut depth, mut begins, mut found) = (0, true, vec![]);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            _ if character.is_whitespace() => {}
            _ if begins => {
                found.extend(head(&group[at..]));
                begins = false;
            }
            _ => {}
        }
    }
    found
}

/// The name of a module at the beginning; none for a type or constant.
fn head(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    name.starts_with(|c: char| c.is_ascii_lowercase()).then_some(name)
}

/// The shortest way of imports from a module back to itself.
fn path_back(start: &str, imports: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    let mut paths = vec![vec![start.to_owned()]];
    let mut seen = BTreeSet::new();
    while !paths.is_empty() {
        let mut next = vec![];
        for path in paths {
            for module in imports.get(path.last()?).into_iter().flatten() {
                let longer = [&path[..], std::slice::from_ref(module)].concat();
                if module == start {
                    return Some(longer);
                }
                if seen.insert(module.clone()) {
                    next.push(longer);
                }
            }
        }
        paths = next;
    }
    None
}
