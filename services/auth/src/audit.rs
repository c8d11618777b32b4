//! The audit log: one line for each refusal and each authenticated call.
//!
//! Decisions are put into a bounded queue without blocking the request; if the queue is full, the decision is dropped
//! and counted. A dedicated thread writes the lines in batches, because waking it for each line would cost requests
//! more than the line itself. Lines are `tracing` events; the writer may call [`more_follow`]. Events that must be
//! recorded before the response, such as an issued token, do not use this queue.

mod handshake;
mod line;
mod sample;

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use std::{iter, thread};

use gaia_api::mount::AuthMode;
use gaia_api::sync::lock;
use jiff::Timestamp;
use tracing::field;

use crate::decision::authenticator::Decision;
use crate::principal::{Credential, Identity, Transport};
use crate::{Reason, Trace, audit_line};

pub use self::handshake::{By, FailedHandshake};
pub use self::line::Origin;
pub use self::sample::Sample;
#[doc(hidden)]
pub use tracing;

/// The target of audit lines.
pub const AUDIT_TARGET: &str = "gaia.audit";

/// The fields of one audit line. None of them is secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    time: Timestamp,
    route: &'static str,
    transport: Transport,
    credential: Credential,
    mode: Option<AuthMode>,
    refused: Option<Reason>,
    /// The caller on the connection, if known.
    actor: Option<Identity>,
    /// The subject, if it differs from the actor.
    subject: Option<Identity>,
    serial: Option<Arc<str>>,
    trace: Trace,
    /// Reason why the next mode would have refused the accepted request.
    would_deny: Option<Reason>,
    /// The token that the next mode would have accepted, if it did not decide in this mode.
    would_pass: Option<Credential>,
    /// The request ID that appears in the logs of every service involved.
    request_id: Option<String>,
    /// The peer address of the connection.
    address: Option<IpAddr>,
    /// Number of anonymous refusals from this source since its last line.
    skipped: u64,
}

impl From<&Decision<'_>> for Record {
    fn from(decision: &Decision<'_>) -> Self {
        let principal = decision.principal;
        let peer = decision.peer.map(|peer| Identity::Service(peer.spiffe_id.clone()));
        let mut trace = decision.trace.clone();
        trace.key_id = trace.key_id.or_else(|| decision.key_id.map(Into::into));
        Self {
            time: decision.time,
            route: decision.route,
            transport: decision.transport,
            credential: decision.credential,
            mode: decision.mode,
            refused: decision.refused,
            actor: principal.map(|principal| principal.actor.clone()).or(peer),
            subject: principal.filter(|found| found.subject != found.actor).map(|found| found.subject.clone()),
            serial: decision.peer.map(|peer| peer.serial.clone()),
            trace,
            would_deny: decision.would_deny,
            would_pass: decision.would_pass,
            request_id: decision.request_id.map(str::to_owned),
            address: decision.address,
            skipped: 0,
        }
    }
}

impl Record {
    /// Returns true for a refusal without a verified identity: any client can cause such lines without limit. `kid` and
    /// the claimed names of a token are not verified.
    fn is_anonymous_refusal(&self) -> bool {
        let Trace { kid: _, claimed: _, jti, sub, key_id } = &self.trace;
        self.refused.is_some() && self.actor.is_none() && jti.is_none() && sub.is_none() && key_id.is_none()
    }

    /// Writes the line.
    pub fn write(&self) {
        audit_line!(
            Origin::new(self.address, self.request_id.as_deref()),
            event = "request",
            time = %self.time,
            result = if self.refused.is_some() { "refused" } else { "accepted" },
            reason = self.refused.map(Reason::as_str),
            who = self.actor.as_ref().map(field::display),
            subject = self.subject.as_ref().map(field::display),
            how = self.transport.as_str(),
            credential = self.credential.as_str(),
            mode = self.mode.map(AuthMode::as_str),
            serial = self.serial.as_deref(),
            kid = self.trace.kid.as_deref(),
            jti = self.trace.jti.as_deref(),
            sub = self.trace.sub.as_deref(),
            claimed_jti = self.trace.claimed_jti(),
            claimed_sub = self.trace.claimed_sub(),
            key_id = self.trace.key_id.as_deref(),
            would_deny = self.would_deny.map(Reason::as_str),
            would_pass = self.would_pass.map(Credential::as_str),
            route = self.route,
            skipped = (self.skipped > 0).then_some(self.skipped),
        );
    }
}

