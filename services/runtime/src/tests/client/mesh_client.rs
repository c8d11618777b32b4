//! Calls to other services while connections, snapshots and servers change.

use std::sync::Mutex;

use axum::extract::Extension;
use gaia_auth::Connection;
use tokio::task::JoinSet;

use crate::Hosts;
use crate::tests::trust::revoked;
use crate::tests::*;

/// A client that supports one HTTP version.
pub(crate) fn speaking(platform: &Platform, protocol: &[u8]) -> MeshClient {
    let mut config = platform.client_config(Some(&platform.leaf("gateway")));
    config.alpn_protocols = vec![protocol.to_vec()];
    MeshClient::new(config, Hosts::default())
}

pub(crate) async fn runtime(platform: &Platform) -> (Runtime, Mount, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let mount = Mount::new(dir.path(), &platform.mount("asset-service"));
    let config = config("asset-service", dir.path());
    (Runtime::start(config, Arc::new(SystemClock), Arc::new(()), |_| ()).await.unwrap(), mount, dir)
}

#[tokio::test]
async fn no_request_fails_while_connections_grow_old() {
    let platform = Platform::new();
    let (mut runtime, mount, dir) = runtime(&platform).await;
    runtime.limits.age = Duration::from_millis(20);
    let service = serve(runtime, mount, dir);
    let mut asking = JoinSet::new();
    for protocol in [&b"http/1.1"[..], b"h2"] {
        let client = speaking(&platform, protocol);
        for _ in 0..8 {
            let (client, uri) = (client.clone(), format!("{}/who", service.mesh));
            asking.spawn(async move {
                for _ in 0..100 {
                    let request = Request::get(&uri).body(Body::empty()).unwrap();
                    assert_eq!(read(client.request(request).await.unwrap()).await.0, StatusCode::OK);
                }
            });
        }
    }
    asking.join_all().await;
}

#[tokio::test]
async fn a_client_lets_go_of_a_connection_before_the_server_has_to_end_it() {
    let platform = Platform::new();
    for (max_age, expected) in [(Duration::ZERO, 3), (Duration::from_secs(60), 1)] {
        let (runtime, _mount, _dir) = runtime(&platform).await;
        let uri = format!("https://{}/seen", runtime.mesh_address().unwrap());
        let seen: Arc<Mutex<Vec<Arc<Connection>>>> = Arc::default();
        let record = Arc::clone(&seen);
        let handler = async move |Extension(connection): Extension<Arc<Connection>>| {
            let mut seen = record.lock().unwrap();
            if !seen.iter().any(|known| Arc::ptr_eq(known, &connection)) {
                seen.push(connection);
            }
        };
        let routes = runtime.routes().route("/seen", Access::Public, get(handler));
        let serving = tokio::spawn(runtime.serve(routes, std::future::pending()));
        let client = speaking(&platform, b"h2").with_max_age(max_age);
        for _ in 0..3 {
            let request = Request::get(&uri).body(Body::empty()).unwrap();
            assert_eq!(read(client.request(request).await.unwrap()).await.0, StatusCode::OK);
        }
        assert_eq!(seen.lock().unwrap().len(), expected);
        serving.abort();
    }
}

/// A service that only calls others: its snapshots, and its credential directory.
async fn caller(files: &MountedFiles) -> (Runtime, Mount, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let mount = Mount::new(dir.path(), files);
    let runtime = Runtime::start(config("gateway", dir.path()), Arc::new(SystemClock), Arc::new(()), |_| ()).await;
    (runtime.unwrap(), mount, dir)
}

#[tokio::test]
async fn a_client_refuses_a_server_whose_leaf_is_revoked() {
    let platform = Platform::new();
    let server_files = platform.mount("asset-service");
    let service = start(&server_files).await;
    let mut files = platform.mount("gateway");
    let (runtime, _mount, _dir) = caller(&files).await;
    let client = runtime.generations().borrow().as_ref().unwrap().client("asset-service");
    assert_eq!(service.get(&client, "/who").await.unwrap().0, StatusCode::OK);
    files.insert(key::DENYLIST, revoked(&server_files));
    let (runtime, _mount, _dir) = caller(&files).await;
    let client = runtime.generations().borrow().as_ref().unwrap().client("asset-service");
    let refused = service.get(&client, "/who").await.unwrap_err();
    assert!(format!("{refused:?}").contains("Revoked"), "{refused:?}");
}

#[tokio::test]
async fn a_new_generation_closes_the_idle_connections_of_the_one_before() {
    let platform = Platform::new();
    let service = start(&platform.mount("asset-service")).await;
    let mut files = platform.mount("gateway");
    let (runtime, mut mount, _dir) = caller(&files).await;
    let generations = runtime.generations();
    let address = format!("https://{}", runtime.mesh_address().unwrap());
    let routes = runtime.routes();
    let serving = tokio::spawn(runtime.serve(routes, std::future::pending()));
    let client = || generations.borrow().as_ref().unwrap().client("asset-service");
    // An open connection to the caller must not keep its old snapshot alive.
    let visitor = platform.client(Some(&platform.leaf("chat-service")));
    let visit = Request::get(format!("{address}/health")).body(Body::empty()).unwrap();
    assert_eq!(visitor.request(visit).await.unwrap().status(), StatusCode::OK);

    assert_eq!(service.get(&client(), "/who").await.unwrap().0, StatusCode::OK);
    assert!(service.metric("gaia_mesh_connections 1").await);
    files.extend(platform.leaf("gateway"));
    mount.swap(&files);
    eventually("the idle connection is closed", async || service.metric("gaia_mesh_connections 0").await).await;
    assert_eq!(service.get(&client(), "/who").await.unwrap().0, StatusCode::OK);
    serving.abort();
}
