//! Upload, list, download and deletion of files.

use axum::body::{Body, Bytes};
use futures::stream;
use http::header::{CONTENT_TYPE, COOKIE, ORIGIN};
use http::{Method, Request, StatusCode};

use super::fakes::*;

#[tokio::test]
async fn a_file_is_put_listed_got_and_deleted() {
    let scene = Scene::begin().await;
    let mut browser = scene.signed_in().await;
    let put = browser.fetch(Method::PUT, "/files/gr%C3%BC%C3%9Fe%20%231.txt", "text/plain", "hello").await;
    assert_eq!(put.status, StatusCode::NO_CONTENT, "{}", put.body);
    let page = browser.get("/files").await;
    assert!(page.body.contains(r#"href="/files/gr%C3%BC%C3%9Fe%20%231.txt""#) && page.body.contains("grüße #1.txt"));
    assert!(page.body.contains("5 B"));
    let got = browser.get("/files/gr%C3%BC%C3%9Fe%20%231.txt").await;
    assert_eq!((got.status, got.body.as_str()), (StatusCode::OK, "hello"));
    assert_eq!(got.headers["content-type"], "application/octet-stream", "it is never a page of ours");
    assert_eq!(got.headers["content-security-policy"], "default-src 'none'; sandbox");
    assert_eq!(got.headers["content-disposition"], "attachment; filename*=UTF-8''x");
    let deleted = browser.post_form("/files/gr%C3%BC%C3%9Fe%20%231.txt", &[("action", "delete")]).await;
    assert_eq!(deleted.location(), "/files?done=deleted");
    assert!(browser.get("/files?done=deleted").await.body.contains("No files yet."));
    let gone = browser.post_form("/files/gr%C3%BC%C3%9Fe%20%231.txt", &[("action", "delete")]).await;
    assert_eq!((gone.status, gone.body.contains(r#"data-code="no_file""#)), (StatusCode::NOT_FOUND, true));
}

#[tokio::test]
async fn a_file_without_space_is_refused_with_the_reason() {
    let scene = Scene::begin().await;
    let mut browser = scene.signed_in().await;
    let put = browser.fetch(Method::PUT, "/files/one-too-many", "text/plain", "x").await;
    assert_eq!(
        (put.status, put.body.contains("storage_full")),
        (StatusCode::INSUFFICIENT_STORAGE, true),
        "{}",
        put.body
    );
}

#[tokio::test]
async fn files_of_a_form_are_uploaded_one_after_the_other() {
    let scene = Scene::begin().await;
    let mut browser = scene.signed_in().await;
    let large = "x".repeat(3_000_000);
    let parts = [part("a.txt", "first"), part("b.bin", &large)].concat();
    let answer = browser.fetch(Method::POST, "/files", MULTIPART, format!("{parts}--B--\r\n")).await;
    assert_eq!((answer.status, answer.location()), (StatusCode::SEE_OTHER, "/files?done=uploaded"), "{}", answer.body);
    let state = scene.behind.state();
    assert_eq!((state.files["a.txt"].as_slice(), state.files["b.bin"].len()), (b"first".as_slice(), large.len()));
}

#[tokio::test]
async fn a_form_that_breaks_off_leaves_no_part_of_a_file() {
    let scene = Scene::begin().await;
    let mut browser = scene.signed_in().await;
    let answer = browser.fetch(Method::POST, "/files", MULTIPART, part("a.txt", "half of it")).await;
    assert_ne!(answer.status, StatusCode::SEE_OTHER);
    assert!(scene.behind.state().files.is_empty());

    // The connection is aborted instead of the form.
    let cookie = format!("__Host-gaia={}", browser.cookies["__Host-gaia"]);
    let pieces = [Ok(Bytes::from(part("b.txt", "half"))), Err(std::io::Error::other("gone"))];
    for (method, path) in [(Method::POST, "/files"), (Method::PUT, "/files/b.txt")] {
        let body = Body::from_stream(stream::iter(
            pieces
                .iter()
                .map(|piece| match piece {
                    Ok(bytes) => Ok(bytes.clone()),
                    Err(error) => Err(std::io::Error::other(error.to_string())),
                })
                .collect::<Vec<_>>(),
        ));
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", scene.origin))
            .header(COOKIE, &cookie)
            .header(ORIGIN, &scene.origin)
            .header(CONTENT_TYPE, MULTIPART);
        let client: hyper_util::client::legacy::Client<_, Body> =
            hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
        assert!(client.request(request.body(body).unwrap()).await.is_err());
    }
    // When this response arrives, pending upload requests have arrived too.
    assert_eq!(browser.get("/files").await.status, StatusCode::OK);
    assert!(scene.behind.state().files.is_empty());
}

fn part(name: &str, content: &str) -> String {
    format!(
        "--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\nContent-Type: text/plain\r\n\r\n{content}\r\n"
    )
}

const MULTIPART: &str = "multipart/form-data; boundary=B";