/// Sender side of the audit queue.
#[derive(Debug)]
pub struct AuditQueue {
    sender: SyncSender<Entry>,
    /// Sample of anonymous refusals.
    sample: Mutex<Sample>,
    /// Sample of failed handshakes.
    handshakes: Mutex<Sample>,
}

/// Receiver side of an [`AuditQueue`].
#[derive(Debug)]
pub struct AuditWriter {
    receiver: Receiver<Entry>,
}

#[derive(Debug)]
enum Entry {
    Record(Box<Record>),
    Handshake(Box<FailedHandshake>),
    /// Answered after all earlier entries are written.
    Flush(SyncSender<()>),
}

thread_local! {
    static MORE_FOLLOW: Cell<bool> = const { Cell::new(false) };
}

/// Returns true if this thread writes another audit line right after the current one, so that both can go into one
/// write.
#[must_use]
pub fn more_follow() -> bool {
    MORE_FOLLOW.get()
}

impl Entry {
    fn take(self) {
        match self {
            Self::Record(record) => record.write(),
            Self::Handshake(failed) => failed.write(),
            // The receiver may have timed out.
            Self::Flush(done) => drop(done.try_send(())),
        }
    }
}

/// Creates a queue and its writer.
#[must_use]
pub fn queue() -> (AuditQueue, AuditWriter) {
    let (sender, receiver) = sync_channel(MAX_QUEUED);
    (AuditQueue { sender, sample: Mutex::default(), handshakes: Mutex::default() }, AuditWriter { receiver })
}

/// The queue is full, so the decision has no audit line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the audit queue is full")]
pub struct Dropped;

impl AuditQueue {
    /// Puts a decision into the queue without blocking.
    ///
    /// # Errors
    /// [`Dropped`] if the queue is full.
    pub fn put(&self, decision: &Decision<'_>) -> Result<(), Dropped> {
        let mut record = Record::from(decision);
        if record.is_anonymous_refusal() {
            let sampled = lock(&self.sample).admit(record.address, record.time);
            let Some(skipped) = sampled else { return Ok(()) };
            record.skipped = skipped;
        }
        self.sender.try_send(Entry::Record(Box::new(record))).map_err(|_| Dropped)
    }

    /// Waits until all earlier entries are written, for use at process exit: at most `limit` for space in the queue and
    /// at most `limit` for writing.
    pub fn flush(&self, limit: Duration) {
        let (done, waiting) = sync_channel(1);
        let mut flush = Entry::Flush(done);
        let mut waited = Duration::ZERO;
        while let Err(error) = self.sender.try_send(flush) {
            let TrySendError::Full(back) = error else { return };
            if waited >= limit {
                return;
            }
            flush = back;
            thread::sleep(GATHERING);
            waited += GATHERING;
        }
        // A timeout is ignored: the process exits in either case.
        let _ = waiting.recv_timeout(limit);
    }

    fn handshakes(&self) -> MutexGuard<'_, Sample> {
        lock(&self.handshakes)
    }
}

impl AuditWriter {
    /// Writes entries until the queue is closed.
    pub fn run(self) {
        while let Ok(first) = self.receiver.recv() {
            if !matches!(first, Entry::Flush(_)) {
                // While the receiver does not block on the queue, senders need not wake it.
                thread::sleep(GATHERING);
            }
            let mut entries = iter::once(first).chain(self.receiver.try_iter()).peekable();
            while let Some(entry) = entries.next() {
                MORE_FOLLOW.set(matches!(entries.peek(), Some(Entry::Record(_) | Entry::Handshake(_))));
                entry.take();
            }
        }
    }
}

