//! Requests in progress on one connection, used to detect that it is idle.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use gaia_api::sync::lock;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use crate::server::hardening::heads::{ConnectionHeads, FREE_RESPONSE_BYTES, HeadsExhausted, RequestHead};
use crate::server::slots::SlotState;

/// Activity of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Activity(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    slot: Arc<SlotState>,
    has_spoken: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Requests without a complete response.
    under_way: usize,
    /// Of these, responses blocked by the client's flow-control window.
    held_up: usize,
    /// Time of the last progress.
    last: Instant,
}

/// One request, from its head to the end of its response.
#[derive(Debug)]
pub(crate) struct UnderWay {
    activity: Activity,
    is_held_up: bool,
}

impl Activity {
    pub(crate) fn new(slot: Arc<SlotState>) -> Self {
        let state = State { under_way: 0, held_up: 0, last: Instant::now() };
        Self(Arc::new(Inner { slot, has_spoken: AtomicBool::new(false), state: Mutex::new(state) }))
    }

    /// Records a new request.
    pub(crate) fn begin(&self) -> UnderWay {
        self.0.has_spoken.store(true, Ordering::Relaxed);
        self.0.slot.begin_request();
        let mut state = lock(&self.0.state);
        state.under_way += 1;
        state.last = Instant::now();
        drop(state);
        UnderWay { activity: self.clone(), is_held_up: false }
    }

    /// Returns true if the connection has received a request.
    pub(crate) fn has_spoken(&self) -> bool {
        self.0.has_spoken.load(Ordering::Relaxed)
    }

    /// Returns true if no request is in progress.
    pub(crate) fn is_idle(&self) -> bool {
        lock(&self.0.state).under_way == 0
    }

    /// Returns the time since which all requests in progress are blocked by the client, or since which there are none.
    pub(crate) fn waits_since(&self) -> Option<Instant> {
        let state = lock(&self.0.state);
        (state.under_way == state.held_up).then_some(state.last)
    }
}

impl UnderWay {
    fn set_held_up(&mut self, is_held_up: bool) {
        let mut state = lock(&self.activity.0.state);
        state.last = Instant::now();
        match (self.is_held_up, is_held_up) {
            (false, true) => state.held_up += 1,
            (true, false) => state.held_up -= 1,
            _ => {}
        }
        drop(state);
        self.is_held_up = is_held_up;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.activity.0.slot.end_request();
        let mut state = lock(&self.activity.0.state);
        state.under_way -= 1;
        state.held_up -= usize::from(self.is_held_up);
        state.last = Instant::now();
    }
}

/// A response body that ends the request in progress when it is dropped. It is passed on in pieces, and a piece waits while
/// the connection's source has used its share of the memory for responses.
#[derive(Debug)]
pub(crate) struct Answering {
    body: Body,
    under_way: UnderWay,
    heads: ConnectionHeads,
    /// The rest of a frame.
    rest: Bytes,
    waiting: Option<Pin<Box<Sleep>>>,
    _head: Option<RequestHead>,
}

impl Answering {
    /// `head` is the request's reservation in the head budget.
    pub(crate) fn new(body: Body, mut under_way: UnderWay, heads: ConnectionHeads, head: Option<RequestHead>) -> Self {
        // Blocked until hyper polls it: it does so only when the client's window has space.
        under_way.set_held_up(true);
        Self { body, under_way, heads, rest: Bytes::new(), waiting: None, _head: head }
    }

    /// Takes the next piece of the rest, once the budget has memory for it.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                ready!(waiting.as_mut().poll(cx));
                self.waiting = None;
            }
            let length = self.rest.len().min(PIECE_BYTES);
            match self.heads.queue_response(length) {
                Ok(()) => return Poll::Ready(self.rest.split_to(length)),
                Err(HeadsExhausted) => self.waiting = Some(Box::pin(sleep(BUDGET_RETRY))),
            }
        }
    }
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if this.rest.is_empty() {
            let polled = Pin::new(&mut this.body).poll_frame(cx);
            // It is asked for the next piece when there is room for it.
            this.under_way.set_held_up(matches!(polled, Poll::Ready(Some(Ok(_)))));
            match ready!(polled).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) if !data.is_empty() => this.rest = data,
                Some(Ok(Ok(empty))) => return Poll::Ready(Some(Ok(Frame::data(empty)))),
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        } else {
            this.under_way.set_held_up(true);
        }
        this.poll_piece(cx).map(|piece| Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (left, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(left.lower() + rest);
        if let Some(upper) = left.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

/// The largest piece of an answer that is passed to a connection at once: one frame of HTTP/2.
const PIECE_BYTES: usize = FREE_RESPONSE_BYTES;
const BUDGET_RETRY: Duration = Duration::from_millis(20);
