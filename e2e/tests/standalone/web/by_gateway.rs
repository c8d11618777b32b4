//! Pages by way of gateway (`GAIA_GATEWAY_URL`) on real services: web-service calls gateway's mesh listener alone, and the
//! services behind accept gateway alone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use gaia_api::mount::{AuthMode, Caller, Policy, UserTokenIssuer, UserTokens};
use gaia_api::names::key;
use gaia_e2e::curl::Answer;
use gaia_e2e::{Curl, Standalone, wait};
use gaia_runtime::testing::{MountedFiles, Platform, api_key, api_key_file, grants, policy, spiffe_id};
use gaia_stand_ins::gotrue::{GoTrue, GoTrueOptions};
use gaia_stand_ins::provider::{KEY as PROVIDER_KEY, Provider, ProviderOptions};
use jiff::SignedDuration;
use serde_json::{Value, json};

struct Shop {
    login: GoTrue,
    provider: Provider,
    auth: Standalone,
    assets: Standalone,
    chat: Standalone,
    gateway: Standalone,
    web: Standalone,
    _dir: tempfile::TempDir,
}

/// Configuration of the services.
struct Setting {
    /// The validity of an access token.
    token_life: SignedDuration,
    gateway_mode: AuthMode,
    gateway_env: &'static [(&'static str, &'static str)],
}

impl Default for Setting {
    fn default() -> Self {
        Self { token_life: SignedDuration::from_hours(1), gateway_mode: AuthMode::Dual, gateway_env: &[] }
    }
}

impl Shop {
    async fn open(setting: Setting) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = GoTrueOptions { token_life: setting.token_life, ..GoTrueOptions::default() };
        let login = GoTrue::start(options).await.unwrap();
        login.add_user(EMAIL, PASSWORD).unwrap();
        let provider = Provider::start(ProviderOptions::default()).await.unwrap();
        let platform = Platform::new();
        let files = |name: &str| mounted(name, &platform, &login, setting.gateway_mode);
        let start = async |name: &str, files: &MountedFiles, env: &[(&str, &str)]| {
            Standalone::start(name, &dir.path().join(name), files, env).await.unwrap()
        };
        let file = |name: &str, text: &str| -> PathBuf {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let url = |service: &Standalone| format!("https://{}", service.mesh);

        let mut issuer_files = files("auth-service");
        issuer_files.insert(key::JWT_SIGNING_KEY, platform.signing_key().into_bytes());
        issuer_files.insert("issuer-supabase.key", login.anon_key().as_bytes().to_vec());
        let behind = ["asset-service", "chat-service", "auth-service"];
        let mut pairs = behind.map(|target| ("gateway", target, &[][..])).to_vec();
        pairs.push(("web-service", "gateway", &[]));
        let services = ["gateway", "web-service", "auth-service", "asset-service", "chat-service"];
        issuer_files.insert(key::GRANTS, grants(&services, &pairs));
        let auth = start("auth-service", &issuer_files, &[]).await;
        let assets = start("asset-service", &files("asset-service"), &[]).await;
        let provider_key = file("provider-key", PROVIDER_KEY);
        let provider_url = provider.url();
        let env = [
            ("GAIA_PROVIDER_URL", provider_url.as_str()),
            ("GAIA_PROVIDER_KEY_FILE", provider_key.to_str().unwrap()),
            ("GAIA_PROVIDER_MODEL", "test-model"),
        ];
        let chat = start("chat-service", &files("chat-service"), &env).await;

        let (auth_url, asset_url, chat_url) = (url(&auth), url(&assets), url(&chat));
        let mut env = vec![
            ("GAIA_AUTH_URL", auth_url.as_str()),
            ("GAIA_UPSTREAM_ASSET_SERVICE", &asset_url),
            ("GAIA_UPSTREAM_CHAT_SERVICE", &chat_url),
            ("GAIA_TRUSTED_PROXIES", "127.0.0.1"),
        ];
        env.extend(setting.gateway_env);
        let gateway = start("gateway", &files("gateway"), &env).await;
        let session_keys = file("session-keys", "b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkbzE=\n");
        let (api_key_file, gateway_url) = (file("api-key", KEY), url(&gateway));
        let env = [
            ("GAIA_AUTH_URL", auth_url.as_str()),
            ("GAIA_GATEWAY_URL", &gateway_url),
            ("GAIA_SESSION_KEYS_FILE", session_keys.to_str().unwrap()),
            ("GAIA_API_KEY_FILE", api_key_file.to_str().unwrap()),
            ("GAIA_TRUSTED_PROXIES", "127.0.0.1"),
        ];
        let web = start("web-service", &files("web-service"), &env).await;
        Self { login, provider, auth, assets, chat, gateway, web, _dir: dir }
    }

    fn visitor(&self, address: &'static str) -> Visitor {
        Visitor { edge: self.web.edge, address, cookies: BTreeMap::new() }
    }

