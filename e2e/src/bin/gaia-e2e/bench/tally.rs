//! The API server's requests in one namespace: the same clock and the same log for all.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::Result;
use gaia_e2e::audit::AuditMark;
use gaia_e2e::{AuditLog, AuditRecord, wait};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Requests of one kind that succeeded.
#[derive(Debug, Clone, Default)]
pub(super) struct Requests {
    pub(super) count: usize,
    names: HashSet<String>,
    first: Option<Timestamp>,
    /// The times of their answers.
    answered: Vec<Timestamp>,
    /// The server's time for all of them, in seconds.
    server_seconds: f64,
}

/// Follows the writes in a namespace.
pub(super) struct Tally {
    log: AuditLog,
    mark: AuditMark,
    namespace: String,
    pub(super) certificates: Requests,
    pub(super) secrets: Requests,
    /// Including those before another CA signed.
    pub(super) secrets_in_all: usize,
    pub(super) statuses: Requests,
    pub(super) events: Requests,
    /// Requests that were refused or failed.
    pub(super) failed: usize,
    /// The last time the CA's ring was replaced before the first status was written: since then the new CA signs.
    switched: Option<Timestamp>,
}

impl Tally {
    /// From now on.
    pub(super) fn begin(log: AuditLog, namespace: &str) -> Self {
        Self {
            mark: log.mark(),
            log,
            namespace: namespace.to_owned(),
            certificates: Requests::default(),
            secrets: Requests::default(),
            secrets_in_all: 0,
            statuses: Requests::default(),
            events: Requests::default(),
            failed: 0,
            switched: None,
        }
    }

    /// Until so many different resources have a written status.
    pub(super) async fn until_statuses(&mut self, count: usize, timeout: Duration) -> Result<()> {
        let what = format!("{count} statuses are written in {}", self.namespace);
        wait::until_true(&what, timeout, async || -> Result<bool> {
            self.read()?;
            Ok(self.statuses.names.len() >= count)
        })
        .await
    }

    /// Until so many events exist, or none has arrived for some time.
    pub(super) async fn until_events(&mut self, count: usize) -> Result<()> {
        let mut seen = (self.events.count, Instant::now());
        wait::until_true(
            &format!("{count} events are written in {}", self.namespace),
            LONG,
            async || -> Result<bool> {
                self.read()?;
                if self.events.count != seen.0 {
                    seen = (self.events.count, Instant::now());
                }
                Ok(self.events.count >= count || seen.1.elapsed() > PATIENCE)
            },
        )
        .await
    }

    pub(super) fn read(&mut self) -> Result<()> {
        let (records, mark) = self.log.read_on(self.mark)?;
        self.mark = mark;
        for record in records.iter().filter(|record| record.is_write()) {
            self.add(record);
        }
        Ok(())
    }

    fn add(&mut self, record: &AuditRecord) {
        if record.resource == "secrets" && record.verb == "update" && record.name.ends_with("-ca-ring") {
            if self.statuses.first.is_none() {
                self.switched = Some(record.completed);
                // The writes until then published the new CA.
                self.secrets = Requests::default();
            }
            return;
        }
        if record.namespace != self.namespace {
            return;
        }
        self.secrets_in_all += usize::from(record.resource == "secrets" && record.succeeded());
        let kind = match (record.resource.as_str(), record.subresource.as_str()) {
            ("servicecertificates", "") => &mut self.certificates,
            ("servicecertificates", "status") => &mut self.statuses,
            ("secrets", "") => &mut self.secrets,
            ("events", "") => &mut self.events,
            _ => return,
        };
        if record.succeeded() { kind.add(record) } else { self.failed += 1 }
    }

    /// Certificates a second, from the first Secret to the last status.
    pub(super) fn pairs_rate(&self) -> f64 {
        self.statuses.rate_from(self.secrets.first)
    }

    /// Certificates a second, from the activation of another CA to the last status; where no CA changed, from the
    /// first Secret.
    pub(super) fn replaced_rate(&self) -> f64 {
        self.statuses.rate_from(self.switched.or(self.secrets.first))
    }

    /// The same, for certificates after the jitter.
    pub(super) fn rate_after(&self, jitter: SignedDuration) -> f64 {
        self.statuses.rate_from(self.switched.map(|switched| switched + jitter))
    }

    /// Certificates a second, from the first resource to the last status.
    pub(super) fn triples_rate(&self) -> f64 {
        self.statuses.rate_from(self.certificates.first)
    }
}

impl Requests {
    fn add(&mut self, record: &AuditRecord) {
        self.count += 1;
        self.names.insert(record.name.clone());
        self.first = Some(self.first.map_or(record.received, |first| first.min(record.received)));
        self.answered.push(record.completed);
        self.server_seconds += seconds(record.received, record.completed);
    }

    /// A rate from then to the last answer.
    pub(super) fn rate_from(&self, start: Option<Timestamp>) -> f64 {
        match (start, self.answered.iter().max()) {
            (Some(start), Some(last)) => {
                let count = self.answered.iter().filter(|answered| **answered > start).count();
                number(count) / seconds(start, *last).max(1e-6)
            }
            _ => 0.0,
        }
    }

    /// A rate from the first request to the last answer.
    pub(super) fn rate(&self) -> f64 {
        self.rate_from(self.first)
    }

    /// The server's time for one, in milliseconds.
    pub(super) fn server_ms(&self) -> f64 {
        1000.0 * self.server_seconds / number(self.count.max(1))
    }
}

pub(super) fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "counts of some thousands")]
pub(super) fn number(count: usize) -> f64 {
    count as f64
}

const LONG: Duration = Duration::from_secs(600);
const PATIENCE: Duration = Duration::from_secs(10);
