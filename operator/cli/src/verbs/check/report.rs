//! The report of `gaia check`.

use std::fmt::Write as _;

use serde::Serialize;

use super::Finding;
use super::expiry::Expiry;
use crate::findings::{Definition, Severity};
use crate::output::{Report, Table, printable};

/// All findings of a platform.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CheckReport {
    /// The platform.
    pub(super) source: String,
    /// The ids that were checked.
    pub(super) checked: Vec<&'static str>,
    pub(super) findings: Vec<Finding>,
    /// The dates, if they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) expiry: Vec<Expiry>,
}

impl CheckReport {
    pub(super) fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

impl Report for CheckReport {
    const KIND: &'static str = "Check";

    fn text(&self, _is_wide: bool) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let Finding { id, severity, object, cause, next, .. } = finding;
            let (object, cause) = (printable(object), printable(cause));
            let _ = writeln!(text, "{} {id} {object}: {cause}\n  next: {next}", severity.as_str());
        }
        if !self.expiry.is_empty() {
            let mut table = Table::new(&["NAME", "EVENT", "TIME", "DAYS"]);
            for Expiry { name, event, time, days } in &self.expiry {
                table.row([name.clone(), (*event).to_owned(), time.to_string(), days.to_string()]);
            }
            let _ = writeln!(text, "{table}");
        }
        let (failures, warnings) = (self.count(Severity::Failure), self.count(Severity::Warning));
        let _ =
            writeln!(text, "{}: {} checks, {failures} failures, {warnings} warnings", self.source, self.checked.len());
        text
    }

    fn names(&self) -> Vec<String> {
        self.findings.iter().map(|finding| format!("{} {}", finding.id, printable(&finding.object))).collect()
    }
}

/// The definitions of findings.
#[derive(Debug, Serialize)]
pub(super) struct List {
    findings: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Entry {
    id: &'static str,
    severity: Severity,
    title: &'static str,
}

impl List {
    pub(super) fn of(definitions: impl Iterator<Item = &'static Definition>) -> Self {
        let entry = |it: &Definition| Entry { id: it.id, severity: it.severity, title: it.title };
        Self { findings: definitions.map(entry).collect() }
    }
}

impl Report for List {
    const KIND: &'static str = "Findings";

    fn text(&self, _is_wide: bool) -> String {
        let mut table = Table::new(&["ID", "SEVERITY", "TITLE"]);
        for Entry { id, severity, title } in &self.findings {
            table.row([*id, severity.as_str(), *title].map(str::to_owned));
        }
        table.to_string()
    }

    fn names(&self) -> Vec<String> {
        self.findings.iter().map(|entry| entry.id.to_owned()).collect()
    }
}
