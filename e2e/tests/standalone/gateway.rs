//! The ingress: gateway, auth-service and asset-service as processes, and curl as the client.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use gaia_api::mount::{Caller, UserTokenIssuer, UserTokens};
use gaia_api::names::key;
use gaia_api::{Clock as _, SystemClock};
use gaia_auth::issue::ServiceClaims;
use gaia_e2e::wait::Seen;
use gaia_e2e::{Curl, Standalone, wait};
use gaia_runtime::testing::{MountedFiles, Platform, api_key, api_key_file, grants, policy, spiffe_id};
use gaia_stand_ins::gotrue::{GoTrue, GoTrueOptions};
use gaia_stand_ins::provider::{KEY as PROVIDER_KEY, Provider, ProviderOptions};
use serde_json::{Value, json};

struct Shop {
    platform: Platform,
    gotrue: GoTrue,
    auth: Standalone,
    assets: Standalone,
    gateway: Standalone,
    dir: tempfile::TempDir,
}

impl Shop {
    async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let platform = Platform::new();
        let gotrue = GoTrue::start(GoTrueOptions::default()).await.unwrap();
        let start = async |program: &str, files: &MountedFiles, env: &[(&str, &str)]| {
            Standalone::start(program, &dir.path().join(program), files, env).await.unwrap()
        };
        let mut files = mounted("auth-service", &platform, &gotrue);
        files.insert(key::JWT_SIGNING_KEY, platform.signing_key().into_bytes());
        files.insert("issuer-supabase.key", gotrue.anon_key().as_bytes().to_vec());
        let services = ["gateway", "auth-service", "asset-service", "chat-service"];
        let targets = ["asset-service", "chat-service", "auth-service"];
        let pairs = targets.map(|target| ("gateway", target, &[][..]));
        files.insert(key::GRANTS, grants(&services, &pairs));
        let auth = start("auth-service", &files, &[]).await;
        let assets = start("asset-service", &mounted("asset-service", &platform, &gotrue), &[]).await;
        let (auth_url, asset_url) = (format!("https://{}", auth.mesh), format!("https://{}", assets.mesh));
        let env = [
            ("GAIA_AUTH_URL", auth_url.as_str()),
            ("GAIA_UPSTREAM_ASSET_SERVICE", &asset_url),
            ("GAIA_CORS_ORIGINS", "https://app.example.com"),
            ("GAIA_SIGN_IN_RATE", "0"),
        ];
        let gateway = start("gateway", &mounted("gateway", &platform, &gotrue), &env).await;
        let shop = Self { platform, gotrue, auth, assets, gateway, dir };
        let served = async || {
            let answer = shop.curl("/assets").bearer(&shop.user(USER)).send().await.unwrap();
            if answer.status == 200 { Seen::Yes(()) } else { Seen::NotYet(format!("{answer:?}")) }
        };
        wait::until("the keys of the login server are fetched by both", SOON, served).await.unwrap();
        shop
    }

    fn curl(&self, path: &str) -> Curl {
        // The path is sent unchanged: curl would resolve dots.
        let url = format!("http://{}{path}", self.gateway.edge);
        Curl::to(&url, self.dir.path()).as_is()
    }

    fn user(&self, sub: &str) -> String {
        self.token(&json!({ "sub": sub }))
    }

    fn token(&self, changes: &Value) -> String {
        let now = SystemClock.now().as_second();
        let mut claims = json!({
            "iss": self.gotrue.base_url(), "aud": "authenticated", "sub": USER, "role": "authenticated",
            "session_id": "0d6a4a5c-2f7b-4d0a-9a38-5f0f3b2f9c11", "is_anonymous": false, "iat": now, "exp": now + 600,
        });
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        self.gotrue.sign(&claims).unwrap()
    }
}

/// The mounted files of a service: gateway may call on behalf of others, and one key is accepted.
fn mounted(service: &str, platform: &Platform, gotrue: &GoTrue) -> MountedFiles {
    let mut files = platform.mount(service);
    let mut policy = policy(service);
    policy.callers = vec![Caller { spiffe_id: spiffe_id("gateway"), scopes: vec![], on_behalf_of: true }];
    let issuer: UserTokenIssuer = serde_json::from_value(gotrue.issuer_entry("supabase")).unwrap();
    policy.user_tokens = UserTokens { issuers: vec![issuer], scopes: vec![] };
    files.insert(key::POLICY, serde_json::to_vec(&policy).unwrap());
    files.insert(key::API_KEYS, api_key_file(vec![api_key("mobile", KEY)]));
    files
}

