//! Findings of `gaia check`: their ids, and the page of each, which `gaia explain` and `docs/reference/findings.md` share.

mod certificates;
mod local;
mod trust_domains;

use std::fmt::Write as _;

use serde::Serialize;

use crate::Exit;

/// The weight of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Severity {
    /// It works now, and will fail without a change.
    Warning,
    /// It does not work, or a key is not protected.
    Failure,
}

impl Severity {
    /// Its name in tables.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }

    /// The exit code of one finding.
    pub(crate) fn exit(self) -> Exit {
        match self {
            Self::Warning => Exit::Warnings,
            Self::Failure => Exit::Failing,
        }
    }
}

/// A kind of finding.
#[derive(Debug)]
pub(crate) struct Definition {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) severity: Severity,
    pub(crate) meaning: &'static str,
    /// How to confirm it.
    pub(crate) confirm: &'static str,
    /// How to mend it.
    pub(crate) mend: &'static str,
}

impl Definition {
    /// The page in Markdown, without a heading.
    pub(crate) fn page(&self) -> String {
        let Self { title, meaning, confirm, mend, .. } = self;
        let severity = self.severity.as_str();
        format!("{title} ({severity}).\n\n{meaning}\n\nTo confirm it: {confirm}\n\nTo mend it: {mend}\n")
    }
}

/// All definitions, by id.
pub(crate) fn all() -> impl Iterator<Item = &'static Definition> {
    trust_domains::ALL.iter().chain(certificates::ALL).chain(local::ALL)
}

/// The definition of an id, in any case.
pub(crate) fn find(id: &str) -> Option<&'static Definition> {
    all().find(|definition| definition.id.eq_ignore_ascii_case(id))
}

/// The page of all findings.
#[must_use]
pub fn findings_reference() -> String {
    let mut page = String::from(INTRODUCTION);
    for definition in all() {
        let _ = write!(page, "\n## {}\n\n{}", definition.id, definition.page());
    }
    page
}

const INTRODUCTION: &str = "# Findings

The findings of `gaia check`, by id. `gaia explain ID` prints the same text. This page is generated from the program.

`GAIA2xx` are of TrustDomains, `GAIA3xx` of certificates and services, `GAIA8xx` of a directory without a cluster.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_ascending_and_pages_complete() {
        let ids: Vec<&str> = all().map(|definition| definition.id).collect();
        assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
        for Definition { id, title, meaning, confirm, mend, .. } in all() {
            for text in [title, meaning, confirm, mend] {
                assert!(text.len() > 10, "{id}: {text:?}");
            }
            assert!(confirm.ends_with('.') && mend.ends_with('.') && meaning.ends_with('.'), "{id}");
        }
    }
}
