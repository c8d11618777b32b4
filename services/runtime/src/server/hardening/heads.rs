//! Memory budget for request heads, requests in progress, bodies that are not read yet and responses that are not sent
//! yet, over all connections of a service.
//!
//! A source may use at most as much as is free: a source alone gets half of the budget, `n` sources get `1/(n + 1)` each,
//! and the same share stays free for the next one. The first 8 KiB of a connection and the first 16 KiB of its responses
//! are not charged, so ordinary requests succeed while the budget is exhausted.
//!
//! Heads, and bodies with responses, are two budgets of the same size.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use gaia_api::sync::lock;
use http::request::Parts;

use crate::client_ip::site;
use crate::concurrency::shares::{ShareExhausted, Shares};
use crate::limits::STREAM_WINDOW_BYTES;

/// The budget of heads and the budget of bodies and responses. A source that has exhausted the second one is refused further
/// uploads and keeps its connections. Clones share both.
#[derive(Debug, Clone)]
pub(crate) struct HeadBudget {
    heads: Shares<IpAddr>,
    bodies: Shares<IpAddr>,
}

/// The source of a connection has used its share of the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the memory budget of the source for requests is exhausted")]
pub(crate) struct HeadsExhausted;

impl HeadBudget {
    /// So many bytes for heads, and as many for bodies and responses.
    pub(crate) fn new(bytes: usize) -> Self {
        Self { heads: Shares::new(bytes), bodies: Shares::new(bytes) }
    }

    /// Opens the account of one connection.
    pub(crate) fn connection(&self, source: IpAddr) -> ConnectionHeads {
        let account = Account { budget: self.clone(), source: site(source), held: Mutex::default() };
        ConnectionHeads(Arc::new(account))
    }

    /// Returns the number of uncharged bytes for heads.
    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.heads.free()
    }

    /// The bytes for bodies and responses that are not charged.
    #[cfg(test)]
    pub(crate) fn free_for_bodies(&self) -> usize {
        self.bodies.free()
    }
}

/// Replaces one charge of a source by another.
fn replace(budget: &Shares<IpAddr>, source: IpAddr, old: usize, new: usize) -> Result<(), HeadsExhausted> {
    match new.checked_sub(old) {
        Some(more) => budget.take(&source, more).map_err(|ShareExhausted| HeadsExhausted),
        None => {
            budget.give_back(&source, old - new);
            Ok(())
        }
    }
}

/// The account of one connection. Its bytes are released when the last clone is dropped.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionHeads(Arc<Account>);

#[derive(Debug)]
struct Account {
    budget: HeadBudget,
    source: IpAddr,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// Bytes of incomplete TLS records.
    records: usize,
    /// Bytes of incomplete heads or frames.
    unfinished: usize,
    /// Requests in progress, with their heads.
    requests: usize,
    /// Memory reserved for request bodies: the upper bound of their buffers.
    bodies: usize,
    /// DATA frames that were received and not read. Each costs much more than a small payload.
    data_frames: usize,
    /// HTTP/2 streams that have not ended on the wire.
    streams: usize,
    /// Bytes of responses that were passed to the connection and not written.
    responses: usize,
    /// Requests whose head was received, and those that were passed to a handler.
    received: u64,
    begun: u64,
    /// Bodies that are being read.
    bodies_open: usize,
    charged: usize,
    charged_bodies: usize,
}

/// The changes of one HTTP/2 connection by the bytes of one read.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Arrived {
    /// Bytes of unfinished heads and frames, all in all.
    pub(crate) unfinished: usize,
    /// Streams that have not ended, all in all.
    pub(crate) streams: usize,
    /// DATA frames in this read.
    pub(crate) data_frames: usize,
    /// Requests that began in this read.
    pub(crate) requests: usize,
}

/// One request in progress.
#[derive(Debug)]
pub(crate) struct RequestHead {
    heads: ConnectionHeads,
    bytes: usize,
}

impl ConnectionHeads {
    /// Sets the bytes of an unfinished TLS record or handshake message.
    ///
    /// # Errors
    /// [`HeadsExhausted`]: then the connection must be closed.
    pub(crate) fn set_records(&self, bytes: usize) -> Result<(), HeadsExhausted> {
        self.change(|held| held.records = bytes)
    }

    /// Adds bytes of an unfinished TLS record or handshake message.
    ///
    /// # Errors
    /// [`HeadsExhausted`]: then the connection must be closed.
    pub(crate) fn add_records(&self, bytes: usize) -> Result<(), HeadsExhausted> {
        self.change(|held| held.records += bytes)
    }