/// The audit lines of a service, written so far.
fn audit(service: &Standalone) -> Vec<Value> {
    let log = fs::read_to_string(service.log()).unwrap();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["target"] == "gaia.audit").collect()
}

#[tokio::test]
async fn a_user_and_a_program_keep_their_files_apart_and_every_call_is_on_record_once() {
    let shop = Shop::open().await;
    let (ann, bob) = (shop.user(USER), shop.user("11111111-1111-4111-8111-111111111111"));
    shop.curl("/assets/a.txt").method("PUT").bearer(&ann).body("ann's").send().await.unwrap().expect(201).unwrap();
    shop.curl("/assets/a.txt").method("PUT").api_key(KEY).body("the app's").send().await.unwrap().expect(201).unwrap();
    shop.curl("/assets/a.txt").bearer(&bob).send().await.unwrap().expect(404).unwrap();
    let read = shop.curl("/assets/a.txt").bearer(&ann).send().await.unwrap();
    assert_eq!(read.body, "ann's");
    assert_eq!(shop.curl("/assets/a.txt").bearer(KEY).send().await.unwrap().body, "the app's");

    let id = read.header("x-request-id").unwrap().to_owned();
    for (service, who) in
        [(&shop.gateway, format!("user:supabase:{USER}")), (&shop.assets, spiffe_id("gateway").to_string())]
    {
        let found = async || {
            let lines: Vec<Value> =
                audit(service).into_iter().filter(|line| line["request_id"] == id.as_str()).collect();
            if lines.is_empty() { Seen::NotYet(String::new()) } else { Seen::Yes(lines) }
        };
        let lines = wait::until("the call is on record", SOON, found).await.unwrap();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!((&lines[0]["who"], &lines[0]["result"]), (&json!(who), &json!("accepted")), "{lines:?}");
        let ids: Vec<Value> = audit(service).into_iter().map(|line| line["request_id"].clone()).collect();
        let different: BTreeSet<String> = ids.iter().map(ToString::to_string).collect();
        assert_eq!(ids.len(), different.len(), "no call has two lines");
    }
    for secret in [ann.rsplit('.').next().unwrap(), KEY] {
        for service in [&shop.gateway, &shop.assets, &shop.auth] {
            assert!(!fs::read_to_string(service.log()).unwrap().contains(secret), "{} wrote it down", service.name());
        }
    }
}

