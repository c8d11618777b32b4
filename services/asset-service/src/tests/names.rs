//! Names in any script, and entity tags of files.

use std::os::unix::fs::MetadataExt as _;

use gaia_stand_ins::s3::S3;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::bucket::start_on_with;
use super::*;

fn url(path: &str) -> String {
    let segments = path.split('/').map(|segment| utf8_percent_encode(segment, NON_ALPHANUMERIC).to_string());
    format!("/assets/{}", segments.collect::<Vec<_>>().join("/"))
}

#[tokio::test]
async fn names_of_85_cjk_letters_are_kept_in_a_folder_and_in_a_bucket() {
    let s3 = S3::start().await.unwrap();
    for service in [start().await, start_on_with(&s3, Bounds::default()).await] {
        let caller = service.with_key("the-shared-key");
        let (cjk, cyrillic) = ("漢".repeat(85), "ж".repeat(128));
        let mut paths = vec![cjk.clone(), format!("{cyrillic}/{cjk}"), format!("{cyrillic}/𠀋.txt"), "a".repeat(255)];
        for path in &paths {
            assert_eq!(caller.status(Method::PUT, &url(path), path.clone()).await, StatusCode::CREATED, "{path}");
            assert_eq!(caller.send(Method::GET, &url(path), "").await.2, path.as_bytes());
        }
        let mut listed = caller.listed().await;
        listed.sort();
        paths.sort();
        assert_eq!(listed, paths);
        assert_eq!(caller.status(Method::PUT, &url(&cyrillic), "x").await, StatusCode::CONFLICT, "a folder");
        assert_eq!(caller.status(Method::PUT, &url(&"漢".repeat(256)), "x").await, StatusCode::BAD_REQUEST);
        for path in &paths {
            assert_eq!(caller.status(Method::DELETE, &url(path), "").await, StatusCode::NO_CONTENT, "{path}");
        }
        assert_eq!(caller.listed().await, Vec::<String>::new());
        assert_eq!(files_below(service.store.path()), usize::from(service.store.path().join("credentials").exists()));
    }
}

#[tokio::test]
async fn a_path_too_long_for_the_keys_of_a_bucket_is_a_400() {
    let s3 = S3::start().await.unwrap();
    let service = start_on_with(&s3, Bounds::default()).await;
    let path = url(&["漢".repeat(85), "語".repeat(85), "字".repeat(85)].join("/"));
    assert_eq!(service.with_key("the-shared-key").status(Method::PUT, &path, "x").await, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn entity_tags_of_files_do_not_hold_inodes_and_tell_states_apart() {
    let service = start().await;
    let caller = service.with_key("the-shared-key");
    let tag = |headers: HeaderMap| headers["etag"].to_str().unwrap().to_owned();
    let mut seen = std::collections::HashSet::new();
    // Same size and in quick succession: a file system's clock has ticks of some milliseconds.
    for number in 0..50 {
        let (_, headers, _) = caller.send(Method::PUT, "/assets/a", format!("{number:02}")).await;
        assert!(seen.insert(tag(headers)), "two states have one tag");
    }
    let (_, headers, _) = caller.send(Method::HEAD, "/assets/a", "").await;
    let current = tag(headers);
    assert!(seen.contains(&current), "a PUT answers with the tag that a HEAD has");
    let inode = std::fs::metadata(service.store.path().join("assets/key:legacy/a")).unwrap().ino();
    assert!(current.len() == 34 && !current.contains(&format!("{inode:x}")) && !current.contains('-'), "{current}");
    let old = caller.with("if-match", &format!("\"{inode:x}-1-2\""));
    assert_eq!(old.status(Method::PUT, "/assets/a", "x").await, StatusCode::PRECONDITION_FAILED);
    let mine = caller.with("if-match", &current);
    assert_eq!(mine.status(Method::PUT, "/assets/a", "x").await, StatusCode::NO_CONTENT);
    assert_eq!(mine.status(Method::PUT, "/assets/a", "x").await, StatusCode::PRECONDITION_FAILED);
}
