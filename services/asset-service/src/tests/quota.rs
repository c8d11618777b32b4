//! Quotas of subjects and of the whole store, and full stores.

use gaia_stand_ins::s3::S3;

use super::bucket::start_on_with;
use super::*;

const KIB: usize = 1024;

async fn start_with(limits: impl Fn(&mut StoreConfig)) -> Service {
    start_in(|store| {
        let mut config = StoreConfig::folder(store.join("assets"));
        limits(&mut config);
        config
    })
    .await
}

/// A body without a content length.
fn unannounced(bytes: usize) -> Body {
    let pieces = std::iter::repeat_n(axum::body::Bytes::from(vec![7; 8 * KIB]), bytes / (8 * KIB));
    Body::from_stream(futures::stream::iter(pieces.map(Ok::<_, std::io::Error>)))
}

const FULL: StatusCode = StatusCode::INSUFFICIENT_STORAGE;

#[tokio::test]
async fn a_subject_has_so_many_bytes_and_no_more() {
    let service = start_with(|config| config.assets_max_bytes_per_subject = 100 * 1024).await;
    let caller = service.with_key("the-shared-key");
    assert_eq!(caller.status(Method::PUT, "/assets/a", vec![7; 60 * KIB]).await, StatusCode::CREATED);
    assert_eq!(caller.status(Method::PUT, "/assets/b", vec![7; 41 * KIB]).await, FULL);
    assert_eq!(caller.status(Method::PUT, "/assets/b", unannounced(48 * KIB)).await, FULL);
    assert_eq!((caller.listed().await, files_below(service.store.path())), (vec!["a".to_owned()], 1));
    assert_eq!(caller.status(Method::PUT, "/assets/b", unannounced(40 * KIB)).await, StatusCode::CREATED);
    // A replacement counts by the difference.
    assert_eq!(caller.status(Method::PUT, "/assets/a", vec![7; 59 * KIB]).await, StatusCode::NO_CONTENT);
    assert_eq!(caller.status(Method::PUT, "/assets/a", vec![7; 61 * KIB]).await, FULL);
    assert_eq!(
        service.with_key("another-key").status(Method::PUT, "/assets/a", vec![7; 60 * KIB]).await,
        StatusCode::CREATED
    );
    assert_eq!(caller.status(Method::DELETE, "/assets/a", "").await, StatusCode::NO_CONTENT);
    assert_eq!(caller.status(Method::PUT, "/assets/c", vec![7; 60 * KIB]).await, StatusCode::CREATED);
}

#[tokio::test]
async fn a_subject_has_so_many_assets_and_no_more_also_after_a_restart() {
    let store = tempfile::tempdir().unwrap();
    let limited = |_: &Path| {
        let folder = StoreConfig::folder(store.path().join("assets"));
        StoreConfig { assets_max_count_per_subject: 3, ..folder }
    };
    let service = start_in(limited).await;
    let caller = service.with_key("the-shared-key");
    for name in ["a", "b/c", "b/d"] {
        assert_eq!(caller.status(Method::PUT, &format!("/assets/{name}"), "").await, StatusCode::CREATED);
    }
    let restarted = start_in(limited).await;
    for service in [&service, &restarted] {
        let caller = service.with_key("the-shared-key");
        assert_eq!(caller.status(Method::PUT, "/assets/e", "").await, FULL);
        assert_eq!(caller.status(Method::PUT, "/assets/a", "longer").await, StatusCode::NO_CONTENT);
    }
}

