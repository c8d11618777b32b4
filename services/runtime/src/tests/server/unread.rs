//! Bodies that no handler reads and answers that no client takes, against the budget of their source.

use futures::future::join_all;
use h2::client::SendRequest;
use http_body_util::BodyExt as _;
use hyper::body::Bytes;
use tokio::time::timeout;

use super::connections::{Served, connection_within};
use crate::limits::{MAX_STREAMS, STREAM_WINDOW_BYTES};
use crate::server::hardening::heads::HeadBudget;
use crate::server::protocol::Protocol;
use crate::tests::*;

const BUDGET: usize = 2 * 1024 * 1024;

/// Nothing more happens for this time.
const QUIET: Duration = Duration::from_millis(100);

async fn h2(client: tokio::io::DuplexStream, window: u32) -> (SendRequest<Bytes>, JoinHandle<()>) {
    let mut builder = h2::client::Builder::new();
    let (sender, connection) =
        builder.initial_window_size(window).initial_connection_window_size(1 << 20).handshake(client).await.unwrap();
    (sender, tokio::spawn(async { drop(connection.await) }))
}

fn is_given_back(budget: &HeadBudget, bytes: usize) -> bool {
    (budget.free(), budget.free_for_bodies()) == (bytes, bytes)
}

fn post(path: &str) -> Request<()> {
    Request::post(format!("https://x{path}")).body(()).unwrap()
}

/// Sends so many bytes of a body in frames of this size, as far as the window goes. The stream stays open.
async fn send_body(sender: &SendRequest<Bytes>, bytes: usize, frame: usize) -> Result<SentBody, h2::Error> {
    let mut ready = sender.clone().ready().await?;
    let (answer, mut stream) = ready.send_request(post("/slow"), false)?;
    let mut sent = 0;
    stream.reserve_capacity(bytes);
    while sent < bytes {
        let given = timeout(QUIET, std::future::poll_fn(|cx| stream.poll_capacity(cx))).await;
        if !matches!(given, Ok(Some(Ok(_)))) {
            break;
        }
        let mut left = stream.capacity().min(bytes - sent);
        sent += left;
        while left > 0 {
            let length = left.min(frame);
            stream.send_data(Bytes::from(vec![0; length]), false)?;
            left -= length;
        }
        stream.reserve_capacity(bytes - sent);
    }
    Ok(SentBody { answer, _stream: stream })
}

struct SentBody {
    answer: h2::client::ResponseFuture,
    _stream: h2::SendStream<Bytes>,
}