    /// Sets the bytes of an unfinished head or frame.
    ///
    /// # Errors
    /// [`HeadsExhausted`]: then nothing more of it may be read.
    pub(crate) fn set_unfinished(&self, bytes: usize) -> Result<(), HeadsExhausted> {
        self.change(|held| held.unfinished = bytes)
    }

    /// Takes the frames of one read of an HTTP/2 connection.
    ///
    /// # Errors
    /// [`HeadsExhausted`]: then nothing more of it may be read.
    pub(crate) fn arrived(&self, arrived: Arrived) -> Result<(), HeadsExhausted> {
        self.change(|held| {
            held.unfinished = arrived.unfinished;
            held.streams = arrived.streams;
            held.data_frames += arrived.data_frames;
            held.received += arrived.requests as u64;
        })
    }

    /// The body of a request that is passed to a handler. Nothing is reserved for it yet.
    pub(crate) fn body(&self) -> BodyMemory {
        self.release(|held| {
            held.begun += 1;
            held.bodies_open += 1;
        });
        BodyMemory { heads: self.clone(), bytes: 0 }
    }

    /// Charges bytes of a response until they are written.
    ///
    /// # Errors
    /// [`HeadsExhausted`]: then the response must wait.
    pub(crate) fn queue_response(&self, bytes: usize) -> Result<(), HeadsExhausted> {
        self.change(|held| held.responses += bytes)
    }

    /// Releases bytes of responses that were written; all of them where no stream is left.
    pub(crate) fn wrote_response(&self, bytes: usize, streams: Option<usize>) {
        self.release(|held| {
            held.responses = if streams == Some(0) { 0 } else { held.responses.saturating_sub(bytes) };
            held.streams = streams.unwrap_or(held.streams);
        });
    }

    /// Charges a request until the result is dropped.
    ///
    /// # Errors
    /// [`HeadsExhausted`]: then it must be refused.
    pub(crate) fn request(&self, head: &Parts) -> Result<RequestHead, HeadsExhausted> {
        let fields = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_BYTES);
        let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
        let bytes = REQUEST_BYTES + target + fields.sum::<usize>();
        self.change(|held| held.requests += bytes)?;
        Ok(RequestHead { heads: self.clone(), bytes })
    }

    /// Changes the account; it is unchanged on error.
    fn change(&self, change: impl FnOnce(&mut Held)) -> Result<(), HeadsExhausted> {
        let mut held = lock(&self.0.held);
        let before = Held { ..*held };
        change(&mut held);
        let Account { budget: HeadBudget { heads, bodies }, source, .. } = &*self.0;
        let (charge, body_charge) = held.to_charge();
        let changed = replace(heads, *source, before.charged, charge).and_then(|()| {
            let changed = replace(bodies, *source, before.charged_bodies, body_charge);
            if changed.is_err() {
                // A change is of one kind: nothing, or less, was taken before.
                let _ = replace(heads, *source, charge, before.charged);
            }
            changed
        });
        match changed {
            Ok(()) => (held.charged, held.charged_bodies) = (charge, body_charge),
            Err(HeadsExhausted) => *held = before,
        }
        changed
    }

    /// Changes the account by something that costs nothing.
    fn release(&self, change: impl FnOnce(&mut Held)) {
        // Giving back always succeeds.
        let _ = self.change(change);
    }
}

impl Held {
    /// The charges to both budgets.
    fn to_charge(&self) -> (usize, usize) {
        let heads = self.records + self.unfinished + self.requests;
        let frames = self.data_frames * FRAME_BYTES + self.streams * STREAM_BYTES;
        let responses = self.responses.saturating_sub(FREE_RESPONSE_BYTES);
        ((heads + frames).saturating_sub(FREE_BYTES), self.bodies.saturating_sub(FREE_BYTES) + responses)
    }
}

/// The memory of one request body, until the body ends or is dropped.
#[derive(Debug)]
pub(crate) struct BodyMemory {
    heads: ConnectionHeads,
    bytes: usize,
}

