//! The results of all requests.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gaia_api::Clock;
use jiff::Timestamp;

use gaia_api::sync::lock;
use hdrhistogram::Histogram;

use super::report::Report;

/// The kinds of callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A service of the platform: mutual TLS and a service token.
    Mtls,
    /// An external program: TLS and an API key.
    ApiKey,
    /// A service that asks auth-service for a token.
    Token,
    /// A client with an unknown key: must be refused.
    Stranger,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Mtls => "mtls",
            Self::ApiKey => "api-key",
            Self::Token => "token",
            Self::Stranger => "stranger",
        })
    }
}

/// The connection of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Connection {
    /// One of its own, with a new handshake.
    New,
    /// One that is kept for later requests.
    Kept,
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::New => "new",
            Self::Kept => "kept",
        })
    }
}

/// The result of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer was the expected one.
    Ok,
    /// It was the expected one the second time: the first was a 401 for the token, followed by a new token and one more
    /// attempt, as callers are meant to.
    Retried,
    /// Any other answer, or none, with a description.
    Failed(String),
    /// It was accepted, but should have been refused.
    WronglyAccepted(String),
}

/// A completed request.
#[derive(Clone, Debug)]
pub struct Record {
    /// The caller.
    pub kind: Kind,
    /// The operation, as `GET asset-service`.
    pub target: String,
    /// The connection.
    pub connection: Connection,
    /// The result.
    pub outcome: Outcome,
    /// The duration.
    pub took: Duration,
}

/// A request that failed or was wrongly accepted.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Time of its completion.
    pub at: Timestamp,
    /// The request.
    pub record: Record,
}

/// Counts of requests by result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All completed requests.
    pub made: u64,
    /// Those with the expected answer, at once or after a retry.
    pub ok: u64,
    /// Those among the `ok` that needed a retry.
    pub retried: u64,
    /// Those with another answer, or none.
    pub failed: u64,
    /// Those that should have been refused.
    pub wrongly_accepted: u64,
}

impl Counts {
    fn add(&mut self, outcome: &Outcome) {
        self.made += 1;
        match outcome {
            Outcome::Ok => self.ok += 1,
            Outcome::Retried => {
                self.ok += 1;
                self.retried += 1;
            }
            Outcome::Failed(_) => self.failed += 1,
            Outcome::WronglyAccepted(_) => self.wrongly_accepted += 1,
        }
    }
}

/// The requests of one kind on one sort of connection.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) counts: Counts,
    /// In microseconds.
    pub(super) latency: Histogram<u64>,
}

impl Default for Group {
    fn default() -> Self {
        let latency = Histogram::new_with_max(LONGEST_MICROS, 2).expect("two digits of a large maximum are possible");
        Self { counts: Counts::default(), latency }
    }
}

/// The counts of one load.
#[derive(Clone)]
pub(super) struct Account {
    clock: Arc<dyn Clock>,
    entries: Arc<Mutex<Entries>>,
}

#[derive(Default)]
struct Entries {
    total: Counts,
    groups: BTreeMap<(Kind, Connection), Group>,
    failures: Vec<Failure>,
}

impl Account {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, entries: Arc::default() }
    }

    pub(super) fn record(&self, record: Record) {
        let at = self.clock.now();
        let mut entries = lock(&self.entries);
        entries.total.add(&record.outcome);
        let group = entries.groups.entry((record.kind, record.connection)).or_default();
        group.counts.add(&record.outcome);
        group.latency.saturating_record(u64::try_from(record.took.as_micros()).unwrap_or(u64::MAX));
        let is_bad = matches!(record.outcome, Outcome::Failed(_) | Outcome::WronglyAccepted(_));
        if is_bad && entries.failures.len() < KEPT_FAILURES {
            entries.failures.push(Failure { at, record });
        }
    }

    pub(super) fn counts(&self) -> Counts {
        lock(&self.entries).total
    }

    pub(super) fn counts_of(&self, kind: Kind) -> Counts {
        let entries = lock(&self.entries);
        let of_kind = entries.groups.iter().filter(|((found, _), _)| *found == kind);
        of_kind.fold(Counts::default(), |sum, (_, group)| sum + group.counts)
    }

    pub(super) fn report(&self, took: Duration) -> Report {
        let entries = lock(&self.entries);
        Report { total: entries.total, took, groups: entries.groups.clone(), failures: entries.failures.clone() }
    }
}

impl std::ops::Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            made: self.made + other.made,
            ok: self.ok + other.ok,
            retried: self.retried + other.retried,
            failed: self.failed + other.failed,
            wrongly_accepted: self.wrongly_accepted + other.wrongly_accepted,
        }
    }
}

/// Ten minutes.
const LONGEST_MICROS: u64 = 600_000_000;
/// Number of failures in the report: the first are the most informative, and there may be very many.
const KEPT_FAILURES: usize = 20;
