//! Request smuggling: requests that two consecutive programs would split differently.

use super::*;

/// A request with the API key, these header lines and this body.
fn request(lines: &str, rest: &str) -> String {
    format!("PUT /assets/a HTTP/1.1\r\nHost: shop.example\r\n{AS_KEY}\r\n{lines}\r\n{rest}")
}

#[tokio::test]
async fn a_request_whose_length_is_said_twice_or_in_two_ways_is_refused_and_nothing_after_it_is_read() {
    let scene = Scene::open(&[]).await;
    let hidden = "DELETE /assets/b HTTP/1.1\r\nHost: x\r\n\r\n";
    for (lines, rest) in [
        ("Content-Length: 3\r\nContent-Length: 4\r\n", "abcd"),
        ("Content-Length: 3\r\nContent-Length: 3\r\n", "abc"),
        ("Content-Length: 3, 3\r\n", "abc"),
        ("Content-Length: +3\r\n", "abc"),
        ("Content-Length: -1\r\n", ""),
        ("Content-Length: 0x3\r\n", "abc"),
        ("Content-Length: 99999999999999999999\r\n", "abc"),
        ("Content-Length : 3\r\n", "abc"),
        ("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\ncontent-length: 5\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: identity\r\n", ""),
        ("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"),
        ("X: a\r\n b\r\n", ""),
        (" X: a\r\n", ""),
        ("X\0: a\r\n", ""),
        ("X: a\0b\r\n", ""),
        ("X: a\rContent-Length: 5\r\n", ""),
        ("Transfer-Encoding: chunked\r\n", "zz\r\nabc\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "-3\r\nabc\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "3\r\nabcX\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "3;a=\n\r\nabc\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "ffffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
    ] {
        let answers = scene.raw(request(lines, &format!("{rest}{hidden}"))).await;
        assert!(answers.starts_with("HTTP/1.1 400 "), "{lines:?} {rest:?}: {answers}");
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{lines:?} {rest:?}: {answers}");
    }
    assert!(scene.seen().iter().all(|seen| seen.method != "DELETE"));
    let plain = "POST /chat HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert!(scene.raw(plain).await.contains(" 400 "), "HTTP/1.0 knows no chunks");
}

#[tokio::test]
async fn what_is_in_order_is_served_one_after_the_other() {
    let scene = Scene::open(&[]).await;
    let chunked = request("Transfer-Encoding: chunked\r\n", "3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n");
    let sized = request("Content-Length: 3\r\n", "abc");
    let last = request("Content-Length: 0\r\nConnection: close\r\n", "");
    let answers = scene.raw(format!("{chunked}{sized}{last}")).await;
    assert_eq!(answers.matches("HTTP/1.1 200 ").count(), 3, "{answers}");
    let seen = scene.seen();
    assert_eq!(seen.iter().map(|seen| seen.body.len()).collect::<Vec<_>>(), [5, 3, 0]);
    assert!(seen.iter().all(|seen| !seen.headers.contains_key("x-trailer")));
}
