//! Heads, frames and connections of one source, against the budgets shared by all sources.

use std::net::{IpAddr, SocketAddr};

use tokio::io::DuplexStream;
use tokio::net::TcpSocket;
use tokio::time::timeout;

use super::connections::{Served, connection_within};
use crate::limits::MAX_HEAD_BYTES;
use crate::server::hardening::heads::HeadBudget;
use crate::server::protocol::Protocol;
use crate::tests::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const ENHANCE_YOUR_CALM: u8 = 11;
const BUDGET: usize = 1024 * 1024;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// An HPACK-encoded head: `GET /` for `x`.
fn head() -> Vec<u8> {
    vec![0x82, 0x87, 0x84, 0x41, 0x01, b'x']
}

async fn http1(budget: &HeadBudget, request: &str) -> String {
    let Served { mut client, .. } = connection_within(Protocol::Http1, budget);
    // The connection may be closed before the request is fully written.
    let _ = client.write_all(request.as_bytes()).await;
    let mut answer = vec![0; 256];
    let bytes = client.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..bytes]).into_owned()
}

/// Returns the frames that the server sends until it closes the connection: type and payload.
async fn frames(client: &mut DuplexStream) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    let _ = timeout(Duration::from_secs(5), client.read_to_end(&mut all)).await.expect("the connection is closed");
    let (mut rest, mut frames) = (&all[..], Vec::new());
    while rest.len() >= 9 {
        let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
        frames.push((rest[3], rest[9..9 + length].to_vec()));
        rest = &rest[9 + length..];
    }
    frames
}

fn is_enhance_your_calm(frames: &[(u8, Vec<u8>)]) -> bool {
    frames.iter().any(|(kind, payload)| *kind == GOAWAY && payload[7] == ENHANCE_YOUR_CALM)
}

async fn begin_http2(budget: &HeadBudget) -> Served {
    let mut served = connection_within(Protocol::Http2, budget);
    served.client.write_all(PREFACE).await.unwrap();
    served.client.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    served
}

#[tokio::test]
async fn a_head_over_64_kib_is_431_however_it_is_cut() {
    let budget = HeadBudget::new(BUDGET);
    let head = |length: usize| format!("GET / HTTP/1.1\r\nhost: x\r\na: {}\r\n\r\n", "b".repeat(length));
    let most = MAX_HEAD_BYTES as usize - head(0).len();
    for (length, status) in [(60_000, "200"), (most, "200"), (most + 1, "431"), (100_000, "431"), (200_000, "431")] {
        let answer = http1(&budget, &head(length)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{length}: {answer}");
    }
    assert_eq!(budget.free(), BUDGET);
}

#[tokio::test]
async fn floods_of_control_frames_end_with_enhance_your_calm() {
    for flood in
        [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, 0, 0, &[]), frame(2, 0, 1, &[0; 5]), frame(0xbe, 0, 1, &[])]
    {
        let Served { client, .. } = begin_http2(&HeadBudget::new(BUDGET)).await;
        let (mut answers, mut requests) = tokio::io::split(client);
        let sending = tokio::spawn(async move {
            let mut sent = 0;
            while sent < 100_000 && requests.write_all(&flood).await.is_ok() {
                sent += 1;
            }
            (sent, requests)
        });
        let mut all = Vec::new();
        let _ = timeout(Duration::from_secs(20), answers.read_to_end(&mut all)).await.expect("closed");
        let (sent, _requests) = sending.await.unwrap();
        assert!(sent < 20_000, "{sent} frames were read");
        let goaway = [GOAWAY, 0, 0, 0, 0, 0];
        let at = all.windows(goaway.len()).position(|found| found == goaway).expect("a GOAWAY");
        assert_eq!(all[at + 6 + 4 + 3], ENHANCE_YOUR_CALM);
    }
}

#[tokio::test]
async fn unfinished_header_blocks_of_a_source_leave_room_for_others() {
    let budget = HeadBudget::new(BUDGET);
    let mut held = Vec::new();
    let refused = loop {
        let mut served = begin_http2(&budget).await;
        served.client.write_all(&frame(HEADERS, 1, 1, &head())).await.unwrap();
        served.client.write_all(&frame(CONTINUATION, 0, 1, &[])).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        if served.serving.is_finished() {
            break served;
        }
        held.push(served);
        assert!(held.len() < 100, "the budget is not drawn on");
    };
    assert!(!held.is_empty());
    let mut refused = refused;
    assert!(is_enhance_your_calm(&frames(&mut refused.client).await));
    assert!(budget.free() >= BUDGET / 2 - 128 * 1024, "{}", budget.free());
    let other = budget.connection([127, 0, 0, 9].into());
    assert_eq!(other.set_unfinished(100_000), Ok(()));
    drop((held, other));
    eventually("everything is given back", async || budget.free() == BUDGET).await;
}

