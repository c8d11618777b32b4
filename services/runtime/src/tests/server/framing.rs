//! Compares this framing of requests with hyper's: if both continue, both must see the same requests.

use std::convert::Infallible;
use std::sync::Mutex;

use gaia_api::sync::lock;
use http::Response;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;

use crate::server::hardening::framing::Framing;
use crate::tests::*;

/// The target of a request and the length of its body.
type Message = (String, usize);

/// Returns a path; other forms of targets are not compared.
fn target(text: &str) -> String {
    if text.starts_with('/') { text.to_owned() } else { String::new() }
}

/// Returns the requests whose bodies hyper read to the end.
async fn by_hyper(bytes: &[u8]) -> Vec<Message> {
    let found = Arc::new(Mutex::new(Vec::new()));
    let service = {
        let found = Arc::clone(&found);
        service_fn(move |request: Request<Incoming>| {
            let found = Arc::clone(&found);
            async move {
                let target = target(&request.uri().to_string());
                if let Ok(body) = request.into_body().collect().await {
                    let length = body.to_bytes().len();
                    lock(&found).push((target, length));
                }
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        })
    };
    let (mut client, server) = tokio::io::duplex(64 * 1024);
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    let _ = http1::Builder::new().half_close(true).serve_connection(TokioIo::new(server), service).await;
    let found = lock(&found);
    found.clone()
}

/// Returns the requests completed according to `Framing`, and the number of accepted bytes.
fn by_framing(bytes: &[u8]) -> (Vec<Message>, usize) {
    let (mut framing, mut found, mut began, mut length) = (Framing::default(), Vec::new(), None, 0);
    for (at, byte) in bytes.iter().enumerate() {
        let was_data = framing.is_in_data();
        let was_at_start = framing.is_at_start();
        if framing.see(&[*byte]).is_err() {
            return (found, at);
        }
        if was_at_start && began.is_none() && !b"\r\n".contains(byte) {
            began = Some(at);
        }
        length += usize::from(was_data);
        if framing.is_at_start() && !was_at_start {
            let line = bytes[began.take().unwrap_or(at)..].split(|&byte| byte == b' ').nth(1).unwrap_or_default();
            found.push((target(&String::from_utf8_lossy(line)), length));
            length = 0;
        }
    }
    (found, bytes.len())
}

fn check(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (here, good) = by_framing(bytes);
    let hyper = runtime.block_on(by_hyper(&bytes[..good]));
    let text = String::from_utf8_lossy(bytes);
    assert!(here.starts_with(&hyper), "{text:?}: {here:?} here, {hyper:?} by hyper");
}

/// Pieces of valid and invalid requests.
fn piece() -> impl Strategy<Value = String> {
    let good = prop_oneof![
        (0..4u8).prop_map(|n| format!("GET /{n} HTTP/1.1\r\nHost: x\r\n\r\n")),
        (0..4u8, 0..9usize).prop_map(|(n, length)| {
            format!("PUT /{n} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{}", "d".repeat(length))
        }),
        (0..4u8).prop_map(|n| format!("PUT /{n} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")),
        Just("3;x=y\r\nabc\r\n".to_owned()),
        Just("0\r\n\r\n".to_owned()),
        Just("0\r\nA: b\r\n\r\n".to_owned()),
    ];
    let odd = proptest::sample::select(vec![
        "0\r\nA: b\n\r\n",
        "0\r\n\n\r\n",
        "0\r\nA: b\r\n\n",
        "0\n\n",
        "0\r\n",
        "3\nabc\r\n",
        "3\r\nabc\n",
        "3 \r\nabc\r\n",
        "3 ;x\r\nabc\r\n",
        "3\t5\r\nabc\r\n",
        "3;\"\n\"\r\nabc\r\n",
        "3;\r\r\nabc\r\n",
        "\r\n",
        "\n",
        "\r",
        "\0",
        " ",
        "a",
        "A: b\r\n",
        "A: b\n",
        "A : b\r\n",
        " folded\r\n",
        "Content-Length: 3\r\n",
        "Content-Length: 3\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "GET /5 HTTP/1.0\r\n",
        "GET /6 HTTP/1.1\n",
        "PUT /7 HTTP/1.1\r\n",
        "GET /8\r\n",
        "Expect: 100-continue\r\n",
        "Connection: upgrade\r\n",
        "0A\r\n",
        "+3\r\n",
        "ffffffffffffffff\r\n",
        "0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "0\r\nContent-Length: 9\r\n\r\n",
        "0\r\nX: \r\r\n\r\n",
        "0\r\nX\r\n\r\n",
    ]);
    prop_oneof![3 => good, 2 => odd.prop_map(str::to_owned)]
}

proptest! {
    #[test]
    fn both_framings_see_the_same_requests(pieces in proptest::collection::vec(piece(), 0..10)) {
        check(pieces.concat().as_bytes());
    }

    #[test]
    fn both_see_the_same_where_one_byte_is_odd(
        pieces in proptest::collection::vec(piece(), 1..6),
        at in any::<prop::sample::Index>(),
        byte in proptest::sample::select(b"\r\n\0 \t;:0a\x7f\xff".to_vec()),
        is_in_place in any::<bool>(),
    ) {
        let mut bytes = pieces.concat().into_bytes();
        let at = at.index(bytes.len());
        if is_in_place { bytes[at] = byte } else { bytes.insert(at, byte) }
        check(&bytes);
    }
}

#[test]
fn a_bare_lf_in_trailers_hides_no_request() {
    let chunked = "PUT /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n";
    for trailers in ["A: b\n\r\n", "\n\r\n", "A: b\r\n\n\r\n", "A\n\r\n\r\n"] {
        for request in
            ["GET /b HTTP/1.1\r\nHost: x\r\n\r\n", "PUT /b HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok"]
        {
            check(format!("{chunked}{trailers}{request}{request}").as_bytes());
        }
    }
}
