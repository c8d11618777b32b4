//! A service in Python on the mounted files alone (`docs/examples/python-service`), together with Gaia's own:
//! it serves, it calls, it decides as they do, and it works through rotations.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::{SOON, Scene};
use bytes::Bytes;
use gaia_api::SystemClock;
use gaia_e2e::control_plane::ports;
use gaia_e2e::load::runtime_config;
use gaia_e2e::tier::{self, Tier};
use gaia_e2e::wait::Seen;
use gaia_e2e::{Curl, KeptProjection, Projection, ServiceOptions, ServiceProcess, assets, services, wait};
use gaia_pki::sha256_hex;
use gaia_runtime::{Caller, CallsConfig, Runtime};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use refusals::Judges;

mod refusals;

const AUTH: &str = "auth-service";
const ASSETS: &str = "asset-service";
const REPORTS: &str = "report-service";
const WEB: &str = "web";
const API_KEY: &str = "gk_test_0123456789abcdef0123456789abcdef";
const OWNED_KEY: &str = "gk_test_fedcba9876543210fedcba9876543210";
/// Longer than a rotation takes on a loaded machine.
const LONG: Duration = Duration::from_secs(240);

/// The Python service with auth-service and asset-service, which it calls, and `web` in this process, which calls it.
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
    /// With the spec in `domain`.
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
        let caller = runtime.caller(&CallsConfig { auth_url: Some(auth_url), api_key_file: None });
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

    /// The caller in Rust requests a report, which takes a call from Python to asset-service.
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

/// One set of vectors for the rules in both languages: gaia-auth and gaia-runtime are tested with the same tables.
#[test]
fn python_decides_as_in_the_shared_vectors() {
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
async fn python_refuses_revoked_credentials_and_keeps_previous_files() {
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
        // The operator repairs it within a second or two, possibly before it is observed.
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
