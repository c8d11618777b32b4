//! Against a real HTTP server on the loopback address.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use gaia_api::ManualClock;
use gaia_api::mount::UserTokenProfile;
use gaia_auth::issue::Signer;
use gaia_pki::{KeySpec, PrivateKey};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::*;
use crate::testing::eventually;

/// An issuer that says what it is told to say.
#[derive(Clone)]
struct Server {
    address: SocketAddr,
    answers: Arc<Mutex<(StatusCode, String)>>,
    asked: Arc<AtomicU32>,
    headers: Arc<Mutex<HeaderMap>>,
    /// Whether it keeps those who ask waiting.
    held: tokio::sync::watch::Sender<bool>,
}

impl Server {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answers = Arc::new(Mutex::new((StatusCode::OK, String::new())));
        let held = tokio::sync::watch::Sender::new(false);
        let server = Self { address, answers, asked: Arc::default(), headers: Arc::default(), held };
        let app = Router::new().route("/jwks", get(answer)).route("/user", get(answer)).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        server
    }

    fn say(&self, status: StatusCode, body: impl Into<String>) {
        *self.answers.lock().unwrap() = (status, body.into());
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }

    fn hold(&self, is_held: bool) {
        self.held.send_replace(is_held);
    }

    async fn was_asked(&self, times: u32) {
        eventually("it was asked", async || self.asked() >= times).await;
    }

    fn issuer(&self, verification: UserTokenVerification) -> UserTokenIssuer {
        UserTokenIssuer {
            name: "supabase".to_owned(),
            issuer: format!("http://{}", self.address),
            profile: UserTokenProfile::Supabase,
            verification,
            jwks_url: Some(format!("http://{}/jwks", self.address)),
            audiences: vec![],
            algorithms: vec![],
            required_claims: std::collections::BTreeMap::new(),
            client_ids: vec![],
            ca_bundle: None,
            max_ttl_seconds: None,
        }
    }
}

async fn answer(State(server): State<Server>, headers: HeaderMap) -> Response {
    server.asked.fetch_add(1, Ordering::SeqCst);
    *server.headers.lock().unwrap() = headers;
    server.held.subscribe().wait_for(|is_held| !is_held).await.unwrap();
    let (status, body) = server.answers.lock().unwrap().clone();
    // Where a redirect would lead to is an answer that would be taken.
    (status, [("location", "/jwks")], body).into_response()
}

/// A key and the set it is published in.
fn published() -> (String, String) {
    let signer = Signer::from_pem(PrivateKey::generate(KeySpec::Ecdsa256).unwrap().to_pem().as_bytes()).unwrap();
    (signer.kid().to_owned(), json!({ "keys": [signer.jwk()] }).to_string())
}

struct World {
    server: Server,
    outside: Outside,
    clock: Arc<ManualClock>,
    dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_second(1_800_000_000).unwrap()));
        let dir = tempfile::tempdir().unwrap();
        let outside = Outside::new(UserKeys::default(), Arc::clone(&clock) as Arc<dyn Clock>, dir.path().to_owned());
        Self { server: Server::start().await, outside, clock, dir }
    }

    async fn refresh(&self) {
        self.outside.refresh(&[self.server.issuer(UserTokenVerification::JWKS)]).await;
    }

    fn pass(&self, seconds: i64) {
        self.clock.set(self.clock.now() + SignedDuration::from_secs(seconds));
    }

    fn has(&self, kid: &str) -> bool {
        self.outside.keys.get("supabase").is_some_and(|keys| keys.contains(kid))
    }

    async fn look_for(&self, kid: &str) {
        let question = Question::Key { issuer: self.server.issuer(UserTokenVerification::JWKS), kid: kid.to_owned() };
        self.outside.ask(question).await.unwrap();
    }

    async fn verify(&self, sub: &str) -> Result<(), Reason> {
        let issuer = self.server.issuer(UserTokenVerification::Remote);
        self.outside.ask(Question::Token { issuer, token: "a.b.c".to_owned(), sub: sub.to_owned() }).await
    }
}

