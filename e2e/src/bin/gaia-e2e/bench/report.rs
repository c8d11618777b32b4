//! Figures and ratios, as a table and as JSON.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// The bound of a ratio.
#[derive(Clone, Copy)]
pub(super) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// A measured figure.
#[derive(Default)]
pub(super) struct Report {
    rows: Vec<Row>,
}

struct Row {
    what: String,
    unit: &'static str,
    /// One value a round.
    values: Vec<f64>,
    bound: Option<Bound>,
}

impl Report {
    /// A headline.
    pub(super) fn section(&mut self, what: String) {
        self.rows.push(Row { what, unit: "", values: vec![], bound: None });
    }

    /// A figure without a bound: absolute figures depend on the machine.
    pub(super) fn figure(&mut self, what: &str, unit: &'static str, values: &[f64]) {
        self.rows.push(Row { what: what.to_owned(), unit, values: values.to_vec(), bound: None });
    }

    /// A figure whose median has a bound that holds on any machine.
    pub(super) fn bounded(&mut self, what: &str, unit: &'static str, values: &[f64], bound: Bound) {
        self.rows.push(Row { what: what.to_owned(), unit, values: values.to_vec(), bound: Some(bound) });
    }

    pub(super) fn all_met(&self) -> bool {
        self.rows.iter().all(|row| row.is_met() != Some(false))
    }

    /// The table to standard output, the JSON to a file.
    #[expect(clippy::print_stdout, reason = "the result of a command")]
    pub(super) fn write(&self, json: &Path) -> Result<()> {
        for row in &self.rows {
            println!("{}", row.line());
        }
        if let Some(dir) = json.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let rows: Vec<Value> = self.rows.iter().filter(|row| !row.values.is_empty()).map(Row::json).collect();
        let text = serde_json::to_string_pretty(&json!({ "results": rows }))?;
        std::fs::write(json, text).with_context(|| format!("cannot write {}", json.display()))
    }
}

impl Row {
    fn is_met(&self) -> Option<bool> {
        let value = median(&self.values);
        self.bound.map(|bound| match bound {
            Bound::AtLeast(least) => value >= least,
            Bound::AtMost(most) => value <= most,
        })
    }

    fn line(&self) -> String {
        if self.values.is_empty() {
            return format!("\n{}", self.what);
        }
        let rounds: Vec<String> = self.values.iter().map(|value| short(*value)).collect();
        let rounds = if rounds.len() > 1 { format!("  rounds: {}", rounds.join(" ")) } else { String::new() };
        let bound = match self.bound {
            None => String::new(),
            Some(Bound::AtLeast(least)) => format!(">= {least}"),
            Some(Bound::AtMost(most)) => format!("<= {most}"),
        };
        let verdict = self.is_met().map_or("", |met| if met { "met" } else { "MISSED" });
        let value = short(median(&self.values));
        format!("  {:<62} {value:>8} {:<9} {bound:<8} {verdict:<6}{rounds}", self.what, self.unit).trim_end().to_owned()
    }

    fn json(&self) -> Value {
        json!({
            "what": self.what,
            "unit": self.unit,
            "median": median(&self.values),
            "rounds": self.values,
            "bound": self.bound.map(|bound| match bound {
                Bound::AtLeast(least) => json!({ "atLeast": least }),
                Bound::AtMost(most) => json!({ "atMost": most }),
            }),
            "met": self.is_met(),
        })
    }
}

/// The one in the middle, or halfway between the two there.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.get(sorted.len() / 2), sorted.get((sorted.len().max(1) - 1) / 2)) {
        (Some(upper), Some(lower)) => f64::midpoint(*upper, *lower),
        _ => f64::NAN,
    }
}

fn short(value: f64) -> String {
    if value.fract() == 0.0 || value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_decides_whether_a_bound_is_met() {
        let mut report = Report::default();
        report.bounded("rate", "", &[0.1, 0.8, 0.9], Bound::AtLeast(0.7));
        assert!(report.all_met());
        report.bounded("rate", "", &[0.1, 0.6, 0.9], Bound::AtLeast(0.7));
        assert!(!report.all_met());
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_two_in_the_middle() {
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
    }
}
