//! One HTTP connection with limits of time and size.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use gaia_auth::{Connection, Listener, problem};
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::limits::{
    CONNECTION_WINDOW_BYTES, Limits, MAX_HEAD_BYTES, MAX_SEND_BUFFER_BYTES, MAX_STREAMS, STREAM_WINDOW_BYTES,
};
use crate::panics::{Panicked, contained};
use crate::server::activity::{Activity, Answering, UnderWay};
use crate::server::hardening::drain::Lingering;
use crate::server::hardening::heads::{ConnectionHeads, HeadsExhausted};
use crate::server::hardening::host::name_host;
use crate::server::hardening::inbound::Inbound;
use crate::server::hardening::min_rate::{Paced, PacedWrites};
use crate::server::hardening::received::Received;
use crate::server::protocol::Protocol;
use crate::server::request_id::name_request;
use crate::server::slots::SlotState;

/// Shutdown signals of connections.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop {
    /// HTTP/1 responses get `Connection: close`.
    pub(crate) soon: CancellationToken,
    /// Requests in progress are completed and new ones refused.
    pub(crate) gracefully: CancellationToken,
    /// Connections are closed immediately.
    pub(crate) at_once: CancellationToken,
}

/// Conditions that end one connection.
#[derive(Debug)]
pub(crate) struct Ends<F> {
    /// Resolves when the peer is no longer trusted; requests in progress then have [`DISTRUST_GRACE`] left.
    pub(crate) distrusted: F,
    /// After this time the peer must use another connection; requests in progress are completed.
    pub(crate) max_age: Duration,
    /// Shutdown of the listener.
    pub(crate) stop: Stop,
}

/// Parameters for serving one connection.
#[derive(Clone)]
pub(crate) struct Terms {
    pub(crate) protocol: Protocol,
    pub(crate) app: Router,
    /// The peer and its transport.
    pub(crate) connection: Arc<Connection>,
    pub(crate) limits: Limits,
    /// Counter of its requests.
    pub(crate) requests: Counter,
    /// Its reservation in the head budget.
    pub(crate) heads: ConnectionHeads,
    /// Its slot among the connections of the listener.
    pub(crate) slot: Arc<SlotState>,
}

/// The limit that ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitExceeded {
    /// No request was received.
    FirstRequest,
    /// No further request was received.
    Idle,
    /// The client does not read its responses.
    Answers,
}

impl LimitExceeded {
    /// Returns the metric label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::FirstRequest => "first_request",
            Self::Idle => "idle",
            Self::Answers => "answers",
        }
    }
}

/// Serves one connection until it closes. Returns the limit that ended it, if any.
pub(crate) async fn serve<IO>(io: IO, terms: Terms, ends: Ends<impl Future<Output = ()>>) -> Option<LimitExceeded>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ends { distrusted, max_age, stop } = ends;
    let Terms { protocol, limits, .. } = terms;
    let activity = Activity::new(Arc::clone(&terms.slot));
    let io = Inbound::new(io, protocol, terms.heads.clone(), limits.head);
    // HTTP/1 can only announce the close in a response; closing between requests could lose one.
    let is_closing = Arc::new(AtomicBool::new(false));
    let service = {
        let (activity, is_closing) = (activity.clone(), Arc::clone(&is_closing));
        service_fn(move |request: Request<Incoming>| {
            let (parts, body) = request.into_parts();
            // Before another request of the connection is taken.
            let (body, reserved) = Received::new(body, &terms.heads);
            let request = Request::from_parts(parts, body);
            answer(terms.clone(), activity.begin(), Arc::clone(&is_closing), request, reserved)
        })
    };
    let mut serving: Pin<Box<dyn GracefulConnection<Error = hyper::Error, Output = hyper::Result<()>> + Send>> =
        match protocol {
            Protocol::Http1 => {
                let io = TokioIo::new(PacedWrites::new(io, limits.slack));
                Box::pin(http1(&limits).serve_connection(io, service))
            }
            Protocol::Http2 => {
                let io = TokioIo::new(PacedWrites::new(io, limits.slack));
                Box::pin(http2().serve_connection(io, service))
            }
        };
    let mut distrusted = std::pin::pin!(distrusted);
    // hyper has no timeout for a silent or incomplete HTTP/2 preface.
    let mut first_request = std::pin::pin!(sleep(limits.first_request));
    let mut is_waiting = true;
    // hyper has no timeout for an HTTP/2 connection without requests.
    let mut idle = std::pin::pin!(sleep(limits.idle));
    let mut too_old = std::pin::pin!(sleep(max_age));
    let mut is_old = false;
    let mut is_ending = false;
    let mut end = std::pin::pin!(sleep_until(far_away()));
    let mut is_distrusted = false;
    loop {
        tokio::select! {
            // The result is ignored: the peer sees the close, and errors of single connections are not logged.
            _ = serving.as_mut() => return None,
            () = first_request.as_mut(), if is_waiting => {
                is_waiting = false;
                if !activity.has_spoken() {
                    return (!is_ending).then_some(LimitExceeded::FirstRequest);
                }
            }
            () = idle.as_mut(), if protocol == Protocol::Http2 => {
                let now = Instant::now();
                match activity.waits_since() {
                    Some(since) if since + limits.idle > now => idle.as_mut().reset(since + limits.idle),
                    Some(_) if activity.is_idle() => {
                        // A request sent at this time gets GOAWAY, so that the client can retry it.
                        serving.as_mut().graceful_shutdown();
                        let _ = timeout(GOODBYE, serving).await;
                        return Some(LimitExceeded::Idle);
                    }
                    Some(_) => return Some(LimitExceeded::Answers),
                    None => idle.as_mut().reset(now + limits.idle),
                }
            }
            () = distrusted.as_mut(), if !is_distrusted => {
                is_distrusted = true;
                end.as_mut().reset(Instant::now() + DISTRUST_GRACE);
                serving.as_mut().graceful_shutdown();
            }
            () = too_old.as_mut(), if !is_old => {
                is_old = true;
                match protocol {
                    Protocol::Http1 => is_closing.store(true, Ordering::Relaxed),
                    Protocol::Http2 => serving.as_mut().graceful_shutdown(),
                }
            }
            () = stop.soon.cancelled(), if protocol == Protocol::Http1 && !is_closing.load(Ordering::Relaxed) => {
                is_closing.store(true, Ordering::Relaxed);
            }
            () = stop.gracefully.cancelled(), if !is_ending => {
                is_ending = true;
                if protocol == Protocol::Http1 && !activity.has_spoken() {
                    // hyper would close it immediately, even if its first request is in transit.
                    is_closing.store(true, Ordering::Relaxed);
                    first_request.as_mut().reset(Instant::now() + LAST_CALL);
                } else {
                    serving.as_mut().graceful_shutdown();
                }
            }
            () = end.as_mut(), if is_distrusted => return None,
            () = stop.at_once.cancelled() => return None,
        }
    }
}

