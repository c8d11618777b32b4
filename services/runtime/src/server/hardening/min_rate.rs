//! Minimum transfer rate of clients.
//!
//! Only time spent waiting for the client counts. A client has an initial credit of time and earns more by transferred
//! bytes, but never more than the initial credit: a fast start does not pay for a later stall.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::limits::MIN_BYTES_PER_SECOND;

/// The remaining time of one client.
struct Credit {
    most: Duration,
    left: Duration,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Credit {
    fn new(most: Duration) -> Self {
        Self { most, left: most, waiting: None }
    }

    /// Polls while waiting for the client; ready when the credit is used up.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.left;
        let (_, end) = self.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(sleep(left))));
        end.as_mut().poll(cx)
    }

    /// Stops waiting, and earns credit for these bytes.
    fn moved(&mut self, bytes: usize) {
        if let Some((since, _)) = self.waiting.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        }
        let earned = Duration::from_secs(bytes as u64) / MIN_BYTES_PER_SECOND;
        self.left = self.most.min(self.left + earned);
    }
}

/// A request body that fails when it arrives too slowly.
pub(crate) struct Paced<B> {
    body: B,
    credit: Credit,
    is_too_slow: Arc<AtomicBool>,
}

/// Reason why a body failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PaceError<E> {
    #[error("the request body arrives too slowly")]
    TooSlow,
    #[error(transparent)]
    Body(E),
}

impl<B> Paced<B> {
    /// `is_too_slow` is set when the body was too slow.
    pub(crate) fn new(body: B, slack: Duration, is_too_slow: Arc<AtomicBool>) -> Self {
        Self { body, credit: Credit::new(slack), is_too_slow }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Paced<B> {
    type Data = Bytes;
    type Error = PaceError<B::Error>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
                self.credit.moved(data.map_or(0, Bytes::len));
                Poll::Ready(frame.map(|frame| frame.map_err(PaceError::Body)))
            }
            Poll::Pending => {
                ready!(self.credit.poll_wait(cx));
                self.is_too_slow.store(true, Ordering::Relaxed);
                Poll::Ready(Some(Err(PaceError::TooSlow)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection that fails when written data is received too slowly.
pub(crate) struct PacedWrites<IO> {
    io: IO,
    credit: Credit,
}

impl<IO> PacedWrites<IO> {
    pub(crate) fn new(io: IO, slack: Duration) -> Self {
        Self { io, credit: Credit::new(slack) }
    }

    fn paced<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        match polled {
            Poll::Ready(done) => {
                self.credit.moved(done.as_ref().map_or(0, bytes));
                Poll::Ready(done)
            }
            Poll::Pending => {
                ready!(self.credit.poll_wait(cx));
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads the response too slowly")))
            }
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for PacedWrites<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for PacedWrites<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.paced(cx, polled, |&bytes| bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.paced(cx, polled, |&bytes| bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.paced(cx, polled, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_shutdown(cx);
        self.paced(cx, polled, |()| 0)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::sync::mpsc;

    use super::*;
    use crate::tests::Sent;

    const SLACK: Duration = Duration::from_secs(10);

    /// Returns the duration of a body with `bytes` every `pause`, and whether it was too slow.
    async fn read(bytes: usize, pause: Duration, frames: usize) -> (Duration, bool) {
        let (sender, receiver) = mpsc::channel(1);
        let is_too_slow = Arc::new(AtomicBool::new(false));
        let body = Paced::new(Sent(receiver), SLACK, Arc::clone(&is_too_slow));
        let start = Instant::now();
        tokio::spawn(async move {
            for _ in 0..frames {
                tokio::time::sleep(pause).await;
                if sender.send(Bytes::from(vec![0; bytes])).await.is_err() {
                    return;
                }
            }
        });
        let failed = body.collect().await.is_err();
        assert_eq!(failed, is_too_slow.load(Ordering::Relaxed));
        (start.elapsed(), failed)
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_a_second_is_cut_off_and_a_slow_line_is_not() {
        let (took, failed) = read(1, Duration::from_secs(1), 1000).await;
        assert!(failed && (SLACK..SLACK * 11 / 10).contains(&took), "{took:?}");
        let (took, failed) = read(2048, Duration::from_secs(1), 300).await;
        assert!(!failed && took == Duration::from_secs(300), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_fast_start_does_not_pay_for_a_stop() {
        let (sender, receiver) = mpsc::channel(1);
        let mut body = Paced::new(Sent(receiver), SLACK, Arc::default());
        sender.send(Bytes::from(vec![0; 10_000_000])).await.unwrap();
        body.frame().await.unwrap().unwrap();
        let start = Instant::now();
        assert!(body.frame().await.unwrap().is_err());
        assert!((SLACK..SLACK * 11 / 10).contains(&start.elapsed()), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_a_handler_takes_is_not_the_clients() {
        let (sender, receiver) = mpsc::channel(2);
        let mut body = Paced::new(Sent(receiver), SLACK, Arc::default());
        for _ in 0..3 {
            sender.send(Bytes::from_static(b"x")).await.unwrap();
            tokio::time::sleep(SLACK * 2).await;
            body.frame().await.unwrap().unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_taken_a_byte_a_second_is_cut_off_and_one_taken_slowly_is_not() {
        for (bytes, is_fine) in [(1, false), (2048, true)] {
            let (client, server) = duplex(1024);
            let mut server = PacedWrites::new(server, SLACK);
            tokio::spawn(async move {
                let mut client = client;
                let mut taken = vec![0; bytes];
                loop {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    if client.read_exact(&mut taken).await.is_err() {
                        return;
                    }
                }
            });
            let written = server.write_all(&[0; 200 * 1024]).await;
            assert_eq!(written.is_ok(), is_fine, "{written:?}");
        }
    }
}
