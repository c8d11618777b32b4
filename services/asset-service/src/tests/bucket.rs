//! Tests with a bucket.

use std::time::Duration;

use futures::StreamExt as _;
use gaia_runtime::Hosts;
use gaia_stand_ins::s3::{BUCKET, S3};

use super::*;
use crate::config::{Bucket, Place};

async fn start_on(s3: &S3, prefix: &str) -> Service {
    start_at(s3.endpoint(), &s3.credentials_file(), prefix, Bounds::default()).await
}

pub(super) async fn start_on_with(s3: &S3, bounds: Bounds) -> Service {
    start_at(s3.endpoint(), &s3.credentials_file(), "", bounds).await
}

async fn start_at(endpoint: String, credentials: &str, prefix: &str, bounds: Bounds) -> Service {
    start_at_with(endpoint, credentials, prefix, bounds, 0).await
}

pub(super) async fn start_at_with(
    endpoint: String,
    credentials: &str,
    prefix: &str,
    bounds: Bounds,
    assets_max_bytes_per_subject: u64,
) -> Service {
    start_in(bucket_at(endpoint, credentials, prefix, bounds, assets_max_bytes_per_subject)).await
}

/// Returns the configuration of a store in a bucket, which writes the credentials into a directory.
pub(super) fn bucket_at(
    endpoint: String,
    credentials: &str,
    prefix: &str,
    bounds: Bounds,
    assets_max_bytes_per_subject: u64,
) -> impl FnOnce(&Path) -> StoreConfig {
    move |dir| {
        let file = dir.join("credentials");
        std::fs::write(&file, credentials).unwrap();
        StoreConfig {
            object_store_url: Place::Bucket(Bucket { name: BUCKET.to_owned(), prefix: prefix.to_owned() }),
            object_store_endpoint: Some(endpoint),
            object_store_credentials_file: Some(file),
            assets_max_bytes_per_subject,
            bounds,
            ..StoreConfig::folder("")
        }
    }
}

#[tokio::test]
async fn assets_are_kept_in_a_bucket_as_in_a_folder() {
    let s3 = S3::start().await.unwrap();
    let service = start_on(&s3, "gaia/assets").await;
    let caller = service.with_key("the-shared-key");
    assert_eq!(caller.status(Method::PUT, "/assets/photos/cat.jpg", "meow").await, StatusCode::CREATED);
    assert_eq!(caller.status(Method::PUT, "/assets/photos/cat.jpg", "purring").await, StatusCode::NO_CONTENT);
    assert_eq!(caller.status(Method::PUT, "/assets/gr%C3%BC%C3%9Fe%20%23%25.txt", "").await, StatusCode::CREATED);
    assert_eq!(caller.listed().await, ["grüße #%.txt", "photos/cat.jpg"]);
    assert!(s3.objects().iter().all(|key| key.starts_with("gaia/assets/key:legacy/")), "{:?}", s3.objects());
    let (status, headers, body) = caller.send(Method::GET, "/assets/photos/cat.jpg", "").await;
    assert_eq!((status, body.as_slice()), (StatusCode::OK, &b"purring"[..]));
    let etag = headers["etag"].to_str().unwrap();
    let (status, headers, body) =
        caller.with("range", "bytes=-3").with("if-range", etag).send(Method::GET, "/assets/photos/cat.jpg", "").await;
    assert_eq!((status, body.as_slice()), (StatusCode::PARTIAL_CONTENT, &b"ing"[..]));
    assert_eq!(headers["content-range"], "bytes 4-6/7");
    let not_again = caller.with("if-none-match", etag);
    assert_eq!(not_again.status(Method::HEAD, "/assets/photos/cat.jpg", "").await, StatusCode::NOT_MODIFIED);
    assert_eq!(caller.status(Method::PUT, "/assets/photos", "x").await, StatusCode::CONFLICT);
    assert_eq!(caller.status(Method::DELETE, "/assets/photos/cat.jpg", "").await, StatusCode::NO_CONTENT);
    assert_eq!(caller.status(Method::DELETE, "/assets/photos/cat.jpg", "").await, StatusCode::NOT_FOUND);
    assert_eq!(service.with_token("gateway", None).listed().await, Vec::<String>::new());
    assert!(s3.requests() > 10);
}

