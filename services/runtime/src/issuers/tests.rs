//! Tests with a real HTTP server on the loopback address.

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

/// An issuer with configurable answers.
#[derive(Clone)]
struct Server {
    address: SocketAddr,
    answers: Arc<Mutex<(StatusCode, String)>>,
    asked: Arc<AtomicU32>,
    headers: Arc<Mutex<HeaderMap>>,
    /// Set while responses are held back.
    held: watch::Sender<bool>,
    /// The current and the maximum number of requests in progress.
    waiting: Arc<(AtomicU32, AtomicU32)>,
}

impl Server {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answers = Arc::new(Mutex::new((StatusCode::OK, String::new())));
        let held = watch::Sender::new(false);
        let (asked, headers, waiting) = (Arc::default(), Arc::default(), Arc::default());
        let server = Self { address, answers, asked, headers, held, waiting };
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
        issuer_at(&format!("http://{}", self.address), verification)
    }
}

/// An issuer at this URL, with a JWKS URL next to it.
pub(super) fn issuer_at(url: &str, verification: UserTokenVerification) -> UserTokenIssuer {
    UserTokenIssuer {
        name: "supabase".to_owned(),
        issuer: url.to_owned(),
        profile: UserTokenProfile::Supabase,
        verification,
        jwks_url: Some(format!("{url}/jwks")),
        audiences: vec![],
        algorithms: vec![],
        required_claims: std::collections::BTreeMap::new(),
        client_ids: vec![],
        ca_bundle: None,
        max_ttl_seconds: None,
    }
}

async fn answer(State(server): State<Server>, headers: HeaderMap) -> Response {
    server.asked.fetch_add(1, Ordering::SeqCst);
    *server.headers.lock().unwrap() = headers;
    let waiting = server.waiting.0.fetch_add(1, Ordering::SeqCst) + 1;
    server.waiting.1.fetch_max(waiting, Ordering::SeqCst);
    server.held.subscribe().wait_for(|is_held| !is_held).await.unwrap();
    server.waiting.0.fetch_sub(1, Ordering::SeqCst);
    let (status, body) = server.answers.lock().unwrap().clone();
    // The target of a redirect, which would return an acceptable response.
    (status, [("location", "/jwks")], body).into_response()
}

/// A key and its published set.
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

