//! A single connection, with paused time.

use std::convert::Infallible;

use axum::Router;
use axum::routing::any;
use futures::stream;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prometheus_client::metrics::counter::Counter;
use tokio::io::DuplexStream;
use tokio::time::{Instant, timeout};

use crate::limits::{Limits, MAX_HEAD_BYTES, MAX_STREAMS};
use crate::random::jittered;
use crate::server::connection::{DISTRUST_GRACE, Ends, LimitExceeded, Stop, Terms, serve};
use crate::server::hardening::heads::HeadBudget;
use crate::server::protocol::Protocol;
use crate::tests::*;

/// A connection that ends when its future does.
pub(crate) struct Served {
    pub(crate) client: DuplexStream,
    pub(crate) serving: JoinHandle<Option<LimitExceeded>>,
    distrust: oneshot::Sender<()>,
    /// Releases one request to `/slow`.
    pub(crate) slow: Arc<Notify>,
    stop: Stop,
}

fn connection(protocol: Protocol) -> Served {
    connection_within(protocol, &HeadBudget::new(16 * 1024 * 1024))
}

/// Like `connection`, with another head budget.
pub(crate) fn connection_within(protocol: Protocol, budget: &HeadBudget) -> Served {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let (distrust, distrusted) = oneshot::channel();
    let slow = Arc::new(Notify::new());
    let release = Arc::clone(&slow);
    let app = Router::new()
        .route("/", get(async || "here"))
        .route("/big", get(async || Body::from_stream(stream::repeat(Ok::<_, Infallible>(vec![0; 1000])))))
        .route("/whole", get(async || vec![0; 1_000_000]))
        .route("/read", post(async |_: Bytes| {}))
        // The body is held, and not read.
        .route("/slow", any(move |_held: Request<Body>| async move { release.notified().await }));
    let distrusted = async move {
        match distrusted.await {
            Ok(()) => {}
            Err(_) => std::future::pending().await,
        }
    };
    let stop = Stop::default();
    let ends = Ends { distrusted, max_age: Limits::default().age, stop: stop.clone() };
    let terms = Terms {
        protocol,
        app,
        connection: Arc::default(),
        limits: Limits::default(),
        requests: Counter::default(),
        heads: budget.connection([127, 0, 0, 1].into()),
        slot: Arc::default(),
    };
    let serving = tokio::spawn(serve(server, terms, ends));
    Served { client, serving, distrust, slow, stop }
}

async fn answer(client: &mut DuplexStream) -> String {
    let mut answer = vec![0; 4096];
    let bytes = client.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..bytes]).into_owned()
}

#[tokio::test(start_paused = true)]
async fn a_first_request_that_was_on_its_way_when_the_service_stopped_is_answered() {
    for speaks in [true, false] {
        let Served { mut client, serving, stop, distrust: _distrust, .. } = connection(Protocol::Http1);
        // The connection is served before it is stopped.
        tokio::time::sleep(Duration::from_millis(1)).await;
        stop.soon.cancel();
        stop.gracefully.cancel();
        tokio::time::sleep(Duration::from_millis(500)).await;
        if speaks {
            client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            let answer = answer(&mut client).await;
            assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
        }
        let began = Instant::now();
        assert_eq!(serving.await.unwrap(), None);
        assert!(began.elapsed() <= Duration::from_secs(1), "{:?}", began.elapsed());
    }
}

async fn h2(client: DuplexStream) -> (SendRequest<Empty<Bytes>>, JoinHandle<()>) {
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client)).await.unwrap();
    (sender, tokio::spawn(async { drop(connection.await) }))
}

