//! A service in Python that knows nothing of Gaia but the mounted files (`docs/examples/python-service`), beside Gaia's own:
//! it is called, it calls, it judges as they do, and it lives through rotations.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::{SOON, Scene};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use gaia_api::{Clock as _, SystemClock};
use gaia_e2e::control_plane::ports;
use gaia_e2e::load::runtime_config;
use gaia_e2e::tier::{self, Tier};
use gaia_e2e::wait::Seen;
use gaia_e2e::{Curl, KeptProjection, Projection, ServiceOptions, ServiceProcess, assets, services, wait};
use gaia_pki::sha256_hex;
use gaia_runtime::{Caller, CallsConfig, Runtime};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

const AUTH: &str = "auth-service";
const ASSETS: &str = "asset-service";
const REPORTS: &str = "report-service";
const WEB: &str = "web";
const API_KEY: &str = "gk_test_0123456789abcdef0123456789abcdef";
const OWNED_KEY: &str = "gk_test_fedcba9876543210fedcba9876543210";
/// Longer than a rotation takes on a machine that does other things too.
const LONG: Duration = Duration::from_secs(240);

/// The Python service beside auth-service and asset-service, which it calls, and `web` in this process, which calls it.
struct Shop {
    scene: Scene,
    auth: ServiceProcess,
    assets: ServiceProcess,
    reports: ServiceProcess,
    caller: Caller,
    web: KeptProjection,
    _stop: oneshot::Sender<()>,
}

impl Shop {
    /// With the TrustDomain as in `domain`.
    async fn open(domain: Value) -> Option<Self> {
        let python = tokio::task::spawn_blocking(|| assets::python_with(&example().join("requirements.txt")));
        let python = tier::available(Tier::B, python.await.unwrap())?;
        let scene = Scene::begin().await?;
        declare(&scene, domain).await;
        let (plane, namespace, domain) = (&scene.plane, &scene.namespace, &scene.domain);
        let dir = plane.dir().join("mounts").join(namespace);
        let start = async |options: ServiceOptions| {
            let service = ServiceProcess::start(plane, options.in_dir(&dir)).await.unwrap();
            service.wait_ready(SOON).await.unwrap();
            service
        };
        let auth = start(ServiceOptions::auth_service(plane, namespace, domain)).await;
        let assets = start(ServiceOptions::asset_service(plane, namespace, domain)).await;
        let program = (python, vec!["-m".into(), "report_service".into()]);
        let options = ServiceOptions::other(plane, namespace, domain, REPORTS, program)
            .env("PYTHONPATH", example().to_str().unwrap())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("GAIA_AUTH_URL", &format!("https://{}", auth.mesh_address()))
            .env("GAIA_UPSTREAM_ASSET_SERVICE", &format!("https://{}", assets.mesh_address()));
        let reports = start(options).await;

        let web = Projection::new(scene.client.clone(), namespace, dir.join(WEB), services::mount(WEB, domain));
        wait::until("the files of web are there", SOON, || web.sync_once()).await.unwrap();
        let web = web.keep();
        let [port]: [u16; 1] = ports::free().unwrap();
        let mesh_address = ([127, 0, 0, 1], port).into();
        let mut config = runtime_config(WEB, web.dir(), mesh_address);
        config.hosts = [&auth, &reports]
            .map(|service| (service.server_name().to_owned(), service.mesh_address()))
            .into_iter()
            .collect();
        let runtime = Runtime::start(config, Arc::new(SystemClock), Arc::new(()), |_| ()).await.unwrap();
        let auth_url = format!("https://{}:{}", auth.server_name(), auth.mesh_address().port()).parse().unwrap();
        let caller = runtime.caller(&CallsConfig { auth_url, api_key_file: None });
        let (stop, stopped) = oneshot::channel::<()>();
        let routes = runtime.routes();
        tokio::spawn(runtime.serve(routes, async { drop(stopped.await) }));

        for (name, address) in [
            (AUTH, auth.mesh_address()),
            (ASSETS, assets.mesh_address()),
            (REPORTS, reports.mesh_address()),
            (WEB, mesh_address),
        ] {
            scene.patch("GaiaService", name, json!({ "spec": { "endpoints": [address.to_string()] } })).await;
        }
        Some(Self { scene, auth, assets, reports, caller, web, _stop: stop })
    }