fn nowhere() -> Source {
    Source::default()
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
        self.verify_token("a.b.c", sub).await
    }

    fn verify_token(&self, token: &str, sub: &str) -> impl Future<Output = Result<(), Reason>> + Send + use<> {
        let issuer = self.server.issuer(UserTokenVerification::Remote);
        self.outside.ask(Question::Token { issuer, token: token.to_owned(), sub: sub.to_owned(), source: nowhere() })
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
    assert!(!world.has(&kid), "the keys are stale");
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
    assert_eq!(world.server.asked(), 5, "four in two minutes");
    world.pass(121);
    world.look_for("made-up").await;
    world.pass(10);
    world.look_for("made-up").await;
    assert_eq!(world.server.asked(), 6, "a kid that the issuer does not have is not asked for again at once");
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

/// Two servers that publish a key each, and one issuer name configured for either.
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
async fn the_keys_of_an_issuer_that_was_replaced_go_at_once_whoever_is_slow() {
    let world = World::new().await;
    let [(_, old_kid, old_issuer), (slow, _, slow_issuer)] = moving(&world).await;
    slow.hold(true);
    let slow_issuer = UserTokenIssuer { name: "slow".to_owned(), ..slow_issuer };
    let issuers = watch::Sender::new(Some(Arc::new(vec![old_issuer, slow_issuer.clone()])));
    let (outside, newest) = (world.outside.clone(), issuers.subscribe());
    let following = tokio::spawn(async move { outside.follow(newest, |issuers| issuers.as_slice()).await });
    slow.was_asked(1).await;
    assert!(world.has(&old_kid));
    issuers.send_replace(Some(Arc::new(vec![slow_issuer])));
    let gone = eventually("the old keys are gone", async || !world.has(&old_kid));
    tokio::time::timeout(external::TOTAL_TIMEOUT / 2, gone).await.unwrap();
    drop(issuers);
    following.await.unwrap();
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
    assert_eq!(world.verify("u2").await, Err(Reason::IssuerRefused), "the subject differs");
    world.server.say(StatusCode::UNAUTHORIZED, "");
    assert_eq!(world.verify("u1").await, Err(Reason::IssuerRefused));
    for (status, body) in FAULTS {
        world.server.say(status, body);
        assert_eq!(world.verify_token("d.e.f", "u1").await, Err(Reason::IssuerUnavailable), "{status} {body}");
    }
}

/// Responses that say nothing about a token.
const FAULTS: [(StatusCode, &str); 5] = [
    (StatusCode::BAD_GATEWAY, ""),
    (StatusCode::TOO_MANY_REQUESTS, ""),
    (StatusCode::FOUND, ""),
    (StatusCode::OK, "?"),
    (StatusCode::OK, "{}"),
];

#[tokio::test]
async fn made_up_tokens_cause_few_questions_at_a_time() {
    let world = World::new().await;
    world.server.say(StatusCode::UNAUTHORIZED, "");
    world.server.hold(true);
    let asking = (0..100).map(|number| tokio::spawn(world.verify_token(&format!("a.b.{number}"), "u1")));
    let asking: Vec<_> = asking.collect();
    world.server.was_asked(12).await;
    world.server.hold(false);
    for answer in asking {
        assert_eq!(answer.await.unwrap(), Err(Reason::IssuerRefused), "who waited was asked about, too");
    }
    assert_eq!(world.server.asked(), 100);
    assert_eq!(world.server.waiting.1.load(Ordering::SeqCst), 12, "they are of one source");
}

#[tokio::test]
async fn who_asks_the_same_at_once_gets_one_answer() {
    let world = World::new().await;
    for (times, (status, body), answer) in [
        (1, (StatusCode::OK, r#"{"id":"u1"}"#), Ok(())),
        (2, (StatusCode::BAD_GATEWAY, ""), Err(Reason::IssuerUnavailable)),
        (3, (StatusCode::UNAUTHORIZED, ""), Err(Reason::IssuerRefused)),
    ] {
        world.server.say(status, body);
        world.server.hold(true);
        let asking: Vec<_> = (0..20).map(|_| tokio::spawn(world.verify_token("a.b.c", "u1"))).collect();
        let remote = world.outside.remotes.of(&world.server.issuer(UserTokenVerification::Remote));
        eventually("all of them wait", async || remote.waiting() == 20).await;
        world.server.was_asked(times).await;
        world.server.hold(false);
        for given in asking {
            assert_eq!(given.await.unwrap(), answer);
        }
        assert_eq!(world.server.asked(), times, "answers other than refusals are not cached");
    }
}

#[tokio::test]
async fn if_the_one_who_asks_goes_away_the_next_asks() {
    let world = World::new().await;
    let remote = world.outside.remotes.of(&world.server.issuer(UserTokenVerification::Remote));
    world.server.say(StatusCode::OK, r#"{"id":"u1"}"#);
    world.server.hold(true);
    let first = tokio::spawn(world.verify_token("a.b.c", "u1"));
    world.server.was_asked(1).await;
    let second = tokio::spawn(world.verify_token("a.b.c", "u1"));
    eventually("the second waits", async || remote.waiting() == 2).await;
    first.abort();
    world.server.was_asked(2).await;
    world.server.hold(false);
    assert_eq!(second.await.unwrap(), Ok(()));
    assert_eq!(remote.waiting(), 0);
}

#[tokio::test]
async fn a_refusal_is_believed_for_ten_seconds_and_a_fault_not_at_all() {
    let world = World::new().await;
    for (times, (status, body)) in (1..).zip(FAULTS) {
        world.server.say(status, body);
        assert_eq!(world.verify("u1").await, Err(Reason::IssuerUnavailable));
        assert_eq!(world.server.asked(), times);
    }
    world.server.say(StatusCode::UNAUTHORIZED, "");
    assert_eq!(world.verify("u1").await, Err(Reason::IssuerRefused));
    world.server.say(StatusCode::OK, r#"{"id":"u1"}"#);
    let before = world.server.asked();
    world.pass(9);
    assert_eq!(world.verify("u1").await, Err(Reason::IssuerRefused));
    assert_eq!(world.server.asked(), before);
    assert_eq!(world.verify_token("d.e.f", "u1").await, Ok(()), "it was about one token");
    world.pass(1);
    assert_eq!(world.verify("u1").await, Ok(()));
}

#[tokio::test]
async fn a_refusal_is_that_of_an_issuer_as_it_is_configured() {
    let world = World::new().await;
    let issuer = world.server.issuer(UserTokenVerification::Remote);
    let changed = UserTokenIssuer { max_ttl_seconds: Some(60), ..issuer.clone() };
    world.server.say(StatusCode::UNAUTHORIZED, "");
    assert_eq!(world.verify("u1").await, Err(Reason::IssuerRefused));
    world.server.say(StatusCode::OK, r#"{"id":"u1"}"#);
    let (token, sub) = ("a.b.c".to_owned(), "u1".to_owned());
    let question = Question::Token { issuer: changed.clone(), token, sub, source: nowhere() };
    assert_eq!(world.outside.ask(question).await, Ok(()), "another configuration, another issuer");
    assert_eq!(world.verify("u1").await, Err(Reason::IssuerRefused));
    std::fs::write(world.dir.path().join("issuer-supabase.key"), "project-key").unwrap();
    assert_eq!(
        world.verify("u1").await,
        Ok(()),
        "another API key: the refusal may have been caused by the previous one"
    );
    std::fs::remove_file(world.dir.path().join("issuer-supabase.key")).unwrap();
    assert_eq!(world.verify("u1").await, Err(Reason::IssuerRefused));
    world.outside.refresh(&[changed]).await;
    assert_eq!(world.verify("u1").await, Ok(()), "it was forgotten with the configuration");
}

#[tokio::test]
async fn nothing_is_asked_in_the_clear_but_this_very_machine() {
    for url in ["http://example.org/jwks", "http://10.0.0.1/jwks", "ftp://localhost/", "file:///etc/passwd", "jwks", ""]
    {
        let refused = external::get(url, HeaderMap::new(), None).await;
        assert!(matches!(refused, Err(external::FetchError::Address)), "{url}: {refused:?}");
    }
}