fn h2_get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("https://x{path}")).body(Empty::new()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn whoever_says_nothing_or_half_a_greeting_is_let_go() {
    for (protocol, greeting) in [
        (Protocol::Http1, &b""[..]),
        (Protocol::Http1, b"GET / HT"),
        (Protocol::Http2, b""),
        (Protocol::Http2, b"PRI * HTTP/2.0\r\n"),
        (Protocol::Http2, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ] {
        let mut served = connection(protocol);
        served.client.write_all(greeting).await.unwrap();
        let ended = timeout(Duration::from_secs(11), served.serving).await.expect("it ends in time").unwrap();
        assert_eq!(ended, Some(LimitExceeded::FirstRequest));
    }
}

#[tokio::test(start_paused = true)]
async fn a_distrusted_peer_that_waits_for_an_answer_has_five_seconds_and_an_idle_one_none() {
    let start = Instant::now();
    let mut busy = connection(Protocol::Http1);
    busy.client.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut idle = connection(Protocol::Http1);
    idle.client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(answer(&mut idle.client).await.contains("here"));
    busy.distrust.send(()).unwrap();
    idle.distrust.send(()).unwrap();
    idle.serving.await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
    busy.serving.await.unwrap();
    assert!((DISTRUST_GRACE..DISTRUST_GRACE * 2).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(answer(&mut busy.client).await, "", "no response was sent");
}

#[tokio::test(start_paused = true)]
async fn a_distrusted_peer_gets_the_answer_that_comes_in_time_and_no_other() {
    let mut served = connection(Protocol::Http1);
    served.client.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    // Until the handler waits.
    tokio::time::sleep(Duration::from_millis(1)).await;
    served.distrust.send(()).unwrap();
    tokio::time::sleep(DISTRUST_GRACE / 2).await;
    served.slow.notify_one();
    let answer = answer(&mut served.client).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    served.serving.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_old_http1_connection_is_closed_after_the_answer_under_way() {
    let start = Instant::now();
    let mut served = connection(Protocol::Http1);
    served.client.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(AGE * 2).await;
    assert!(!served.serving.is_finished(), "requests in progress are completed");
    served.slow.notify_one();
    let answer = answer(&mut served.client).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    served.serving.await.unwrap();
    assert!(start.elapsed() >= AGE * 2);
}

#[tokio::test(start_paused = true)]
async fn an_old_http2_connection_takes_no_new_request_and_finishes_those_under_way() {
    let Served { client, serving, slow, distrust: _distrust, .. } = connection(Protocol::Http2);
    let (mut sender, ending) = h2(client).await;
    let under_way = tokio::spawn(sender.send_request(h2_get("/slow")));
    assert_eq!(sender.send_request(h2_get("/")).await.unwrap().status(), StatusCode::OK);
    tokio::time::sleep(AGE * 2).await;
    assert!(sender.send_request(h2_get("/")).await.is_err(), "the connection accepts no new requests");
    assert!(!serving.is_finished());
    slow.notify_one();
    let answer = under_way.await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    answer.into_body().collect().await.unwrap();
    serving.await.unwrap();
    ending.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_http2_connection_on_which_nothing_is_asked_is_ended_politely_and_one_that_waits_is_not() {
    let Served { client, serving, slow, distrust: _distrust, .. } = connection(Protocol::Http2);
    let (mut sender, ending) = h2(client).await;
    let under_way = tokio::spawn(sender.send_request(h2_get("/slow")));
    let start = Instant::now();
    tokio::time::sleep(IDLE * 3).await;
    assert!(!serving.is_finished(), "a request is in progress");
    slow.notify_one();
    under_way.await.unwrap().unwrap().into_body().collect().await.unwrap();
    ending.await.unwrap();
    assert_eq!(serving.await.unwrap(), Some(LimitExceeded::Idle));
    let idle = start.elapsed() - IDLE * 3;
    assert!((IDLE..IDLE * 11 / 10).contains(&idle), "{idle:?}");
}

#[tokio::test(start_paused = true)]
async fn an_http2_client_that_makes_no_room_for_its_answers_is_let_go() {
    for window in [0, 1000] {
        let Served { client, serving, slow: _slow, distrust: _distrust, .. } = connection(Protocol::Http2);
        let (mut sender, connection) =
            h2::client::Builder::new().initial_window_size(window).handshake::<_, Bytes>(client).await.unwrap();
        let connection = tokio::spawn(connection);
        let (answer, _) = sender.send_request(h2_get("/big").map(drop), true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(serving.await.unwrap(), Some(LimitExceeded::Answers));
        drop(connection.await.unwrap());
    }
}

#[tokio::test]
async fn heads_are_bounded_in_either_version_and_so_are_streams() {
    let long = "x".repeat(MAX_HEAD_BYTES as usize + 1);
    let Served { mut client, serving, .. } = connection(Protocol::Http1);
    // The connection may be closed before the request is fully written.
    let _ = client.write_all(format!("GET / HTTP/1.1\r\nhost: x\r\nx-long: {long}\r\n\r\n").as_bytes()).await;
    assert!(answer(&mut client).await.starts_with("HTTP/1.1 431"));
    drop(client);
    serving.await.unwrap();

    let Served { client, distrust: _distrust, .. } = connection(Protocol::Http2);
    let (sender, connection) = h2::client::handshake(client).await.unwrap();
    let connection = tokio::spawn(connection);
    let ask = async |length: usize| {
        let request = Request::get("https://x/").header("x-long", &long[..length]).body(()).unwrap();
        sender.clone().ready().await.unwrap().send_request(request, true).unwrap().0.await
    };
    assert_eq!(ask(MAX_HEAD_BYTES as usize / 2).await.unwrap().status(), StatusCode::OK);
    let refused = ask(MAX_HEAD_BYTES as usize + 1).await;
    assert!(refused.as_ref().map_or(true, |answer| answer.status() == 431), "{refused:?}");
    assert_eq!(sender.current_max_send_streams(), MAX_STREAMS as usize);
    connection.abort();
}

#[test]
fn connections_that_began_together_grow_old_at_different_times_within_the_limit() {
    let age = |random| jittered(AGE, random);
    assert_eq!(age([0, 0]), AGE);
    assert!((AGE * 4 / 5..AGE * 81 / 100).contains(&age([255, 255])));
    assert!(age([127, 0]) > age([128, 0]));
}

const AGE: Duration = Duration::from_secs(600);
const IDLE: Duration = Duration::from_secs(60);
