//! Output formats: tables, and documents for programs.

mod table;

use clap::ValueEnum;
use serde::Serialize;

pub(crate) use self::table::{Table, printable};
use crate::{Console, Failure};

/// The version of the JSON and YAML documents. Fields are added without a new version.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// An output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// Columns for a terminal.
    #[default]
    Table,
    /// More columns.
    Wide,
    /// One name a line.
    Short,
    /// A document with `schemaVersion`.
    Json,
    /// The same document as YAML.
    Yaml,
    /// JUnit XML; of `check` only.
    Junit,
}

/// The result of a verb: a document, and the same as text.
pub(crate) trait Report: Serialize {
    /// The `kind` of the document.
    const KIND: &'static str;

    /// The text for `table` and `wide`.
    fn text(&self, is_wide: bool) -> String;

    /// The names for `short`, one a line.
    fn names(&self) -> Vec<String>;
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a, T> {
    schema_version: u32,
    kind: &'static str,
    #[serde(flatten)]
    body: &'a T,
}

/// Prints a report in a format.
pub(crate) fn print<T: Report>(console: &mut Console, format: Format, report: &T) -> Result<(), Failure> {
    let document = Document { schema_version: SCHEMA_VERSION, kind: T::KIND, body: report };
    let not_encoded = |error: String| Failure::bug(format!("the {} cannot be encoded: {error}", T::KIND));
    let text = match format {
        Format::Table => report.text(false),
        Format::Wide => report.text(true),
        Format::Short => report.names().into_iter().map(|name| name + "\n").collect(),
        Format::Json => serde_json::to_string_pretty(&document).map_err(|error| not_encoded(error.to_string()))? + "\n",
        Format::Yaml => serde_yaml_ng::to_string(&document).map_err(|error| not_encoded(error.to_string()))?,
        Format::Junit => return Err(Failure::usage("-o junit is a format of `check` only")),
    };
    console.print(&text)
}
