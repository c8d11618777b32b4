//! Plain HTTP and TLS on one port, and the metrics of plain requests.

use crate::tests::*;

const REQUEST: &[u8] = b"GET /who HTTP/1.1\r\nhost: x\r\n\r\n";

async fn ask(stream: &mut TcpStream, request: &[u8]) -> String {
    let _ = stream.write_all(request).await;
    let mut answer = vec![0; 4096];
    // Closing a connection with unread bytes resets it.
    let bytes = stream.read(&mut answer).await.unwrap_or_default();
    String::from_utf8_lossy(&answer[..bytes]).into_owned()
}

#[tokio::test]
async fn permissive_serves_plain_http_too_as_nobody_in_particular() {
    let platform = Platform::new();
    let service = start(&platform.mount("asset-service")).await;
    let mut stream = service.connect_plain().await;
    let health = ask(&mut stream, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(health.starts_with("HTTP/1.1 200") && health.ends_with(r#"{"status":"healthy"}"#), "{health}");
    assert!(ask(&mut stream, REQUEST).await.starts_with("HTTP/1.1 401"));
}

#[tokio::test]
async fn strict_serves_no_plain_http_and_takes_leave_of_who_came_with_it() {
    let platform = Platform::new();
    let mut service = start(&platform.mount("asset-service")).await;
    let mut early = service.connect_plain().await;
    assert!(ask(&mut early, REQUEST).await.starts_with("HTTP/1.1 401"));
    service.mount.swap(&strict(&platform));
    let closed = tokio::time::timeout(Duration::from_secs(5), early.read(&mut [0; 64])).await;
    assert_eq!(closed.expect("it is closed").unwrap_or_default(), 0);
    let mut late = service.connect_plain().await;
    assert_eq!(ask(&mut late, REQUEST).await, "");
    assert!(service.metric(r#"gaia_tls_handshake_failures_total{reason="not_tls"} 1"#).await);
}

#[tokio::test]
async fn every_way_in_is_counted_by_its_caller() {
    let platform = Platform::new();
    let service = start(&platform.mount("asset-service")).await;
    for leaf in [None, Some(platform.leaf("gateway")), Some(platform.leaf("chat-service"))] {
        let client = platform.client(leaf.as_ref());
        for _ in 0..2 {
            service.get(&client, "/health").await.unwrap();
        }
    }
    let mut plain = service.connect_plain().await;
    ask(&mut plain, REQUEST).await;
    let gateway = spiffe_id("gateway");
    for line in [
        r#"gaia_mesh_requests_total{transport="plain",caller="127.0.0.1"} 1"#.to_owned(),
        r#"gaia_mesh_requests_total{transport="tls",caller="127.0.0.1"} 2"#.to_owned(),
        format!(r#"gaia_mesh_requests_total{{transport="mtls",caller="{gateway}"}} 2"#),
        r#"gaia_mesh_requests_total{transport="mtls",caller="undeclared"} 2"#.to_owned(),
    ] {
        assert!(service.metric(&line).await, "{line}");
    }
}

#[tokio::test]
async fn http2_without_tls_and_what_is_no_http_at_all_get_no_answer_to_speak_of() {
    let platform = Platform::new();
    let service = start(&platform.mount("asset-service")).await;
    for nonsense in
        [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], b"\x80\x2e\x01\x00\x02", b"\0\0\0\0", b"\r\n\r\n\r\nx\r\n\r\n"]
    {
        let mut stream = service.connect_plain().await;
        let answer = ask(&mut stream, nonsense).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    let mut nobody = service.connect_plain().await;
    nobody.shutdown().await.unwrap();
    assert_eq!(nobody.read(&mut [0; 8]).await.unwrap(), 0, "who only looks is no failure");
    assert!(!get_plain(&format!("{}/metrics", service.admin)).await.1.contains("gaia_tls_handshake_failures_total{"));
}
