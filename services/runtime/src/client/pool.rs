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

use crate::limits::LANE_STREAMS;

/// The connection pool of each shard.
#[derive(Debug)]
pub(crate) struct Lanes<T>(Arc<[Lane<T>; LANES]>);

#[derive(Debug)]
struct Lane<T> {
    pool: T,
    under_way: Arc<AtomicUsize>,
}

/// The place of one request in a shard until it is dropped. It does not keep the connection open.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicUsize>);

/// The streamed body of a response. The request is in progress until its end, or until it is dropped.
#[derive(Debug)]
pub struct AnswerBody {
    body: Incoming,
    place: Option<Place>,
}

impl<T> Clone for Lanes<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Lanes<T> {
    pub(crate) fn new(pool: impl Fn() -> T) -> Self {
        Self(Arc::new(std::array::from_fn(|_| Lane { pool: pool(), under_way: Arc::default() })))
    }

    /// Reserves a place for one request: in the first shard that is not full, otherwise in the one with the fewest
    /// requests.
    pub(crate) fn enter(&self) -> (&T, Place) {
        let has_room = |lane: &&Lane<T>| {
            let one_more = |under_way| (under_way < LANE_STREAMS as usize).then_some(under_way + 1);
            lane.under_way.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
        };
        let lane = self.0.iter().find(has_room).unwrap_or_else(|| {
            let lanes = &self.0[1..];
            let fewest = lanes.iter().fold(&self.0[0], |fewest, lane| {
                let under_way = |lane: &Lane<T>| lane.under_way.load(Ordering::Relaxed);
                if under_way(lane) < under_way(fewest) { lane } else { fewest }
            });
            fewest.under_way.fetch_add(1, Ordering::Relaxed);
            fewest
        });
        (&lane.pool, Place(Arc::clone(&lane.under_way)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AnswerBody {
    pub(crate) fn new(body: Incoming, place: Place) -> Self {
        let place = (!body.is_end_stream()).then_some(place);
        Self { body, place }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.place = None;
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

const LANES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// Shards that return their index.
    fn lanes() -> Lanes<usize> {
        let next = AtomicUsize::new(0);
        Lanes::new(|| next.fetch_add(1, Ordering::Relaxed))
    }

    #[test]
    fn a_request_takes_the_first_lane_that_has_room() {
        let lanes = lanes();
        let mut places: Vec<_> = (0..LANE_STREAMS).map(|_| lanes.enter()).collect();
        assert!(places.iter().all(|(lane, _)| **lane == 0));
        assert_eq!(*lanes.clone().enter().0, 1, "clones share the shards");
        places.pop();
        for _ in 0..2 {
            assert_eq!(*lanes.enter().0, 0, "a dropped place is free again");
        }
    }

    #[test]
    fn when_all_lanes_are_full_a_request_takes_the_one_with_the_fewest() {
        let lanes = lanes();
        let all = LANES * LANE_STREAMS as usize;
        let mut places: Vec<_> = (0..all + LANES).map(|_| lanes.enter()).collect();
        for lane in 0..LANES {
            assert_eq!(places.iter().filter(|(found, _)| **found == lane).count(), LANE_STREAMS as usize + 1);
        }
        places.retain(|(lane, _)| **lane != 7);
        places.extend((0..=LANE_STREAMS).map(|_| lanes.enter()));
        assert_eq!(places.iter().filter(|(lane, _)| **lane == 7).count(), LANE_STREAMS as usize + 1);
    }
}