#[tokio::test]
async fn unfinished_heads_of_a_source_leave_room_for_others() {
    let budget = HeadBudget::new(BUDGET);
    let head = format!("GET / HTTP/1.1\r\nhost: x\r\na: {}", "b".repeat(60_000));
    let mut held = Vec::new();
    let answer = loop {
        let mut served = connection_within(Protocol::Http1, &budget);
        served.client.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 64];
        if let Ok(read) = timeout(Duration::from_millis(50), served.client.read(&mut answer)).await {
            answer.truncate(read.unwrap());
            break String::from_utf8(answer).unwrap();
        }
        held.push(served);
        assert!(held.len() < 100, "the budget is not drawn on");
    };
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert!(budget.free() >= BUDGET / 2 - 64 * 1024);
    let small = http1(&budget, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(small.starts_with("HTTP/1.1 200"), "{small}");
    drop(held);
    eventually("everything is given back", async || budget.free() == BUDGET).await;
}

#[tokio::test]
async fn requests_under_way_hold_their_heads() {
    let budget = HeadBudget::new(BUDGET);
    let head = format!("GET /slow HTTP/1.1\r\nhost: x\r\na: {}\r\n\r\n", "b".repeat(60_000));
    let mut held = Vec::new();
    let answer = loop {
        let mut served = connection_within(Protocol::Http1, &budget);
        served.client.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 512];
        if let Ok(read) = timeout(Duration::from_millis(50), served.client.read(&mut answer)).await {
            answer.truncate(read.unwrap());
            break String::from_utf8(answer).unwrap();
        }
        held.push(served);
        assert!(held.len() < 100, "the budget is not drawn on");
    };
    let is_refused = answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 1");
    assert!(is_refused || answer.starts_with("HTTP/1.1 431"), "{answer}");
    for served in &held {
        served.slow.notify_one();
    }
    eventually("everything is given back", async || budget.free() == BUDGET).await;
}

async fn get(to: SocketAddr, from: u8, path: &str) -> Option<String> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, from], 0))).unwrap();
    let mut tcp = socket.connect(to).await.ok()?;
    tcp.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.ok()?;
    let mut answer = String::new();
    timeout(Duration::from_secs(5), tcp.read_to_string(&mut answer)).await.ok()?.ok()?;
    Some(answer)
}

#[tokio::test]
async fn connections_of_some_sources_keep_no_other_out_of_mesh_and_admin() {
    let platform = Platform::new();
    let limits = Limits { connections: 40, admin_connections: 20, ..Limits::default() };
    let service = start_within(&platform.mount("asset-service"), limits).await;
    let address = |url: &str| url.rsplit('/').next().unwrap().parse::<SocketAddr>().unwrap();
    for (to, path) in [(address(&service.mesh), "/health"), (address(&service.admin), "/livez")] {
        for sources in [1, 50] {
            let mut held = Vec::new();
            for n in 0..100u8 {
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind(SocketAddr::new(IpAddr::from([127, 0, 1, n % sources + 1]), 0)).unwrap();
                let mut tcp = socket.connect(to).await.unwrap();
                // An incomplete head.
                let _ = tcp.write_all(b"GET / HTTP/1.1\r\n").await;
                held.push(tcp);
            }
            for from in 2..22 {
                let answer = get(to, from, path).await.unwrap_or_default();
                assert!(answer.starts_with("HTTP/1.1 200"), "{path} with {sources} sources: {answer}");
            }
        }
    }
    assert!(get_plain(&format!("{}/metrics", service.admin)).await.1.contains(r#"reason="displaced""#));
}

#[tokio::test]
async fn http_1_1_without_exactly_one_valid_host_is_400() {
    let budget = HeadBudget::new(BUDGET);
    for head in ["", "Host: a\r\nHost: a\r\n", "Host: a b\r\n", "Host:\r\n", "Host: a\n"] {
        let answer = http1(&budget, &format!("GET / HTTP/1.1\r\n{head}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{head:?}: {answer}");
    }
    assert!(http1(&budget, "GET / HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.0 200"));
}