/// Responds to one request. A request whose body arrived too slowly gets a 408, whatever the handler returned.
async fn answer(
    terms: Terms,
    under_way: UnderWay,
    is_closing: Arc<AtomicBool>,
    request: Request<Received<Incoming>>,
    reserved: Result<(), HeadsExhausted>,
) -> Result<Response<Answering>, Infallible> {
    terms.requests.inc();
    let is_too_slow = Arc::new(AtomicBool::new(false));
    // A client that sends `Expect: 100-continue` has not sent the body yet, so there is nothing to drain.
    let asks_first = request.headers().contains_key(header::EXPECT);
    let (parts, body) = request.into_parts();
    let head = reserved.and_then(|()| terms.heads.request(&parts));
    let request = Request::from_parts(parts, body);
    let mut request = request.map(|body| {
        let body = Paced::new(body, terms.limits.slack, Arc::clone(&is_too_slow));
        if asks_first { Body::new(body) } else { Body::new(Lingering::new(body)) }
    });
    if terms.connection.listener == Listener::Mesh {
        name_request(request.headers_mut());
    }
    request.extensions_mut().insert(terms.connection);
    let mut response = if head.is_err() {
        drop(request);
        let mut busy = problem(StatusCode::SERVICE_UNAVAILABLE, "Too many requests of this client are in progress.");
        busy.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        busy
    } else if name_host(&mut request).is_ok() {
        match contained(terms.app.oneshot(request)).await {
            Ok(Ok(response)) => response,
            Err(Panicked) => problem(StatusCode::INTERNAL_SERVER_ERROR, "The service failed to answer this request."),
        }
    } else {
        problem(StatusCode::BAD_REQUEST, "The request does not name exactly one valid host.")
    };
    let is_too_slow = is_too_slow.load(Ordering::Relaxed);
    if is_too_slow {
        response = problem(StatusCode::REQUEST_TIMEOUT, "The request body arrived too slowly.");
    }
    if terms.protocol == Protocol::Http1 && (is_too_slow || is_closing.load(Ordering::Relaxed)) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| Answering::new(body, under_way, terms.heads, head.ok())))
}

fn http1(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.keep_alive)
        .max_header_size(MAX_HEAD_BYTES as usize)
        .max_buf_size(MAX_HEAD_BYTES as usize);
    builder
}

fn http2() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .max_send_buf_size(MAX_SEND_BUFFER_BYTES);
    builder
}

/// Returns a time far in the future, which disables the branch until it is reset.
fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(365 * 24 * 3600)
}

/// Time for an idle client to receive GOAWAY.
const GOODBYE: Duration = Duration::from_secs(2);
/// Grace period after shutdown for the first request of a connection, which the client sent before it could notice.
pub(crate) const LAST_CALL: Duration = Duration::from_secs(1);
pub(crate) const DISTRUST_GRACE: Duration = Duration::from_secs(5);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
