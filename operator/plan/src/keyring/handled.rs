//! Annotations of a TrustDomain that request one action (`gaia.dev/abort`, `restore`, `advance-without`, `bootstrap`).
//!
//! The handled value is recorded inside the ring, in the same write as the action. An annotation that stays on the
//! object, as GitOps tools keep it, is then never handled twice, and a value that matched nothing when it was first
//! seen never takes effect later.

use std::collections::BTreeMap;

use gaia_api::names::annotation;
use gaia_pki::sha256_hex;
use serde::{Deserialize, Serialize};

/// The last value of each annotation that was answered, by the annotation's name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Handled(BTreeMap<String, Answer>);

/// The answer to a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The value, see [`recorded`].
    pub value: String,
    /// Of `advance-without`: the generation whose rotation it lets pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<String>,
    /// The reason why the value was ignored; none: it was carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignored: Option<String>,
}

impl Answer {
    /// The value was carried out.
    #[must_use]
    pub fn done(value: &str) -> Self {
        Self { value: recorded(value), rotation: None, ignored: None }
    }

    /// The value was ignored.
    #[must_use]
    pub fn ignored(value: &str, why: impl Into<String>) -> Self {
        Self { value: recorded(value), rotation: None, ignored: Some(why.into()) }
    }
}

impl Handled {
    /// Returns true if no annotation was ever answered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The answer to this value of an annotation; none: it was not seen, or another value was since.
    #[must_use]
    pub fn answer(&self, annotation: &str, value: &str) -> Option<&Answer> {
        self.0.get(annotation).filter(|answer| answer.value == recorded(value))
    }

    /// Records an answer, and replaces the previous one.
    pub fn record(&mut self, annotation: &str, answer: Answer) {
        self.0.insert(annotation.to_owned(), answer);
    }

    /// Forgets the answer to an annotation that was removed: set again, it is a new request.
    pub fn forget(&mut self, annotation: &str) {
        self.0.remove(annotation);
    }

    /// These answers, with those of another ring, which take precedence.
    #[must_use]
    pub fn merged(mut self, newer: &Self) -> Self {
        self.0.extend(newer.0.clone());
        self
    }

    /// Recorded annotations that are no longer among these.
    pub fn without(&self, annotations: &BTreeMap<String, String>) -> impl Iterator<Item = &str> {
        self.0.keys().filter(|name| !annotations.contains_key(*name)).map(String::as_str)
    }
}

/// A value in its recorded form: unchanged, or its hash if it is long.
#[must_use]
pub fn recorded(value: &str) -> String {
    if value.len() <= MAX_VALUE { value.to_owned() } else { sha256_hex(value.as_bytes()) }
}

/// The annotations that are answered once.
pub const ONCE: [&str; 4] =
    [annotation::ABORT, annotation::RESTORE, annotation::ADVANCE_WITHOUT, annotation::BOOTSTRAP];
const MAX_VALUE: usize = 256;
