//! Browser data sent to auth-service, and messages for its refusals.

use http::header::RETRY_AFTER;
use http::{Method, StatusCode};

use super::fakes::*;

#[tokio::test]
async fn copy_of_a_signed_out_cookie_opens_nothing() {
    let scene = Scene::begin().await;
    let mut browser = scene.signed_in().await;
    let (mut copy, mut other) = (browser.clone(), scene.signed_in().await);
    assert_eq!(copy.get("/files").await.status, StatusCode::OK);
    browser.post_form("/sign-out", &[]).await;
    let answer = copy.get("/files").await;
    assert_eq!((answer.status, answer.location()), (StatusCode::SEE_OTHER, "/sign-in?next=%2Ffiles"));
    assert!(copy.session_cookies().is_empty(), "the cookie is deleted");
    assert_eq!(other.get("/files").await.status, StatusCode::OK, "the user's other session stays valid");
    let mut again = scene.signed_in().await;
    assert_eq!(again.get("/files").await.status, StatusCode::OK);
}

#[tokio::test]
async fn older_and_newer_copies_of_a_signed_out_session_open_nothing() {
    let scene = Scene::begin().await;
    let mut browser = scene.signed_in().await;
    let mut older = browser.clone();
    scene.an_hour_later();
    assert!(browser.get("/me").await.sets_session());
    let mut newer = browser.clone();
    // Whatever auth-service responds to the sign-out.
    scene.behind.state().login_answer = Some((503, "login_unavailable"));
    browser.post_form("/sign-out", &[]).await;
    scene.behind.state().login_answer = None;
    for copy in [&mut older, &mut newer] {
        assert_eq!(copy.get("/me").await.status, StatusCode::SEE_OTHER);
    }
}

#[tokio::test]
async fn browser_is_named_for_the_accounts_that_it_signed_in_to() {
    let scene = Scene::begin().await;
    let mut browser = scene.browser();
    let mut attempt = async |email: &str, password: &str| {
        browser.post_form("/sign-in", &[("email", email), ("password", password)]).await;
        scene.behind.state().known.pop().unwrap().1
    };
    assert_eq!(attempt(EMAIL, "wrong").await, "");
    assert_eq!(attempt(EMAIL, PASSWORD).await, "");
    let known = attempt(EMAIL, "wrong").await;
    assert!(known.len() == 32, "{known}");
    assert_eq!(attempt(" ADA@example.com", "wrong").await, known, "in any spelling");
    assert_eq!(attempt(OTHER_EMAIL, "wrong").await, "", "for its own accounts only");
    browser.post_form("/sign-out", &[]).await;
    browser.post_form("/sign-in", &[("email", EMAIL), ("password", "wrong")]).await;
    assert_eq!(scene.behind.state().known.pop().unwrap().1, known, "also after a sign-out");
    let mut stranger = scene.browser();
    stranger.post_form("/sign-in", &[("email", EMAIL), ("password", "wrong")]).await;
    assert_eq!(scene.behind.state().known.pop().unwrap().1, "");
}

#[tokio::test]
async fn refreshes_and_sign_outs_are_named_by_their_session() {
    let scene = Scene::begin().await;
    let mut browser = scene.signed_in().await;
    scene.an_hour_later();
    browser.get("/me").await;
    browser.post_form("/sign-out", &[]).await;
    let state = scene.behind.state();
    let [_, ("refresh", refreshed), ("logout", ended)] = state.known.as_slice() else { panic!("{:?}", state.known) };
    assert!(refreshed == ended && refreshed.len() == 64, "{refreshed} {ended}");
    let ids: std::collections::BTreeSet<_> = state.request_ids.iter().collect();
    assert!(ids.len() == 3 && ids.iter().all(|id| id.len() == 32), "{ids:?}");
}

#[tokio::test]
async fn request_has_one_name_here_and_at_auth_service() {
    let scene = Scene::begin().await;
    let mut browser = scene.browser();
    let answer = browser.post_form("/sign-in", &[("email", EMAIL), ("password", "wrong")]).await;
    assert_eq!(answer.headers["x-request-id"], *scene.behind.state().request_ids.last().unwrap());
    let answer = scene.signed_in().await.get("/files").await;
    assert_eq!(answer.headers["x-request-id"], *scene.behind.state().request_ids.last().unwrap(), "at asset-service");
}

#[tokio::test]
async fn permanent_refusal_names_its_cause_and_no_time() {
    let scene = Scene::begin().await;
    let mut browser = scene.browser();
    for (status, code) in [
        (403, "address_not_confirmed"),
        (403, "captcha_required"),
        (403, "method_off"),
        (403, "second_factor_required"),
        (403, "role_not_admitted"),
        (403, "session_too_large"),
        (501, "login_off"),
    ] {
        scene.behind.state().login_answer = Some((status, code));
        let answer = browser.post_form("/sign-in", &[("email", EMAIL), ("password", PASSWORD)]).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{code}");
        assert!(answer.body.contains(&format!(r#"data-code="{code}""#)), "{code}: {}", answer.body);
        assert!(!answer.headers.contains_key(RETRY_AFTER) && !answer.body.contains("data-wait"), "{code}");
        assert!(!answer.body.contains("aria-invalid"), "the credentials are correct: {code}");
    }
    scene.behind.state().login_answer = Some((429, "rate_limited"));
    let answer = browser.post_form("/sign-in", &[("email", EMAIL), ("password", PASSWORD)]).await;
    assert_eq!((answer.status, &answer.headers[RETRY_AFTER]), (StatusCode::TOO_MANY_REQUESTS, &"17".parse().unwrap()));
}

#[tokio::test]
async fn session_that_can_never_be_refreshed_ends_and_is_asked_for_once() {
    for refused in [(403, "session_too_large"), (403, "role_not_admitted"), (403, "second_factor_required")] {
        let scene = Scene::begin().await;
        let mut browser = scene.signed_in().await;
        scene.an_hour_later();
        scene.behind.state().login_answer = Some(refused);
        let copy = browser.clone();
        for _ in 0..3 {
            let answer = copy.clone().get("/files").await;
            assert_eq!(answer.location(), "/sign-in?next=%2Ffiles&why=ended", "{refused:?}");
        }
        assert_eq!(scene.behind.state().refreshes, 1, "{refused:?}");
        browser.get("/files").await;
        assert!(browser.session_cookies().is_empty());
    }
}

#[tokio::test]
async fn provider_that_is_switched_off_is_told_before_the_browser_leaves() {
    let scene = Scene::begin().await;
    scene.behind.state().offered.clear();
    let answer = scene.browser().get("/auth/start/github").await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(answer.body.contains(r#"data-code="method_off""#), "{}", answer.body);
}

#[tokio::test]
async fn refusal_of_the_issuer_at_the_way_back_is_told() {
    let scene = Scene::begin().await;
    let mut browser = scene.browser();
    browser.get("/auth/start/github").await;
    let back = browser.clone().get("/auth/callback?error=access_denied&error_code=signup_disabled").await;
    assert_eq!(
        (back.status, back.body.contains(r#"data-code="method_off""#)),
        (StatusCode::FORBIDDEN, true),
        "{}",
        back.body
    );
    // A link planted by another site shows no such message.
    let planted = scene.browser().get("/auth/callback?error=access_denied&error_code=signup_disabled").await;
    assert_eq!(planted.status, StatusCode::BAD_REQUEST);
    assert_eq!(browser.fetch(Method::GET, "/auth/callback?error_code=other", "text/plain", "").await.status, 400);
}