    /// A browser that is signed in.
    async fn signed_in(&self, address: &'static str) -> Visitor {
        let mut visitor = self.visitor(address);
        // The keys of the login server may still be on their way.
        let signed_in = async || {
            let to = visitor.sign_in(PASSWORD).await;
            anyhow::ensure!(to.status == 303, "{to:?}");
            let page = visitor.get("/files").await;
            anyhow::ensure!(page.status == 200, "{page:?}");
            Ok(())
        };
        wait::until("a user is signed in", SOON, signed_in).await.unwrap();
        visitor
    }
}

/// A browser without scripts, behind the ingress of web-service.
struct Visitor {
    edge: SocketAddr,
    address: &'static str,
    cookies: BTreeMap<String, String>,
}

impl Visitor {
    async fn sign_in(&mut self, password: &str) -> Answer {
        let form = format!("email={}&password={}&next=%2Ffiles", EMAIL.replace('@', "%40"), password.replace(' ', "+"));
        self.send(self.to("/sign-in").header(FORM).body(&form)).await
    }

    async fn get(&mut self, path: &str) -> Answer {
        self.send(self.to(path)).await
    }

    fn to(&self, path: &str) -> Curl {
        Curl::plain(&format!("http://{}{path}", self.edge)).header("Accept: text/html")
    }

