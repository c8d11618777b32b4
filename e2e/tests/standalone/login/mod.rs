//! Sign-in, refresh and sign-out, through auth-service at a login server with GoTrue's protocol.
//!
//! With `GAIA_E2E_GOTRUE_URL` (and `GAIA_E2E_GOTRUE_KEY`) the tests without injected faults run against that one.

mod gotrue_contract;
mod limits;
mod refusals;
mod support;
mod warm_users;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crate::login::support::{Project, World, answer, text};
use aws_lc_rs::digest::{SHA256, digest};
use axum::body::{Body, Bytes};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gaia_api::{Clock as _, ManualClock, SystemClock};
use gaia_runtime::external;
use gaia_runtime::testing::Written;
use gaia_stand_ins::gotrue::{Behaviour, GoTrue, GoTrueOptions, Signing};
use http::{Request, StatusCode};
use jiff::SignedDuration;
use serde_json::{Value, json};

const PASSWORD: &str = "correct horse battery staple";

#[tokio::test]
async fn a_user_signs_in_with_a_password_and_the_platform_takes_the_token() {
    let (world, _gotrue) = World::open().await;
    let email = world.project.new_user(PASSWORD).await;
    let body = json!({ "email": email, "password": PASSWORD });
    let (status, session, headers) = world.post_from(None, "/auth/login", &body).await;
    assert_eq!((status, &headers["cache-control"]), (StatusCode::OK, &"no-store".parse().unwrap()), "{session}");
    assert_eq!(session["user"]["email"], email);
    assert!(session["expires_in"].as_i64().is_some_and(|seconds| seconds > 0), "{session}");
    assert!(!text(&session["refresh_token"]).is_empty());
    let (status, delegated) = world.exchange(text(&session["access_token"])).await;
    assert_eq!((status, &delegated["scope"]), (StatusCode::OK, &"assets:read".into()), "{delegated}");

    for (email, password) in [(email.as_str(), "not the password"), ("nobody@example.com", PASSWORD)] {
        let (status, refused) = world.post("/auth/login", &json!({ "email": email, "password": password })).await;
        assert_eq!((status, &refused["code"]), (StatusCode::UNAUTHORIZED, &"invalid_credentials".into()));
        assert_eq!(refused["detail"], "These credentials are not valid.", "it does not say which");
    }
}

#[tokio::test]
async fn a_session_continues_with_the_newest_token_after_a_lost_answer() {
    let (world, _gotrue) = World::open().await;
    let email = world.project.new_user(PASSWORD).await;
    let first = world.sign_in(&email, PASSWORD).await;
    let (status, second) = world.refresh(&first["refresh_token"]).await;
    assert_eq!(status, StatusCode::OK, "{second}");
    assert_ne!(second["refresh_token"], first["refresh_token"]);
    assert_eq!(world.exchange(text(&second["access_token"])).await.0, StatusCode::OK);
    let (status, again) = world.refresh(&first["refresh_token"]).await;
    assert_eq!((status, &again["refresh_token"]), (StatusCode::OK, &second["refresh_token"]));
    let (status, unknown) = world.refresh(&json!("no-such-token")).await;
    assert_eq!((status, &unknown["code"]), (StatusCode::UNAUTHORIZED, &"session_ended".into()));
}

#[tokio::test]
async fn signing_out_ends_this_session_or_all() {
    let (world, _gotrue) = World::open().await;
    let email = world.project.new_user(PASSWORD).await;
    let (one, two) = (world.sign_in(&email, PASSWORD).await, world.sign_in(&email, PASSWORD).await);
    let out = async |session: &Value, scope: Option<&str>| {
        let mut body = json!({ "access_token": session["access_token"] });
        if let Some(scope) = scope {
            body["scope"] = scope.into();
        }
        world.post("/auth/logout", &body).await.0
    };
    assert_eq!(out(&one, None).await, StatusCode::NO_CONTENT);
    let (_, ended) = world.refresh(&one["refresh_token"]).await;
    assert_eq!(ended["code"], "session_ended");
    assert_eq!(out(&one, None).await, StatusCode::NO_CONTENT, "what has ended is signed out");
    let (status, two) = world.refresh(&two["refresh_token"]).await;
    assert_eq!(status, StatusCode::OK, "the other session is not touched: {two}");
    let three = world.sign_in(&email, PASSWORD).await;
    assert_eq!(out(&three, Some("global")).await, StatusCode::NO_CONTENT);
    assert_eq!(world.refresh(&two["refresh_token"]).await.1["code"], "session_ended");
    let (status, refused) = world.post("/auth/logout", &json!({ "access_token": "a.b.c" })).await;
    assert_eq!((status, &refused["code"]), (StatusCode::UNAUTHORIZED, &"invalid_credentials".into()));
}

