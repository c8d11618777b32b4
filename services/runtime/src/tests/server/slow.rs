//! Silent, slow or numerous clients: others are served, and the connections are closed in time.

use tokio::time::Instant;

use crate::tests::*;

/// One second for every limit, to keep the tests short.
fn short() -> Limits {
    let second = Duration::from_secs(1);
    Limits {
        handshake: second,
        first_request: second,
        keep_alive: second,
        head: second,
        idle: second,
        slack: second,
        ..Limits::default()
    }
}

/// Asserts that other clients are served without delay.
async fn others_are_served(service: &Service, client: &MeshClient) {
    let began = Instant::now();
    assert_eq!(service.get(client, "/who").await.unwrap().0, StatusCode::OK);
    assert_eq!(service.readyz().await, StatusCode::OK);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_connections_that_say_nothing_or_half_of_it_cost_nobody_else_anything() {
    let platform = Platform::new();
    let limits =
        Limits { handshake: Duration::from_secs(3), first_request: Duration::from_secs(3), ..Limits::default() };
    let service = start_within(&platform.mount("asset-service"), limits).await;
    let client = platform.client(Some(&platform.leaf("gateway"))).apart();
    let mut silent = Vec::new();
    for n in 0..1000 {
        let mut stream = service.connect_plain().await;
        let half: &[u8] = match n % 4 {
            0 => b"",
            1 => b"\x16\x03\x01\x02\x00\x01",
            2 => b"GET /who HTTP/1.1\r\nhost: x\r\nx-slow: ",
            _ => b"P",
        };
        stream.write_all(half).await.unwrap();
        silent.push(stream);
    }
    assert!(!service.metric("gaia_mesh_connections 0").await);
    others_are_served(&service, &client.apart()).await;
    let mut prefaces = Vec::new();
    let mut config = platform.client_config(Some(&platform.leaf("gateway")));
    config.alpn_protocols = vec![b"h2".to_vec()];
    for half in [&b""[..], b"PRI * HTTP/2.0\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut stream = service.connect_with(config.clone()).await;
        stream.write_all(half).await.unwrap();
        prefaces.push(stream);
    }
    others_are_served(&service, &client.apart()).await;
    eventually("all are let go", async || service.metric("gaia_mesh_connections 0").await).await;
    let metrics = get_plain(&format!("{}/metrics", service.admin)).await.1;
    assert!(metrics.contains(r#"gaia_tls_handshake_failures_total{reason="timeout"} 500"#), "{metrics}");
    assert!(metrics.contains(r#"gaia_connections_ended_total{reason="first_request"} 503"#), "{metrics}");
    for mut stream in silent {
        assert_eq!(stream.read(&mut [0; 64]).await.unwrap_or_default(), 0, "it was closed");
    }
}

#[tokio::test]
async fn when_all_places_are_taken_the_next_one_displaces_a_silent_one() {
    let platform = Platform::new();
    let service = start_within(&platform.mount("asset-service"), Limits { connections: 4, ..short() }).await;
    let client = platform.client(Some(&platform.leaf("gateway")));
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(service.connect_plain().await);
    }
    eventually("they have the places", async || service.metric("gaia_mesh_connections 4").await).await;
    let began = Instant::now();
    assert_eq!(service.get(&client, "/who").await.unwrap().0, StatusCode::OK);
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    assert_eq!(silent[0].read(&mut [0; 64]).await.unwrap_or_default(), 0, "the oldest was closed");
}

#[tokio::test]
async fn silent_visitors_of_the_admin_port_keep_no_probe_waiting() {
    let platform = Platform::new();
    let service = start_within(&platform.mount("asset-service"), short()).await;
    let address = service.admin.strip_prefix("http://").unwrap();
    let mut silent = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /met").await.unwrap();
        silent.push(stream);
    }
    assert_eq!(service.readyz().await, StatusCode::OK);
    for mut stream in silent {
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut [0; 64])).await;
        assert_eq!(read.expect("it is closed").unwrap_or_default(), 0);
    }
}

#[tokio::test]
async fn a_body_that_trickles_is_refused_and_its_connection_closed() {
    let platform = Platform::new();
    let service = start_within(&platform.mount("asset-service"), short()).await;
    let client = platform.client(Some(&platform.leaf("gateway")));
    let mut stream = service.connect_plain().await;
    stream.write_all(b"POST /put HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n").await.unwrap();
    let began = Instant::now();
    let (mut reading, mut writing) = stream.into_split();
    let trickling = tokio::spawn(async move {
        while writing.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    others_are_served(&service, &client).await;
    let mut answer = String::new();
    let _ = reading.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("connection: close"), "{answer}");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    trickling.await.unwrap();
}

#[tokio::test]
async fn over_http2_a_body_that_trickles_is_refused_and_the_other_requests_go_on() {
    let platform = Platform::new();
    let service = start_within(&platform.mount("asset-service"), short()).await;
    let mut config = platform.client_config(Some(&platform.leaf("gateway")));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let client = MeshClient::new(config, crate::Hosts::default());
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let trickling = tokio::spawn(async move {
        while sender.send(Ok(Bytes::from_static(b"x"))).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let body = Body::from_stream(futures_of(receiver));
    let slow = client.request(Request::post(format!("{}/put", service.mesh)).body(body).unwrap());
    let (slow, ()) = tokio::join!(slow, others_are_served(&service, &client));
    assert_eq!(slow.unwrap().status(), StatusCode::REQUEST_TIMEOUT);
    others_are_served(&service, &client).await;
    assert!(service.metric("gaia_mesh_connections 1").await);
    trickling.await.unwrap();
}

#[tokio::test]
async fn a_head_that_trickles_on_a_connection_in_use_is_not_waited_for() {
    let platform = Platform::new();
    let service = start_within(&platform.mount("asset-service"), short()).await;
    let mut stream = service.connect_plain().await;
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
    let began = Instant::now();
    while stream.write_all(b"G").await.is_ok() && began.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test]
async fn who_does_not_take_the_answer_is_let_go() {
    let platform = Platform::new();
    let service = start_within(&platform.mount("asset-service"), short()).await;
    let mut plain = service.connect_plain().await;
    plain.write_all(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut tls = service.connect(&platform, &platform.leaf("gateway")).await;
    tls.write_all(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    eventually("both are served", async || service.metric("gaia_mesh_connections 2").await).await;
    eventually("both are let go", async || service.metric("gaia_mesh_connections 0").await).await;
}

/// Converts a channel into a stream.
fn futures_of<T>(mut receiver: tokio::sync::mpsc::Receiver<T>) -> impl futures::Stream<Item = T> {
    futures::stream::poll_fn(move |context| receiver.poll_recv(context))
}
