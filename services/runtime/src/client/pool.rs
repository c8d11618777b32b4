//! HTTP/2 connection pool for one server, in several shards.
//!
//! A server processes a limited number of requests per connection, and unread responses fill the connection's window
//! until other responses on it stall. hyper keeps one connection per server, so each shard has its own. Requests use
//! the first shard until it is full, then the next one.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::body::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::limits::SHARD_STREAMS;

/// The connection pool of each shard.
#[derive(Debug)]
pub(crate) struct Shards<T>(Arc<[Shard<T>; SHARDS]>);

#[derive(Debug)]
struct Shard<T> {
    pool: T,
    under_way: Arc<AtomicUsize>,
}

/// The slot of one request in a shard until it is dropped. It does not keep the connection open.
#[derive(Debug)]
pub(crate) struct ShardSlot(Arc<AtomicUsize>);

/// The streamed body of a response. The request is in progress until its end, or until it is dropped.
#[derive(Debug)]
pub struct AnswerBody {
    body: Incoming,
    slot: Option<ShardSlot>,
}

impl<T> Clone for Shards<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Shards<T> {
    pub(crate) fn new(pool: impl Fn() -> T) -> Self {
        Self(Arc::new(std::array::from_fn(|_| Shard { pool: pool(), under_way: Arc::default() })))
    }

    /// Reserves a slot for one request: in the first shard that is not full, otherwise in the one with the fewest
    /// requests.
    pub(crate) fn enter(&self) -> (&T, ShardSlot) {
        let has_room = |shard: &&Shard<T>| {
            let one_more = |under_way| (under_way < SHARD_STREAMS as usize).then_some(under_way + 1);
            shard.under_way.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
        };
        let shard = self.0.iter().find(has_room).unwrap_or_else(|| {
            let shards = &self.0[1..];
            let fewest = shards.iter().fold(&self.0[0], |fewest, shard| {
                let under_way = |shard: &Shard<T>| shard.under_way.load(Ordering::Relaxed);
                if under_way(shard) < under_way(fewest) { shard } else { fewest }
            });
            fewest.under_way.fetch_add(1, Ordering::Relaxed);
            fewest
        });
        (&shard.pool, ShardSlot(Arc::clone(&shard.under_way)))
    }
}

impl Drop for ShardSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AnswerBody {
    pub(crate) fn new(body: Incoming, slot: ShardSlot) -> Self {
        let slot = (!body.is_end_stream()).then_some(slot);
        Self { body, slot }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.slot = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

const SHARDS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// Shards that return their index.
    fn shards() -> Shards<usize> {
        let next = AtomicUsize::new(0);
        Shards::new(|| next.fetch_add(1, Ordering::Relaxed))
    }

    #[test]
    fn a_request_takes_the_first_lane_that_has_room() {
        let shards = shards();
        let mut slots: Vec<_> = (0..SHARD_STREAMS).map(|_| shards.enter()).collect();
        assert!(slots.iter().all(|(shard, _)| **shard == 0));
        assert_eq!(*shards.clone().enter().0, 1, "clones share the shards");
        slots.pop();
        for _ in 0..2 {
            assert_eq!(*shards.enter().0, 0, "a dropped slot is free again");
        }
    }

    #[test]
    fn when_all_lanes_are_full_a_request_takes_the_one_with_the_fewest() {
        let shards = shards();
        let all = SHARDS * SHARD_STREAMS as usize;
        let mut slots: Vec<_> = (0..all + SHARDS).map(|_| shards.enter()).collect();
        for shard in 0..SHARDS {
            assert_eq!(slots.iter().filter(|(found, _)| **found == shard).count(), SHARD_STREAMS as usize + 1);
        }
        slots.retain(|(shard, _)| **shard != 7);
        slots.extend((0..=SHARD_STREAMS).map(|_| shards.enter()));
        assert_eq!(slots.iter().filter(|(shard, _)| **shard == 7).count(), SHARD_STREAMS as usize + 1);
    }
}