    async fn send(&mut self, call: Curl) -> Answer {
        let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let answer = call
            .header(&format!("Origin: http://{}", self.edge))
            .header(&format!("X-Forwarded-For: {}", self.address))
            .header(&format!("Cookie: {}", cookies.join("; ")))
            .send()
            .await
            .unwrap();
        for line in answer.head.lines() {
            let Some((name, value)) = line.split_once(':') else { continue };
            if name.eq_ignore_ascii_case("set-cookie") {
                let (name, value) = value.split(';').next().unwrap().trim().split_once('=').unwrap();
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        self.cookies.retain(|_, value| !value.is_empty());
        answer
    }
}

/// Gateway accepts users and keys that web-service presents; the services behind accept those of gateway alone.
fn mounted(service: &str, platform: &Platform, login: &GoTrue, gateway_mode: AuthMode) -> MountedFiles {
    let mut files = platform.mount(service);
    let caller = if service == "gateway" { "web-service" } else { "gateway" };
    let callers = vec![Caller { spiffe_id: spiffe_id(caller), scopes: vec![], on_behalf_of: true }];
    let issuer: UserTokenIssuer = serde_json::from_value(login.issuer_entry("supabase")).unwrap();
    let user_tokens = UserTokens { issuers: vec![issuer], scopes: vec![] };
    let mut policy = Policy { callers, user_tokens, ..policy(service) };
    if service == "gateway" {
        policy.mode = gateway_mode;
        files.insert(key::API_KEYS, api_key_file(vec![api_key("pages", KEY)]));
    }
    if service == "auth-service" {
        files.insert(key::API_KEYS, api_key_file(vec![api_key("pages", KEY)]));
    }
    files.insert(key::POLICY, serde_json::to_vec(&policy).unwrap());
    files
}

/// The audit lines of a service, written so far.
fn audit(service: &Standalone) -> Vec<Value> {
    let log = std::fs::read_to_string(service.log()).unwrap();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["target"] == "gaia.audit").collect()
}

/// Waits until a service has written `count` further audit lines like this.
async fn audited(service: &Standalone, since: usize, count: usize, like: &[(&str, &str)]) -> Vec<Value> {
    let found = async || {
        let is_like = |line: &Value| like.iter().all(|(name, value)| line[name].as_str() == Some(*value));
        let lines: Vec<Value> = audit(service).into_iter().skip(since).filter(is_like).collect();
        anyhow::ensure!(lines.len() >= count, "{lines:?} of {:?}", audit(service));
        Ok(lines)
    };
    wait::until(&format!("audit lines {like:?} of {}", service.name()), SOON, found).await.unwrap()
}

#[tokio::test]
async fn pages_sign_in_chat_and_keep_files_through_gateway() {
    let shop = Shop::open(Setting::default()).await;
    let wrong = shop.visitor(ADA_AT).sign_in("not it").await;
    assert_eq!((wrong.status, wrong.body.contains("data-code=\"invalid_credentials\"")), (401, true), "{wrong:?}");
    let mut ada = shop.signed_in(ADA_AT).await;
    let before = audit(&shop.gateway).len();

    let put = ada.to("/files/notes.txt").method("PUT").body("remember");
    assert_eq!(ada.send(put).await.status, 204);
    let read = ada.get("/files/notes.txt").await;
    assert_eq!((read.status, read.body.as_str()), (200, "remember"));
    let chat = ada.to("/chat").header(FORM).body("message=tell+me&history=");
    let chat = ada.send(chat).await;
    assert!(chat.status == 200 && chat.body.contains("You said: tell me"), "{chat:?}");
    let stream = ada.to("/chat/stream").json(r#"{"messages":[{"role":"user","content":"again"}]}"#);
    let stream = ada.send(stream).await;
    assert!(stream.status == 200 && stream.body.contains("event: done"), "{stream:?}");
    assert_eq!(shop.provider.received().len(), 2);
    let me = ada.get("/me").await;
    assert!(me.status == 200 && me.body.contains("With your JWT."), "{me:?}");
    let out = ada.to("/sign-out").header(FORM).body("");
    assert_eq!(ada.send(out).await.status, 303);
    assert_eq!(shop.login.requests("/logout"), 1);

    // One line for each request, with the address of the browser.
    audited(&shop.gateway, before, 1, &[("route", "/auth/logout")]).await;
    let lines = audit(&shop.gateway).split_off(before);
    let count = |route: &str| lines.iter().filter(|line| line["route"] == route).count();
    assert_eq!((count("/assets/{*path}"), count("/chat"), count("/auth/logout")), (2, 2, 1), "{lines:?}");
    for line in &lines {
        assert_eq!((&line["address"], &line["result"]), (&json!(ADA_AT), &json!("accepted")), "{line}");
    }
    let of_user = |line: &&Value| line["subject"].as_str().is_some_and(|subject| subject.starts_with("user:supabase:"));
    assert!(lines.iter().filter(of_user).all(|line| line["who"] == spiffe_id("web-service").to_string()), "{lines:?}");
    assert!(lines.iter().filter(of_user).count() >= 5, "{lines:?}");
    // The services behind have seen gateway alone, and auth-service the address of the browser.
    for service in [&shop.assets, &shop.chat] {
        let lines = audit(service);
        assert!(!lines.is_empty() && lines.iter().all(|line| line["result"] == "accepted"), "{lines:?}");
        let gateway = spiffe_id("gateway").to_string();
        assert!(lines.iter().all(|line| line["who"] == gateway.as_str()), "{lines:?}");
    }
    let logins = audited(&shop.auth, 0, 2, &[("address", ADA_AT)]).await;
    assert!(logins.iter().any(|line| line["result"] == "invalid_credentials"), "{logins:?}");
    let by_web = audit(&shop.auth).into_iter().filter(|line| line["who"] == spiffe_id("web-service").to_string());
    assert!(by_web.clone().all(|line| line["route"] == "/internal/service-token"), "{:?}", by_web.collect::<Vec<_>>());
}

#[tokio::test]
async fn limit_of_an_address_counts_pages_and_programs_together() {
    let setting =
        Setting { gateway_env: &[("GAIA_IP_RATE", "1:20"), ("GAIA_ACCOUNT_RATE", "0")], ..Setting::default() };
    let shop = Shop::open(setting).await;
    let mut ada = shop.signed_in(ADA_AT).await;
    let mut elsewhere = shop.signed_in("198.51.100.4").await;
    let mut last = ada.get("/files").await;
    for _ in 0..60 {
        if last.status != 200 {
            break;
        }
        last = ada.get("/files").await;
    }
    assert_eq!(last.status, 429, "{last:?}");
    assert!(last.header("retry-after").is_some(), "{last:?}");
    assert_eq!(elsewhere.get("/files").await.status, 200, "another browser of the same user");
    let program = async |address: &str| {
        let url = format!("http://{}/assets", shop.gateway.edge);
        let call = Curl::plain(&url).api_key(KEY).header(&format!("X-Forwarded-For: {address}"));
        call.send().await.unwrap().status
    };
    let mut statuses = [program(ADA_AT).await, program(ADA_AT).await];
    statuses.sort_unstable();
    assert_eq!(statuses[1], 429, "the address has one budget at both listeners");
    assert_eq!(program("198.51.100.5").await, 200);
}

#[tokio::test]
async fn session_is_refreshed_through_gateway() {
    let shop = Shop::open(Setting { token_life: SignedDuration::from_secs(6), ..Setting::default() }).await;
    let mut ada = shop.signed_in(ADA_AT).await;
    let before = audit(&shop.gateway).len();
    let tokens = shop.login.requests("/token");
    let refreshed = async || {
        assert_eq!(ada.get("/files").await.status, 200);
        shop.login.requests("/token") > tokens
    };
    wait::until("the token is refreshed in the second half of its life", SOON, refreshed).await.unwrap();
    audited(&shop.gateway, before, 1, &[("route", "/auth/refresh"), ("address", ADA_AT), ("result", "accepted")]).await;
}

#[tokio::test]
async fn pages_use_the_api_key_where_gateway_accepts_keys_only() {
    let shop = Shop::open(Setting { gateway_mode: AuthMode::APIKeyOnly, ..Setting::default() }).await;
    let mut ada = shop.signed_in(ADA_AT).await;
    let before = audit(&shop.gateway).len();
    let me = ada.get("/me").await;
    assert!(me.status == 200 && me.body.contains("API key: the service does not accept your JWT yet"), "{me:?}");
    let accepted = audited(&shop.gateway, before, 1, &[("result", "accepted"), ("route", "/assets")]).await;
    assert_eq!((&accepted[0]["credential"], &accepted[0]["subject"]), (&json!("api_key"), &json!("key:pages")));
    assert_eq!(accepted[0]["address"], ADA_AT);
}

const EMAIL: &str = "ada@example.com";
const PASSWORD: &str = "correct horse battery";
const KEY: &str = "gk_test_pages_0123456789abcdef0123456789";
const ADA_AT: &str = "203.0.113.7";
const FORM: &str = "Content-Type: application/x-www-form-urlencoded";
const SOON: Duration = Duration::from_secs(60);
