//! Assets of an API key whose record names a user.

use std::collections::BTreeMap;

use gaia_api::mount::{
    ApiKeyRecord, ApiKeys, Policy, SCHEMA_VERSION, UserTokenIssuer, UserTokenProfile, UserTokenVerification, UserTokens,
};
use gaia_runtime::testing::{api_key, eventually, policy};
use gaia_stand_ins::s3::S3;

use super::bucket::bucket_at;
use super::*;

const KEY: &str = "the-owned-key";
const USER: &str = "user:supabase:3fa8";

/// `api-keys.json` with one key, of this user or of no one, and a policy with the user's issuer.
fn owned(files: &mut MountedFiles, principal: Option<&str>) {
    let record = api_key("mobile", KEY);
    let record = ApiKeyRecord { principal: principal.unwrap_or("the app").to_owned(), ..record };
    let keys = ApiKeys { schema_version: SCHEMA_VERSION, keys: vec![record] };
    files.insert(key::API_KEYS, serde_json::to_vec(&keys).unwrap());
    let issuer = UserTokenIssuer {
        name: "supabase".to_owned(),
        issuer: "https://project.example/auth/v1".to_owned(),
        profile: UserTokenProfile::Supabase,
        verification: UserTokenVerification::Remote,
        jwks_url: None,
        audiences: vec![],
        algorithms: vec![],
        required_claims: BTreeMap::new(),
        client_ids: vec![],
        ca_bundle: None,
        max_ttl_seconds: None,
    };
    let user_tokens = UserTokens { issuers: vec![issuer], scopes: vec![] };
    files.insert(key::POLICY, serde_json::to_vec(&Policy { user_tokens, ..policy("asset-service") }).unwrap());
}

/// A service whose folder has these files: subject, path and content.
async fn with_files(principal: Option<&str>, files: &[(&str, &str, &str)]) -> (Service, Mount, MountedFiles) {
    let place = |store: &Path| {
        for (subject, path, content) in files {
            let file = store.join("assets").join(subject).join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, content).unwrap();
        }
        StoreConfig { assets_max_count_per_subject: 4, ..StoreConfig::folder(store.join("assets")) }
    };
    start_with_files(place, |files| owned(files, principal)).await
}

async fn content(caller: &Caller, path: &str) -> String {
    let (status, _, body) = caller.send(Method::GET, &format!("/assets/{path}"), "").await;
    assert_eq!(status, StatusCode::OK, "{path}");
    String::from_utf8(body).unwrap()
}

/// Kind: data of a subject that another subject takes the place of.
#[tokio::test]
async fn assets_of_a_key_follow_the_user_that_its_record_names() {
    let (service, mut mount, mut files) = with_files(None, &[]).await;
    let caller = service.with_key(KEY);
    for (path, body) in [("a", "one"), ("b/c", "two")] {
        assert_eq!(caller.status(Method::PUT, &format!("/assets/{path}"), body).await, StatusCode::CREATED);
    }
    let folder = |subject: &str| service.store.path().join("assets").join(subject);
    assert!(folder("key:mobile").join("b/c").exists());
    owned(&mut files, Some(USER));
    mount.swap(&files);
    eventually("the assets are moved", async || {
        caller.listed().await;
        folder(USER).join("b/c").exists()
    })
    .await;
    assert_eq!(caller.listed().await, ["a", "b/c"]);
    assert_eq!((content(&caller, "a").await, content(&caller, "b/c").await), ("one".to_owned(), "two".to_owned()));
    assert!(!folder("key:mobile").exists());
    // Each asset counts once.
    for (path, status) in
        [("d", StatusCode::CREATED), ("e", StatusCode::CREATED), ("f", StatusCode::INSUFFICIENT_STORAGE)]
    {
        assert_eq!(caller.status(Method::PUT, &format!("/assets/{path}"), "x").await, status, "{path}");
    }
}

#[tokio::test]
async fn a_move_that_was_interrupted_is_completed_and_no_asset_is_overwritten() {
    let files = [
        ("key:mobile", "copied", "same"),
        (USER, "copied", "same"),
        ("key:mobile", "both", "of the key"),
        (USER, "both", "of the user"),
        ("key:mobile", "folder/a", "of the key"),
        (USER, "folder", "an asset"),
    ];
    let (service, ..) = with_files(Some(USER), &files).await;
    let caller = service.with_key(KEY);
    assert_eq!(caller.listed().await, ["both", "copied", "folder"]);
    assert_eq!(content(&caller, "both").await, "of the user");
    let left = service.store.path().join("assets/key:mobile");
    assert!(!left.join("copied").exists(), "the rest of the interrupted move is done");
    assert_eq!(std::fs::read_to_string(left.join("both")).unwrap(), "of the key", "it is kept");
    assert_eq!(std::fs::read_to_string(left.join("folder/a")).unwrap(), "of the key");
}

#[tokio::test]
async fn instances_and_requests_that_move_at_the_same_time_lose_nothing() {
    let s3 = S3::start().await.unwrap();
    let start = async |principal: Option<&'static str>| {
        let credentials = s3.credentials_file();
        let place = bucket_at(s3.endpoint(), &credentials, "", Bounds::default(), 0);
        start_with_files(place, |files| owned(files, principal)).await
    };
    let (before, ..) = start(None).await;
    let caller = before.with_key(KEY);
    let big = "x".repeat(6 * 1024 * 1024);
    let names: Vec<String> = (0..20).map(|number| format!("{number:02}")).collect();
    for (number, name) in names.iter().enumerate() {
        let body = if number == 7 { big.clone() } else { name.clone() };
        assert_eq!(caller.status(Method::PUT, &format!("/assets/{name}"), body).await, StatusCode::CREATED);
    }
    let services = [start(Some(USER)).await, start(Some(USER)).await];
    let callers: Vec<Caller> = (0..10).map(|number| services[number % 2].0.with_key(KEY)).collect();
    let put = callers[0].status(Method::PUT, "/assets/05", "newer");
    let (put, lists) = futures::future::join(put, futures::future::join_all(callers.iter().map(Caller::listed))).await;
    assert_eq!(put, StatusCode::NO_CONTENT);
    assert!(lists.iter().all(|listed| *listed == names), "{lists:?}");
    for caller in &callers[..2] {
        assert_eq!(content(caller, "05").await, "newer");
        assert_eq!((content(caller, "19").await, content(caller, "07").await.len()), ("19".to_owned(), big.len()));
    }
    assert_eq!(before.with_key(KEY).listed().await, Vec::<String>::new(), "nothing is left at the key");
}
