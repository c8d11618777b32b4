//! The report as JUnit XML: a test case for each id, with its findings as failures.

use std::fmt::Write as _;

use super::report::CheckReport;
use crate::output::printable;

/// The document.
pub(super) fn document(report: &CheckReport) -> String {
    let failed = |id: &&&str| report.findings.iter().any(|finding| finding.id == **id);
    let (all, failures) = (report.checked.len(), report.checked.iter().filter(failed).count());
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let name = escape(&report.source);
    let _ = writeln!(text, "<testsuite name=\"gaia check {name}\" tests=\"{all}\" failures=\"{failures}\">");
    for id in &report.checked {
        let _ = write!(text, "  <testcase classname=\"gaia\" name=\"{id}\"");
        let found: Vec<_> = report.findings.iter().filter(|finding| finding.id == *id).collect();
        if found.is_empty() {
            text.push_str("/>\n");
            continue;
        }
        text.push_str(">\n");
        for finding in found {
            let message = escape(&format!("{}: {}", finding.object, finding.cause));
            let (severity, next) = (finding.severity.as_str(), escape(&finding.next));
            let _ = writeln!(text, "    <failure type=\"{severity}\" message=\"{message}\">{next}</failure>");
        }
        text.push_str("  </testcase>\n");
    }
    text.push_str("</testsuite>\n");
    text
}

fn escape(text: &str) -> String {
    let text = printable(text).replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}