    /// The caller in Rust asks for a report, which takes a call from Python to asset-service.
    async fn report(&self) -> Result<Value, String> {
        report(&self.caller, &self.reports).await
    }

    fn to_reports(&self, path: &str) -> Curl {
        Curl::new(&self.reports, path, self.web.dir())
    }

    fn id(&self, service: &str) -> String {
        format!("spiffe://{0}.example/ns/{0}/sa/{service}", self.scene.namespace)
    }

    fn pids(&self) -> [u32; 3] {
        [&self.auth, &self.assets, &self.reports].map(|service| service.pid())
    }
}

async fn report(caller: &Caller, reports: &ServiceProcess) -> Result<Value, String> {
    let uri = format!("https://{}:{}/report", reports.server_name(), reports.mesh_address().port());
    let request = Request::get(uri).body(Bytes::new()).unwrap();
    let answer = caller.call(REPORTS, request).await.map_err(|error| format!("{error:?}"))?;
    let status = answer.status();
    let body = answer.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    if status == StatusCode::OK {
        serde_json::from_str(&text).map_err(|_| text)
    } else {
        Err(format!("{status}: {text}"))
    }
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/python-service")
}

async fn declare(scene: &Scene, domain: Value) {
    let namespace = &scene.namespace;
    let issued_by = json!({ "namespace": namespace, "name": AUTH });
    // The Python service reaches the others by their address, as it has no pod's resolver here.
    let allowed = json!([{ "namespaces": [namespace], "ipRanges": ["127.0.0.0/8"] }]);
    let propagation = json!({ "minDelay": "3s", "deadline": "1m", "clockSkew": "1s" });
    let base = json!({ "tokens": { "issuedBy": issued_by }, "allowedNames": allowed, "propagation": propagation });
    scene.ready_domain(crate::common::objects::merged(base, domain)).await;
    let owner = format!("spiffe://{0}.example/ns/{0}/sa/{ASSETS}", scene.namespace);
    for name in [ASSETS, REPORTS] {
        scene.create(scene.secret(namespace, &format!("{name}-api-keys"), "Opaque", api_keys(&owner))).await;
    }
    let address = json!({ "certificate": { "ipAddresses": ["127.0.0.1"] } });
    scene.create(scene.service(AUTH, address.clone())).await;
    let callers =
        json!([{ "service": REPORTS, "scopes": ["assets:read"] }, { "service": WEB, "scopes": ["assets:read"] }]);
    let keys = |name: &str| json!({ "apiKeysSecretRef": { "name": format!("{name}-api-keys") } });
    let assets = json!({ "callers": callers, "auth": keys(ASSETS) });
    scene.create(scene.service(ASSETS, crate::common::objects::merged(assets, address))).await;
    let callers = json!([{ "service": WEB, "scopes": ["reports:read", "assets:read"] }]);
    scene.create(scene.service(REPORTS, json!({ "callers": callers, "auth": keys(REPORTS) }))).await;
    scene.create(scene.service(WEB, json!({}))).await;
    scene.wait_ready("GaiaService", &[AUTH, ASSETS, REPORTS, WEB]).await;
    for caller in [WEB, REPORTS] {
        services::wait_for_grant(&scene.client, namespace, &scene.domain, caller, SOON).await.unwrap();
    }
}

fn api_keys(owner: &str) -> Value {
    let record = |id: &str, key: &str, principal: &str| json!({ "id": id, "sha256": sha256_hex(key.as_bytes()), "principal": principal, "state": "active" });
    let mut shared = record("app", API_KEY, "app");
    shared["shared"] = json!(true);
    let keys = [shared, record("owned", OWNED_KEY, owner)];
    json!({ "api-keys.json": json!({ "schemaVersion": 1, "keys": keys }).to_string() })
}

/// One set of vectors for the rules in both languages: gaia-runtime is tested with the same table.
#[test]
fn python_accepts_and_refuses_issuers_as_in_the_shared_vectors() {
    let python = assets::python_with(&example().join("requirements.txt"));
    let Some(python) = tier::available(Tier::B, python) else { return };
    let tests = std::process::Command::new(python)
        .args(["-m", "unittest", "discover", "--start-directory", "tests"])
        .current_dir(example())
        .env("PYTHONPATH", ".")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    assert!(tests.status.success(), "{}", String::from_utf8_lossy(&tests.stderr));
}

