//! Report of a load, for tests and on the terminal.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::account::{Connection, Counts, Failure, Group, Kind, Outcome};

/// The results of a load. It prints as a table, with the first failures below it.
#[derive(Clone, Debug)]
pub struct Report {
    /// The counts of all requests.
    pub total: Counts,
    /// Duration of the load.
    pub took: Duration,
    /// The first requests that failed or were wrongly accepted.
    pub failures: Vec<Failure>,
    pub(super) groups: BTreeMap<(Kind, Connection), Group>,
}

impl Report {
    /// True if there were requests, all got the expected answer, and none was wrongly accepted.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.total.ok > 0 && self.total.failed == 0 && self.total.wrongly_accepted == 0
    }

    /// The requests of one kind.
    #[must_use]
    pub fn counts_of(&self, kind: Kind) -> Counts {
        let of_kind = self.groups.iter().filter(|((found, _), _)| *found == kind);
        of_kind.fold(Counts::default(), |sum, (_, group)| sum + group.counts)
    }

    /// For tests.
    ///
    /// # Panics
    /// Unless it [is clean](Self::is_clean), with the whole report.
    pub fn assert_none_failed(&self) {
        assert!(self.is_clean(), "requests failed, or there were none:\n{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |kind: &str, connection: &str, counts: &Counts| {
            let Counts { made, ok, retried, failed, wrongly_accepted } = counts;
            format!("{kind:<9} {connection:<10} {made:>9} {ok:>9} {failed:>7} {wrongly_accepted:>16} {retried:>8}",)
        };
        writeln!(
            f,
            "{:<9} {:<10} {:>9} {:>9} {:>7} {:>16} {:>8} {:>9} {:>9}",
            "KIND", "CONNECTION", "REQUESTS", "OK", "FAILED", "WRONGLY ACCEPTED", "RETRIED", "P50 MS", "P99 MS"
        )?;
        let millis = |group: &Group, percent| {
            Duration::from_micros(group.latency.value_at_percentile(percent)).as_secs_f64() * 1000.0
        };
        for ((kind, connection), group) in &self.groups {
            let counts = row(&kind.to_string(), &connection.to_string(), &group.counts);
            writeln!(f, "{counts} {:>9.1} {:>9.1}", millis(group, 50.0), millis(group, 99.0))?;
        }
        writeln!(f, "{}", row("all", "", &self.total))?;
        #[expect(clippy::cast_precision_loss, reason = "a rate for the terminal")]
        let rate = self.total.made as f64 / self.took.as_secs_f64().max(f64::EPSILON);
        write!(f, "{:.1} s, {rate:.0} requests a second", self.took.as_secs_f64())?;
        for Failure { at, record } in &self.failures {
            let (what, text) = match &record.outcome {
                Outcome::WronglyAccepted(text) => ("wrongly accepted", text.as_str()),
                Outcome::Failed(text) => ("failed", text.as_str()),
                Outcome::Ok | Outcome::Retried => continue,
            };
            let (kind, target, connection) = (record.kind, &record.target, record.connection);
            let millis = record.took.as_millis();
            write!(f, "\n{at:.3} {kind} {target} on a {connection} connection {what} after {millis} ms: {text}")?;
        }
        Ok(())
    }
}
