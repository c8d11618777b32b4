//! Handshakes of one source against the limits that all sources share.

use std::net::{IpAddr, SocketAddr};

use tokio::net::TcpSocket;

use crate::tests::*;

/// A handshake from that address: true if it was completed.
async fn handshake(platform: &Platform, to: SocketAddr, from: IpAddr) -> bool {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from, 0)).unwrap();
    let tcp = socket.connect(to).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(Arc::new(platform.client_config(None))).connect(name, tcp).await.is_ok()
}

#[tokio::test]
async fn handshakes_beyond_the_rate_of_a_source_are_refused_and_counted() {
    let platform = Platform::new();
    let dir = tempfile::tempdir().unwrap();
    let mount = Mount::new(dir.path(), &platform.mount("asset-service"));
    let config = crate::RuntimeConfig { handshake_rate: "1:5".parse().unwrap(), ..config("asset-service", dir.path()) };
    let runtime = Runtime::start(config, Arc::new(SystemClock), Arc::new(()), |_| ()).await.unwrap();
    let mesh = runtime.mesh_address().unwrap();
    let service = serve(runtime, mount, dir);
    let (greedy, other) = (IpAddr::from([127, 0, 0, 3]), IpAddr::from([127, 0, 0, 4]));
    let mut completed = 0;
    for _ in 0..30 {
        completed += usize::from(handshake(&platform, mesh, greedy).await);
    }
    assert!((5..15).contains(&completed), "{completed} of 30 were completed");
    assert!(handshake(&platform, mesh, other).await, "another source is not limited");
    let (_, metrics) = get_plain(&format!("{}/metrics", service.admin)).await;
    let counted = metrics.lines().find(|line| line.contains(r#"gaia_tls_handshake_failures_total{reason="rate"}"#));
    assert_eq!(counted.and_then(|line| line.rsplit(' ').next()), Some((30 - completed).to_string().as_str()));
}
