//! Streaming responses, and protocols that are not supported.

use futures::Stream;
use jiff::SignedDuration;

use super::*;

/// An endless stream of events, ten per second.
pub(super) fn events() -> impl Stream<Item = Result<String, std::io::Error>> {
    futures::stream::unfold(0, async |number| {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Some((Ok(format!("data: {number}\n\n")), number + 1))
    })
}

#[tokio::test]
async fn events_arrive_one_by_one_and_end_with_the_token_that_they_were_asked_with() {
    let scene = Scene::open(&[]).await;
    // Issued nearly an hour ago: two seconds of validity remain.
    let long_ago = SystemClock.now() - SignedDuration::from_secs(3600 - 3);
    let token = scene.issuer.user_token(&users("http://127.0.0.1"), USER, long_ago);
    let mut tcp = TcpStream::connect(scene.edge).await.unwrap();
    let head =
        format!("POST /chat?events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n");
    tcp.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut read = String::new();
    let began = tokio::time::Instant::now();
    while !read.contains("data: 2") {
        let mut buffer = [0; 1024];
        let count = tokio::time::timeout(PATIENCE, tcp.read(&mut buffer)).await.unwrap().unwrap();
        assert!(count > 0, "it ended early: {read}");
        read.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    assert!(read.starts_with("HTTP/1.1 200 "), "{read}");
    assert!(began.elapsed() < Duration::from_millis(2500), "the third event came while more were to come");
    let mut rest = String::new();
    tokio::time::timeout(PATIENCE, tcp.read_to_string(&mut rest)).await.expect("it ends").unwrap();
    assert!(rest.ends_with("0\r\n\r\n"), "in good order: {rest}");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_is_no_plain_http_is_refused_as_such_before_anybody_asks_who_it_is() {
    let scene = Scene::open(&[]).await;
    let websocket = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: x"];
    assert_eq!(scene.send("GET", "/chat", &websocket, "").await.status, 501);
    for content_type in ["application/grpc", "application/grpc+proto", "application/grpc-web"] {
        let answer = scene.send("POST", "/chat", &[&format!("Content-Type: {content_type}"), AS_KEY], "").await;
        assert_eq!(answer.status, 501, "{content_type}");
    }
    assert_eq!(scene.seen().len(), 0);
    assert_eq!(scene.send("GET", "/assets", &["Connection: Upgrade", "Upgrade: h2c", AS_KEY], "").await.status, 200);
}

#[tokio::test]
async fn a_large_body_passes_as_it_comes() {
    let scene = Scene::open(&[]).await;
    let body = "x".repeat(3 * 1024 * 1024);
    let answer = scene.send("PUT", "/assets/large", &[AS_KEY], &body).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "key:mobile PUT 3145728"));
    let seen = scene.seen();
    assert!(seen[0].body == body.as_bytes());
}
