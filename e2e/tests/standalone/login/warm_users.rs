//! Users with cached tokens, through gateway, while all mounted files are changed: gateway,
//! auth-service and asset-service as processes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use gaia_api::mount::{Caller, DeniedSubject, Denylist};
use gaia_api::mount::{Policy, UserTokenIssuer, UserTokens};
use gaia_api::names::key;
use gaia_api::{Clock as _, SystemClock};
use gaia_e2e::wait::Seen;
use gaia_e2e::{Standalone, progress, tier, wait};
use gaia_pki::sha256_hex;
use gaia_runtime::testing::{MountedFiles, Platform, api_key, api_key_file, grants, policy, read, spiffe_id};
use gaia_runtime::{MeshClient, TokenRequest};
use gaia_stand_ins::gotrue::{GoTrue, GoTrueOptions};
use http::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// The mounted files at one moment.
struct Mounted {
    /// Trusted, the last of them issues the leaves.
    authorities: Vec<Arc<Platform>>,
    /// Published, the last of them signs.
    signers: Vec<Arc<Platform>>,
    denylist: Denylist,
    /// True if the policies declare one more caller.
    declares_another: bool,
    keys: Vec<&'static str>,
}

struct Shop {
    gotrue: GoTrue,
    services: BTreeMap<&'static str, Standalone>,
    mounted: Mounted,
    leaves: BTreeMap<&'static str, MountedFiles>,
    dir: tempfile::TempDir,
}

const SERVICES: [&str; 3] = ["auth-service", "asset-service", "gateway"];
const KEY: &str = "gk_test_mobile_0123456789abcdef0123456789";
const NEXT_KEY: &str = "gk_test_mobile_fedcba9876543210fedcba9876";
const SOON: Duration = Duration::from_secs(60);

