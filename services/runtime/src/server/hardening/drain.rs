//! Drains the rest of a request body after the response, which is usually a refusal.
//!
//! Dropping the body would make HTTP/2 send a reset right after the response, and HTTP/1 close a connection with data
//! in transit. Both are permitted, but some clients report the reset instead of the response (curl 7.88 does). The rest
//! is therefore read and discarded, up to [`MAX_BYTES`] and [`MAX_TIME`].

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// A body that is drained after it is dropped.
pub(crate) struct Lingering<B>(Option<B>)
where
    B: Body<Data = Bytes> + Send + Unpin + 'static;

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Lingering<B> {
    pub(crate) fn new(body: B) -> Self {
        Self(Some(body))
    }
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Body for Lingering<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.0 = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Drop for Lingering<B> {
    fn drop(&mut self) {
        if let Some(body) = self.0.take_if(|body| !body.is_end_stream())
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(timeout(MAX_TIME, drain(body)));
        }
    }
}

async fn drain<B: Body<Data = Bytes> + Unpin>(mut body: B) {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
        if bytes > MAX_BYTES {
            return;
        }
    }
}

/// About as much as a client can send before it receives the response.
const MAX_BYTES: usize = 1024 * 1024;
const MAX_TIME: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::tests::Sent;

    fn body() -> (mpsc::Sender<Bytes>, Lingering<Sent>) {
        let (sender, receiver) = mpsc::channel(1);
        (sender, Lingering::new(Sent(receiver)))
    }

    #[tokio::test]
    async fn what_is_still_being_sent_is_taken_after_the_body_was_dropped() {
        let (sender, body) = body();
        drop(body);
        for _ in 0..10 {
            sender.send(Bytes::from_static(b"more")).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_client_that_does_not_stop_sending_is_cut_off() {
        let (sender, body) = body();
        drop(body);
        let chunk = Bytes::from(vec![0; 64 * 1024]);
        let mut sent = 0;
        while sender.send(chunk.clone()).await.is_ok() {
            sent += chunk.len();
        }
        assert!((MAX_BYTES..2 * MAX_BYTES).contains(&sent), "{sent}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_nothing_is_not_waited_for_long() {
        let (sender, body) = body();
        drop(body);
        timeout(MAX_TIME * 2, sender.closed()).await.unwrap();
    }

    #[tokio::test]
    async fn a_body_that_was_read_to_its_end_leaves_nothing_to_do() {
        let (sender, mut body) = body();
        sender.send(Bytes::from_static(b"all")).await.unwrap();
        drop(sender);
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "all");
        assert!(body.frame().await.is_none() && body.is_end_stream());
    }
}
