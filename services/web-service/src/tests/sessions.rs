//! Sign-in, sign-out, and session refresh in between.

use futures::future::join_all;
use gaia_runtime::testing::{eventually, get_plain};
use http::header::{COOKIE, ORIGIN, SET_COOKIE};
use http::{Method, Request, StatusCode};
use serde_json::json;

use super::fakes::*;
use crate::sessions::seal::SealingKeys;
use crate::sessions::session::Session;

#[tokio::test]
async fn who_signs_in_is_known_and_who_signs_out_is_not() {
    let scene = Scene::begin().await;
    let mut browser = scene.browser();
    let first = browser.get("/files").await;
    assert_eq!((first.status, first.location()), (StatusCode::SEE_OTHER, "/sign-in?next=%2Ffiles"));
    assert!(browser.get("/sign-in?next=%2Ffiles").await.body.contains(r#"name="next" value="/files""#));

    let fields = [("email", EMAIL), ("password", PASSWORD), ("next", "/files")];
    let answer = browser.post_form("/sign-in", &fields).await;
    assert_eq!((answer.status, answer.location()), (StatusCode::SEE_OTHER, "/files"));
    let kept = browser.cookies["__Host-gaia"].clone();
    assert!(!kept.contains("user-token") && !kept.contains(USER), "{kept}");

    let me = browser.get("/me").await;
    for known in [EMAIL, &format!("user:supabase:{USER}"), "JWT", "Dual", "https://project.example/auth/v1"] {
        assert!(me.body.contains(known), "{known} is not in {}", me.body);
    }
    assert!(!me.sets_session(), "nothing was refreshed");
    assert!(!me.body.contains("user-token") && !me.body.contains("refresh-"), "tokens are not shown");

    let out = browser.post_form("/sign-out", &[]).await;
    assert_eq!((out.status, out.location()), (StatusCode::SEE_OTHER, "/sign-in?why=out"));
    assert!(browser.session_cookies().is_empty());
    assert_eq!(scene.behind.state().logouts, ["user-token-1"]);
    assert_eq!(browser.get("/me").await.status, StatusCode::SEE_OTHER);
    let metrics = get_plain(&format!("{}/metrics", scene.admin)).await.1;
    assert!(metrics.contains(r#"gaia_web_sign_ins_total{result="ok"} 1"#), "{metrics}");
}

#[tokio::test]
async fn a_wrong_password_is_told_and_the_email_stays() {
    let scene = Scene::begin().await;
    let mut browser = scene.browser();
    let answer =
        browser.post_form("/sign-in", &[("email", "ada@x<y"), ("password", "wrong"), ("next", "//evil")]).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert!(
        answer.body.contains(r#"data-code="invalid_credentials""#) && answer.body.contains(r#"value="ada@x&#60;y""#)
    );
    assert!(answer.body.contains(r#"name="next" value="/""#) && !answer.body.contains("wrong"));
    assert!(browser.cookies.is_empty());
}

#[tokio::test]
async fn what_keeps_a_person_from_signing_in_is_told_in_their_terms() {
    let scene = Scene::begin().await;
    let mut browser = scene.browser();
    for (said, status, told) in [
        ((503, "login_unavailable"), 503, r#"data-code="login_unavailable""#),
        ((429, "rate_limited"), 429, r#"<span data-wait="17">17 seconds</span>"#),
        ((500, ""), 503, r#"data-code="login_unavailable""#),
    ] {
        scene.behind.state().login_answer = Some(said);
        let answer = browser.post_form("/sign-in", &[("email", EMAIL), ("password", PASSWORD)]).await;
        assert_eq!(answer.status.as_u16(), status);
        assert!(answer.body.contains(told), "{}", answer.body);
    }
}

#[tokio::test]
async fn without_an_issuer_sign_in_is_off_and_a_session_of_before_opens_nothing() {
    let with = Scene::begin().await;
    let without = Scene::begin_with(|setup| setup.issuers.clear()).await;
    let page = without.browser().get("/sign-in").await;
    assert!(page.body.contains(r#"data-code="sign_in_disabled""#) && !page.body.contains("<form"), "{}", page.body);
    let mut browser = Browser { origin: without.origin.clone(), ..with.signed_in().await };
    assert_eq!(browser.get("/me").await.location(), "/sign-in?next=%2Fme");
    let tried = browser.post_form("/sign-in", &[("email", EMAIL), ("password", PASSWORD)]).await;
    assert_eq!(tried.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(tried.body.contains(r#"data-code="sign_in_disabled""#));
}

#[tokio::test]
async fn many_requests_with_one_old_token_refresh_it_once_and_one_answer_carries_the_new_one() {
    let scene = Scene::begin().await;
    let browser = scene.signed_in().await;
    scene.an_hour_later();
    scene.behind.gate.acquire().await.unwrap().forget();
    let asking = (0..8).map(|_| {
        let mut browser = browser.clone();
        async move { browser.get("/me").await }
    });
    let opening = async {
        eventually("a refresh is in progress", async || scene.behind.state().asked > 0).await;
        scene.behind.gate.add_permits(1);
    };
    let (answers, ()) = tokio::join!(join_all(asking), opening);
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK && answer.body.contains(EMAIL)));
    assert_eq!(answers.iter().filter(|answer| answer.sets_session()).count(), 1);
    assert_eq!(scene.behind.state().refreshes, 1);
}

#[tokio::test]
async fn a_refreshed_session_goes_on_and_is_set_by_the_answer_that_refreshed_it_alone() {
    let scene = Scene::begin().await;
    let mut browser = scene.signed_in().await;
    for refreshes in 1..=3 {
        scene.an_hour_later();
        assert!(browser.get("/me").await.sets_session());
        assert!(!browser.get("/me").await.sets_session());
        assert_eq!(scene.behind.state().refreshes, refreshes);
    }
}

#[tokio::test]
async fn a_session_that_its_issuer_ended_is_over_and_the_person_is_told() {
    let scene = Scene::begin().await;
    let mut browser = scene.signed_in().await;
    scene.an_hour_later();
    scene.behind.state().login_answer = Some((401, "session_ended"));
    let mut script = browser.clone();
    let answer = browser.get("/files").await;
    assert_eq!(answer.location(), "/sign-in?next=%2Ffiles&why=ended");
    assert!(browser.session_cookies().is_empty());
    assert!(browser.get(answer.location()).await.body.contains("Your session has ended"));
    let answer = script.fetch(Method::POST, "/chat/stream", "application/json", "{}").await;
    assert_eq!((answer.status, answer.body.contains("session_ended")), (StatusCode::UNAUTHORIZED, true));
}

#[tokio::test]
async fn while_nobody_can_refresh_a_person_stays_signed_in_and_is_told_to_wait() {
    let scene = Scene::begin().await;
    let mut browser = scene.signed_in().await;
    scene.an_hour_later();
    for said in [(503, "login_unavailable"), (500, "internal"), (401, "something else")] {
        scene.behind.state().login_answer = Some(said);
        let files = browser.get("/files").await;
        assert_eq!(files.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(files.body.contains("You are still signed in") && files.body.contains("Sign out"), "{}", files.body);
        let me = browser.get("/me").await;
        assert!(me.status == StatusCode::OK && me.body.contains("You are still signed in"));
        assert!(!me.sets_session() && !browser.cookies.is_empty());
    }
    scene.behind.state().login_answer = None;
    assert_eq!(browser.get("/files").await.status, StatusCode::OK);
}

#[tokio::test]
async fn who_goes_to_a_provider_comes_back_signed_in() {
    let scene = Scene::begin().await;
    let mut browser = scene.browser();
    assert!(browser.get("/sign-in?next=/files").await.body.contains("Continue with GitHub"));
    let away = browser.get("/auth/start/github?next=/files").await;
    let place = away.location();
    let callback = percent_encoding::utf8_percent_encode(
        &format!("{}/auth/callback", scene.origin),
        percent_encoding::NON_ALPHANUMERIC,
    )
    .to_string();
    assert!(place.starts_with("https://project.example/auth/v1/authorize?provider=github&redirect_to="), "{place}");
    assert!(place.contains(&callback) && place.ends_with("&code_challenge_method=s256"), "{place}");
    assert!(browser.cookies.contains_key("__Host-gaia-sign-in"));

    let back = browser.get("/auth/callback?code=good-code").await;
    assert_eq!((back.status, back.location()), (StatusCode::SEE_OTHER, "/files"));
    let proof = scene.behind.state().proofs.pop().unwrap();
    let verifier = proof["code_verifier"].as_str().unwrap().to_owned();
    assert_eq!(proof, json!({ "auth_code": "good-code", "code_verifier": verifier }));
    assert!(!browser.cookies.contains_key("__Host-gaia-sign-in"), "it was for this once");
    assert!(browser.get("/me").await.body.contains(EMAIL));
    assert_eq!(browser.get("/auth/start/unknown").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_code_that_this_browser_did_not_set_out_for_signs_nobody_in() {
    let scene = Scene::begin().await;
    let planted = scene.browser().get("/auth/callback?code=good-code").await;
    assert_eq!(planted.status, StatusCode::BAD_REQUEST);
    assert!(scene.behind.state().proofs.is_empty(), "nobody was asked");
    let mut browser = scene.browser();
    browser.get("/auth/start/github").await;
    assert_eq!(browser.clone().get("/auth/callback?error=access_denied").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(browser.get("/auth/callback?code=stale").await.status, StatusCode::UNAUTHORIZED);
    assert!(!browser.cookies.contains_key("__Host-gaia"));
}

#[tokio::test]
async fn what_another_page_or_nobody_sent_changes_nothing() {
    let scene = Scene::begin().await;
    let browser = scene.signed_in().await;
    let cookie = browser.cookie_header()[COOKIE].clone();
    for path in ["/sign-in", "/sign-out", "/chat", "/chat/stream", "/files", "/files/a"] {
        for origin in [None, Some("null"), Some("https://evil.example"), Some("http://127.0.0.1:1")] {
            let mut request = Request::post(format!("{}{path}", scene.origin)).header(COOKIE, &cookie);
            if let Some(origin) = origin {
                request = request.header(ORIGIN, origin);
            }
            let answer = scene.browser().send(request.body("".into()).unwrap()).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path} {origin:?}");
        }
    }
    let put = Request::put(format!("{}/files/a", scene.origin)).header(COOKIE, &cookie).body("x".into()).unwrap();
    assert_eq!(scene.browser().send(put).await.status, StatusCode::FORBIDDEN);
    let state = scene.behind.state();
    assert!(state.logouts.is_empty() && state.files.is_empty() && state.chats.is_empty());
}

#[tokio::test]
async fn a_token_that_is_too_long_for_one_cookie_comes_in_several() {
    let scene = Scene::begin().await;
    scene.behind.state().token_bytes = 6000;
    let mut browser = scene.signed_in().await;
    assert_eq!(browser.session_cookies(), ["__Host-gaia", "__Host-gaia-1", "__Host-gaia-2"]);
    assert!(browser.get("/me").await.body.contains(EMAIL));
    scene.an_hour_later();
    scene.behind.state().token_bytes = 0;
    assert!(browser.get("/me").await.sets_session());
    assert_eq!(browser.session_cookies().len(), 1, "surplus parts are deleted");
    assert!(browser.get("/me").await.body.contains(EMAIL));
}

#[tokio::test]
async fn a_new_sealing_key_is_taken_without_a_restart_and_sessions_of_the_old_one_go_on() {
    const NEW: &str = "bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bjE=\n";
    let scene = Scene::begin().await;
    let keys = scene.dir.path().join("keys");
    let mut old = scene.signed_in().await;
    std::fs::write(&keys, format!("{NEW}{KEYS}")).unwrap();
    let new_alone = SealingKeys::parse(NEW.as_bytes()).unwrap();
    let mut new = scene.browser();
    eventually("the new key seals", async || {
        new = scene.signed_in().await;
        Session::read(&new_alone, &new.cookie_header()).is_some()
    })
    .await;
    assert!(old.get("/me").await.body.contains(EMAIL));

    std::fs::write(&keys, NEW).unwrap();
    eventually("the old key opens nothing", async || old.get("/me").await.status == StatusCode::SEE_OTHER).await;
    assert!(new.get("/me").await.body.contains(EMAIL));

    std::fs::write(&keys, "nonsense").unwrap();
    eventually("an invalid file is reported", async || {
        let metrics = get_plain(&format!("{}/metrics", scene.admin)).await.1;
        metrics.contains(r#"gaia_mount_refused{part="session_keys"} 1"#)
    })
    .await;
    assert!(new.get("/me").await.body.contains(EMAIL), "and not taken");
}

#[tokio::test]
async fn a_changed_cookie_is_nobodys() {
    let scene = Scene::begin().await;
    let mut browser = scene.signed_in().await;
    let cookie = browser.cookies.get_mut("__Host-gaia").unwrap();
    let last = cookie.pop().unwrap();
    cookie.push(if last == 'A' { 'B' } else { 'A' });
    let answer = browser.get("/me").await;
    assert_eq!(answer.location(), "/sign-in?next=%2Fme");
    assert_eq!(answer.headers.get(SET_COOKIE), None);
}

#[tokio::test]
async fn auth_service_is_told_where_a_browser_is_if_that_is_known() {
    let unknown = Scene::begin().await;
    unknown.signed_in().await;
    assert_eq!(unknown.behind.state().clients, [""], "an ingress may be in between");

    let proxied = Scene::begin_with(|setup| setup.config.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()]).await;
    let mut browser = proxied.browser();
    for (forwarded, client) in [("203.0.113.9", "203.0.113.9"), ("198.51.100.1, 203.0.113.7", "203.0.113.7")] {
        let request = Request::post(format!("{}/sign-in", proxied.origin))
            .header("content-type", "application/x-www-form-urlencoded")
            .header(ORIGIN, &proxied.origin)
            .header("x-forwarded-for", forwarded)
            .body("email=a%40b&password=c".into());
        assert_eq!(browser.send(request.unwrap()).await.status, StatusCode::UNAUTHORIZED);
        assert_eq!(proxied.behind.state().clients.pop().unwrap(), client);
    }
}