impl BodyMemory {
    /// Reserves the memory that a body of this length can take while it is not read: its length, and at most one window.
    ///
    /// # Errors
    /// [`HeadsExhausted`]: then the request must be refused.
    pub(crate) fn reserve(&mut self, length: Option<u64>) -> Result<(), HeadsExhausted> {
        let most = u64::from(STREAM_WINDOW_BYTES);
        let bytes = usize::try_from(length.unwrap_or(most).min(most)).unwrap_or(usize::MAX);
        self.heads.change(|held| held.bodies += bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    /// A DATA frame was read.
    pub(crate) fn read_frame(&self) {
        self.heads.release(|held| held.data_frames = held.data_frames.saturating_sub(1));
    }
}

impl Drop for BodyMemory {
    fn drop(&mut self) {
        let bytes = self.bytes;
        self.heads.release(|held| {
            held.bodies -= bytes;
            held.bodies_open -= 1;
            // Frames of bodies that were dropped before their end. A body that was received and has not begun keeps them.
            if held.bodies_open == 0 && held.begun >= held.received {
                held.data_frames = 0;
            }
        });
    }
}

impl Account {}

impl Drop for Account {
    fn drop(&mut self) {
        let (charged, bodies) = {
            let held = lock(&self.held);
            (held.charged, held.charged_bodies)
        };
        self.budget.heads.give_back(&self.source, charged);
        self.budget.bodies.give_back(&self.source, bodies);
    }
}

impl Drop for RequestHead {
    fn drop(&mut self) {
        let bytes = self.bytes;
        self.heads.release(|held| held.requests -= bytes);
    }
}

/// Bytes of a connection that are not charged: the size of hyper's first buffer.
const FREE_BYTES: usize = 8 * 1024;
/// Bytes of the responses of a connection that are not charged: one piece.
pub(crate) const FREE_RESPONSE_BYTES: usize = 16 * 1024;
/// Memory for a request in progress in addition to its head.
const REQUEST_BYTES: usize = 4 * 1024;
/// Memory for an HTTP/2 stream in addition to its request: its response can wait after the request has ended.
const STREAM_BYTES: usize = 1024;
/// Memory for a received DATA frame in addition to its payload: h2 keeps each in an entry of about 300 bytes, in a table that
/// doubles.
const FRAME_BYTES: usize = 512;
/// Memory for a header field in addition to its text.
const FIELD_BYTES: usize = 96;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    #[test]
    fn a_source_alone_gets_half_and_fifty_leave_a_share_for_the_next() {
        let total = 16 * 1024 * 1024;
        for (sources, share) in [(1, total / 2), (50, total / 51)] {
            let budget = HeadBudget::new(total);
            let mut held = Vec::new();
            loop {
                let before = held.len();
                for number in 0..sources {
                    let heads = budget.connection(source(number));
                    if heads.set_unfinished(FREE_BYTES + 1024).is_ok() {
                        held.push(heads);
                    }
                }
                if held.len() == before {
                    break;
                }
            }
            let left = budget.free();
            assert!(left.abs_diff(share) < 100 * 1024, "{sources} sources leave {left}, not {share}");
            assert_eq!(budget.connection(source(200)).set_unfinished(64 * 1024), Ok(()), "another source has a share");
            drop(held);
            assert_eq!(budget.free(), total);
            assert_eq!(budget.heads.holders(), 0);
        }
    }

    #[test]
    fn ordinary_requests_are_served_when_the_budget_is_used_up() {
        let budget = HeadBudget::new(0);
        let heads = budget.connection(source(1));
        let (head, ()) = http::Request::get("/assets/a").header("host", "x").body(()).unwrap().into_parts();
        let request = heads.request(&head).unwrap();
        assert_eq!(heads.request(&head).map(drop), Err(HeadsExhausted), "the second one at the same time is not");
        drop(request);
        assert!(heads.request(&head).is_ok());
        assert_eq!(heads.set_unfinished(FREE_BYTES + 1), Err(HeadsExhausted));
    }

    proptest! {
        #[test]
        fn everything_is_given_back(steps in proptest::collection::vec((0u8..4, 0u8..4, 0usize..40_000), 0..100)) {
            let budget = HeadBudget::new(256 * 1024);
            let connections: Vec<_> = (0..4).map(|number| budget.connection(source(number / 2))).collect();
            for (number, kind, bytes) in steps {
                let heads = &connections[usize::from(number)];
                let _ = match kind {
                    0 => heads.set_records(bytes),
                    1 => heads.set_unfinished(bytes),
                    2 => heads.set_unfinished(0),
                    _ => heads.add_records(bytes / 8),
                };
                let used = budget.heads.held();
                prop_assert_eq!(used + budget.free(), 256 * 1024);
            }
            drop(connections);
            prop_assert_eq!(budget.free(), 256 * 1024);
        }
    }
}
