//! The audit log: one line for each refusal and each call by someone who is known.
//!
//! Decisions are put into a bounded queue, which never makes a request wait: what finds it full is dropped and counted.
//! A thread of its own writes the lines, some at a time: to be woken for each would cost requests more than the line does.
//! Lines are `tracing` events; what writes them may ask whether [`more_follow`].
//! What must be on record before the answer (a token that was issued) does not go this way.

mod handshake;
mod sample;

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{iter, thread};

use gaia_api::mount::AuthMode;
use jiff::Timestamp;
use tracing::field;

use self::sample::Sample;
use crate::authenticator::Decision;
use crate::principal::{Credential, Identity, Transport};
use crate::{Reason, Trace};

pub use self::handshake::{By, FailedHandshake};

/// The target of audit lines.
pub const AUDIT_TARGET: &str = "gaia.audit";

/// What one line says: who, how, and what became of it. Nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    time: Timestamp,
    route: &'static str,
    transport: Transport,
    credential: Credential,
    mode: Option<AuthMode>,
    refused: Option<Reason>,
    /// Who is on the wire, as far as it is known.
    actor: Option<Identity>,
    /// For whom, where it is someone else.
    subject: Option<Identity>,
    serial: Option<Arc<str>>,
    trace: Trace,
    /// Why the next mode would have refused what passed.
    would_deny: Option<Reason>,
    /// The token that would have passed in the next mode, where it decided nothing in this one.
    would_pass: Option<Credential>,
    /// What the request is called in the logs of every service it passes.
    request_id: Option<String>,
    /// The address at the other end of the connection.
    address: Option<IpAddr>,
    /// How many refusals of nobody in particular came before this one from the same source without a line.
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
        tracing::info!(
            target: AUDIT_TARGET,
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
            request_id = self.request_id,
            address = self.address.map(|address| field::display(address.to_canonical())),
            skipped = (self.skipped > 0).then_some(self.skipped),
        );
    }
}

/// The way into the audit log.
#[derive(Debug)]
pub struct AuditQueue {
    sender: SyncSender<Entry>,
    /// Of refusals of nobody in particular.
    sample: Mutex<Sample>,
    /// Of handshakes.
    handshakes: Mutex<Sample>,
}

/// The other end of an [`AuditQueue`].
#[derive(Debug)]
pub struct AuditWriter {
    receiver: Receiver<Entry>,
}

#[derive(Debug)]
enum Entry {
    Record(Box<Record>),
    Handshake(Box<FailedHandshake>),
    /// Everything before it is written once this is answered.
    Flush(SyncSender<()>),
}

thread_local! {
    static MORE_FOLLOW: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread has another audit line to write right after the one it is writing: both may go in one write.
#[must_use]
pub fn more_follow() -> bool {
    MORE_FOLLOW.get()
}

impl Entry {
    fn take(self) {
        match self {
            Self::Record(record) => record.write(),
            Self::Handshake(failed) => failed.write(),
            // Who waited may have given up.
            Self::Flush(done) => drop(done.try_send(())),
        }
    }
}

/// A queue, and who writes what is put into it.
#[must_use]
pub fn queue() -> (AuditQueue, AuditWriter) {
    let (sender, receiver) = sync_channel(MAX_QUEUED);
    (AuditQueue { sender, sample: Mutex::default(), handshakes: Mutex::default() }, AuditWriter { receiver })
}

/// A decision has no line because the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the audit queue is full")]
pub struct Dropped;

impl AuditQueue {
    /// Puts a decision into the queue, without waiting.
    ///
    /// # Errors
    /// [`Dropped`] if there is no room.
    pub fn put(&self, decision: &Decision<'_>) -> Result<(), Dropped> {
        let mut record = Record::from(decision);
        if record.is_anonymous_refusal() {
            let sampled = locked(&self.sample).admit(record.address, record.time);
            let Some(skipped) = sampled else { return Ok(()) };
            record.skipped = skipped;
        }
        self.sender.try_send(Entry::Record(Box::new(record))).map_err(|_| Dropped)
    }

    /// Waits until all that was put before is written: for room in the queue and for the writing no longer than `limit`
    /// each. For the end of a process.
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
        // Either way there is nothing left to do.
        let _ = waiting.recv_timeout(limit);
    }

    fn handshakes(&self) -> MutexGuard<'_, Sample> {
        locked(&self.handshakes)
    }
}

fn locked(sample: &Mutex<Sample>) -> MutexGuard<'_, Sample> {
    // Nothing panics while it is held.
    sample.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AuditWriter {
    /// Writes what is put into the queue until its other end is gone.
    pub fn run(self) {
        while let Ok(first) = self.receiver.recv() {
            if !matches!(first, Entry::Flush(_)) {
                // While nobody waits at the queue, putting something into it wakes nobody.
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
/// How long a line may wait for others.
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
        // Anybody can write any `kid`.
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
