//! Figures and ratios, as a table and as JSON.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// What a ratio must be.
#[derive(Clone, Copy)]
pub(super) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// What was measured.
pub(super) struct Report {
    certificates: usize,
    rows: Vec<Row>,
}

struct Row {
    what: String,
    value: String,
    bound: Option<(Bound, bool)>,
}

impl Report {
    pub(super) fn new(certificates: usize) -> Self {
        Self { certificates, rows: vec![] }
    }

    /// Something to know, without a bound: absolute figures depend on the machine.
    pub(super) fn figure(&mut self, what: &str, value: String) {
        self.rows.push(Row { what: what.to_owned(), value, bound: None });
    }

    /// Something with a bound.
    pub(super) fn ratio(&mut self, what: &str, value: f64, bound: Bound) {
        let met = match bound {
            Bound::AtLeast(least) => value >= least,
            Bound::AtMost(most) => value <= most,
        };
        self.rows.push(Row { what: what.to_owned(), value: format!("{value:.2}"), bound: Some((bound, met)) });
    }

    pub(super) fn all_met(&self) -> bool {
        self.rows.iter().all(|row| row.bound.is_none_or(|(_, met)| met))
    }

    /// The table to standard output, the JSON to a file.
    #[expect(clippy::print_stdout, reason = "the result of a command")]
    pub(super) fn write(&self, json: &Path) -> Result<()> {
        println!("{} ServiceCertificates", self.certificates);
        for row in &self.rows {
            println!("  {:<66} {:>12}   {}", row.what, row.value, row.verdict());
        }
        if let Some(dir) = json.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let text = serde_json::to_string_pretty(&self.json())?;
        std::fs::write(json, text).with_context(|| format!("cannot write {}", json.display()))
    }

    fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| json!({ "what": row.what, "value": row.value, "met": row.bound.map(|(_, met)| met) }))
            .collect();
        json!({ "certificates": self.certificates, "results": rows })
    }
}

impl Row {
    fn verdict(&self) -> String {
        match self.bound {
            None => String::new(),
            Some((bound, met)) => {
                let bound = match bound {
                    Bound::AtLeast(least) => format!(">= {least}"),
                    Bound::AtMost(most) => format!("<= {most}"),
                };
                format!("{bound}  {}", if met { "met" } else { "MISSED" })
            }
        }
    }
}
