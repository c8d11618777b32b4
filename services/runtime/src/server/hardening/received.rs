//! Request bodies, and the memory for data of them that was received and not read yet.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::server::hardening::heads::{BodyMemory, ConnectionHeads, HeadsExhausted};

/// A request body that is charged to its connection until it ends.
pub(crate) struct Received<B> {
    body: B,
    memory: Option<BodyMemory>,
}

impl<B: Body<Data = Bytes> + Unpin> Received<B> {
    /// Reserves the memory of a body. On [`HeadsExhausted`] the source of the connection has used its share and the request
    /// must be refused. Frames that are read from its body to keep the connection usable are still counted.
    pub(crate) fn new(body: B, heads: &ConnectionHeads) -> (Self, Result<(), HeadsExhausted>) {
        let mut memory = heads.body();
        if body.is_end_stream() {
            return (Self { body, memory: None }, Ok(()));
        }
        let reserved = memory.reserve(body.size_hint().upper());
        (Self { body, memory: Some(memory) }, reserved)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Received<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(memory), Some(_)) = (&self.memory, frame.data_ref().filter(|data| !data.is_empty())) {
                    memory.read_frame();
                }
            }
            Poll::Ready(None | Some(Err(_))) => self.memory = None,
            Poll::Pending => {}
        }
        if self.body.is_end_stream() {
            self.memory = None;
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