#[tokio::test]
async fn every_verdict_at_the_edge_is_as_it_should_be() {
    let shop = Shop::open().await;
    let good = shop.user(USER);
    let now = SystemClock.now().as_second();
    // A valid signature, and the audience gateway: but the edge has no peers.
    let platform_token = shop.platform.signer().sign(&ServiceClaims {
        iss: "gaia-platform".to_owned(),
        sub: spiffe_id("web-service").to_string(),
        client_id: spiffe_id("web-service").to_string(),
        service: "web-service".to_owned(),
        aud: spiffe_id("gateway").to_string(),
        jti: "j".to_owned(),
        iat: now,
        exp: now + 900,
        scope: None,
    });
    let platform_token = platform_token.unwrap();
    let bearer = |token: &str| shop.curl("/assets").bearer(token);
    for (what, call, status) in [
        ("a user", bearer(&good), 200),
        ("a key", shop.curl("/assets").api_key(KEY), 200),
        ("nothing", shop.curl("/assets"), 401),
        ("an unknown key", shop.curl("/assets").api_key("gk_test_guessed"), 401),
        ("a bad token and a good key", bearer(&format!("{good}x")).api_key(KEY), 401),
        ("a platform token", bearer(&platform_token), 401),
        ("a user called gateway", bearer(&shop.user("gateway")), 401),
        ("expired", bearer(&shop.token(&json!({ "iat": now - 700, "exp": now - 61 }))), 401),
        ("another project", bearer(&shop.token(&json!({ "iss": "https://other.example" }))), 401),
        ("the anon key", bearer(shop.gotrue.anon_key()), 401),
        ("the service_role key", bearer(shop.gotrue.service_role_key()), 401),
        ("an anonymous user", bearer(&shop.token(&json!({ "is_anonymous": true }))), 401),
        ("9 KiB of token", bearer(&format!("{}.{}.{}", "a".repeat(3000), "b".repeat(3200), "c".repeat(3000))), 400),
        ("two tokens", bearer(&good).bearer(&good), 400),
        ("a token in the query", shop.curl(&format!("/assets?access_token={good}")), 401),
        ("an identity from outside", shop.curl("/assets").header("X-Gaia-Subject: user:supabase:admin"), 401),
        ("a stranger's path", shop.curl("/internal/service-token").method("POST").api_key(KEY), 404),
        ("the report for the operator", shop.curl("/.well-known/gaia/identity").api_key(KEY), 404),
        ("metrics", shop.curl("/metrics").api_key(KEY), 404),
        ("dots", shop.curl("/assets/../internal/service-token").api_key(KEY), 400),
        ("hidden dots", shop.curl("/assets/%2e%2e/internal/service-token").api_key(KEY), 400),
        ("dots hidden twice", shop.curl("/assets/%252e%252e/internal/service-token").api_key(KEY), 400),
        ("a hidden slash", shop.curl("/assets/..%2Finternal/service-token").api_key(KEY), 400),
        ("a backslash", shop.curl("/assets/..\\internal").api_key(KEY), 400),
        (
            "two lengths",
            shop.curl("/assets/a")
                .method("PUT")
                .api_key(KEY)
                .header("Content-Length: 2")
                .header("Content-Length: 2")
                .body("ab"),
            400,
        ),
        ("a WebSocket", shop.curl("/assets").header("Connection: Upgrade").header("Upgrade: websocket"), 501),
        ("gRPC", shop.curl("/assets").header("Content-Type: application/grpc").api_key(KEY), 501),
        ("a preflight", shop.curl("/assets").method("OPTIONS").header("Origin: https://app.example.com"), 200),
        ("health", shop.curl("/health"), 200),
    ] {
        let answer = call.send().await.unwrap();
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        assert!(answer.status == 400 || answer.header("x-request-id").is_some(), "{what}: {answer:?}");
    }
}

#[tokio::test]
async fn a_user_who_signs_in_at_the_edge_can_use_the_token() {
    let shop = Shop::open().await;
    shop.gotrue.add_user("ann@example.com", "correct horse battery staple").unwrap();
    let login = async |password: &str| {
        let body = json!({ "email": "ann@example.com", "password": password }).to_string();
        shop.curl("/auth/login").json(&body).send().await.unwrap()
    };
    let refused = login("wrong").await;
    assert_eq!(refused.status, 401, "{refused:?}");
    assert!(refused.body.contains("invalid_credentials"), "{refused:?}");
    let session: Value =
        serde_json::from_str(&login("correct horse battery staple").await.expect(200).unwrap()).unwrap();
    let token = session["access_token"].as_str().unwrap();
    shop.curl("/assets").bearer(token).send().await.unwrap().expect(200).unwrap();
    let body = json!({ "refresh_token": session["refresh_token"] }).to_string();
    let answer = shop.curl("/auth/refresh").json(&body).send().await.unwrap();
    let next: Value = serde_json::from_str(&answer.expect(200).unwrap()).unwrap();
    let token = next["access_token"].as_str().unwrap();
    shop.curl("/assets").bearer(token).send().await.unwrap().expect(200).unwrap();
}