#[tokio::test]
async fn a_large_asset_goes_to_a_bucket_in_parts_and_one_that_breaks_off_leaves_none() {
    let s3 = S3::start().await.unwrap();
    let service = start_on(&s3, "").await;
    let caller = service.with_key("the-shared-key");
    let large = vec![7; 12 * 1024 * 1024];
    assert_eq!(caller.status(Method::PUT, "/assets/large", large.clone()).await, StatusCode::CREATED);
    assert_eq!(caller.send(Method::GET, "/assets/large", "").await.2, large);

    let piece = axum::body::Bytes::from(vec![7; 1024 * 1024]);
    let pieces = std::iter::repeat_n(piece, 9).map(Ok).chain([Err(std::io::Error::other("gone"))]);
    let body = Body::from_stream(futures::stream::iter(pieces));
    let mut request = Request::put(format!("{}/assets/broken", service.url)).body(body).unwrap();
    request.headers_mut().extend(caller.headers.clone());
    assert!(caller.client.request(request).await.is_err());
    gaia_runtime::testing::eventually("nothing is left of it", async || s3.open_uploads() == 0).await;
    assert_eq!(s3.objects(), ["key:legacy/large"]);
}

#[tokio::test]
async fn an_upload_whose_caller_goes_away_leaves_no_parts() {
    let s3 = S3::start().await.unwrap();
    let service = start_on(&s3, "").await;
    let caller = service.with_key("the-shared-key");
    let piece = axum::body::Bytes::from(vec![7; 1024 * 1024]);
    let pieces = futures::stream::iter(std::iter::repeat_n(piece, 9).map(Ok::<_, std::io::Error>));
    let body = Body::from_stream(pieces.chain(futures::stream::pending()));
    let mut request = Request::put(format!("{}/assets/given-up", service.url)).body(body).unwrap();
    request.headers_mut().extend(caller.headers.clone());
    // With HTTP/2 a stream can be reset while the connection stays open, which drops the handler during its work.
    let mut config = service.platform.client_config(None);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let client = MeshClient::new(config, Hosts::default());
    let asking = tokio::spawn(async move { client.request(request).await });
    gaia_runtime::testing::eventually("parts are on their way", async || s3.open_uploads() == 1).await;
    s3.set_delay(Duration::from_millis(300));
    asking.abort();
    gaia_runtime::testing::eventually("nothing is left of it", async || s3.open_uploads() == 0).await;
    assert_eq!(s3.objects(), Vec::<String>::new());
}

#[tokio::test]
async fn two_instances_on_one_bucket_do_not_undo_each_others_work() {
    let s3 = S3::start().await.unwrap();
    let (one, two) = (start_on(&s3, "").await, start_on(&s3, "").await);
    let callers = [&one, &two].map(|service| service.with_key("the-shared-key").with("if-none-match", "*"));
    for round in 0..5 {
        let path = format!("/assets/{round}");
        let puts = callers.iter().map(|caller| caller.status(Method::PUT, &path, "x"));
        let mut statuses = futures::future::join_all(puts).await;
        statuses.sort_unstable();
        assert_eq!(statuses, [StatusCode::CREATED, StatusCode::PRECONDITION_FAILED]);
    }
    let caller = one.with_key("the-shared-key");
    let mut seen = Vec::new();
    for after in ["", "&after=1", "&after=3"] {
        let (_, _, body) = caller.send(Method::GET, &format!("/assets?limit=2{after}"), "").await;
        let list: Value = serde_json::from_slice(&body).unwrap();
        let paths = list["assets"].as_array().unwrap().iter().map(|asset| asset["path"].as_str().unwrap().to_owned());
        seen.extend(paths);
    }
    assert_eq!(seen, ["0", "1", "2", "3", "4"], "each page starts after the previous one");
}