const MAX_QUEUED: usize = 4096;
/// Maximum time that a line waits for others of its batch.
const GATHERING: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::fixtures::{caller, now, peer};
    use crate::principal::PeerIdentity;

    fn decision<'a>(trace: &'a Trace, peer: Option<&'a PeerIdentity>, time: Timestamp) -> Decision<'a> {
        Decision {
            route: "/assets",
            transport: Transport::Plain,
            mode: Some(AuthMode::Dual),
            credential: Credential::None,
            principal: None,
            refused: Some(Reason::NoCredential),
            trace,
            peer,
            key_id: None,
            would_deny: None,
            would_pass: None,
            request_id: Some("r-1"),
            address: Some([192, 0, 2, 1].into()),
            time,
            took: SignedDuration::ZERO,
        }
    }

    fn records(writer: &AuditWriter) -> Vec<Record> {
        let records = writer.receiver.try_iter().map(|entry| match entry {
            Entry::Record(record) => *record,
            Entry::Handshake(_) | Entry::Flush(_) => panic!("only decisions are put here"),
        });
        records.collect()
    }

    #[test]
    fn refusals_of_nobody_are_sampled_and_what_was_left_out_is_counted() {
        let (queue, writer) = queue();
        // A client can send any `kid`.
        let nobody = [Trace::default(), Trace { kid: Some("k".into()), ..Trace::default() }];
        for number in 0..100 {
            queue.put(&decision(&nobody[number % 2], None, now())).unwrap();
        }
        assert_eq!(records(&writer).len(), 10);
        queue.put(&decision(&nobody[1], None, now() + SignedDuration::from_secs(10))).unwrap();
        assert_eq!(records(&writer)[0].skipped, 90);
    }

    #[test]
    fn a_refusal_of_someone_known_always_has_its_line() {
        let (queue, writer) = queue();
        let nothing = Trace::default();
        let known = [
            Trace { jti: Some("j".into()), ..Trace::default() },
            Trace { sub: Some("s".into()), ..Trace::default() },
            Trace { key_id: Some("k".into()), ..Trace::default() },
        ];
        let gateway = peer(caller());
        for _ in 0..50 {
            queue.put(&decision(&nothing, Some(&gateway), now())).unwrap();
            known.iter().for_each(|known| queue.put(&decision(known, None, now())).unwrap());
        }
        let records = records(&writer);
        assert_eq!(records.len(), 200);
        assert_eq!(records[0].actor, Some(Identity::Service(caller())));
        assert_eq!(records[0].serial.as_deref(), Some("01"));
        assert_eq!(records[0].address, Some([192, 0, 2, 1].into()));
    }

    #[test]
    fn a_full_queue_drops_rather_than_to_make_a_request_wait() {
        let (queue, writer) = queue();
        let (nothing, gateway) = (Trace::default(), peer(caller()));
        let put = || queue.put(&decision(&nothing, Some(&gateway), now()));
        let fitted = std::iter::repeat_with(put).take_while(Result::is_ok).count();
        assert_eq!(fitted, MAX_QUEUED);
        assert_eq!(put(), Err(Dropped));
        records(&writer);
        assert_eq!(put(), Ok(()));
    }

    #[test]
    fn what_was_put_before_a_flush_is_written_when_it_returns() {
        let (queue, writer) = queue();
        let (nothing, gateway) = (Trace::default(), peer(caller()));
        queue.put(&decision(&nothing, Some(&gateway), now())).unwrap();
        let writing = std::thread::spawn(|| writer.run());
        queue.flush(Duration::from_secs(10));
        drop(queue);
        writing.join().unwrap();
    }

    #[test]
    fn a_flush_waits_for_room_in_a_full_queue_and_no_longer_than_it_may() {
        let (queue, writer) = queue();
        let (nothing, gateway) = (Trace::default(), peer(caller()));
        while queue.put(&decision(&nothing, Some(&gateway), now())).is_ok() {}
        queue.flush(Duration::from_millis(10));
        std::thread::scope(|scope| {
            let flushing = scope.spawn(|| queue.flush(Duration::from_secs(60)));
            let is_flush = |entry| matches!(entry, Entry::Flush(_));
            while !is_flush(writer.receiver.recv_timeout(Duration::from_secs(30)).unwrap()) {}
            flushing.join().unwrap();
        });
    }
}