#[tokio::test]
async fn a_chat_streams_through_to_authorized_users() {
    let shop = Shop::open().await;
    let provider = Provider::start(ProviderOptions::default()).await.unwrap();
    let key_file = shop.dir.path().join("provider-key");
    fs::write(&key_file, PROVIDER_KEY).unwrap();
    let url = provider.url();
    let env = [
        ("GAIA_PROVIDER_URL", &*url),
        ("GAIA_PROVIDER_KEY_FILE", key_file.to_str().unwrap()),
        ("GAIA_PROVIDER_MODEL", "echo-1"),
    ];
    let files = mounted("chat-service", &shop.platform, &shop.gotrue);
    let chat = Standalone::start("chat-service", &shop.dir.path().join("chat"), &files, &env).await.unwrap();
    let (auth_url, chat_url) = (format!("https://{}", shop.auth.mesh), format!("https://{}", chat.mesh));
    let env = [("GAIA_AUTH_URL", &*auth_url), ("GAIA_UPSTREAM_CHAT_SERVICE", &*chat_url)];
    let files = mounted("gateway", &shop.platform, &shop.gotrue);
    let gateway = Standalone::start("gateway", &shop.dir.path().join("to-chat"), &files, &env).await.unwrap();
    let say = |path: &str| Curl::to(&format!("http://{}{path}", gateway.edge), shop.dir.path());
    let question = json!({ "messages": [{ "role": "user", "content": "tell me" }] }).to_string();
    let answer = say("/chat").json(&question).api_key(KEY).send().await.unwrap();
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/event-stream")), "{answer:?}");
    let events: Vec<&str> = answer.body.split("\n\n").filter(|event| !event.is_empty()).collect();
    assert!(events.len() > 2, "{events:?}");
    assert_eq!(*events.last().unwrap(), "event: done\ndata: {\"finish_reason\":\"stop\"}");
    assert_eq!(say("/chat").json(&question).send().await.unwrap().status, 401);
    let elsewhere = say("/assets").api_key(KEY).send().await.unwrap();
    assert_eq!(elsewhere.status, 404, "a service that is not configured is a 404");
}

#[tokio::test]
async fn cached_tokens_keep_working_while_auth_service_is_down() {
    let shop = Shop::open().await;
    let ann = shop.user(USER);
    shop.curl("/assets").bearer(&ann).send().await.unwrap().expect(200).unwrap();
    shop.auth.kill9().unwrap();
    for _ in 0..5 {
        shop.curl("/assets").bearer(&ann).send().await.unwrap().expect(200).unwrap();
    }
    let unknown = shop.curl("/assets").api_key(KEY).send().await.unwrap();
    assert_eq!((unknown.status, unknown.header("retry-after")), (503, Some("1")), "{unknown:?}");
    shop.gateway.ready().await.unwrap();
    shop.auth.restart().unwrap();
    let back = async || shop.curl("/assets").api_key(KEY).send().await.is_ok_and(|answer| answer.status == 200);
    wait::until("it is served again", SOON, back).await.unwrap();
}

#[tokio::test]
async fn a_caller_moves_from_the_old_key_to_tokens_by_taking_a_file_away() {
    let shop = Shop::open().await;
    let file = shop.dir.path().join("api-key");
    fs::write(&file, KEY).unwrap();
    let mut files = mounted("gateway", &shop.platform, &shop.gotrue);
    files.extend(shop.platform.leaf("gateway"));
    let asset_url = format!("http://{}", shop.assets.mesh);
    let env = [("GAIA_UPSTREAM_ASSET_SERVICE", asset_url.as_str()), ("GAIA_API_KEY_FILE", file.to_str().unwrap())];
    let old = Standalone::start("gateway", &shop.dir.path().join("old"), &files, &env).await.unwrap();
    let ask = async || {
        let curl = Curl::to(&format!("http://{}/assets", old.edge), Path::new("/")).bearer(&shop.user(USER));
        curl.send().await.unwrap().status
    };
    assert_eq!(ask().await, 200, "in plain HTTP, with the key");
    let who = async || {
        let last = audit(&shop.assets).pop().unwrap_or_default();
        if last["credential"] == "api_key" { Seen::Yes(()) } else { Seen::NotYet(last.to_string()) }
    };
    wait::until("it was known by the key", SOON, who).await.unwrap();
    fs::remove_file(&file).unwrap();
    let refused = async || ask().await == 502;
    wait::until("without the key nothing is sent in plain HTTP", SOON, refused).await.unwrap();
}

const USER: &str = "7b0d5a9e-3f0c-4f8e-9a57-2f2f6f0c1d11";
const KEY: &str = "gk_test_mobile_0123456789abcdef0123456789";
const SOON: Duration = Duration::from_secs(60);