impl Shop {
    async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let gotrue = GoTrue::start(GoTrueOptions::default()).await.unwrap();
        let platform = Arc::new(Platform::new());
        let mounted = Mounted {
            authorities: vec![Arc::clone(&platform)],
            signers: vec![platform],
            denylist: Denylist::empty(),
            declares_another: false,
            keys: vec![KEY],
        };
        let mut shop = Self { gotrue, services: BTreeMap::new(), mounted, leaves: BTreeMap::new(), dir };
        shop.renew_leaves();
        shop.start("auth-service", &[]).await;
        shop.start("asset-service", &[]).await;
        let (auth, assets) = (shop.mesh("auth-service"), shop.mesh("asset-service"));
        let urls = [("GAIA_AUTH_URL", auth.as_str()), ("GAIA_UPSTREAM_ASSET_SERVICE", &assets)];
        let env: Vec<(&str, &str)> = urls.into_iter().chain([("GAIA_TRUSTED_PROXIES", "127.0.0.1")]).collect();
        shop.start("gateway", &env).await;
        let client = Users::client();
        let ann = shop.user(0);
        let served = async || {
            let answer = Users::ask(&client, shop.services["gateway"].edge, &ann, 0).await;
            if answer == Ok(StatusCode::OK) { Seen::Yes(()) } else { Seen::NotYet(format!("{answer:?}")) }
        };
        wait::until("the keys of the login server are fetched", SOON, served).await.unwrap();
        shop
    }

    async fn start(&mut self, program: &'static str, env: &[(&str, &str)]) {
        let (path, files) = (self.dir.path().join(program), self.files(program));
        let service = Standalone::start(program, &path, &files, env).await.unwrap();
        self.services.insert(program, service);
    }

    fn mesh(&self, program: &str) -> String {
        format!("https://{}", self.services[program].mesh)
    }

    fn issuer(&self) -> &Platform {
        self.mounted.authorities.last().unwrap()
    }

    fn renew_leaves(&mut self) {
        self.leaves = SERVICES.iter().map(|&name| (name, self.issuer().leaf(name))).collect();
    }

    fn files(&self, service: &'static str) -> MountedFiles {
        let Mounted { authorities, signers, denylist, declares_another, keys } = &self.mounted;
        let mut files = self.leaves[service].clone();
        let bundle: String = authorities.iter().map(|authority| authority.bundle()).collect();
        files.insert(key::CA_CERT, bundle.into_bytes());
        let published: Vec<Value> = signers
            .iter()
            .flat_map(|signer| {
                let keys: Value = serde_json::from_str(&signer.jwks()).unwrap();
                keys["keys"].as_array().unwrap().clone()
            })
            .collect();
        files.insert(key::JWKS, json!({ "keys": published }).to_string().into_bytes());
        files.insert(key::DENYLIST, serde_json::to_vec(denylist).unwrap());
        let caller = |name: &str, on_behalf_of| Caller { spiffe_id: spiffe_id(name), scopes: vec![], on_behalf_of };
        let mut callers = vec![caller("gateway", true), caller("batch", false)];
        callers.extend(declares_another.then(|| caller("another", false)));
        let issuer: UserTokenIssuer = serde_json::from_value(self.gotrue.issuer_entry("supabase")).unwrap();
        let user_tokens = UserTokens { issuers: vec![issuer], scopes: vec![] };
        let policy = Policy { callers, user_tokens, ..policy(service) };
        files.insert(key::POLICY, serde_json::to_vec(&policy).unwrap());
        let record = |text: &&str| api_key(&sha256_hex(text.as_bytes())[..8], text);
        files.insert(key::API_KEYS, api_key_file(keys.iter().map(record).collect()));
        if service == "auth-service" {
            files.insert(key::JWT_SIGNING_KEY, signers.last().unwrap().signing_key().into_bytes());
            let services = ["gateway", "auth-service", "asset-service", "batch"];
            let pairs: [(&str, &str, &[&str]); 4] = [
                ("gateway", "asset-service", &["assets:read"]),
                ("gateway", "auth-service", &[]),
                ("batch", "gateway", &[]),
                ("batch", "asset-service", &["assets:read", "assets:write"]),
            ];
            files.insert(key::GRANTS, grants(&services, &pairs));
        }
        files
    }

    /// Mounts a change in every service. They load it one after another, as in a cluster.
    fn mount(&mut self, change: impl FnOnce(&mut Mounted)) {
        change(&mut self.mounted);
        for name in SERVICES {
            let files = self.files(name);
            self.services.get_mut(name).unwrap().mount.swap(&files);
        }
    }

    fn user(&self, number: u64) -> String {
        let now = SystemClock.now().as_second();
        let sub = format!("7b0d5a9e-3f0c-4f8e-9a57-{number:012x}");
        let claims = json!({
            "iss": self.gotrue.base_url(), "aud": "authenticated", "sub": sub, "role": "authenticated",
            "session_id": "0d6a4a5c-2f7b-4d0a-9a38-5f0f3b2f9c11", "is_anonymous": false, "iat": now, "exp": now + 1800,
        });
        self.gotrue.sign(&claims).unwrap()
    }

    /// A token that expired some seconds ago: within the allowance for clocks.
    fn ended(&self, number: u64) -> String {
        let now = SystemClock.now().as_second();
        let sub = format!("7b0d5a9e-3f0c-4f8e-9a57-{number:012x}");
        let claims = json!({
            "iss": self.gotrue.base_url(), "aud": "authenticated", "sub": sub, "role": "authenticated",
            "session_id": "0d6a4a5c-2f7b-4d0a-9a38-5f0f3b2f9c11", "is_anonymous": false,
            "iat": now - 600, "exp": now - 10, "jti": format!("ended-{number}"),
        });
        self.gotrue.sign(&claims).unwrap()
    }

    /// The number of exchange requests to auth-service.
    async fn exchanges(&self) -> u64 {
        let url = format!("http://{}/metrics", self.services["auth-service"].admin);
        let (_, text) = gaia_runtime::testing::get_plain(&url).await;
        let lines = text.lines().filter(|line| line.starts_with(r#"gaia_token_issued_total{kind="delegated""#));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }
}

/// Users who each list their files once a second, on kept connections.
struct Users {
    answers: Arc<Mutex<BTreeMap<String, u64>>>,
    asked: Arc<AtomicU64>,
    tasks: JoinSet<()>,
}

type Plain = Client<HttpConnector, Body>;

impl Users {
    fn client() -> Plain {
        Client::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_secs(10)).build_http()
    }

    async fn ask(client: &Plain, edge: std::net::SocketAddr, token: &str, number: u64) -> Result<StatusCode, String> {
        let (name, value) = match token {
            KEY => ("x-api-key", KEY.to_owned()),
            token => ("authorization", format!("Bearer {token}")),
        };
        let request = Request::get(format!("http://{edge}/assets"))
            .header(name, value)
            .header("x-forwarded-for", format!("203.0.{}.{}", number / 200, number % 200))
            .body(Body::empty())
            .unwrap();
        let answer = client.request(request).await.map_err(|error| format!("{error:?}"))?;
        Ok(read(answer).await.0)
    }

    fn start(shop: &Shop, count: u64) -> Self {
        let (answers, asked) = (Arc::<Mutex<BTreeMap<String, u64>>>::default(), Arc::<AtomicU64>::default());
        let (client, edge) = (Self::client(), shop.services["gateway"].edge);
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let token = if number % 40 == 7 { KEY.to_owned() } else { shop.user(number) };
            let client = client.clone();
            let (answers, asked) = (Arc::clone(&answers), Arc::clone(&asked));
            tasks.spawn(async move {
                tokio::time::sleep(Duration::from_micros(1_000_000 * number / count)).await;
                loop {
                    let answer = match Self::ask(&client, edge, &token, number).await {
                        Ok(status) => status.as_u16().to_string(),
                        Err(error) => error,
                    };
                    *answers.lock().unwrap().entry(answer).or_default() += 1;
                    asked.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            });
        }
        Self { answers, asked, tasks }
    }

    /// Waits for so many more answers.
    async fn more(&self, count: u64) {
        let before = self.asked.load(Ordering::Relaxed);
        let is_over = async || self.asked.load(Ordering::Relaxed) >= before + count;
        wait::until("the users continue", SOON, is_over).await.unwrap();
    }

    fn assert_all_served(&self, what: &str) {
        let answers = self.answers.lock().unwrap();
        assert_eq!(answers.keys().collect::<Vec<_>>(), ["200"], "after {what}: {answers:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_rotated_no_warm_user_gets_a_429_or_5xx() {
    let mut shop = Shop::open().await;
    let count = 400;
    let users = Users::start(&shop, count);
    // A reload takes a second; the long form asks for longer after each step.
    let pause = if tier::is_long() { 20 * count } else { 2 * count };
    users.more(2 * count).await;
    users.assert_all_served("the start");
    let warm = shop.exchanges().await;

    let next = Arc::new(Platform::new());
    let eve = DeniedSubject { sub: "user:supabase:eve".into(), not_before: SystemClock.now() };
    shop.mount(|mounted| mounted.denylist.subjects.push(eve));
    users.more(pause).await;
    users.assert_all_served("an unrelated denylist entry");
    shop.mount(|mounted| mounted.declares_another = true);
    users.more(pause).await;
    users.assert_all_served("a policy edit");
    shop.mount(|mounted| mounted.keys.push(NEXT_KEY));
    users.more(pause).await;
    shop.mount(|mounted| mounted.keys.retain(|key| *key != NEXT_KEY));
    users.more(pause).await;
    users.assert_all_served("other API keys");
    shop.renew_leaves();
    shop.mount(|_| ());
    users.more(pause).await;
    users.assert_all_served("renewed leaves");
    let ca = Arc::clone(&next);
    shop.mount(|mounted| mounted.authorities.push(ca));
    users.more(pause).await;
    shop.renew_leaves();
    shop.mount(|_| ());
    users.more(pause).await;
    shop.mount(|mounted| drop(mounted.authorities.remove(0)));
    users.more(pause).await;
    users.assert_all_served("another CA");
    if !tier::is_long() {
        let asked = shop.exchanges().await - warm;
        assert_eq!(asked, 0, "none of it revokes a token, and none is due");
    }
    // The last of them signs: the next key is published first.
    let signer = Arc::clone(&next);
    shop.mount(|mounted| mounted.signers.insert(0, signer));
    users.more(pause).await;
    shop.mount(|mounted| mounted.signers.reverse());
    users.more(pause).await;
    users.assert_all_served("another signing key");
    // An emergency: the old key is removed while 400 tokens of it are in use. Every one of them is exchanged at once.
    shop.mount(|mounted| drop(mounted.signers.remove(0)));
    users.more(pause).await;
    users.assert_all_served("the withdrawal of the old signing key");
    let answers = users.answers.lock().unwrap().clone();
    progress::say(format_args!("{answers:?} with {} exchanges", shop.exchanges().await));
    drop(users.tasks);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_accounts_refused_tokens_cost_other_users_nothing() {
    let shop = Shop::open().await;
    let edge = shop.services["gateway"].edge;
    let client = Users::client();
    // One account, from its own address, with tokens that have just expired and tokens that are forged.
    let mut attack = JoinSet::new();
    for number in 0..8 {
        let (client, ended) = (client.clone(), shop.ended(number));
        let forged = format!("{}AAAA", &ended[..ended.len() - 4]);
        attack.spawn(async move {
            loop {
                for token in [&ended, &forged] {
                    let answer = Users::ask(&client, edge, token, 9999).await;
                    assert!(
                        matches!(answer, Ok(StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS)),
                        "{answer:?}"
                    );
                }
            }
        });
    }
    let users = Users::start(&shop, 40);
    users.more(160).await;
    users.assert_all_served("an attack by one account");
    let refused = shop.exchanges().await;
    assert!(refused <= 41, "each user was exchanged for once, the attacker never: {refused}");
    attack.abort_all();
    while let Some(ended) = attack.join_next().await {
        assert!(ended.is_err_and(|error| error.is_cancelled()), "the attack continued");
    }
}

#[tokio::test]
async fn a_service_calls_through_gateways_mesh_in_its_own_name() {
    let shop = Shop::open().await;
    let client = shop.issuer().client(Some(&shop.issuer().leaf("batch")));
    let auth = shop.mesh("auth-service").parse().unwrap();
    let wanted = TokenRequest { service_name: "batch", target_service: Some("gateway"), scope: None, expires_in: None };
    let token = client.service_token(&auth, &wanted).await.unwrap().access_token;
    let ask = async |client: &MeshClient, method: &str, path: &str| {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", shop.mesh("gateway")))
            .header("authorization", format!("Bearer {token}"));
        read(client.request(request.body(Body::from("content")).unwrap()).await.unwrap()).await.0
    };
    assert_eq!(ask(&client, "GET", "/assets").await, StatusCode::OK);
    // Batch has assets:write there itself, gateway has not.
    assert_eq!(ask(&client, "PUT", "/assets/a").await, StatusCode::FORBIDDEN);
    assert_eq!(ask(&client, "POST", "/internal/service-token").await, StatusCode::NOT_FOUND);
    let thief = shop.issuer().client(Some(&shop.issuer().leaf("asset-service")));
    assert_eq!(ask(&thief, "GET", "/assets").await, StatusCode::UNAUTHORIZED);
    let at_edge = Users::ask(&Users::client(), shop.services["gateway"].edge, &token, 0).await;
    assert_eq!(at_edge, Ok(StatusCode::UNAUTHORIZED), "the edge takes no platform token");
}
