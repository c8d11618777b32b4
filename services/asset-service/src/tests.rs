//! End-to-end tests of asset-service over real TLS, with both kinds of credential.

use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use gaia_api::SystemClock;
use gaia_api::names::key;
use gaia_runtime::MeshClient;
use gaia_runtime::testing::{Mount, MountedFiles, Platform, api_keys, config, get_plain, read};
use http::{HeaderMap, Method, Request, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::assets::MAX_ASSET_BYTES;
use crate::config::{Bounds, StoreConfig};
use crate::{AssetService, Config};

mod bucket;
mod memory;
mod moves;
mod names;
mod quota;

struct Service {
    platform: Platform,
    url: String,
    admin: String,
    store: TempDir,
    _dir: TempDir,
}

async fn start() -> Service {
    start_in(|store| StoreConfig::folder(store.join("assets"))).await
}

/// Starts a service with the store configured by `place`, which may write files into a directory.
async fn start_in(place: impl FnOnce(&Path) -> StoreConfig) -> Service {
    start_with_files(place, |_| ()).await.0
}

/// The same with changed files in its credential directory, which can be changed again.
async fn start_with_files(
    place: impl FnOnce(&Path) -> StoreConfig,
    change: impl FnOnce(&mut MountedFiles),
) -> (Service, Mount, MountedFiles) {
    let platform = Platform::new();
    let mut files = platform.mount("asset-service");
    let keys = [
        ("legacy", "the-shared-key", &[][..]),
        ("other", "another-key", &[]),
        ("reader", "reader-key", &["assets:read"]),
    ];
    files.insert(key::API_KEYS, api_keys(&keys));
    change(&mut files);
    let (dir, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mount = Mount::new(dir.path(), &files);
    let config = Config { runtime: config("asset-service", dir.path()), store: place(store.path()) };
    let service = AssetService::start(config, Arc::new(SystemClock)).await.unwrap();
    let url = format!("https://{}", service.runtime.mesh_address().unwrap());
    let admin = format!("http://{}", service.runtime.admin_address().unwrap());
    tokio::spawn(service.serve(std::future::pending()));
    (Service { platform, url, admin, store, _dir: dir }, mount, files)
}

/// A client with the headers of its credential.
struct Caller {
    client: MeshClient,
    headers: HeaderMap,
    url: String,
}

impl Service {
    fn with_key(&self, key: &str) -> Caller {
        let headers = HeaderMap::from_iter([("x-api-key".parse().unwrap(), key.parse().unwrap())]);
        Caller { client: self.platform.client(None), headers, url: self.url.clone() }
    }

    /// A peer with a token as issued by auth-service.
    fn with_token(&self, service: &str, scope: Option<&str>) -> Caller {
        let token = self.platform.service_token(service, "asset-service", scope);
        let headers = HeaderMap::from_iter([(http::header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap())]);
        let client = self.platform.client(Some(&self.platform.leaf(service)));
        Caller { client, headers, url: self.url.clone() }
    }
}

impl Caller {
    /// Returns the caller with an additional header.
    fn with(&self, name: &'static str, value: &str) -> Self {
        let mut headers = self.headers.clone();
        headers.insert(name, value.parse().unwrap());
        Self { client: self.client.clone(), headers, url: self.url.clone() }
    }

    async fn send(&self, method: Method, path: &str, body: impl Into<Body>) -> (StatusCode, HeaderMap, Vec<u8>) {
        let mut request = Request::new(body.into());
        *request.method_mut() = method;
        *request.uri_mut() = format!("{}{path}", self.url).parse().unwrap();
        *request.headers_mut() = self.headers.clone();
        let response = self.client.request(request).await.unwrap();
        let headers = response.headers().clone();
        let (status, body) = read(response).await;
        (status, headers, body)
    }

    async fn status(&self, method: Method, path: &str, body: impl Into<Body>) -> StatusCode {
        self.send(method, path, body).await.0
    }

    async fn listed(&self) -> Vec<String> {
        let (status, _, body) = self.send(Method::GET, "/assets", "").await;
        assert_eq!(status, StatusCode::OK);
        let list: Value = serde_json::from_slice(&body).unwrap();
        let paths = list["assets"].as_array().unwrap().iter().map(|asset| asset["path"].as_str().unwrap().to_owned());
        paths.collect()
    }
}

#[tokio::test]
async fn both_credentials_put_get_list_and_delete() {
    let service = start().await;
    for caller in [service.with_key("the-shared-key"), service.with_token("gateway", Some("assets:read assets:write"))]
    {
        assert_eq!(caller.listed().await, Vec::<String>::new());
        assert_eq!(caller.status(Method::PUT, "/assets/photos/cat.jpg", "meow").await, StatusCode::CREATED);
        assert_eq!(caller.status(Method::PUT, "/assets/photos/cat.jpg", "purr").await, StatusCode::NO_CONTENT);
        assert_eq!(caller.status(Method::PUT, "/assets/gr%C3%BC%C3%9Fe%20%23.txt", "").await, StatusCode::CREATED);
        assert_eq!(caller.listed().await, ["grüße #.txt", "photos/cat.jpg"]);
        let (status, headers, body) = caller.send(Method::GET, "/assets/photos/cat.jpg", "").await;
        assert_eq!((status, body.as_slice()), (StatusCode::OK, &b"purr"[..]));
        assert_eq!(headers["content-disposition"], "attachment; filename*=UTF-8''cat.jpg");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["content-security-policy"], "default-src 'none'; sandbox");
        assert_eq!(headers["content-length"], "4");
        assert_eq!(caller.status(Method::DELETE, "/assets/photos/cat.jpg", "").await, StatusCode::NO_CONTENT);
        assert_eq!(caller.status(Method::DELETE, "/assets/photos/cat.jpg", "").await, StatusCode::NOT_FOUND);
        assert_eq!(caller.status(Method::GET, "/assets/photos/cat.jpg", "").await, StatusCode::NOT_FOUND);
        assert_eq!(caller.status(Method::PUT, "/assets/photos", "an asset now").await, StatusCode::CREATED);
    }
}

#[tokio::test]
async fn nobody_sees_or_touches_what_another_subject_keeps() {
    let service = start().await;
    let (gateway, chat) = (service.with_token("gateway", None), service.with_token("chat-service", None));
    let old = service.with_key("the-shared-key");
    assert_eq!(gateway.status(Method::PUT, "/assets/a", "gateway's").await, StatusCode::CREATED);
    for other in [&chat, &old] {
        assert_eq!(other.listed().await, Vec::<String>::new());
        assert_eq!(other.status(Method::GET, "/assets/a", "").await, StatusCode::NOT_FOUND);
        assert_eq!(other.status(Method::DELETE, "/assets/a", "").await, StatusCode::NOT_FOUND);
    }
    for path in ["/assets/%2e%2e/x", "/assets/..%2fx", "/assets/a%5c..%5cx", "/assets//etc/passwd", "/assets/a%00b"] {
        assert_eq!(chat.status(Method::GET, path, "").await, StatusCode::BAD_REQUEST, "{path}");
        assert_eq!(chat.status(Method::PUT, path, "x").await, StatusCode::BAD_REQUEST, "{path}");
    }
    assert_eq!(gateway.send(Method::GET, "/assets/a", "").await.2, b"gateway's");
}

#[tokio::test]
async fn each_method_needs_its_scope() {
    let service = start().await;
    for reader in [service.with_key("reader-key"), service.with_token("gateway", Some("assets:read"))] {
        assert_eq!(reader.listed().await, Vec::<String>::new());
        assert_eq!(reader.status(Method::PUT, "/assets/a", "x").await, StatusCode::FORBIDDEN);
        assert_eq!(reader.status(Method::DELETE, "/assets/a", "").await, StatusCode::FORBIDDEN);
        assert_eq!(reader.status(Method::POST, "/assets/a", "x").await, StatusCode::METHOD_NOT_ALLOWED);
    }
}

#[tokio::test]
async fn without_a_good_credential_there_is_one_answer_and_the_metrics_say_why() {
    let service = start().await;
    let nobody = Caller { client: service.platform.client(None), headers: HeaderMap::new(), url: service.url.clone() };
    let stolen = Caller { client: service.platform.client(None), ..service.with_token("gateway", None) };
    let mut both = service.with_token("gateway", None);
    both.client = service.platform.client(Some(&service.platform.leaf("chat-service")));
    both.headers.insert("x-api-key", "the-shared-key".parse().unwrap());
    let mut answers = Vec::new();
    for caller in [&nobody, &service.with_key("wrong"), &stolen, &both] {
        let (status, headers, body) = caller.send(Method::GET, "/assets", "").await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert!(headers.contains_key("www-authenticate"));
        answers.push(body);
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    let metrics = get_plain(&format!("{}/metrics", service.admin)).await.1;
    for reason in ["no_credential", "api_key_unknown", "peer_missing", "peer_differs"] {
        assert!(
            metrics.contains(&format!("result=\"refused\",reason=\"{reason}\",route=\"/assets\"}} 1")),
            "{metrics}"
        );
    }
}

#[tokio::test]
async fn the_last_use_of_a_key_is_known() {
    let service = start().await;
    service.with_key("the-shared-key").listed().await;
    let metrics = get_plain(&format!("{}/metrics", service.admin)).await.1;
    assert!(metrics.contains("gaia_auth_legacy_last_used_timestamp_seconds{key_id=\"legacy\"}"), "{metrics}");
    assert!(!metrics.contains("the-shared-key"));
}

#[tokio::test]
async fn an_asset_is_there_whole_or_not_at_all() {
    let service = start().await;
    let caller = service.with_key("the-shared-key");
    let large = vec![7; 12 * 1024 * 1024];
    assert_eq!(caller.status(Method::PUT, "/assets/large", large.clone()).await, StatusCode::CREATED);
    assert_eq!(caller.send(Method::GET, "/assets/large", "").await.2, large);

    // Too large, without a content length.
    let chunk = axum::body::Bytes::from(vec![7; 1024 * 1024]);
    let chunks = (0..=MAX_ASSET_BYTES / (1024 * 1024)).map(move |_| Ok::<_, std::io::Error>(chunk.clone()));
    let endless = Body::from_stream(futures::stream::iter(chunks));
    let mut request = Request::put(format!("{}/assets/endless", service.url)).body(endless).unwrap();
    request.headers_mut().extend(caller.headers.clone());
    if let Ok(response) = caller.client.request(request).await {
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }

    // Aborted in the middle.
    let broken = futures::stream::iter([Ok("half"), Err(std::io::Error::other("gone"))]);
    let mut request = Request::put(format!("{}/assets/broken", service.url)).body(Body::from_stream(broken)).unwrap();
    request.headers_mut().extend(caller.headers.clone());
    assert!(caller.client.request(request).await.is_err());

    gaia_runtime::testing::eventually("only the whole asset is left", async || {
        caller.listed().await == ["large"] && files_below(service.store.path()) == 1
    })
    .await;
}

#[tokio::test]
async fn a_download_can_be_taken_up_where_it_broke_off() {
    let service = start().await;
    let caller = service.with_key("the-shared-key");
    caller.status(Method::PUT, "/assets/a.bin", "0123456789").await;
    let (status, headers, body) = caller.with("range", "bytes=7-").send(Method::GET, "/assets/a.bin", "").await;
    assert_eq!((status, body.as_slice()), (StatusCode::PARTIAL_CONTENT, &b"789"[..]));
    assert_eq!(
        (&headers["content-range"], &headers["content-length"]),
        (&"bytes 7-9/10".parse().unwrap(), &"3".parse().unwrap())
    );
    assert_eq!(headers["accept-ranges"], "bytes");
    assert_eq!(headers["x-content-type-options"], "nosniff");

    let (status, headers, _) = caller.with("range", "bytes=10-").send(Method::GET, "/assets/a.bin", "").await;
    assert_eq!(
        (status, &headers["content-range"]),
        (StatusCode::RANGE_NOT_SATISFIABLE, &"bytes */10".parse().unwrap())
    );
    let (status, _, body) = caller.with("range", "bytes=0-1,4-5").send(Method::GET, "/assets/a.bin", "").await;
    assert_eq!((status, body.as_slice()), (StatusCode::OK, &b"0123456789"[..]), "several ranges are the whole");

    let etag = headers_of(&caller).await["etag"].to_str().unwrap().to_owned();
    let part = caller.with("range", "bytes=0-0").with("if-range", &etag);
    assert_eq!(part.status(Method::GET, "/assets/a.bin", "").await, StatusCode::PARTIAL_CONTENT);
    caller.status(Method::PUT, "/assets/a.bin", "abcdefghij").await;
    let (status, _, body) = part.send(Method::GET, "/assets/a.bin", "").await;
    assert_eq!((status, body.as_slice()), (StatusCode::OK, &b"abcdefghij"[..]), "it is another asset by now");
}

async fn headers_of(caller: &Caller) -> HeaderMap {
    caller.send(Method::HEAD, "/assets/a.bin", "").await.1
}

#[tokio::test]
async fn head_says_what_get_would_and_nothing_more() {
    let service = start().await;
    let caller = service.with_key("the-shared-key");
    assert_eq!(caller.status(Method::HEAD, "/assets/a.bin", "").await, StatusCode::NOT_FOUND);
    caller.status(Method::PUT, "/assets/a.bin", "0123456789").await;
    let (status, mut head, body) = caller.send(Method::HEAD, "/assets/a.bin", "").await;
    assert_eq!((status, body.len()), (StatusCode::OK, 0));
    let (_, mut get, _) = caller.send(Method::GET, "/assets/a.bin", "").await;
    for headers in [&mut head, &mut get] {
        headers.remove("date");
    }
    assert_eq!(head, get);
    assert_eq!(head["content-length"], "10");
    assert!(head["last-modified"].to_str().unwrap().ends_with("GMT"));
}

#[tokio::test]
async fn what_a_reader_has_is_not_sent_again() {
    let service = start().await;
    let caller = service.with_key("the-shared-key");
    let (_, put, _) = caller.send(Method::PUT, "/assets/a.bin", "one").await;
    let etag = put["etag"].to_str().unwrap();
    for method in [Method::GET, Method::HEAD] {
        let (status, headers, body) = caller.with("if-none-match", etag).send(method, "/assets/a.bin", "").await;
        assert_eq!((status, headers["etag"].to_str().unwrap(), body.len()), (StatusCode::NOT_MODIFIED, etag, 0));
    }
    caller.status(Method::PUT, "/assets/a.bin", "two").await;
    let (status, _, body) = caller.with("if-none-match", etag).send(Method::GET, "/assets/a.bin", "").await;
    assert_eq!((status, body.as_slice()), (StatusCode::OK, &b"two"[..]));
    assert_eq!(
        caller.with("if-match", etag).status(Method::GET, "/assets/a.bin", "").await,
        StatusCode::PRECONDITION_FAILED
    );
}

#[tokio::test]
async fn nobody_writes_over_what_somebody_else_wrote_meanwhile() {
    let service = start().await;
    let caller = service.with_key("the-shared-key");
    let only_new = caller.with("if-none-match", "*");
    let (status, put, _) = only_new.send(Method::PUT, "/assets/a.bin", "one").await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(only_new.status(Method::PUT, "/assets/a.bin", "two").await, StatusCode::PRECONDITION_FAILED);
    let known = caller.with("if-match", put["etag"].to_str().unwrap());
    assert_eq!(known.status(Method::PUT, "/assets/a.bin", "three").await, StatusCode::NO_CONTENT);
    assert_eq!(known.status(Method::PUT, "/assets/a.bin", "four").await, StatusCode::PRECONDITION_FAILED);
    assert_eq!(known.status(Method::DELETE, "/assets/a.bin", "").await, StatusCode::PRECONDITION_FAILED);
    assert_eq!(caller.send(Method::GET, "/assets/a.bin", "").await.2, b"three");
    assert_eq!(
        caller.with("content-range", "bytes 0-1/2").status(Method::PUT, "/assets/a.bin", "x").await,
        StatusCode::BAD_REQUEST
    );

    // Concurrent uploads, small or large: one succeeds, and the others get a 412.
    for size in [10, 6 * 1024 * 1024] {
        caller.status(Method::DELETE, "/assets/a.bin", "").await;
        let puts = (0..4).map(|n| only_new.status(Method::PUT, "/assets/a.bin", vec![n; size]));
        let mut statuses = futures::future::join_all(puts).await;
        statuses.sort_unstable();
        assert_eq!(statuses[0], StatusCode::CREATED);
        assert_eq!(statuses[1..], [StatusCode::PRECONDITION_FAILED; 3]);
        assert_eq!(files_below(service.store.path()), 1, "nothing is left of the others");
    }
}

#[tokio::test]
async fn a_long_list_is_read_page_by_page() {
    let service = start().await;
    let caller = service.with_key("the-shared-key");
    let paths = ["a", "b/1", "b/2", "c d", "ä"];
    for path in ["b/2", "c%20d", "a", "%C3%A4", "b/1"] {
        assert_eq!(caller.status(Method::PUT, &format!("/assets/{path}"), "x").await, StatusCode::CREATED);
    }
    let page = async |query: &str| {
        let (status, _, body) = caller.send(Method::GET, &format!("/assets?{query}"), "").await;
        assert_eq!(status, StatusCode::OK, "{query}");
        let list: Value = serde_json::from_slice(&body).unwrap();
        let paths: Vec<String> =
            list["assets"].as_array().unwrap().iter().map(|asset| asset["path"].as_str().unwrap().to_owned()).collect();
        (paths, list["has_more"].as_bool().unwrap())
    };
    let (all, has_more) = page("").await;
    assert!(!has_more && all.len() == 5);
    let mut sorted = all.clone();
    sorted.sort();
    assert_eq!(sorted, paths);
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let (paths, has_more) = page(&format!("limit=2{after}")).await;
        assert!(paths.len() <= 2);
        seen.extend(paths);
        if !has_more {
            break;
        }
        let last = percent_encoding::utf8_percent_encode(seen.last().unwrap(), percent_encoding::NON_ALPHANUMERIC);
        after = format!("&after={last}");
    }
    assert_eq!(seen, all);
    assert_eq!(page("after=b%2F15").await.0.first().unwrap(), "b/2", "it need not be there");
    for query in ["limit=0", "limit=1001", "limit=x", "after=..", "after="] {
        assert_eq!(
            caller.status(Method::GET, &format!("/assets?{query}"), "").await,
            StatusCode::BAD_REQUEST,
            "{query}"
        );
    }
}

#[tokio::test]
async fn a_path_is_an_asset_or_a_folder_and_the_other_is_a_conflict() {
    let service = start().await;
    let caller = service.with_key("the-shared-key");
    assert_eq!(caller.status(Method::PUT, "/assets/a/b", "x").await, StatusCode::CREATED);
    assert_eq!(caller.status(Method::PUT, "/assets/a", "x").await, StatusCode::CONFLICT);
    assert_eq!(caller.status(Method::PUT, "/assets/a/b/c", "x").await, StatusCode::CONFLICT);
    assert_eq!(caller.status(Method::GET, "/assets/a", "").await, StatusCode::NOT_FOUND);
    assert_eq!(caller.listed().await, ["a/b"]);
}

#[tokio::test]
async fn health_tells_a_key_holder_when_certificates_end() {
    let service = start().await;
    let (_, _, body) = service.with_key("the-shared-key").send(Method::GET, "/health", "").await;
    let health: Value = serde_json::from_slice(&body).unwrap();
    assert!(health["certificates"]["service_cert_expires"].is_string(), "{health}");
    let (_, _, body) = service.with_key("wrong").send(Method::GET, "/health", "").await;
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), json!({ "status": "healthy" }));
}

fn files_below(folder: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|entry| if entry.path().is_dir() { files_below(&entry.path()) } else { 1 }).sum()
}
