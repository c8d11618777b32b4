//! The repository's text: pages, and comments and string literals of sources in Rust.
//!
//! The tests of this crate check links ([`pages`]), words (comments, strings and pages) and the list of messages. It has no
//! dependencies, so that `cargo test -p gaia-text` takes seconds.

mod rust;
mod words;

use std::path::{Path, PathBuf};

pub use self::rust::{Literal, comments, literals};
pub use self::words::{Hit, hits, is_riddle_opener};

/// The root of the repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new(".")).to_owned()
}

/// Every page in Markdown.
#[must_use]
pub fn pages() -> Vec<PathBuf> {
    files("", "md")
}

/// The files below a folder of the repository with an extension, sorted, outside of build directories.
#[must_use]
pub fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The path of a file from the root of the repository.
#[must_use]
pub fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}
