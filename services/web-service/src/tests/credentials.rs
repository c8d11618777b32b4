//! The credential in calls to services: the user's token, or the API key.

use gaia_api::mount::DeniedSubject;
use gaia_api::{Clock as _, SystemClock};
use http::{Method, StatusCode};
use jiff::SignedDuration;

use super::fakes::*;

#[tokio::test]
async fn the_api_key_is_used_where_the_token_is_refused_and_only_for_who_is_signed_in() {
    let scene = Scene::with_key(|_| {}).await;
    scene.behind.state().takes_tokens = false;
    let mut browser = scene.signed_in().await;
    let page = browser.get("/files").await;
    assert!(page.status == StatusCode::OK && page.body.contains(r#"data-code="shared_files""#), "{}", page.body);
    assert_eq!(scene.behind.state().credentials, ["token", "key"], "the token comes first");
    let wrong = scene.browser().post_form("/sign-in", &[("email", EMAIL), ("password", "wrong")]).await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    assert_eq!(scene.behind.state().proofs.len(), 2, "a wrong password is not tried again by key");
    assert_eq!(browser.fetch(Method::PUT, "/files/a", "text/plain", "x").await.status, StatusCode::NO_CONTENT);
    assert!(browser.get("/me").await.body.contains("With the platform’s API key"));

    scene.behind.state().credentials.clear();
    for path in ["/files", "/files/a", "/me"] {
        assert_eq!(scene.browser().get(path).await.status, StatusCode::SEE_OTHER);
    }
    assert!(scene.behind.state().credentials.is_empty(), "no call without a session");

    // The service starts to accept tokens: the page uses them without a restart.
    scene.behind.state().takes_tokens = true;
    assert!(!browser.get("/files").await.body.contains(r#"data-code="shared_files""#));
    assert_eq!(scene.behind.state().credentials, ["token"]);
    assert!(browser.get("/me").await.body.contains("With your JWT."));
}

#[tokio::test]
async fn with_a_gateway_every_call_goes_by_way_of_it_and_names_the_browser() {
    let loopback = "127.0.0.1/32".parse().unwrap();
    let scene = Scene::begin_with(|setup| {
        setup.has_gateway = true;
        setup.config.trusted_proxies = vec![loopback];
    })
    .await;
    let mut browser = scene.signed_in().await;
    assert_eq!(browser.get("/files").await.status, StatusCode::OK);
    assert_eq!(browser.fetch(Method::PUT, "/files/a", "text/plain", "x").await.status, StatusCode::NO_CONTENT);
    scene.an_hour_later();
    assert_eq!(browser.get("/files").await.status, StatusCode::OK);
    let state = scene.behind.state();
    assert_eq!((state.refreshes, state.lists.len(), state.files.len()), (1, 2, 1));
    assert!(
        state.browsers.len() >= 5 && state.browsers.iter().all(|browser| browser == "127.0.0.1"),
        "{:?}",
        state.browsers
    );
}

#[tokio::test]
async fn without_a_gateway_services_are_not_told_of_the_browser() {
    let scene = Scene::begin_with(|setup| setup.config.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()]).await;
    let mut browser = scene.signed_in().await;
    assert_eq!(browser.get("/files").await.status, StatusCode::OK);
    assert!(scene.behind.state().browsers.iter().all(String::is_empty));
}

#[tokio::test]
async fn who_was_shut_out_gets_nothing_by_the_key_and_others_go_on() {
    let scene = Scene::with_key(|setup| {
        let not_before = SystemClock.now() + SignedDuration::from_hours(1);
        let sub = format!("user:supabase:{OTHER_USER}");
        setup.denylist.subjects.push(DeniedSubject { sub, not_before });
    })
    .await;
    scene.behind.state().takes_tokens = false;
    let (mut ada, mut bob) = (scene.signed_in().await, scene.signed_in_as(OTHER_EMAIL).await);
    assert_eq!(ada.get("/files").await.status, StatusCode::OK);
    assert_eq!(ada.fetch(Method::PUT, "/files/a", "text/plain", "ada's").await.status, StatusCode::NO_CONTENT);

    scene.behind.state().credentials.clear();
    let page = bob.get("/files").await;
    assert_eq!((page.status, page.body.contains(r#"data-code="not_taken""#)), (StatusCode::BAD_GATEWAY, true));
    let put = bob.fetch(Method::PUT, "/files/b", "text/plain", "bob's").await;
    assert_eq!((put.status, put.body.contains("not_taken")), (StatusCode::BAD_GATEWAY, true));
    assert_eq!(bob.get("/files/a").await.status, StatusCode::BAD_GATEWAY);
    let chat = r#"{"messages": [{"role": "user", "content": "Hello"}]}"#;
    let chat = bob.fetch(Method::POST, "/chat/stream", "application/json", chat).await;
    assert_eq!((chat.status, chat.body.contains("not_taken")), (StatusCode::BAD_GATEWAY, true));
    assert!(scene.behind.state().credentials.iter().all(|credential| *credential == "token"));
}

#[tokio::test]
async fn the_key_is_for_no_token_whose_issuer_does_not_say_whether_it_is_good() {
    let scene = Scene::with_key(|setup| setup.issuers[0].jwks_url = issuer().jwks_url).await;
    scene.behind.state().takes_tokens = false;
    let mut browser = scene.signed_in().await;
    let page = browser.get("/files").await;
    assert_eq!(
        (page.status, page.body.contains(r#"data-code="service_unavailable""#)),
        (StatusCode::SERVICE_UNAVAILABLE, true)
    );
    assert_eq!(scene.behind.state().credentials, ["token"]);
}

#[tokio::test]
async fn what_a_service_takes_of_one_user_says_nothing_of_another() {
    let scene = Scene::with_key(|_| {}).await;
    scene.behind.state().not_taken = Some(OTHER_USER);
    let (mut ada, mut bob) = (scene.signed_in().await, scene.signed_in_as(OTHER_EMAIL).await);
    assert!(bob.get("/files").await.body.contains(r#"data-code="shared_files""#));
    scene.behind.state().credentials.clear();
    assert_eq!(ada.fetch(Method::PUT, "/files/a", "text/plain", "ada's").await.status, StatusCode::NO_CONTENT);
    assert_eq!(scene.behind.state().credentials, ["token"], "it is in her own folder");
    assert_eq!(bob.fetch(Method::PUT, "/files/b", "text/plain", "bob's").await.status, StatusCode::NO_CONTENT);
    assert_eq!(scene.behind.state().credentials, ["token", "key"]);
}

#[tokio::test]
async fn an_upload_goes_by_the_key_only_after_a_call_of_this_session_did() {
    let scene = Scene::with_key(|_| {}).await;
    scene.behind.state().takes_tokens = false;
    let mut browser = scene.signed_in().await;
    for _ in 0..2 {
        let put = browser.fetch(Method::PUT, "/files/a", "text/plain", "x").await;
        assert_eq!((put.status, put.body.contains("not_taken")), (StatusCode::BAD_GATEWAY, true));
    }
    assert!(browser.get("/files").await.body.contains(r#"data-code="shared_files""#), "the notice is shown first");
    assert_eq!(browser.fetch(Method::PUT, "/files/a", "text/plain", "x").await.status, StatusCode::NO_CONTENT);
    assert_eq!(scene.behind.state().credentials, ["token", "token", "token", "key", "key"]);
}

#[tokio::test]
async fn without_an_api_key_a_refused_token_is_the_end() {
    let scene = Scene::begin().await;
    let mut browser = scene.signed_in().await;
    scene.behind.state().takes_tokens = false;
    let page = browser.get("/files").await;
    assert_eq!(page.status, StatusCode::BAD_GATEWAY);
    assert!(page.body.contains(r#"data-code="not_taken""#));
    assert_eq!(scene.behind.state().credentials, ["token"]);
}

#[tokio::test]
async fn files_are_said_to_be_shared_only_where_the_list_was_had_by_the_key() {
    let scene = Scene::begin().await;
    let mut browser = scene.signed_in().await;
    scene.behind.state().takes_tokens = false;
    let put = browser.fetch(Method::PUT, "/files/a", "text/plain", "x").await;
    assert_eq!(put.status, StatusCode::BAD_GATEWAY);
    let page = browser.get("/files").await;
    assert!(!page.body.contains(r#"data-code="shared_files""#), "{}", page.body);
    assert!(!browser.get("/me").await.body.contains("With the platform’s API key"));
}

#[tokio::test]
async fn who_i_am_is_found_out_by_a_list_of_one() {
    let scene = Scene::begin().await;
    let mut browser = scene.signed_in().await;
    assert!(browser.get("/me").await.body.contains("With your JWT."));
    assert_eq!(scene.behind.state().lists, ["limit=1"]);
}

#[tokio::test]
async fn key_gives_a_user_no_more_than_the_policy_gives_users() {
    let scene = Scene::with_key(|setup| setup.user_scopes = vec!["assets:read".to_owned()]).await;
    scene.behind.state().takes_tokens = false;
    let mut browser = scene.signed_in().await;
    assert_eq!(browser.get("/files").await.status, StatusCode::OK);
    let by_key = |scene: &Scene| scene.behind.state().credentials.iter().filter(|used| **used == "key").count();
    let before = by_key(&scene);
    let put = browser.fetch(Method::PUT, "/files/a", "text/plain", "x").await;
    assert_eq!((put.status, put.body.contains("not_allowed")), (StatusCode::FORBIDDEN, true), "{}", put.body);
    let deleted = browser.post_form("/files/a", &[]).await;
    assert_eq!(deleted.status, StatusCode::FORBIDDEN);
    let chat = r#"{"messages": [{"role": "user", "content": "Hello"}]}"#;
    let chat = browser.fetch(Method::POST, "/chat/stream", "application/json", chat).await;
    assert_eq!((chat.status, chat.body.contains("not_allowed")), (StatusCode::FORBIDDEN, true), "{}", chat.body);
    assert!(scene.behind.state().files.is_empty() && scene.behind.state().chats.is_empty());
    // The list after the refused deletion is a read.
    assert_eq!(by_key(&scene), before + 1);
}

#[tokio::test]
async fn each_call_names_its_user_to_the_service() {
    let scene = Scene::begin().await;
    for mut browser in [scene.signed_in().await, scene.signed_in().await, scene.signed_in_as(OTHER_EMAIL).await] {
        assert_eq!(browser.get("/files").await.status, StatusCode::OK);
    }
    let state = scene.behind.state();
    let [ada, again, bob] = state.users_named.as_slice() else { panic!("{:?}", state.users_named) };
    assert!(ada.len() == 64 && ada == again && ada != bob, "a user has one share in all sessions: {ada} {again} {bob}");
}