#[tokio::test]
async fn credentials_are_read_anew_and_a_store_that_refuses_them_is_a_500_that_says_nothing_of_them() {
    let s3 = S3::start().await.unwrap();
    let service = start_on(&s3, "").await;
    let caller = service.with_key("the-shared-key");
    assert_eq!(caller.status(Method::PUT, "/assets/a", "x").await, StatusCode::CREATED);
    s3.set_secret("another/secret");
    let (status, _, body) = caller.send(Method::GET, "/assets/a", "").await;
    let body = String::from_utf8(body).unwrap();
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(!body.contains("Signature") && !body.contains("AKGAIA"), "{body}");
    std::fs::write(service.store.path().join("credentials"), s3.credentials_file()).unwrap();
    assert_eq!(caller.send(Method::GET, "/assets/a", "").await.2, b"x");
}

#[tokio::test]
async fn a_bucket_that_never_answers_keeps_nobody_waiting_for_ever() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let stalled = tokio::spawn(async move {
        let mut accepted = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            accepted.push(connection);
        }
    });
    let credentials = "aws_access_key_id=a\naws_secret_access_key=b";
    let bounds = Bounds { bucket_silence: Duration::from_millis(300), ..Bounds::default() };
    let service = start_at(endpoint, credentials, "", bounds).await;
    let caller = service.with_key("the-shared-key");
    for method in [Method::PUT, Method::GET, Method::DELETE] {
        let asked = tokio::time::timeout(Duration::from_secs(8), caller.status(method.clone(), "/assets/a", "x")).await;
        assert_eq!(asked.ok(), Some(StatusCode::INTERNAL_SERVER_ERROR), "{method}");
    }
    stalled.abort();
}

#[tokio::test]
async fn a_bucket_that_falls_silent_lets_go_of_the_object_that_was_written() {
    let s3 = S3::start().await.unwrap();
    let bounds = Bounds { bucket_silence: Duration::from_millis(1500), ..Bounds::default() };
    let service = start_on_with(&s3, bounds).await;
    let caller = service.with_key("the-shared-key");
    assert_eq!(caller.status(Method::PUT, "/assets/a", "one").await, StatusCode::CREATED);
    s3.set_delay(Duration::from_secs(5));
    // The DELETE gets the lock first, and the store does not respond.
    let deleted = caller.status(Method::DELETE, "/assets/a", "").await;
    assert_eq!(deleted, StatusCode::INTERNAL_SERVER_ERROR);
    s3.set_delay(Duration::ZERO);
    let put = tokio::time::timeout(Duration::from_secs(8), caller.status(Method::PUT, "/assets/a", "two")).await;
    assert_eq!(put.ok(), Some(StatusCode::NO_CONTENT));
}

#[tokio::test]
async fn without_credentials_a_bucket_is_no_place() {
    let platform = Platform::new();
    let dir = tempfile::tempdir().unwrap();
    let _ = Mount::new(dir.path(), &platform.mount("asset-service"));
    let start = async |credentials: Option<&str>| {
        let file = credentials.map(|text| {
            let file = dir.path().join("credentials");
            std::fs::write(&file, text).unwrap();
            file
        });
        let store = StoreConfig {
            object_store_url: Place::Bucket(Bucket { name: BUCKET.to_owned(), prefix: String::new() }),
            object_store_credentials_file: file,
            ..StoreConfig::folder("")
        };
        let config = Config { runtime: config("asset-service", dir.path()), store };
        AssetService::start(config, Arc::new(SystemClock)).await.map(drop).unwrap_err().to_string()
    };
    assert!(start(None).await.contains("set GAIA_OBJECT_STORE_CREDENTIALS_FILE"));
    let error = start(Some("aws_secret_access_key=very-secret")).await;
    assert!(error.contains("has no aws_access_key_id") && !error.contains("very-secret"), "{error}");
}
