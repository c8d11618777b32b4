use std::path::PathBuf;
use std::{fs, panic};

use super::*;

fn corpus(target: &Target) -> Vec<PathBuf> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn nothing_in_the_corpora_breaks_a_rule() {
    for target in TARGETS {
        let files = corpus(target);
        assert!(files.len() >= 3, "{} has a corpus of {} only", target.name, files.len());
        for file in files {
            let data = fs::read(&file).unwrap();
            let outcome = panic::catch_unwind(|| (target.run)(&data));
            assert!(outcome.is_ok(), "{} breaks {}", file.display(), target.name);
        }
    }
}

#[test]
fn every_corpus_has_a_target() {
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(target(&name).is_some(), "corpus/{name} belongs to no target");
    }
}

proptest::proptest! {
    /// The oracles themselves must handle inputs that no seed has.
    #[test]
    fn any_bytes_keep_the_rules(data in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64)) {
        for target in TARGETS {
            (target.run)(&data);
        }
    }
}