#[tokio::test]
async fn a_caller_in_rust_is_answered_by_python_which_calls_rust_in_turn() {
    let Some(shop) = Shop::open(json!({})).await else { return };
    assert_eq!(shop.report().await.unwrap(), json!({ "assets": 0, "bytes": 0 }));
    shop.scene.end().await;
}

// ---- refusals ------------------------------------------------------------------------------------------------------

/// What one service made of a request: the status, the challenge, the public message.
#[derive(Debug, PartialEq, Eq)]
struct Verdict(u16, Option<String>, String);

/// How the two services answer the same request, each with a token made for it.
struct Judges<'a> {
    shop: &'a Shop,
    kid: String,
    key: EncodingKey,
}

impl<'a> Judges<'a> {
    async fn of(shop: &'a Shop) -> Self {
        let signer = format!("{}-token-signer", shop.scene.domain);
        let key = shop.scene.secret_text(&signer, "jwt-signing.key").await;
        Self {
            shop,
            kid: shop.scene.secret_text(&signer, "kid").await,
            key: EncodingKey::from_ec_pem(key.as_bytes()).unwrap(),
        }
    }

    /// The claims of a good token of web for a service.
    fn claims(&self, audience: &str) -> Value {
        let now = SystemClock.now().as_second();
        json!({
            "iss": "gaia-platform", "sub": self.shop.id(WEB), "client_id": self.shop.id(WEB), "service": WEB,
            "aud": self.shop.id(audience), "jti": "made-by-a-test", "iat": now, "exp": now + 600,
        })
    }

    fn signed(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &self.key, Algorithm::ES256).unwrap();
        format!("{signed}.{signature}")
    }

    fn header(&self) -> Value {
        json!({ "alg": "ES256", "kid": self.kid, "typ": "at+jwt" })
    }

    /// A truly signed token, changed before it is signed.
    fn token(&self, audience: &str, change: impl Fn(&mut Value, &mut Value)) -> String {
        let (mut header, mut claims) = (self.header(), self.claims(audience));
        change(&mut header, &mut claims);
        self.signed(&header.to_string(), &claims.to_string())
    }

    /// Asks both; they must say the same.
    async fn agree(&self, what: &str, request: impl Fn(&str, Curl) -> Curl) -> Verdict {
        let (assets, reports) = (&self.shop.assets, &self.shop.reports);
        let web = self.shop.web.dir();
        let ask = async |audience: &str, call: Curl| {
            let answer = request(audience, call).send().await.unwrap();
            let message = match answer.status {
                200 => String::new(),
                _ => serde_json::from_str::<Value>(&answer.body).unwrap()["detail"].to_string(),
            };
            Verdict(answer.status, answer.header("www-authenticate").map(str::to_owned), message)
        };
        let ours = ask(ASSETS, Curl::new(assets, "/assets", web)).await;
        let python = ask(REPORTS, Curl::new(reports, "/whoami", web)).await;
        assert_eq!(python, ours, "{what}");
        python
    }
}

