use aws_lc_rs::digest::{SHA256, digest};
use http::StatusCode;

use super::failure::Failure;
use super::keys::base64;
use super::sessions::{LogoutScope, Sessions};
use super::*;
use gaia_api::ManualClock;
use gaia_runtime::testing::get_plain;
use jiff::Timestamp;

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn later(seconds: i64) -> Timestamp {
    now() + SignedDuration::from_secs(seconds)
}

fn signed_up(sessions: &mut Sessions) -> sessions::Granted {
    sessions.sign_up(("ann@example.com", "secret1"), true, now()).unwrap().1.unwrap()
}

fn sessions() -> Sessions {
    Sessions::new(SignedDuration::from_secs(10), &ProjectSettings::default())
}

#[test]
fn the_parent_of_the_active_token_gets_the_active_one_however_late() {
    let mut sessions = sessions();
    let first = signed_up(&mut sessions).refresh_token;
    let second = sessions.refresh(&first, now()).unwrap().refresh_token;
    assert_ne!(first, second);
    assert_eq!(sessions.refresh(&first, later(3600)).unwrap().refresh_token, second);
    assert_ne!(sessions.refresh(&second, later(3600)).unwrap().refresh_token, second);
}

#[test]
fn an_older_token_works_within_the_interval_and_after_it_ends_the_family() {
    let mut sessions = sessions();
    let first = signed_up(&mut sessions).refresh_token;
    let second = sessions.refresh(&first, now()).unwrap().refresh_token;
    let third = sessions.refresh(&second, later(1)).unwrap().refresh_token;
    let fourth = sessions.refresh(&first, later(10)).unwrap().refresh_token;
    assert!(fourth != third && fourth != second);
    assert_eq!(sessions.refresh(&second, later(12)).unwrap_err(), Failure::ALREADY_USED);
    assert_eq!(sessions.refresh(&fourth, later(60)).unwrap_err(), Failure::ALREADY_USED);
    // Other sessions of the user are not affected.
    assert!(sessions.by_password("ann@example.com", "secret1", later(60)).is_ok());
}

#[test]
fn signing_out_ends_this_session_the_others_or_all() {
    let mut sessions = sessions();
    signed_up(&mut sessions);
    let begin = |sessions: &mut Sessions| sessions.by_password("ANN@example.com", "secret1", now()).unwrap();
    let (one, two) = (begin(&mut sessions), begin(&mut sessions));
    sessions.log_out(&one.user.id, &one.session.id, LogoutScope::Local);
    assert_eq!(sessions.refresh(&one.refresh_token, now()).unwrap_err(), Failure::NOT_FOUND);
    assert!(sessions.signed_in(&two.user.id, &two.session.id, now()).is_ok());
    let three = begin(&mut sessions);
    sessions.log_out(&three.user.id, &three.session.id, LogoutScope::Others);
    assert!(sessions.signed_in(&two.user.id, &two.session.id, now()).is_err());
    assert!(sessions.refresh(&three.refresh_token, now()).is_ok());
    sessions.log_out(&three.user.id, &three.session.id, LogoutScope::Global);
    assert!(sessions.signed_in(&three.user.id, &three.session.id, now()).is_err());
}

#[test]
fn a_code_is_good_once_and_only_with_its_verifier() {
    let mut sessions = sessions();
    signed_up(&mut sessions);
    let challenge = base64(digest(&SHA256, b"verifier").as_ref());
    let code = sessions.authorize("ann@example.com", &challenge, now()).unwrap().unwrap();
    assert_eq!(sessions.by_code(&code, "other", now()).unwrap_err(), Failure::VERIFIER);
    assert_eq!(sessions.by_code(&code, "verifier", now()).unwrap().session.method, "oauth");
    assert_eq!(sessions.by_code(&code, "verifier", now()).unwrap_err(), Failure::NO_FLOW);
    let code = sessions.authorize("ann@example.com", &challenge, now()).unwrap().unwrap();
    assert_eq!(sessions.by_code(&code, "verifier", later(301)).unwrap_err(), Failure::FLOW_EXPIRED);
}

#[tokio::test]
async fn it_publishes_the_keys_of_the_tokens_that_it_gives() {
    let clock = Arc::new(ManualClock::new(now()));
    let options = GoTrueOptions { clock, ..GoTrueOptions::default() };
    let gotrue = GoTrue::start(options).await.unwrap();
    let (status, before) = get_plain(&gotrue.jwks_url()).await;
    assert_eq!(status, StatusCode::OK);
    gotrue.rotate_key().unwrap();
    let both: Value = serde_json::from_str(&get_plain(&gotrue.jwks_url()).await.1).unwrap();
    assert_eq!(both["keys"].as_array().map(Vec::len), Some(2));
    gotrue.revoke_old_keys();
    let after: Value = serde_json::from_str(&get_plain(&gotrue.jwks_url()).await.1).unwrap();
    assert_eq!(after["keys"][0], both["keys"][1]);
    assert!(!before.contains(after["keys"][0]["kid"].as_str().unwrap()));
    assert_eq!(gotrue.requests("/.well-known"), 3);

    gotrue.behave("/", Behaviour::Fail(StatusCode::INTERNAL_SERVER_ERROR));
    gotrue.behave(api::JWKS_PATH, Behaviour::Answer(StatusCode::OK, "nonsense".to_owned()));
    assert_eq!(get_plain(&gotrue.jwks_url()).await, (StatusCode::OK, "nonsense".to_owned()));
    let (status, body) = get_plain(&format!("{}/health", gotrue.base_url())).await;
    assert_eq!((status, body.contains("unexpected_failure")), (StatusCode::INTERNAL_SERVER_ERROR, true));
}

#[tokio::test]
async fn nobody_is_served_without_a_key_of_the_project() {
    let gotrue = GoTrue::start(GoTrueOptions::default()).await.unwrap();
    let (status, body) = get_plain(&format!("{}/user", gotrue.base_url())).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(body.contains("No API key found"), "{body}");
}
