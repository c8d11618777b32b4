//! One HTTP connection, from its first byte to its last, within limits of time and size.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use gaia_auth::Connection;
use http::header;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::linger::Lingering;

/// The HTTP version a connection speaks, settled before its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// How connections are told to end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop {
    /// Finish what is under way and take nothing new.
    pub(crate) gracefully: CancellationToken,
    /// End now.
    pub(crate) at_once: CancellationToken,
}

/// Serves one connection. When `distrusted` ends, what is under way has [`DISTRUST_GRACE`] left.
pub(crate) async fn serve<IO>(
    io: IO,
    protocol: Protocol,
    app: Router,
    connection: Arc<Connection>,
    distrusted: impl Future<Output = ()>,
    stop: Stop,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let has_spoken = Arc::new(AtomicBool::new(false));
    let heard = Arc::clone(&has_spoken);
    let service = service_fn(move |request: Request<Incoming>| {
        heard.store(true, Ordering::Relaxed);
        answer(app.clone(), Arc::clone(&connection), request)
    });
    let builder = builder(protocol);
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(io), service));
    let mut distrusted = std::pin::pin!(distrusted);
    // hyper does not time out a silent or half-sent HTTP/2 preface.
    let mut first_request = std::pin::pin!(sleep(FIRST_REQUEST_TIMEOUT));
    let mut is_waiting = true;
    let mut is_ending = false;
    let mut end = std::pin::pin!(sleep_until(far_away()));
    let mut is_distrusted = false;
    loop {
        tokio::select! {
            // Whatever became of it: the peer hears of it, and there is nobody else to tell.
            _ = serving.as_mut() => return,
            () = first_request.as_mut(), if is_waiting => {
                is_waiting = false;
                if !has_spoken.load(Ordering::Relaxed) {
                    return;
                }
            }
            () = distrusted.as_mut(), if !is_distrusted => {
                is_distrusted = true;
                end.as_mut().reset(Instant::now() + DISTRUST_GRACE);
                serving.as_mut().graceful_shutdown();
            }
            () = stop.gracefully.cancelled(), if !is_ending => {
                is_ending = true;
                serving.as_mut().graceful_shutdown();
            }
            () = end.as_mut(), if is_distrusted => return,
            () = stop.at_once.cancelled() => return,
        }
    }
}

async fn answer(
    app: Router,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    // Who asks first whether to send is spared the sending.
    let asks_first = request.headers().contains_key(header::EXPECT);
    let mut request = request.map(|body| if asks_first { Body::new(body) } else { Body::new(Lingering::new(body)) });
    request.extensions_mut().insert(connection);
    app.oneshot(request).await
}

fn builder(protocol: Protocol) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST_BYTES);
    match protocol {
        Protocol::Http1 => builder.http1_only(),
        Protocol::Http2 => builder.http2_only(),
    }
}

/// A time that does not come: the branch that waits for it is off until it is set.
fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(365 * 24 * 3600)
}

const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const DISTRUST_GRACE: Duration = Duration::from_secs(5);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_STREAMS: u32 = 128;
const MAX_HEAD_BYTES: usize = 64 * 1024;
const MAX_HEADER_LIST_BYTES: u32 = 32 * 1024;