#[tokio::test]
async fn unread_http2_bodies_of_a_source_leave_memory_for_others() {
    let budget = HeadBudget::new(BUDGET);
    let mut connections = Vec::new();
    let mut refused = 0;
    for _ in 0..2 {
        let Served { client, serving, slow, .. } = connection_within(Protocol::Http2, &budget);
        let (sender, driver) = h2(client, 65_535).await;
        let mut bodies = Vec::new();
        for _ in 0..20 {
            bodies.push(send_body(&sender, STREAM_WINDOW_BYTES as usize, 16 * 1024).await.unwrap());
        }
        connections.push((bodies, serving, slow, sender, driver));
    }
    assert!(budget.free_for_bodies() >= BUDGET / 2, "{} is free", budget.free_for_bodies());
    for (bodies, ..) in &mut connections {
        for body in bodies {
            if let Ok(answer) = timeout(QUIET / 10, &mut body.answer).await {
                assert_eq!(answer.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
                refused += 1;
            }
        }
    }
    let served = 40 - refused;
    assert!((10..=16).contains(&served), "{served} of 40 streams may hold a window");
    let mut other = budget.connection([127, 0, 0, 9].into()).body();
    assert_eq!(other.reserve(None), Ok(()), "another source has a share");
    drop((connections, other));
    eventually("everything is given back", async || is_given_back(&budget, BUDGET)).await;
}

#[tokio::test]
async fn a_window_in_frames_of_one_byte_ends_its_connection() {
    let budget = HeadBudget::new(BUDGET);
    let Served { client, serving, slow: _slow, .. } = connection_within(Protocol::Http2, &budget);
    let (sender, _driver) = h2(client, 65_535).await;
    let sending = async {
        let mut bodies = Vec::new();
        while let Ok(body) = send_body(&sender, STREAM_WINDOW_BYTES as usize, 1).await {
            bodies.push(body);
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = sending => {}
        ended = timeout(Duration::from_secs(30), serving) => drop(ended.expect("the connection is closed")),
    }
    eventually("everything is given back", async || is_given_back(&budget, BUDGET)).await;
}

#[tokio::test]
async fn small_frames_that_are_read_are_not_charged() {
    let budget = HeadBudget::new(BUDGET);
    let Served { client, .. } = connection_within(Protocol::Http2, &budget);
    let (sender, _driver) = h2(client, 65_535).await;
    for _ in 0..20 {
        let mut ready = sender.clone().ready().await.unwrap();
        let (answer, mut stream) = ready.send_request(post("/read"), false).unwrap();
        for _ in 0..100 {
            stream.send_data(Bytes::from_static(b"x"), false).unwrap();
        }
        stream.send_data(Bytes::from_static(b"x"), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    }
    eventually("everything is given back", async || is_given_back(&budget, BUDGET)).await;
}

#[tokio::test]
async fn answers_that_are_not_taken_wait_outside_of_the_connection() {
    let budget = HeadBudget::new(BUDGET);
    let Served { client, serving, .. } = connection_within(Protocol::Http2, &budget);
    // Each answer is sent as soon as there is a window of one byte, and the rest of it stays with the server.
    let (sender, driver) = h2(client, 1).await;
    let mut ready = Vec::new();
    for _ in 0..MAX_STREAMS {
        let mut sender = sender.clone().ready().await.unwrap();
        let request = Request::get("https://x/big").body(()).unwrap();
        ready.push(sender.send_request(request, true).unwrap().0);
    }
    let taken = join_all(ready).await;
    tokio::time::sleep(QUIET).await;
    let (heads, answers) = (BUDGET - budget.free(), BUDGET - budget.free_for_bodies());
    assert!(heads > 100 * 1024, "{heads} bytes of heads and streams are charged");
    assert!((100 * 1024..=BUDGET / 2).contains(&answers), "{answers} bytes of answers are charged");
    drop((taken, sender));
    driver.abort();
    let _ = timeout(Duration::from_secs(5), serving).await;
    eventually("everything is given back", async || is_given_back(&budget, BUDGET)).await;
}

#[tokio::test]
async fn a_large_answer_arrives_whole_over_both_versions() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let budget = HeadBudget::new(64 * 1024);
        let Served { client, serving, .. } = connection_within(protocol, &budget);
        let io = hyper_util::rt::TokioIo::new(client);
        let request = Request::get("https://x/whole").header("host", "x");
        let request = request.body(http_body_util::Empty::<Bytes>::new()).unwrap();
        let response = if protocol == Protocol::Http1 {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(async { drop(connection.await) });
            sender.send_request(request).await.unwrap()
        } else {
            let executor = hyper_util::rt::TokioExecutor::new();
            let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
            tokio::spawn(async { drop(connection.await) });
            sender.send_request(request).await.unwrap()
        };
        assert_eq!(response.headers()["content-length"], "1000000");
        let body = timeout(Duration::from_secs(10), response.into_body().collect()).await.unwrap().unwrap();
        assert_eq!(body.to_bytes().len(), 1_000_000);
        serving.abort();
        eventually("everything is given back", async || is_given_back(&budget, 64 * 1024)).await;
    }
}

#[tokio::test]
async fn unread_http1_bodies_are_charged_by_their_length() {
    let budget = HeadBudget::new(BUDGET);
    let mut held = Vec::new();
    let answer = loop {
        let mut served = connection_within(Protocol::Http1, &budget);
        let request = "POST /slow HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n";
        served.client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 512];
        if let Ok(read) = timeout(QUIET, served.client.read(&mut answer)).await {
            answer.truncate(read.unwrap());
            break String::from_utf8(answer).unwrap();
        }
        held.push(served);
        assert!(held.len() < 100, "the budget is not drawn on");
    };
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 1"), "{answer}");
    assert!(budget.free_for_bodies() >= BUDGET / 2);
    let mut small = connection_within(Protocol::Http1, &budget);
    small.client.write_all(b"POST /read HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
    let mut answer = vec![0; 64];
    small.client.read_exact(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "a small body is read while the budget is used up");
    drop((held, small));
    eventually("everything is given back", async || is_given_back(&budget, BUDGET)).await;
}