#[tokio::test]
async fn a_provider_code_is_valid_only_with_its_verifier() {
    let (world, gotrue) = World::own(GoTrueOptions::default()).await;
    let email = world.project.new_user(PASSWORD).await;
    let verifier = "v".repeat(64);
    let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes()));
    // The redirects of a browser.
    let there = format!(
        "{}/authorize?provider=github&redirect_to=http://localhost:8080/auth/callback&code_challenge={challenge}&code_challenge_method=s256&login_hint={email}",
        gotrue.base_url()
    );
    let back = external::send(Request::get(there).body(Bytes::new()).unwrap(), None).await.unwrap();
    assert_eq!(back.status, StatusCode::FOUND);
    let back = back.headers["location"].to_str().unwrap().to_owned();
    let code = back.strip_prefix("http://localhost:8080/auth/callback?code=").unwrap();
    let enter = async |verifier: &str| {
        world.post("/auth/login", &json!({ "auth_code": code, "code_verifier": verifier })).await
    };
    assert_eq!(enter(&"w".repeat(64)).await.1["code"], "invalid_credentials");
    let (status, session) = enter(&verifier).await;
    assert_eq!((status, &session["user"]["email"]), (StatusCode::OK, &email.into()), "{session}");
    assert_eq!(world.exchange(text(&session["access_token"])).await.0, StatusCode::OK);
    assert_eq!(enter(&verifier).await.1["code"], "invalid_credentials", "a code is good once");
}

#[tokio::test]
async fn a_token_that_was_used_long_ago_ends_its_session_and_no_other() {
    let start = SystemClock.now();
    let clock = Arc::new(ManualClock::new(start));
    let options = GoTrueOptions { clock: Arc::<ManualClock>::clone(&clock), ..GoTrueOptions::default() };
    let (world, _gotrue) = World::own(options).await;
    let email = world.project.new_user(PASSWORD).await;
    let (first, other) = (world.sign_in(&email, PASSWORD).await, world.sign_in(&email, PASSWORD).await);
    let second = world.refresh(&first["refresh_token"]).await.1;
    let third = world.refresh(&second["refresh_token"]).await.1;
    // Within the allowance for clocks.
    clock.set(start + SignedDuration::from_secs(11));
    let (status, stolen) = world.refresh(&first["refresh_token"]).await;
    assert_eq!((status, &stolen["code"]), (StatusCode::UNAUTHORIZED, &"session_ended".into()));
    clock.set(start + SignedDuration::from_secs(22));
    assert_eq!(world.refresh(&third["refresh_token"]).await.1["code"], "session_ended", "the thief's family ends");
    assert_eq!(world.refresh(&other["refresh_token"]).await.0, StatusCode::OK);
}

#[tokio::test]
async fn however_many_refresh_a_session_at_once_the_login_server_is_asked_once() {
    let (world, gotrue) = World::own(GoTrueOptions::default()).await;
    let email = world.project.new_user(PASSWORD).await;
    let session = world.sign_in(&email, PASSWORD).await;
    gotrue.behave("/token", Behaviour::Slow(Duration::from_millis(1500)));
    let asking = (0..8).map(|_| world.refresh(&session["refresh_token"]));
    let answers = futures::future::join_all(asking).await;
    assert!(answers.iter().all(|(status, answer)| *status == StatusCode::OK && *answer == answers[0].1), "{answers:?}");
    assert_eq!(gotrue.requests("/token?grant_type=refresh_token"), 1);
}

