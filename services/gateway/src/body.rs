//! Request bodies counted against the size limit, and response bodies that end when the credential expires.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use gaia_api::sync::lock;
use gaia_runtime::Share;
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::forward::Requester;

/// State of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UploadState {
    /// No error so far.
    InProgress,
    /// The body exceeded the size limit.
    TooLarge,
    /// The client aborted the body, or it is malformed HTTP.
    Broken,
}

/// Progress of an upload, shared with the task that enforces the timeout.
#[derive(Debug)]
pub(crate) struct Progress(Mutex<(Instant, UploadState)>);

impl Progress {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new((Instant::now(), UploadState::InProgress))))
    }

    /// Time of the last transferred frame.
    pub(crate) fn last(&self) -> Instant {
        lock(&self.0).0
    }

    pub(crate) fn state(&self) -> UploadState {
        lock(&self.0).1
    }

    fn set(&self, state: UploadState) {
        *lock(&self.0) = (Instant::now(), state);
    }
}

/// A request body limited in size. Trailers are dropped because no header rule is applied to them.
pub(crate) struct Upload {
    body: Body,
    left: u64,
    progress: Arc<Progress>,
}

/// Reason why an upload failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("the body exceeds the size limit")]
    TooLarge,
    #[error("the body was interrupted: {0}")]
    Broken(axum::Error),
}

impl Upload {
    pub(crate) fn new(body: Body, most: u64, progress: Arc<Progress>) -> Self {
        Self { body, left: most, progress }
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(match frame {
            None => {
                self.progress.set(UploadState::InProgress);
                None
            }
            Some(Err(error)) => {
                self.progress.set(UploadState::Broken);
                Some(Err(UploadError::Broken(error)))
            }
            Some(Ok(frame)) => match frame.into_data() {
                Err(_trailers) => None,
                Ok(data) => match self.left.checked_sub(data.len() as u64) {
                    Some(left) => {
                        self.left = left;
                        self.progress.set(UploadState::InProgress);
                        Some(Ok(Frame::data(data)))
                    }
                    None => {
                        self.progress.set(UploadState::TooLarge);
                        Some(Err(UploadError::TooLarge))
                    }
                },
            },
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response body of an upstream, cut off at `end`. Trailers are dropped.
pub(crate) struct Answer<B> {
    body: B,
    end: Option<Pin<Box<Sleep>>>,
    /// The request is in progress until the end of its response.
    _share: Share<Requester>,
}

impl<B> Answer<B> {
    /// `end` is the time at which the credential of the request expires.
    pub(crate) fn new(body: B, share: Share<Requester>, end: Option<Instant>) -> Self {
        Self { body, end: end.map(|end| Box::pin(tokio::time::sleep_until(end))), _share: share }
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Answer<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.end.as_mut().is_some_and(|end| end.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(None);
        }
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.filter(|frame| !frame.as_ref().is_ok_and(Frame::is_trailers)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
