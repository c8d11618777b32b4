//! Answers of the login server that end a session or refuse a user permanently, and its own limits.

use gaia_api::mount::UserTokenIssuer;
use gaia_stand_ins::gotrue::{GoTrueOptions, ProjectSettings, RefreshTokens};
use http::{Request, StatusCode};
use serde_json::{Value, json};

use crate::login::support::{Project, World, answer};

const PASSWORD: &str = "correct horse battery staple";

fn with(change: impl FnOnce(&mut ProjectSettings)) -> GoTrueOptions {
    let mut settings = ProjectSettings::default();
    change(&mut settings);
    GoTrueOptions { settings, ..GoTrueOptions::default() }
}

/// 45 users from 45 addresses sign in: the number that succeed, and the number of those that refreshed once.
async fn forty_five(world: &World, gotrue: &gaia_stand_ins::gotrue::GoTrue) -> (usize, usize) {
    let (mut signed_in, mut refreshed) = (0, 0);
    for n in 0..45 {
        let email = format!("user{n}@example.com");
        gotrue.add_user(&email, PASSWORD).unwrap();
        let address = format!("192.0.2.{n}");
        let body = json!({ "email": email, "password": PASSWORD });
        let (status, session, _) = world.post_from(Some(&address), "/auth/login", &body).await;
        if status != StatusCode::OK {
            assert_eq!((status, &session["code"]), (StatusCode::TOO_MANY_REQUESTS, &"rate_limited".into()));
            continue;
        }
        signed_in += 1;
        let body = json!({ "refresh_token": session["refresh_token"] });
        refreshed += usize::from(world.post_from(Some(&address), "/auth/refresh", &body).await.0 == StatusCode::OK);
    }
    (signed_in, refreshed)
}

#[tokio::test]
async fn users_have_a_bucket_each_at_a_login_server_that_is_told_their_addresses() {
    let limited = || with(|settings| (settings.token_limit, settings.forwarded_for) = (Some(150), true));
    let (world, gotrue) = World::forwarding(limited()).await;
    assert_eq!(forty_five(&world, &gotrue).await, (45, 45));
    // Without the setting it counts all users as one.
    let (world, gotrue) = World::own(limited()).await;
    let (signed_in, refreshed) = forty_five(&world, &gotrue).await;
    assert!(signed_in + refreshed < 60, "{signed_in} {refreshed}");
}

#[tokio::test]
async fn refresh_of_a_user_who_is_gone_ends_the_session() {
    for form in [RefreshTokens::V1, RefreshTokens::V2] {
        let (world, gotrue) = World::own(with(|settings| settings.refresh_tokens = form)).await;
        let ended = async |refresh_token: &Value| {
            let (status, answer) = world.refresh(refresh_token).await;
            assert_eq!((status, &answer["code"]), (StatusCode::UNAUTHORIZED, &"session_ended".into()), "{answer}");
        };
        let email = world.project.new_user(PASSWORD).await;
        let session = world.sign_in(&email, PASSWORD).await;
        gotrue.ban(&email, 24).unwrap();
        ended(&session["refresh_token"]).await;
        let (status, _) = world.post("/auth/logout", &json!({ "access_token": session["access_token"] })).await;
        assert_eq!(status, StatusCode::NO_CONTENT, "a banned user is signed out");

        let email = world.project.new_user(PASSWORD).await;
        let session = world.sign_in(&email, PASSWORD).await;
        gotrue.delete(&email).unwrap();
        ended(&session["refresh_token"]).await;
        let (status, _) = world.post("/auth/logout", &json!({ "access_token": session["access_token"] })).await;
        assert_eq!(status, StatusCode::NO_CONTENT, "a deleted user is signed out");
        for malformed in ["x", "NOT-A-TOKEN1", "much-longer-than-twelve-characters"] {
            ended(&malformed.into()).await;
        }
    }
}

#[tokio::test]
async fn permanent_refusals_have_codes_and_no_time_to_retry() {
    let refused = async |world: &World, email: &str, code: &str| {
        let body = json!({ "email": email, "password": PASSWORD });
        let (status, answer, headers) = world.post_from(None, "/auth/login", &body).await;
        assert_eq!((status, &answer["code"]), (StatusCode::FORBIDDEN, &code.into()), "{answer}");
        assert!(!headers.contains_key("retry-after"), "{code}");
    };
    let (captcha, gotrue) = World::own(with(|settings| settings.captcha = true)).await;
    gotrue.add_user("ann@example.com", PASSWORD).unwrap();
    refused(&captcha, "ann@example.com", "captcha_required").await;
    let (off, _gotrue) = World::own(with(|settings| settings.email = false)).await;
    refused(&off, "ann@example.com", "method_off").await;

    let (world, gotrue) = World::own(GoTrueOptions::default()).await;
    let email = world.project.new_user(PASSWORD).await;
    gotrue.unconfirm(&email).unwrap();
    refused(&world, &email, "address_not_confirmed").await;
    let (status, answer) = world.post("/auth/login", &json!({ "email": email, "password": "wrong" })).await;
    assert_eq!((status, &answer["code"]), (StatusCode::UNAUTHORIZED, &"invalid_credentials".into()));

    // The metadata of a user is in each access token.
    let email = world.project.new_user(PASSWORD).await;
    gotrue.add_metadata(&email, "note", "x".repeat(6000).into()).unwrap();
    refused(&world, &email, "session_too_large").await;

    let mut project = Project::of(&gotrue);
    project.issuer["requiredClaims"] = json!({ "aal": "aal2" });
    let issuer: UserTokenIssuer = serde_json::from_value(project.issuer.clone()).unwrap();
    let strict = World::with_issuers(project, vec![issuer]).await;
    let email = strict.project.new_user(PASSWORD).await;
    refused(&strict, &email, "second_factor_required").await;
}

#[tokio::test]
async fn blanks_around_an_address_do_not_matter() {
    let (world, _gotrue) = World::open().await;
    let email = world.project.new_user(PASSWORD).await;
    let session = world.sign_in(&format!(" {email}\t"), PASSWORD).await;
    assert_eq!(session["user"]["email"], email);
}

#[tokio::test]
async fn methods_are_those_of_the_project() {
    let (world, _gotrue) = World::own(with(|settings| settings.providers = vec!["google".to_owned()])).await;
    let request = Request::get(format!("{}/auth/methods", world.url));
    let request = request.header("authorization", format!("Bearer {}", world.token)).body(String::new().into());
    let (status, methods, _) = answer(world.gateway.request(request.unwrap()).await.unwrap()).await;
    assert_eq!((status, methods), (StatusCode::OK, json!({ "password": true, "providers": ["google"] })));
    let nobody = world.platform.client(None);
    let request = Request::get(format!("{}/auth/methods", world.url)).body(String::new().into()).unwrap();
    assert_eq!(answer(nobody.request(request).await.unwrap()).await.0, StatusCode::UNAUTHORIZED);
}
