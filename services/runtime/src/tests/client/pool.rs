//! Many concurrent requests to one service: all arrive, and none waits for unread responses of others.

use http_body_util::BodyExt as _;
use tokio::task::JoinSet;

use super::mesh_client::{runtime, speaking};
use crate::tests::*;

async fn requests_seen(service: &Service, count: usize) {
    let gateway = spiffe_id("gateway");
    let line = format!(r#"gaia_mesh_requests_total{{transport="mtls",caller="{gateway}"}} {count}"#);
    eventually("they get there", async || service.metric(&line).await).await;
}

fn get_of(service: &Service, path: &str) -> Request<Body> {
    Request::get(format!("{}{path}", service.mesh)).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn one_connection_does_for_little_and_however_much_there_is_it_gets_there_at_once() {
    let platform = Platform::new();
    let service = start(&platform.mount("asset-service")).await;
    let client = speaking(&platform, b"h2");
    let mut asking = JoinSet::new();
    for (count, connections) in [(60, 1), (300, 5)] {
        while asking.len() < count {
            let (client, request) = (client.clone(), get_of(&service, "/slow"));
            asking.spawn(async move { client.request(request).await.unwrap().status() });
        }
        requests_seen(&service, count).await;
        let line = format!("gaia_mesh_connections {connections}");
        eventually("connections are shared", async || service.metric(&line).await).await;
    }
    eventually("all are answered", async || {
        service.slow.notify_waiters();
        while let Some(status) = asking.try_join_next() {
            assert_eq!(status.unwrap(), StatusCode::OK);
        }
        asking.is_empty()
    })
    .await;
}

/// A service with 256 KiB responses and requests that holds bodies without reading them.
async fn heavy(platform: &Platform) -> (Service, Arc<Notify>) {
    let (runtime, mount, dir) = runtime(platform).await;
    let held = Arc::new(Notify::new());
    let release = Arc::clone(&held);
    let hold = move |body: Body| async move {
        release.notified().await;
        drop(body);
    };
    let routes = runtime
        .routes()
        .route("/much", Access::Public, get(async || vec![0; MUCH]))
        .route("/put", Access::Public, post(async |body: Bytes| body.len().to_string()))
        .route("/hold", Access::Public, post(hold));
    (serve_routes(runtime, mount, dir, routes), held)
}

#[tokio::test]
async fn answers_that_nobody_reads_do_not_hold_up_another() {
    let platform = Platform::new();
    let (service, _) = heavy(&platform).await;
    let client = speaking(&platform, b"h2");
    let mut unread = Vec::new();
    for _ in 0..63 {
        unread.push(client.request(get_of(&service, "/much")).await.unwrap());
    }
    let reading = async {
        let answer = client.request(get_of(&service, "/much")).await.unwrap();
        answer.into_body().collect().await.unwrap().to_bytes().len()
    };
    let read = tokio::time::timeout(Duration::from_secs(10), reading).await;
    assert_eq!(read.expect("it is not held up"), MUCH);
    assert!(service.metric("gaia_mesh_connections 1").await);
}

#[tokio::test]
async fn bodies_that_a_service_does_not_read_do_not_hold_up_another() {
    let platform = Platform::new();
    let (service, held) = heavy(&platform).await;
    let client = speaking(&platform, b"h2");
    let post_to = |path| Request::post(format!("{}{path}", service.mesh)).body(Body::from(vec![0; MUCH])).unwrap();
    let mut holding = JoinSet::new();
    // One first, so that the others need no new connection.
    for count in [1, 63] {
        while holding.len() < count {
            let (client, request) = (client.clone(), post_to("/hold"));
            holding.spawn(async move { client.request(request).await.unwrap().status() });
        }
        requests_seen(&service, count).await;
    }
    let putting = async { read(client.request(post_to("/put")).await.unwrap()).await.1 };
    let put = tokio::time::timeout(Duration::from_secs(10), putting).await;
    assert_eq!(put.expect("it is not held up"), MUCH.to_string().as_bytes());
    assert!(service.metric("gaia_mesh_connections 1").await);
    held.notify_waiters();
    assert!(holding.join_all().await.into_iter().all(|status| status == StatusCode::OK));
}

const MUCH: usize = 256 * 1024;