#[tokio::test]
async fn good_keys_outlive_every_kind_of_bad_answer_for_an_hour_and_come_back_by_themselves() {
    let world = World::new().await;
    let (kid, set) = published();
    world.server.say(StatusCode::OK, &set);
    world.refresh().await;
    assert!(world.has(&kid));
    let bad = [
        (StatusCode::INTERNAL_SERVER_ERROR, set.clone()),
        (StatusCode::FOUND, set.clone()),
        (StatusCode::OK, "<html>".to_owned()),
        (StatusCode::OK, r#"{"keys":[]}"#.to_owned()),
        (StatusCode::OK, format!("{set}{}", " ".repeat(64 * 1024))),
    ];
    for (status, body) in bad {
        world.server.say(status, body);
        world.pass(301);
        world.refresh().await;
        assert!(world.has(&kid));
    }
    assert_eq!(world.server.asked(), 6, "no redirect was followed");
    world.pass(3600);
    world.refresh().await;
    assert!(!world.has(&kid), "they are too old to believe in");
    world.server.say(StatusCode::OK, &set);
    world.pass(31);
    world.refresh().await;
    assert!(world.has(&kid));
}

#[tokio::test]
async fn a_new_key_is_found_at_once_and_made_up_ones_cause_no_flood() {
    let world = World::new().await;
    world.server.say(StatusCode::OK, published().1);
    world.refresh().await;
    let (kid, set) = published();
    world.server.say(StatusCode::OK, set);
    tokio::join!(world.look_for(&kid), world.look_for(&kid), world.look_for(&kid));
    assert!(world.has(&kid));
    assert_eq!(world.server.asked(), 2, "three who asked at once were answered by one fetch");
    for number in 0..100 {
        world.look_for(&format!("made-up-{number}")).await;
    }
    assert_eq!(world.server.asked(), 2);
    world.pass(31);
    world.look_for("made-up").await;
    world.pass(31);
    world.look_for("made-up").await;
    assert_eq!(world.server.asked(), 3, "what was not there is not looked for again");
}

#[tokio::test]
async fn the_keys_of_an_issuer_go_with_it() {
    let world = World::new().await;
    let (kid, set) = published();
    world.server.say(StatusCode::OK, set);
    world.refresh().await;
    assert!(world.has(&kid));
    world.outside.refresh(&[]).await;
    assert!(!world.has(&kid));
}

/// Two servers that publish a key each, and the same issuer once with the one and once with the other.
async fn moving(world: &World) -> [(Server, String, UserTokenIssuer); 2] {
    let of = |server: Server| {
        let (kid, set) = published();
        server.say(StatusCode::OK, set);
        let issuer = server.issuer(UserTokenVerification::JWKS);
        (server, kid, issuer)
    };
    [of(world.server.clone()), of(Server::start().await)]
}

#[tokio::test]
async fn keys_that_come_from_where_an_issuer_was_before_are_nobodys() {
    let world = World::new().await;
    let [(old, old_kid, old_issuer), (_, new_kid, new_issuer)] = moving(&world).await;
    old.hold(true);
    let asking = tokio::spawn(world.outside.ask(Question::Key { issuer: old_issuer, kid: old_kid.clone() }));
    old.was_asked(1).await;
    world.outside.refresh(&[new_issuer]).await;
    assert!(world.has(&new_kid));
    old.hold(false);
    asking.await.unwrap().unwrap();
    assert!(world.has(&new_kid) && !world.has(&old_kid));
}

#[tokio::test]
async fn a_request_under_old_rules_brings_no_issuer_back() {
    let world = World::new().await;
    let [(_, old_kid, old_issuer), (new, new_kid, new_issuer)] = moving(&world).await;
    world.outside.refresh(std::slice::from_ref(&old_issuer)).await;
    assert!(world.has(&old_kid));
    let first = UserTokenIssuer { name: "first".to_owned(), ..new_issuer.clone() };
    new.hold(true);
    let outside = world.outside.clone();
    let refreshing = tokio::spawn(async move { outside.refresh(&[first, new_issuer]).await });
    new.was_asked(1).await;
    assert!(!world.has(&old_kid), "the new rules are known, and the first of their issuers is asked");
    world.pass(31);
    world.outside.ask(Question::Key { issuer: old_issuer, kid: old_kid.clone() }).await.unwrap();
    assert!(!world.has(&old_kid));
    new.hold(false);
    refreshing.await.unwrap();
    assert!(world.has(&new_kid) && !world.has(&old_kid));
}

#[tokio::test]
async fn an_issuer_that_is_asked_says_whose_token_it_is() {
    let world = World::new().await;
    std::fs::write(world.dir.path().join("issuer-supabase.key"), "project-key\n").unwrap();
    world.server.say(StatusCode::OK, r#"{"id":"u1"}"#);
    assert_eq!(world.verify("u1").await, Ok(()));
    let headers = world.server.headers.lock().unwrap().clone();
    assert_eq!(
        (&headers["authorization"], &headers["apikey"]),
        (&"Bearer a.b.c".parse().unwrap(), &"project-key".parse().unwrap())
    );
    assert_eq!(world.verify("u2").await, Err(Reason::IssuerRefused), "it is somebody else's");
    world.server.say(StatusCode::UNAUTHORIZED, "");
    assert_eq!(world.verify("u1").await, Err(Reason::IssuerRefused));
    for (status, body) in [(StatusCode::BAD_GATEWAY, ""), (StatusCode::FOUND, ""), (StatusCode::OK, "?")] {
        world.server.say(status, body);
        assert_eq!(world.verify("u1").await, Err(Reason::IssuerUnavailable), "{status}");
    }
}

#[tokio::test]
async fn nothing_is_asked_in_the_clear_but_this_very_machine() {
    for url in ["http://example.org/jwks", "http://10.0.0.1/jwks", "ftp://localhost/", "file:///etc/passwd", "jwks", ""]
    {
        let refused = fetch::get(url, HeaderMap::new(), None).await;
        assert!(matches!(refused, Err(fetch::FetchError::Address)), "{url}: {refused:?}");
    }
}