#[tokio::test]
async fn python_and_rust_refuse_the_same_tokens_in_the_same_words() {
    let Some(shop) = Shop::open(json!({})).await else { return };
    let judges = Judges::of(&shop).await;
    let web = shop.web.dir();
    let good =
        judges.agree("a good token", |audience, call| call.as_peer(web).bearer(&judges.token(audience, |_, _| {})));
    assert_eq!(good.await.0, 200);
    type Change = fn(&mut Value, &mut Value);
    let table: &[(&str, u16, Change)] = &[
        ("no signature is asked for", 401, |header, _| header["alg"] = json!("none")),
        ("the other algorithm", 401, |header, _| header["alg"] = json!("RS256")),
        ("a key that nobody has", 401, |header, _| header["kid"] = json!("../../dev/null")),
        ("no key", 401, |header, _| drop(header.as_object_mut().unwrap().remove("kid"))),
        ("a key fetched from elsewhere", 401, |header, _| header["jku"] = json!("https://evil.example/jwks")),
        ("an extension", 401, |header, _| header["crit"] = json!(["exp"])),
        ("another type", 401, |header, _| header["typ"] = json!("JWT")),
        ("a nested token", 401, |header, _| header["cty"] = json!("JWT")),
        ("another issuer", 401, |_, claims| claims["iss"] = json!("evil")),
        ("an issuer that is a list", 401, |_, claims| claims["iss"] = json!(["gaia-platform"])),
        ("another audience", 401, |_, claims| claims["aud"] = json!("spiffe://x/ns/x/sa/x")),
        ("a list of audiences", 401, |_, claims| claims["aud"] = json!([claims["aud"]])),
        ("the broad audience with a scope", 401, |_, claims| {
            claims["aud"] = json!("gaia-services");
            claims["scope"] = json!("assets:read");
        }),
        ("the broad audience of the dual phases", 200, |_, claims| claims["aud"] = json!("gaia-services")),
        ("another subject", 401, |_, claims| claims["sub"] = json!("gateway")),
        ("no client", 401, |_, claims| drop(claims.as_object_mut().unwrap().remove("client_id"))),
        ("somebody else's token", 401, |_, claims| {
            let other = claims["sub"].as_str().unwrap().replace("/sa/web", "/sa/auth-service");
            claims["sub"] = json!(other);
            claims["client_id"] = json!(other);
        }),
        ("no id", 401, |_, claims| drop(claims.as_object_mut().unwrap().remove("jti"))),
        ("no end", 401, |_, claims| drop(claims.as_object_mut().unwrap().remove("exp"))),
        ("an end that is a text", 401, |_, claims| claims["exp"] = json!("9999999999")),
        ("an end that is a fraction", 401, |_, claims| claims["exp"] = json!(claims["exp"].as_f64().unwrap() + 0.5)),
        ("too long a life", 401, |_, claims| claims["exp"] = json!(claims["iat"].as_i64().unwrap() + 90_000)),
        ("an end before the beginning", 401, |_, claims| claims["exp"] = json!(claims["iat"].as_i64().unwrap() - 1)),
        ("it ended 90 s ago", 401, |_, claims| shift(claims, -690)),
        ("it ended 30 s ago, which clocks may differ by", 200, |_, claims| shift(claims, -630)),
        ("it begins in 90 s", 401, |_, claims| shift(claims, 90)),
        ("it begins in 30 s, which clocks may differ by", 200, |_, claims| shift(claims, 30)),
        ("it is not to be used yet", 401, |_, claims| claims["nbf"] = json!(claims["iat"].as_i64().unwrap() + 90)),
        ("bound to another certificate", 401, |_, claims| {
            claims["cnf"] = json!({ "x5t#S256": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" });
        }),
        ("a scope that the route does not ask for", 200, |_, claims| claims["scope"] = json!("assets:read")),
        ("scopes that are none", 401, |_, claims| claims["scope"] = json!("assets:read  ")),
        ("a scope in quotes", 401, |_, claims| claims["scope"] = json!("\"assets:read\"")),
        ("for a user, by a caller that may not", 403, |_, claims| delegate(claims, "user:supabase:3fa8")),
        ("for a workload", 401, |_, claims| delegate(claims, "spiffe://x/ns/x/sa/x")),
        ("an actor with an actor", 401, |_, claims| {
            delegate(claims, "user:supabase:3fa8");
            claims["act"]["act"] = json!({ "sub": "x" });
        }),
    ];
    for (what, status, change) in table {
        let verdict = judges.agree(what, |audience, call| call.as_peer(web).bearer(&judges.token(audience, change)));
        assert_eq!(verdict.await.0, *status, "{what}");
    }
    shop.scene.end().await;
}

fn shift(claims: &mut Value, by: i64) {
    for name in ["iat", "exp"] {
        claims[name] = json!(claims[name].as_i64().unwrap() + by);
    }
}

fn delegate(claims: &mut Value, subject: &str) {
    claims["act"] = json!({ "sub": claims["sub"] });
    claims["sub"] = json!(subject);
    claims["exp"] = json!(claims["iat"].as_i64().unwrap() + 300);
}

#[tokio::test]
async fn python_and_rust_agree_on_what_is_no_token_and_on_keys_beside_tokens() {
    let Some(shop) = Shop::open(json!({})).await else { return };
    let judges = Judges::of(&shop).await;
    let web = shop.web.dir();
    let good = |audience: &str| judges.token(audience, |_, _| {});
    let repeated = |audience: &str| {
        let claims = judges.claims(audience).to_string().replacen('{', r#"{"sub":"gateway","#, 1);
        judges.signed(&judges.header().to_string(), &claims)
    };
    let forged = |audience: &str| {
        let token = good(audience);
        let (unsigned, _) = token.rsplit_once('.').unwrap();
        format!("{unsigned}.{}", URL_SAFE_NO_PAD.encode([1; 64]))
    };
    let half_a_character = judges.signed(r#"{"alg":"ES256","kid":"\ud800","typ":"at+jwt"}"#, "{}");
    type Ask<'a> = &'a dyn Fn(&str, Curl) -> Curl;
    let table: &[(&str, u16, Ask<'_>)] = &[
        ("nothing", 401, &|_, call| call.as_peer(web)),
        ("claims that say two things", 401, &|audience, call| call.as_peer(web).bearer(&repeated(audience))),
        ("a key's name with half a character", 401, &|_, call| call.as_peer(web).bearer(&half_a_character)),
        ("a signature of nobody", 401, &|audience, call| call.as_peer(web).bearer(&forged(audience))),
        ("no certificate", 401, &|audience, call| call.bearer(&good(audience))),
        ("another's certificate", 401, &|audience, call| call.as_peer(shop.auth.dir()).bearer(&good(audience))),
        ("four parts", 400, &|_, call| call.as_peer(web).bearer("a.b.c.d")),
        ("an empty signature", 401, &|_, call| call.as_peer(web).bearer("e30.e30.")),
        ("padding", 400, &|_, call| call.as_peer(web).bearer("e30=.e30.AAAA")),
        ("bits to spare", 400, &|_, call| call.as_peer(web).bearer("e31.e30.AAAA")),
        ("9 KiB", 400, &|_, call| call.as_peer(web).bearer(&format!("e30.{}.AAAA", "A".repeat(9 * 1024)))),
        ("a long header", 400, &|_, call| call.as_peer(web).bearer(&format!("{}.e30.AAAA", "A".repeat(1025)))),
        ("another scheme", 401, &|_, call| call.as_peer(web).header("Authorization: Basic dTpw")),
        ("another scheme beside a key", 401, &|_, call| {
            call.as_peer(web).header("Authorization: Basic dTpw").api_key(API_KEY)
        }),
        ("two words", 400, &|_, call| call.as_peer(web).header("Authorization: Bearer a b")),
        ("two tokens", 400, &|audience, call| {
            let call = call.as_peer(web).bearer(&good(audience));
            call.bearer(&good(audience))
        }),
        ("a key", 200, &|_, call| call.api_key(API_KEY)),
        ("a key as Bearer", 200, &|_, call| call.bearer(API_KEY)),
        ("an unknown key", 401, &|_, call| call.api_key("gk_test_guessed")),
        ("two keys", 400, &|_, call| call.api_key(API_KEY).api_key(API_KEY)),
        ("two keys in two headers", 400, &|_, call| call.api_key(API_KEY).bearer(API_KEY)),
        ("a token beside a shared key", 200, &|audience, call| {
            call.as_peer(web).bearer(&good(audience)).api_key(API_KEY)
        }),
        ("a token beside a key of somebody else", 401, &|audience, call| {
            call.as_peer(web).bearer(&good(audience)).api_key(OWNED_KEY)
        }),
        ("a bad token beside a good key", 401, &|audience, call| {
            call.as_peer(web).bearer(&forged(audience)).api_key(API_KEY)
        }),
    ];
    for (what, status, ask) in table {
        assert_eq!(judges.agree(what, ask).await.0, *status, "{what}");
    }
    let scope = |audience: &str| judges.token(audience, |_, claims| claims["scope"] = json!("assets:read"));
    let no_scope = shop.to_reports("/report").as_peer(web).bearer(&scope(REPORTS)).send().await.unwrap();
    assert_eq!(no_scope.status, 403, "{no_scope:?}");
    let in_query =
        shop.to_reports(&format!("/whoami?access_token={}", good(REPORTS))).as_peer(web).send().await.unwrap();
    assert_eq!(in_query.status, 401, "{in_query:?}");
    shop.scene.end().await;
}

// ---- changes -------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaf_ca_and_signing_key_are_replaced_under_load_and_python_neither_restarts_nor_fails_a_request() {
    let Some(shop) = Shop::open(json!({ "tokens": { "maxTTL": "20s" } })).await else { return };
    let shop = Arc::new(shop);
    let pids = shop.pids();
    let before = status(&shop).await;
    let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut load = JoinSet::new();
    for _ in 0..2 {
        let (shop, stop, made) = (Arc::clone(&shop), Arc::clone(&stop), Arc::clone(&made));
        load.spawn(async move {
            let mut failed = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                failed.extend(shop.report().await.err());
                made.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            failed
        });
    }
    let first = shop.reports.served_leaf().await.unwrap();
    let renew = json!({ "metadata": { "annotations": { "gaia.dev/renew-requested-at": "now" } } });
    shop.scene.patch("ServiceCertificate", REPORTS, renew).await;
    let renewed = async || shop.reports.served_leaf().await.is_ok_and(|leaf| leaf.serial() != first.serial());
    wait::until("Python serves its renewed leaf", LONG, renewed).await.unwrap();

    let both = json!({ "spec": { "ca": { "rotationRevision": 2 }, "tokens": { "rotationRevision": 2 } } });
    shop.scene.patch("TrustDomain", &shop.scene.domain, both).await;
    let over = async || {
        let status = status(&shop).await;
        let is_new = |ring: &str| status[ring]["active"]["id"] != before[ring]["active"]["id"];
        let retires = |ring: &str| status[ring]["retiring"].as_array().is_some_and(|retiring| !retiring.is_empty());
        let is_over = is_new("ca") && is_new("signingKeys") && !retires("ca") && !retires("signingKeys");
        if is_over && status["rotating"] == "-" && status["instances"]["summary"] == "4/4" {
            Seen::Yes(())
        } else {
            Seen::NotYet(status.to_string())
        }
    };
    wait::until("both rotations are over, each step seen at every instance", LONG, over).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    let failed: Vec<String> = load.join_all().await.into_iter().flatten().collect();
    let made = made.load(Ordering::Relaxed);
    assert!(failed.is_empty(), "of {made} requests failed: {failed:#?}");
    assert!(made > 100, "only {made} requests were made");
    assert_eq!(shop.pids(), pids);
    shop.reports.check_running().unwrap();
    Arc::into_inner(shop).unwrap().scene.end().await;
}

async fn status(shop: &Shop) -> Value {
    shop.scene.get("TrustDomain", &shop.scene.domain).await.unwrap()["status"].clone()
}

#[tokio::test]
async fn python_refuses_what_is_revoked_and_goes_on_with_what_it_had_where_a_file_is_bad() {
    let Some(shop) = Shop::open(json!({})).await else { return };
    let (judges, pids) = (Judges::of(&shop).await, shop.pids());
    let stolen = tempfile::tempdir().unwrap();
    for file in ["tls.crt", "tls.key"] {
        std::fs::copy(shop.web.dir().join(file), stolen.path().join(file)).unwrap();
    }
    let health = shop.to_reports("/health").as_peer(stolen.path()).send().await.unwrap().expect(200).unwrap();
    assert!(health.contains("service_cert_expires"), "{health}");

    let leaf = std::fs::read(stolen.path().join("tls.crt")).unwrap();
    let leaf = gaia_pki::Certificate::chain_from_pem(&leaf).unwrap()[0].fingerprint();
    let revoked = json!({ "leaves": [leaf], "jtis": ["made-by-a-test"] });
    shop.scene.patch("TrustDomain", &shop.scene.domain, json!({ "spec": { "revoked": revoked } })).await;
    let refused = async || shop.to_reports("/health").as_peer(stolen.path()).send().await.is_err();
    wait::until("the revoked certificate ends in the handshake", SOON, refused).await.unwrap();
    let answered = async || shop.report().await.is_ok();
    wait::until("web calls with the leaf that replaced it", SOON, answered).await.unwrap();
    let token = judges.token(REPORTS, |_, _| {});
    let by_token = shop.to_reports("/whoami").as_peer(shop.web.dir()).bearer(&token).send().await.unwrap();
    assert_eq!(by_token.status, 401, "its id is revoked: {by_token:?}");

    let log = shop.reports.log();
    let trust = format!("{}-trust", shop.scene.domain);
    let broken = json!({ "data": { "jwks.json": "{}", "ca.crt": "", "denylist.json": r#"{"schemaVersion":2}"# } });
    let said = async || {
        // The operator repairs it within a second or two, which may be before anybody looks.
        shop.scene.patch("ConfigMap", &trust, broken.clone()).await;
        shop.report().await.unwrap();
        let log = std::fs::read_to_string(&log).unwrap();
        ["bundle", "jwks", "denylist"].iter().all(|part| log.contains(&format!("refused the mounted {part},")))
    };
    wait::until("each bad part was refused", SOON, said).await.unwrap();
    shop.report().await.unwrap();
    assert_eq!(shop.pids(), pids);
    shop.scene.end().await;
}