#[tokio::test]
async fn nothing_but_gotrues_own_word_ends_a_session() {
    let (world, gotrue) = World::own(GoTrueOptions::default()).await;
    let email = world.project.new_user(PASSWORD).await;
    let session = world.sign_in(&email, PASSWORD).await;
    let nonsense = Behaviour::Answer(StatusCode::OK, "{}".to_owned());
    let elsewhere = Behaviour::Redirect(format!("{}/health", gotrue.base_url()));
    let ended = json!({ "code": 500, "error_code": "refresh_token_not_found" }).to_string();
    for behaviour in [
        Behaviour::Fail(StatusCode::INTERNAL_SERVER_ERROR),
        Behaviour::Fail(StatusCode::BAD_GATEWAY),
        Behaviour::Answer(StatusCode::INTERNAL_SERVER_ERROR, ended),
        Behaviour::Answer(StatusCode::UNAUTHORIZED, r#"{"message":"Invalid API key"}"#.to_owned()),
        nonsense,
        elsewhere,
        Behaviour::Hang,
    ] {
        gotrue.behave("/token", behaviour.clone());
        let body = json!({ "refresh_token": session["refresh_token"] });
        let (status, answer, headers) = world.post_from(None, "/auth/refresh", &body).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{behaviour:?}: {answer}");
        assert_eq!((&answer["code"], &headers["retry-after"]), (&"login_unavailable".into(), &"5".parse().unwrap()));
        let (status, answer) = world.post("/auth/login", &json!({ "email": email, "password": PASSWORD })).await;
        assert_eq!((status, &answer["code"]), (StatusCode::SERVICE_UNAVAILABLE, &"login_unavailable".into()));
    }
    gotrue.behave("/token", Behaviour::Fail(StatusCode::TOO_MANY_REQUESTS));
    let (status, answer) = world.refresh(&session["refresh_token"]).await;
    assert_eq!((status, &answer["code"]), (StatusCode::TOO_MANY_REQUESTS, &"rate_limited".into()));
    gotrue.behave("/token", Behaviour::Normal);
    assert_eq!(world.refresh(&session["refresh_token"]).await.0, StatusCode::OK, "the session continues");
    drop(gotrue);
    assert_eq!(world.refresh(&session["refresh_token"]).await.1["code"], "login_unavailable");
}

#[tokio::test]
async fn a_project_that_publishes_no_key_is_asked_about_each_token() {
    let options = GoTrueOptions { signing: Signing::Hs256, ..GoTrueOptions::default() };
    let (world, gotrue) = World::own(options).await;
    let email = world.project.new_user(PASSWORD).await;
    let session = world.sign_in(&email, PASSWORD).await;
    assert_eq!(world.exchange(text(&session["access_token"])).await.0, StatusCode::OK);
    assert!(gotrue.requests("/user") >= 1);
    let (status, next) = world.refresh(&session["refresh_token"]).await;
    assert_eq!(status, StatusCode::OK, "{next}");
    assert_eq!(
        world.post("/auth/logout", &json!({ "access_token": next["access_token"] })).await.0,
        StatusCode::NO_CONTENT
    );
    // A token without a cached answer, of a session that has ended: the project refuses it.
    let claims = |name: &str| {
        let token = text(&session["access_token"]);
        let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
        serde_json::from_slice::<Value>(&payload).unwrap()[name].clone()
    };
    let now = SystemClock.now().as_second();
    let forged = json!({
        "iss": gotrue.base_url(), "sub": claims("sub"), "aud": "authenticated", "role": "authenticated",
        "session_id": claims("session_id"), "iat": now - 1, "exp": now + 600,
    });
    let (status, refused) = world.exchange(&gotrue.sign(&forged).unwrap()).await;
    assert_eq!((status, &refused["error"]), (StatusCode::BAD_REQUEST, &"invalid_request".into()));
}

#[tokio::test]
async fn what_is_no_user_of_this_project_is_not_taken_wherever_it_comes_from() {
    let (world, gotrue) = World::own(GoTrueOptions::default()).await;
    let email = world.project.new_user(PASSWORD).await;
    let session = world.sign_in(&email, PASSWORD).await;
    let other = GoTrue::start(GoTrueOptions::default()).await.unwrap();
    let theirs = Project::of(&other);
    let their_email = theirs.new_user(PASSWORD).await;
    let their_world = World::with(theirs).await;
    let their_session = their_world.sign_in(&their_email, PASSWORD).await;

    let now = SystemClock.now().as_second();
    let claims = |changes: Value| {
        let mut claims = json!({
            "iss": gotrue.base_url(), "sub": session["user"]["id"], "aud": "authenticated", "role": "authenticated",
            "session_id": "0d6a4a5c-2f7b-4d0a-9a38-5f0f3b2f9c11", "iat": now, "exp": now + 600,
        });
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        claims
    };
    assert_eq!(world.exchange(&gotrue.sign(&claims(json!({}))).unwrap()).await.0, StatusCode::OK);
    let service_role = gotrue.sign(&claims(json!({ "role": "service_role" }))).unwrap();
    let anonymous = gotrue.sign(&claims(json!({ "is_anonymous": true }))).unwrap();
    let gateway = gotrue.sign(&claims(json!({ "sub": "gateway" }))).unwrap();
    let with_their_key = other.sign(&claims(json!({}))).unwrap();
    for (what, token) in [
        ("another project's user", text(&their_session["access_token"])),
        ("another project's key", with_their_key.as_str()),
        ("the anon key", gotrue.anon_key()),
        ("the service_role key", gotrue.service_role_key()),
        ("a service_role token", &service_role),
        ("an anonymous user", &anonymous),
        ("a user who calls itself gateway", &gateway),
    ] {
        let (status, refused) = world.exchange(token).await;
        assert_eq!((status, &refused["error"]), (StatusCode::BAD_REQUEST, &"invalid_request".into()), "{what}");
        let (status, refused) = world.post("/auth/logout", &json!({ "access_token": token })).await;
        if what != "an anonymous user" {
            assert_eq!((status, &refused["code"]), (StatusCode::UNAUTHORIZED, &"invalid_credentials".into()), "{what}");
        }
    }
    // A login server that issues such a session by mistake signs no user in.
    gotrue.behave("/token", Behaviour::Answer(StatusCode::OK, their_session.to_string()));
    let (status, answer) = world.refresh(&session["refresh_token"]).await;
    assert_eq!((status, &answer["code"]), (StatusCode::SERVICE_UNAVAILABLE, &"login_unavailable".into()));
    let mut mixed = session.clone();
    mixed["user"]["id"] = their_session["user"]["id"].clone();
    gotrue.behave("/token", Behaviour::Answer(StatusCode::OK, mixed.to_string()));
    assert_eq!(world.refresh(&session["refresh_token"]).await.1["code"], "login_unavailable");
}

#[tokio::test]
async fn a_new_key_of_the_project_is_found_when_its_first_token_comes() {
    let (world, gotrue) = World::own(GoTrueOptions::default()).await;
    let email = world.project.new_user(PASSWORD).await;
    world.sign_in(&email, PASSWORD).await;
    gotrue.rotate_key().unwrap();
    let session = world.sign_in(&email, PASSWORD).await;
    assert_eq!(world.exchange(text(&session["access_token"])).await.0, StatusCode::OK);
}

#[tokio::test]
async fn without_a_login_server_or_its_key_users_are_not_told_that_their_password_is_wrong() {
    let (_, gotrue) = World::own(GoTrueOptions::default()).await;
    let sign_in = json!({ "email": "ann@example.com", "password": PASSWORD });
    let off = World::with_issuers(Project::of(&gotrue), vec![]).await;
    let (status, answer) = off.post("/auth/login", &sign_in).await;
    assert_eq!((status, &answer["code"]), (StatusCode::NOT_IMPLEMENTED, &"login_off".into()));
    let keyless = World::with(Project { key: "not the key".to_owned(), ..Project::of(&gotrue) }).await;
    let (status, answer) = keyless.post("/auth/login", &sign_in).await;
    assert_eq!((status, &answer["code"]), (StatusCode::SERVICE_UNAVAILABLE, &"login_unavailable".into()));
}

#[tokio::test]
async fn only_a_service_may_ask_and_nothing_secret_is_logged() {
    let logged = &*LOGGED;
    let (world, _gotrue) = World::own(GoTrueOptions::default()).await;
    let password = "never-to-be-seen-0815";
    let email = world.project.new_user(password).await;
    let session = world.sign_in(&email, password).await;
    let (_, next) = world.refresh(&session["refresh_token"]).await;
    world.post("/auth/login", &json!({ "email": email, "password": "guessed-0816" })).await;
    world.post("/auth/login", &json!({ "email": email, "password": 815_815_815 })).await;
    world.post("/auth/logout", &json!({ "access_token": next["access_token"] })).await;
    let nobody = world.platform.client(None);
    for bearer in [None, Some(text(&next["access_token"]))] {
        let mut request = Request::post(format!("{}/auth/refresh", world.url));
        if let Some(bearer) = bearer {
            request = request.header("authorization", format!("Bearer {bearer}"));
        }
        let body = Body::from(json!({ "refresh_token": next["refresh_token"] }).to_string());
        let (status, answer, _) = answer(nobody.request(request.body(body).unwrap()).await.unwrap()).await;
        let expected = if bearer.is_some() { StatusCode::FORBIDDEN } else { StatusCode::UNAUTHORIZED };
        assert_eq!(status, expected, "{answer}");
    }
    let log = logged.text();
    let user = text(&session["user"]["id"]);
    assert!(log.contains(user) && log.contains("\"login\""), "who signed in is on record");
    let secrets = [
        password,
        "guessed-0816",
        "815815815",
        text(&session["access_token"]),
        text(&session["refresh_token"]),
        text(&next["access_token"]),
        text(&next["refresh_token"]),
        &world.project.key,
        &world.token,
    ];
    for secret in secrets {
        assert!(!log.contains(secret), "a secret is in the log");
    }
}

/// The log of this process since the first call.
static LOGGED: LazyLock<Written> = LazyLock::new(|| {
    let lines = Written::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().json().with_max_level(tracing::Level::TRACE);
    tracing::subscriber::set_global_default(subscriber.with_writer(move || writer.clone()).finish()).unwrap();
    lines
});
