//! The results of a rehearsal.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};

use super::observer::Transition;
use crate::chart::SERVICE_ACCOUNT;
use crate::load::Report;
use crate::platform::OPERATOR_NAMESPACE;
use crate::{AuditLog, AuditRecord};

/// The results of a rehearsal.
#[derive(Debug, Default)]
pub struct Record {
    /// Every transition of a generation, in order, with its evidence.
    pub transitions: Vec<Transition>,
    /// The number of generations in both rings; no fingerprint and no kid is repeated.
    pub generations: usize,
    /// The number of leaves; no serial number is repeated.
    pub leaves: usize,
    /// The results of the requests.
    pub load: Option<Report>,
    /// The largest size of each object in bytes, year by year.
    pub sizes: Vec<BTreeMap<String, usize>>,
    /// The operator's writes at rest. There should be none, except those about API keys.
    pub writes_at_rest: Vec<AuditRecord>,
    /// The number of writes of API-key usage reports: each on another day. They are not part of a rotation.
    pub records_of_keys: usize,
    /// Statuses of GaiaServices that were written at rest: they have the latest of those days.
    pub statuses_at_rest: usize,
    /// All of the operator's writes.
    pub writes: usize,
    /// The number of clock steps.
    pub steps: usize,
    /// The simulated duration.
    pub length: SignedDuration,
    /// The real duration.
    pub took: Duration,
    began: Option<Timestamp>,
    years: i64,
    /// Real time at which everything came to rest.
    rests: Vec<(Timestamp, Timestamp)>,
}

impl Record {
    pub(super) fn step(&mut self, now: Timestamp, rest: Option<(Timestamp, Timestamp)>) {
        let began = *self.began.get_or_insert(now);
        self.steps += 1;
        self.length = now.duration_since(began);
        self.rests.extend(rest);
    }

    /// True if another year is over.
    pub(super) fn begins_a_year(&mut self) -> bool {
        let years = self.length.as_hours() / HOURS_OF_A_YEAR;
        let begins = years > self.years;
        self.years = years;
        begins
    }

    pub(super) fn count_writes(&mut self, audit: &AuditLog) -> Result<()> {
        let operator = format!("system:serviceaccount:{OPERATOR_NAMESPACE}:{SERVICE_ACCOUNT}");
        let writes = audit.writes_by(&operator, crate::audit::AuditMark::default())?;
        self.writes = writes.len();
        let at_rest = |write: &AuditRecord| {
            let after = self.rests.partition_point(|(_, end)| *end < write.received);
            self.rests.get(after).is_some_and(|(start, _)| *start <= write.received)
        };
        self.records_of_keys = writes.iter().filter(|write| is_ledger(write)).count();
        let at_rest = writes.into_iter().filter(at_rest).filter(|write| !is_ledger(write));
        let (statuses, others): (Vec<_>, Vec<_>) = at_rest.partition(is_service_status);
        (self.statuses_at_rest, self.writes_at_rest) = (statuses.len(), others);
        Ok(())
    }

    /// Deviations. A deviation that must never occur ends a rehearsal at once.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        if !self.load.as_ref().is_some_and(Report::is_clean) {
            complaints.push("requests failed, or there were none".to_owned());
        }
        complaints.extend(self.writes_at_rest.iter().map(|write| format!("written while all was at rest: {write}")));
        if self.statuses_at_rest > self.records_of_keys {
            let Self { statuses_at_rest, records_of_keys, .. } = self;
            complaints
                .push(format!("{statuses_at_rest} statuses at rest for {records_of_keys} usage reports of API keys"));
        }
        complaints.extend(self.too_large());
        complaints.extend(self.growing());
        complaints
    }

    fn too_large(&self) -> Vec<String> {
        let all = self.sizes.iter().flatten();
        all.filter(|(_, size)| **size > MOST_BYTES).map(|(object, size)| format!("{object} has {size} bytes")).collect()
    }

    /// Objects that grew by more than a tenth from one year to the next. Rings keep a few old generations
    /// and reach their full size in the second year.
    fn growing(&self) -> Vec<String> {
        let [_, .., before, last] = self.sizes.as_slice() else { return Vec::new() };
        let grown = last.iter().filter_map(|(object, size)| {
            let before = before.get(object)?;
            (size * 10 > before * 11).then(|| format!("{object} grows: {before} bytes, and {size} a year later"))
        });
        grown.collect()
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { generations, leaves, steps, writes, .. } = self;
        let days = self.length.as_hours() / 24;
        writeln!(f, "{days} days in {:.0} s and {steps} steps", self.took.as_secs_f32())?;
        writeln!(f, "{} transitions of {generations} generations; {leaves} leaves", self.transitions.len())?;
        writeln!(f, "{writes} writes of the operator, of them {} while all was at rest", self.writes_at_rest.len())?;
        let Self { records_of_keys, statuses_at_rest, .. } = self;
        writeln!(f, "API-key usage was written {records_of_keys} times, with {statuses_at_rest} statuses at rest")?;
        for (year, sizes) in self.sizes.iter().enumerate() {
            let largest = sizes.iter().max_by_key(|(_, size)| **size);
            if let Some((object, size)) = largest {
                writeln!(f, "year {}: the largest object was {object} with {size} bytes", year + 1)?;
            }
        }
        match &self.load {
            Some(load) => write!(f, "{load}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, ring, id, from, to, proof } = self;
        let from = from.as_deref().unwrap_or("new");
        write!(f, "{} {ring:<11} {id} {from} -> {to}", at.strftime("%Y-%m-%d %H:%M:%S"))?;
        if proof.is_empty() { Ok(()) } else { write!(f, ": {}", proof.join(", ")) }
    }
}

fn is_ledger(write: &AuditRecord) -> bool {
    write.resource == "configmaps" && write.name.ends_with("-ledger")
}

fn is_service_status(write: &AuditRecord) -> bool {
    write.resource == "gaiaservices" && write.subresource == "status"
}

/// A tenth of the maximum size of an object. The actual sizes are much smaller.
const MOST_BYTES: usize = 100_000;
const HOURS_OF_A_YEAR: i64 = 365 * 24;

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(ring: usize) -> BTreeMap<String, usize> {
        BTreeMap::from([("Secret ring".to_owned(), ring)])
    }

    #[test]
    fn an_object_that_still_grows_in_the_third_year_is_complained_of() {
        let record = |third| Record { sizes: vec![sizes(500), sizes(1000), sizes(third)], ..Record::default() };
        assert!(record(1100).growing().is_empty());
        assert_eq!(record(1101).growing(), ["Secret ring grows: 1000 bytes, and 1101 a year later"]);
        assert!(record(1101).complaints().contains(&"requests failed, or there were none".to_owned()));
    }

    #[test]
    fn statuses_at_rest_are_for_days_on_which_keys_were_used() {
        let record = |records_of_keys| Record { statuses_at_rest: 2, records_of_keys, ..Record::default() };
        assert_eq!(record(2).complaints().len(), 1, "there was no load");
        assert_eq!(record(1).complaints()[1], "2 statuses at rest for 1 usage reports of API keys");
    }

    #[test]
    fn an_object_that_is_very_large_is_complained_of_at_once() {
        let record = Record { sizes: vec![sizes(100_001)], ..Record::default() };
        assert_eq!(record.too_large(), ["Secret ring has 100001 bytes"]);
    }
}
