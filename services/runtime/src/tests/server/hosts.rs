//! Calls to hosts unknown to the system resolver.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::Hosts;
use crate::tests::*;

/// An address without a listener.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn the_addresses_of_a_host_take_turns_and_one_that_does_not_answer_is_passed_over() {
    let platform = Platform::new();
    let files = platform.mount("asset-service");
    let services = [start(&files).await, start(&files).await];
    let address = |service: &Service| service.mesh.strip_prefix("https://").unwrap().parse().unwrap();
    let addresses = [address(&services[0]), nobody().await, address(&services[1])];
    let hosts: Hosts = addresses.into_iter().map(|address| ("localhost".to_owned(), address)).collect();
    let client = MeshClient::new(platform.client_config(Some(&platform.leaf("gateway"))), hosts);
    let clients = [client.apart(), client.apart(), client.apart()];
    for client in &clients {
        let request = Request::get("https://localhost:1/who").body(Body::empty()).unwrap();
        assert_eq!(read(client.request(request).await.unwrap()).await.0, StatusCode::OK);
    }
    // The second call failed to connect and used the next address.
    assert!(services[0].metric("gaia_mesh_connections 1").await);
    assert!(services[1].metric("gaia_mesh_connections 2").await);
}

#[tokio::test]
async fn clients_that_are_apart_share_no_connection() {
    let platform = Platform::new();
    let service = start(&platform.mount("asset-service")).await;
    let client = platform.client(Some(&platform.leaf("gateway")));
    let apart = client.apart();
    for (client, connections) in [(&client, 1), (&client, 1), (&apart, 2)] {
        assert_eq!(service.get(client, "/who").await.unwrap().0, StatusCode::OK);
        assert!(service.metric(&format!("gaia_mesh_connections {connections}")).await);
    }
}
