//! Budgets of signing in, refreshing and signing out, and the limits of a login server behind them.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use gaia_stand_ins::gotrue::{Behaviour, GoTrueOptions};
use http::{Request, StatusCode};
use serde_json::{Value, json};

use crate::login::support::{World, answer, text};

const PASSWORD: &str = "correct horse battery staple";

/// The number of attempts that were refused as too many.
async fn limited(world: &World, address: &str, bodies: Vec<Value>) -> usize {
    let asking = stream::iter(&bodies).map(|body| world.post_from(Some(address), "/auth/login", body));
    let answers: Vec<_> = asking.buffer_unordered(UNDER_WAY).collect().await;
    answers.iter().filter(|(_, answer, _)| answer["code"] == "rate_limited").count()
}

fn guess(email: &str) -> Value {
    json!({ "email": email, "password": "a guess" })
}

#[tokio::test]
async fn wrong_sign_ins_never_block_the_refresh_of_a_signed_in_session() {
    let (world, _gotrue) = World::own(GoTrueOptions::default()).await;
    let email = world.project.new_user(PASSWORD).await;
    let mut session = world.sign_in(&email, PASSWORD).await;
    // Behind one address, and for callers without a known address.
    for address in [Some("192.0.2.1"), None] {
        let guesses: Vec<Value> = (0..200).map(|n| guess(&format!("user{n}@example.com"))).collect();
        let asking = stream::iter(&guesses).map(|body| world.post_from(address, "/auth/login", body));
        let answers: Vec<_> = asking.buffer_unordered(UNDER_WAY).collect().await;
        assert!(answers.iter().any(|(status, ..)| *status == StatusCode::TOO_MANY_REQUESTS), "{address:?}");
        for _ in 0..12 {
            let body = json!({ "refresh_token": session["refresh_token"] });
            let (status, next, _) = world.post_from(address, "/auth/refresh", &body).await;
            assert_eq!(status, StatusCode::OK, "{address:?}: {next}");
            session = next;
        }
    }
    let body = json!({ "access_token": session["access_token"] });
    let (status, answer, _) = world.post_from(Some("192.0.2.1"), "/auth/logout", &body).await;
    assert_eq!(status, StatusCode::NO_CONTENT, "{answer}");
}

#[tokio::test]
async fn guessing_from_five_addresses_does_not_keep_the_owner_out() {
    let (world, _gotrue) = World::own(GoTrueOptions::default()).await;
    let email = world.project.new_user(PASSWORD).await;
    for n in 1..=5 {
        let refused = limited(&world, &format!("192.0.2.{n}"), vec![guess(&email); 30]).await;
        assert!((15..=20).contains(&refused), "ten at once of one address for one account: {refused}");
    }
    for address in ["203.0.113.9", "203.0.113.10"] {
        let body = json!({ "email": email, "password": PASSWORD });
        let (status, session, _) = world.post_from(Some(address), "/auth/login", &body).await;
        assert_eq!(status, StatusCode::OK, "{session}");
    }
}

#[tokio::test]
async fn account_under_attack_is_open_to_addresses_and_browsers_that_signed_in_lately() {
    let (world, gotrue) = World::own(GoTrueOptions::default()).await;
    let email = world.project.new_user(PASSWORD).await;
    let right = json!({ "email": email, "password": PASSWORD });
    assert_eq!(world.post_from(Some("203.0.113.9"), "/auth/login", &right).await.0, StatusCode::OK);
    // The guesses do not have to reach the login server.
    gotrue.behave("/token", Behaviour::Fail(StatusCode::BAD_REQUEST));
    let (world, email) = (&world, &email);
    let guesses = stream::iter(0..20_000).map(|n| async move {
        let address = format!("198.18.{}.{}", n / 10 % 250, n / 2500);
        world.post_from(Some(&address), "/auth/login", &guess(email)).await
    });
    // On a slow machine the ceiling is full again before the next request: the first refusal is the proof.
    let mut refusals = guesses
        .buffer_unordered(UNDER_WAY)
        .filter(|(_, answer, _)| std::future::ready(answer["code"] == "rate_limited"))
        .boxed_local();
    let (status, _, headers) = refusals.next().await.expect("an account has a ceiling");
    drop(refusals);
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert!(headers.contains_key("retry-after"));
    gotrue.behave("/token", Behaviour::Normal);
    assert_eq!(world.post_from(Some("203.0.113.9"), "/auth/login", &right).await.0, StatusCode::OK);
    let request = Request::post(format!("{}/auth/login", world.url))
        .header("authorization", format!("Bearer {}", world.token))
        .header("x-gaia-client-ip", "198.51.100.2")
        .header("x-gaia-known-client", "a-browser")
        .body(right.to_string().into());
    let (status, session, _) = answer(world.gateway.request(request.unwrap()).await.unwrap()).await;
    assert_eq!(status, StatusCode::OK, "{session}");
}

#[tokio::test]
async fn address_has_a_budget_as_a_declared_caller_names_it() {
    let (world, _gotrue) = World::own(GoTrueOptions::default()).await;
    let many: Vec<Value> = (0..80).map(|n| guess(&format!("user{n}@example.com"))).collect();
    let refused = limited(&world, "192.0.2.3", many).await;
    assert!((1..=60).contains(&refused), "one address, twenty at once: {refused}");
    assert_eq!(limited(&world, "192.0.2.4", vec![guess("b@example.com")]).await, 0);

    // The headers of an undeclared caller are ignored: all its clients share one budget.
    let (web, token) = world.caller("web-service").await;
    let ask = async |n: u32| {
        let request = Request::post(format!("{}/auth/login", world.url))
            .header("authorization", format!("Bearer {token}"))
            .header("x-gaia-client-ip", format!("198.51.100.{}", n % 250))
            .header("x-gaia-known-client", n.to_string())
            .body(guess(&format!("web{n}@example.com")).to_string().into());
        answer(web.request(request.unwrap()).await.unwrap()).await.0
    };
    let statuses = stream::iter(0..2000).map(ask).buffer_unordered(UNDER_WAY);
    let is_limited = statuses.any(async |status| status == StatusCode::TOO_MANY_REQUESTS).await;
    assert!(is_limited, "2000 at once are more than a burst of 100 and 20 a second");
}

#[tokio::test]
async fn session_larger_than_the_platform_accepts_is_refused_for_good() {
    let (world, gotrue) = World::own(GoTrueOptions::default()).await;
    let email = world.project.new_user(PASSWORD).await;
    let session = world.sign_in(&email, PASSWORD).await;
    let mut large = session.clone();
    large["access_token"] = format!("{}{}", text(&session["access_token"]), "x".repeat(8192)).into();
    for body in [large.to_string(), "x".repeat(100_000)] {
        gotrue.behave("/token", Behaviour::Answer(StatusCode::OK, body));
        let body = json!({ "email": email, "password": PASSWORD });
        let (status, refused, headers) = world.post_from(None, "/auth/login", &body).await;
        assert_eq!((status, &refused["code"]), (StatusCode::FORBIDDEN, &"session_too_large".into()), "{refused}");
        assert!(!headers.contains_key("retry-after"));
    }
    gotrue.behave("/token", Behaviour::Slow(Duration::ZERO));
    assert_eq!(world.sign_in(&email, PASSWORD).await["user"]["email"], email);
}

/// Each has a connection of its own.
const UNDER_WAY: usize = 16;
