//! Memory used by uploads, and uploads without free memory.

use std::time::Duration;

use axum::body::Bytes;
use futures::StreamExt as _;
use gaia_runtime::testing::eventually;
use gaia_stand_ins::s3::S3;

use super::bucket::start_on_with;
use super::*;

const MIB: usize = 1024 * 1024;

fn brief(held_bytes: usize) -> Bounds {
    Bounds { held_bytes, memory_timeout: Duration::from_millis(200), ..Bounds::default() }
}

/// A body that stalls after so many bytes.
fn unfinished(bytes: usize) -> Body {
    let piece = Bytes::from(vec![7; bytes]);
    Body::from_stream(futures::stream::iter([Ok::<_, std::io::Error>(piece)]).chain(futures::stream::pending()))
}

#[tokio::test]
async fn unfinished_uploads_hold_so_much_together_and_the_others_are_told_to_come_back() {
    let bounds = brief(4 * MIB);
    let service = start_in(|store| StoreConfig { bounds, ..StoreConfig::folder(store.join("assets")) }).await;
    // 200 KiB each: the share of one subject, half of the budget, is enough for ten of them.
    let uploads: Vec<_> = (0..20)
        .map(|number| {
            let caller = service.with_key("the-shared-key");
            let put =
                async move { caller.send(Method::PUT, &format!("/assets/{number}"), unfinished(200 * 1024)).await };
            tokio::spawn(put)
        })
        .collect();
    let refused = || uploads.iter().filter(|upload| upload.is_finished()).count();
    eventually("those without memory are refused", async || refused() >= 10).await;
    assert!(refused() < 20, "those with memory are not");
    let caller = service.with_key("the-shared-key");
    assert_eq!(caller.listed().await, Vec::<String>::new());
    let (waiting, ended): (Vec<_>, Vec<_>) = uploads.into_iter().partition(|upload| !upload.is_finished());
    for upload in ended {
        let (status, headers, _) = upload.await.unwrap();
        assert_eq!((status, &headers["retry-after"]), (StatusCode::SERVICE_UNAVAILABLE, &"5".parse().unwrap()));
    }
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    eventually("there is memory again", async || {
        caller.status(Method::PUT, "/assets/small", vec![7; 1900 * 1024]).await == StatusCode::CREATED
    })
    .await;
    assert_eq!((caller.listed().await, files_below(service.store.path())), (vec!["small".to_owned()], 1));
}

#[tokio::test]
async fn parts_on_their_way_to_a_bucket_are_held_until_they_are_sent() {
    let s3 = S3::start().await.unwrap();
    let service = start_on_with(&s3, brief(18 * MIB)).await;
    let caller = service.with_key("the-shared-key");
    let (go_on, waiting) = tokio::sync::oneshot::channel();
    let rest = futures::stream::once(async {
        waiting.await.map_err(std::io::Error::other)?;
        Ok(Bytes::from(vec![7; 10 * MIB]))
    });
    let begun = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from(vec![7; 6 * MIB]))]);
    let body = Body::from_stream(begun.chain(rest));
    let put = tokio::spawn(async move { caller.send(Method::PUT, "/assets/large", body).await });
    eventually("the first part is on its way", async || s3.open_uploads() == 1).await;
    s3.set_delay(Duration::from_secs(2));
    go_on.send(()).unwrap();
    let (status, headers, _) = put.await.unwrap();
    assert_eq!((status, headers.contains_key("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, true));
    s3.set_delay(Duration::ZERO);
    eventually("nothing is left of it", async || s3.open_uploads() == 0).await;
    assert_eq!(s3.objects(), Vec::<String>::new());
    let caller = service.with_key("the-shared-key");
    assert_eq!(caller.status(Method::PUT, "/assets/small", vec![7; MIB]).await, StatusCode::CREATED);
}
