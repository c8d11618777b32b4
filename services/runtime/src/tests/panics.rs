//! A panic in one request while others are in progress.

use super::*;

async fn get_panicking(connection: &str) -> (String, u64) {
    let platform = Platform::new();
    let dir = tempfile::tempdir().unwrap();
    let mount = Mount::new(dir.path(), &platform.mount("asset-service"));
    let config = config("asset-service", dir.path());
    let runtime = Runtime::start(config, Arc::new(SystemClock), Arc::new(()), |_| ()).await.unwrap();
    let routes = runtime.routes().route("/fine", Access::Public, get(async || "fine")).route(
        "/panic",
        Access::Public,
        get(async || -> &'static str { panic!("the secret of a user") }),
    );
    let service = serve_routes(runtime, mount, dir, routes);
    let mut tcp = service.connect_plain().await;
    tcp.write_all(
        format!("GET /panic HTTP/1.1\r\nhost: x\r\n\r\nGET /fine HTTP/1.1\r\nhost: x\r\n{connection}\r\n").as_bytes(),
    )
    .await
    .unwrap();
    let mut answers = String::new();
    tcp.read_to_string(&mut answers).await.unwrap();
    let client = platform.client(Some(&platform.leaf("gateway")));
    assert_eq!(service.get(&client, "/panic").await.unwrap().0, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(service.get(&client, "/fine").await.unwrap().0, StatusCode::OK);
    let metrics = get_plain(&format!("{}/metrics", service.admin)).await.1;
    let panics =
        metrics.lines().find_map(|line| line.strip_prefix("gaia_panics_total ")).expect("the counter is there");
    (answers, panics.parse().unwrap())
}

#[tokio::test]
async fn a_request_that_panics_is_500_and_its_connection_goes_on() {
    let (answers, _) = get_panicking("connection: close\r\n").await;
    assert!(answers.starts_with("HTTP/1.1 500") && answers.ends_with("fine"), "{answers}");
    assert!(!answers.contains("secret"));
}
