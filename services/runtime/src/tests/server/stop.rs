//! Graceful shutdown: order and time limits.

use tokio::time::Instant;

use crate::tests::client::mesh_client::speaking;
use crate::tests::*;

async fn start_with(platform: &Platform, shutdown_delay: &str, drain_timeout: &str) -> Service {
    let dir = tempfile::tempdir().unwrap();
    let mount = Mount::new(dir.path(), &platform.mount("asset-service"));
    let mut config = config("asset-service", dir.path());
    config.shutdown_delay = Span::parse(shutdown_delay).unwrap();
    config.drain_timeout = Span::parse(drain_timeout).unwrap();
    let runtime = Runtime::start(config, Arc::new(SystemClock), Arc::new(()), |_| ()).await.unwrap();
    serve(runtime, mount, dir)
}

/// A request that is answered when `service.slow` is notified.
async fn slow_request(
    service: &Service,
    client: &MeshClient,
    connections: u32,
) -> JoinHandle<Result<StatusCode, CallError>> {
    let (client, uri) = (client.clone(), format!("{}/slow", service.mesh));
    let asking = tokio::spawn(async move {
        client.request(Request::get(uri).body(Body::empty()).unwrap()).await.map(|answer| answer.status())
    });
    let line = format!("gaia_mesh_connections {connections}");
    eventually("the request is in progress", async || service.metric(&line).await).await;
    asking
}

#[tokio::test]
async fn a_stopping_service_is_not_ready_and_finishes_what_is_under_way() {
    let platform = Platform::new();
    for protocol in [&b"http/1.1"[..], b"h2"] {
        let mut service = start_with(&platform, "500ms", "5s").await;
        let client = speaking(&platform, protocol);
        let under_way = slow_request(&service, &client, 1).await;
        service.stop.take().unwrap().send(()).unwrap();
        eventually("it is not ready", async || service.readyz().await == StatusCode::SERVICE_UNAVAILABLE).await;
        assert_eq!(
            service.health(&client.apart()).await["status"],
            "draining",
            "new connections are served until then"
        );
        let address = service.mesh.strip_prefix("https://").unwrap().to_owned();
        eventually("it takes no new connection", async || TcpStream::connect(&address).await.is_err()).await;
        assert!(service.get(&client, "/who").await.is_err(), "nor a request on the one it has");
        service.slow.notify_one();
        assert_eq!(under_way.await.unwrap().unwrap(), StatusCode::OK);
        service.serving.await.unwrap();
    }
}

#[tokio::test]
async fn what_does_not_finish_in_time_is_cut_off() {
    let platform = Platform::new();
    let mut service = start_with(&platform, "0s", "500ms").await;
    let client = platform.client(Some(&platform.leaf("gateway")));
    let under_way = slow_request(&service, &client, 1).await;
    let began = Instant::now();
    service.stop.take().unwrap().send(()).unwrap();
    service.serving.await.unwrap();
    let took = began.elapsed();
    assert!((Duration::from_millis(500)..Duration::from_secs(3)).contains(&took), "{took:?}");
    assert!(under_way.await.unwrap().is_err());
}

#[tokio::test]
async fn who_has_asked_nothing_is_not_waited_for() {
    let platform = Platform::new();
    let mut service = start_with(&platform, "0s", "25s").await;
    let client = platform.client(Some(&platform.leaf("gateway")));
    service.get(&client, "/who").await.unwrap();
    let _silent = service.connect_plain().await;
    let _no_request = service.connect(&platform, &platform.leaf("gateway")).await;
    eventually("all are connected", async || service.metric("gaia_mesh_connections 3").await).await;
    let began = Instant::now();
    service.stop.take().unwrap().send(()).unwrap();
    service.serving.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}