#[tokio::test]
async fn concurrent_uploads_do_not_exceed_a_quota() {
    let service = start_with(|config| config.assets_max_bytes_per_subject = 100 * 1024).await;
    let caller = service.with_key("the-shared-key");
    let puts = (0..40).map(|number| {
        let (caller, path) = (&caller, format!("/assets/{number}"));
        let body = if number % 2 == 0 { Body::from(vec![7; 8 * KIB]) } else { unannounced(8 * KIB) };
        async move { caller.status(Method::PUT, &path, body).await }
    });
    let answers = futures::future::join_all(puts).await;
    let created = answers.iter().filter(|status| **status == StatusCode::CREATED).count();
    assert!((1..=12).contains(&created), "{created} of 40");
    assert!(answers.iter().all(|status| [StatusCode::CREATED, FULL].contains(status)), "{answers:?}");
    // Concurrent replacements subtract the old asset once.
    let big = vec![7; 8 * KIB];
    let first = answers.iter().position(|status| *status == StatusCode::CREATED).unwrap();
    let path = format!("/assets/{first}");
    assert_eq!(caller.status(Method::PUT, &path, big.clone()).await, StatusCode::NO_CONTENT);
    futures::future::join_all((0..20).map(|_| caller.status(Method::PUT, &path, ""))).await;
    let puts = (40..60).map(|number| {
        let (caller, path, body) = (&caller, format!("/assets/{number}"), big.clone());
        async move { caller.status(Method::PUT, &path, body).await }
    });
    futures::future::join_all(puts).await;
    assert!(caller.listed().await.len() <= 14);
}

#[tokio::test]
async fn all_assets_together_stay_below_the_limit_of_the_folder() {
    let service = start_with(|config| config.assets_max_bytes = 256 * 1024).await;
    let (caller, other) = (service.with_key("the-shared-key"), service.with_key("another-key"));
    assert_eq!(caller.status(Method::PUT, "/assets/a", vec![7; 128 * KIB]).await, StatusCode::CREATED);
    assert_eq!(other.status(Method::PUT, "/assets/a", vec![7; 128 * KIB]).await, FULL);
    assert_eq!(other.status(Method::PUT, "/assets/a", vec![7; 64 * KIB]).await, StatusCode::CREATED);
    // An empty file uses space on a disk too.
    let mut files = 0;
    while other.status(Method::PUT, &format!("/assets/{files}"), "").await == StatusCode::CREATED {
        files += 1;
    }
    assert!((1..64).contains(&files), "{files}");
}

#[tokio::test]
async fn instances_on_one_bucket_share_a_quota_and_count_it_rarely() {
    let s3 = S3::start().await.unwrap();
    let limited = || async { start_on_limited(&s3, 400 * 1024).await };
    let services = [limited().await, limited().await];
    let callers = services.each_ref().map(|service| service.with_key("the-shared-key"));
    let mut created = 0;
    for number in 0..60 {
        let status = callers[number % 2].status(Method::PUT, &format!("/assets/{number}"), vec![7; 8 * KIB]).await;
        created += usize::from(status == StatusCode::CREATED);
    }
    assert!((40..=63).contains(&created), "{created} assets of 8 KiB in 400 KiB");
    let before = s3.lists();
    let roomy = start_on_limited(&s3, 1 << 30).await;
    let caller = roomy.with_key("another-key");
    for number in 0..20 {
        assert_eq!(caller.status(Method::PUT, &format!("/assets/{number}"), "x").await, StatusCode::CREATED);
    }
    // One per PUT, to check that no folder has its name.
    assert_eq!(s3.lists() - before, 21);
}

async fn start_on_limited(s3: &S3, bytes: u64) -> Service {
    bucket::start_at_with(s3.endpoint(), &s3.credentials_file(), "", Bounds::default(), bytes).await
}

#[tokio::test]
async fn a_bucket_that_is_full_is_a_507() {
    let s3 = S3::start().await.unwrap();
    let service = start_on_with(&s3, Bounds::default()).await;
    let caller = service.with_key("the-shared-key");
    for (status, code) in [
        (StatusCode::INSUFFICIENT_STORAGE, "XMinioStorageFull"),
        (StatusCode::FORBIDDEN, "QuotaExceeded"),
        (StatusCode::BAD_REQUEST, "XMinioAdminBucketQuotaExceeded"),
    ] {
        s3.refuse_writes(Some((status, code)));
        for bytes in [1, 6 * 1024 * KIB] {
            assert_eq!(caller.status(Method::PUT, "/assets/a", vec![7; bytes]).await, FULL, "{code}");
        }
    }
    s3.refuse_writes(None);
    assert_eq!(caller.status(Method::PUT, "/assets/a", "x").await, StatusCode::CREATED);
    assert_eq!(s3.open_uploads(), 0);
}
