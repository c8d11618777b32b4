//! Services on the operator's objects: independent programs reach them with the mounted files, and only so.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gaia_api::SystemClock;
use gaia_e2e::control_plane::ports;
use gaia_e2e::load::runtime_config;
use gaia_runtime::{CallError, CallsConfig, Runtime};
use http::{Request, StatusCode};

use crate::common::openssl::OpenSsl;
use crate::common::{REPAIR, SOON, Scene};
use gaia_e2e::tier::{self, Tier};
use gaia_e2e::{Curl, KeptProjection, Projection, ServiceOptions, ServiceProcess, assets, process, services, wait};
use gaia_pki::sha256_hex;
use rstest::rstest;
use serde_json::{Value, json};

const AUTH: &str = "auth-service";
const ASSETS: &str = "asset-service";
const WEB: &str = "web";
const API_KEY: &str = "gk_test_0123456789abcdef0123456789abcdef";

/// A scene with the token issuer and asset-service running in it, and the mounted directory of `web`, which may
/// call the latter.
struct Shop {
    scene: Scene,
    auth: ServiceProcess,
    assets: ServiceProcess,
    web: KeptProjection,
}

impl Shop {
    async fn open() -> Option<Self> {
        Self::open_with(json!({}), json!({})).await
    }

    async fn open_with(domain: Value, auth: Value) -> Option<Self> {
        let scene = Scene::begin().await?;
        let issuer = json!({ "tokens": { "issuedBy": { "namespace": scene.namespace, "name": AUTH } } });
        scene.ready_domain(crate::common::objects::merged(issuer, domain)).await;
        scene.create(scene.secret(&scene.namespace, "asset-service-api-keys", "Opaque", api_keys())).await;
        scene.create(scene.service(AUTH, auth)).await;
        let callers = json!([{ "service": WEB, "scopes": ["assets:read", "assets:write"] }]);
        let keys = json!({ "apiKeysSecretRef": { "name": "asset-service-api-keys" } });
        scene.create(scene.service(ASSETS, json!({ "callers": callers, "auth": keys }))).await;
        scene.create(scene.service(WEB, json!({}))).await;
        scene.wait_ready("GaiaService", &[AUTH, ASSETS, WEB]).await;

        let (plane, namespace, domain) = (&scene.plane, &scene.namespace, &scene.domain);
        services::wait_for_grant(&scene.client, namespace, domain, WEB, SOON).await.unwrap();
        let dir = plane.dir().join("mounts").join(namespace);
        let web = Projection::new(scene.client.clone(), namespace, dir.join(WEB), services::mount(WEB, domain));
        wait::until("the files of web are there", SOON, || web.sync_once()).await.unwrap();
        let start = async |options: ServiceOptions| {
            let service = ServiceProcess::start(plane, options.in_dir(&dir)).await.unwrap();
            service.wait_ready(SOON).await.unwrap();
            service
        };
        let auth = start(ServiceOptions::auth_service(plane, namespace, domain)).await;
        let assets = start(ServiceOptions::asset_service(plane, namespace, domain)).await;
        Some(Self { auth, assets, web: web.keep(), scene })
    }

    fn web(&self) -> &Path {
        self.web.dir()
    }

    fn to_assets(&self, path: &str) -> Curl {
        Curl::new(&self.assets, path, self.web())
    }

    fn to_auth(&self, path: &str) -> Curl {
        Curl::new(&self.auth, path, self.web())
    }

    fn token_request(&self) -> Curl {
        self.token_request_by(self.web())
    }

    /// The same with the files of this directory.
    fn token_request_by(&self, web: &Path) -> Curl {
        let request = r#"{"service_name": "web", "target_service": "asset-service"}"#;
        Curl::new(&self.auth, "/internal/service-token", web).json(request)
    }

    /// A token of web for asset-service.
    async fn token(&self) -> String {
        self.token_by(self.web()).await
    }

    async fn token_by(&self, web: &Path) -> String {
        let answer = self.token_request_by(web).as_peer(web).send().await.unwrap().expect(200).unwrap();
        serde_json::from_str::<Value>(&answer).unwrap()["access_token"].as_str().unwrap().to_owned()
    }

    /// The processes are still the started ones.
    fn assert_same_processes(&self, pids: [u32; 2]) {
        assert_eq!(self.pids(), pids);
        self.auth.check_running().unwrap();
        self.assets.check_running().unwrap();
    }

    fn pids(&self) -> [u32; 2] {
        [self.auth.pid(), self.assets.pid()]
    }
}

fn api_keys() -> Value {
    let record =
        json!({ "id": "app", "sha256": sha256_hex(API_KEY.as_bytes()), "principal": "app", "state": "active" });
    json!({ "api-keys.json": json!({ "schemaVersion": 1, "keys": [record] }).to_string() })
}

// ---- calls ---------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn curl_reaches_both_services_with_the_mounted_files() {
    let Some(shop) = Shop::open().await else { return };
    let (key, bearer) = (shop.to_assets("/assets").api_key(API_KEY), shop.to_assets("/assets").bearer(API_KEY));
    key.send().await.unwrap().expect(200).unwrap();
    bearer.send().await.unwrap().expect(200).unwrap();
    let token = shop.token().await;
    shop.to_assets("/assets").as_peer(shop.web()).bearer(&token).send().await.unwrap().expect(200).unwrap();

    let keys = shop.to_auth("/.well-known/jwks.json").send().await.unwrap().expect(200).unwrap();
    assert_eq!(keys, std::fs::read_to_string(shop.web().join("jwks.json")).unwrap());
    let health = shop.to_assets("/health").as_peer(shop.web()).send().await.unwrap().expect(200).unwrap();
    assert!(health.contains("service_cert_expires"), "{health}");
    shop.scene.end().await;
}

#[tokio::test]
async fn without_the_mounted_files_curl_is_refused() {
    let Some(shop) = Shop::open().await else { return };
    let token = shop.token().await;
    let anonymous = shop.to_assets("/assets").send().await.unwrap();
    assert_eq!((anonymous.status, anonymous.header("www-authenticate")), (401, Some(r#"Bearer realm="gaia""#)));

    let bad_credential = Some(r#"Bearer realm="gaia", error="invalid_token""#);
    for (why, call) in [
        ("an unknown key", shop.to_assets("/assets").api_key("gk_test_guessed")),
        ("a token without the certificate it is bound to", shop.to_assets("/assets").bearer(&token)),
        ("a token of another holder", shop.to_assets("/assets").as_peer(shop.auth.dir()).bearer(&token)),
    ] {
        let answer = call.send().await.unwrap();
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, bad_credential), "{why}: {answer:?}");
    }
    let peer_alone = shop.to_assets("/assets").as_peer(shop.web()).send().await.unwrap();
    assert_eq!(peer_alone.status, 401, "a certificate says who calls, not that it may");

    let no_peer = shop.token_request().send().await.unwrap();
    assert_eq!(no_peer.status, 401, "{no_peer:?}");
    let another_name = shop.token_request().as_peer(shop.assets.dir()).send().await.unwrap();
    assert_eq!(another_name.status, 403, "only web may call itself web: {another_name:?}");
    shop.scene.end().await;
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let Some(shop) = Shop::open().await else { return };
    let body = "x".repeat(100_000);
    for _ in 0..20 {
        let upload = shop.to_assets("/assets/a").method("PUT").body(&body);
        assert_eq!(upload.send().await.unwrap().status, 401);
        assert_eq!(shop.token_request().send().await.unwrap().status, 401);
    }
    shop.scene.end().await;
}

#[tokio::test]
async fn neither_side_takes_certificates_of_another_trust_domain() {
    let (Some(shop), Some(other)) = (Shop::open().await, Scene::begin().await) else { return };
    other.ready_domain(json!({})).await;
    other.create(other.service(WEB, json!({}))).await;
    other.wait_ready("GaiaService", &[WEB]).await;
    let foreign = shop.scene.plane.dir().join("mounts").join(&other.namespace).join(WEB);
    let sources = services::mount(WEB, &other.domain);
    Projection::new(other.client.clone(), &other.namespace, &foreign, sources).sync_once().await.unwrap();

    let untrusted_server = Curl::new(&shop.assets, "/assets", &foreign).api_key(API_KEY).send().await.unwrap_err();
    assert!(untrusted_server.to_string().contains("certificate"), "{untrusted_server}");
    // In Permissive it gives no peer, and so gets no token.
    assert_eq!(shop.token_request().as_peer(&foreign).send().await.unwrap().status, 401);
    let line = r#"gaia_tls_unverified_client_certificates_total{reason="unknown_ca"} 1"#;
    assert!(shop.auth.metrics().await.unwrap().contains(line));
    namesake_is_refused(&shop, &other).await;
    shop.scene.end().await;
}

/// Kind: a server of another namespace with the same service name, whose leaf has the bare name too.
async fn namesake_is_refused(shop: &Shop, evil: &Scene) {
    let (scene, domain) = (&shop.scene, &shop.scene.domain);
    let name = "kubernetes.io/metadata.name";
    let both = json!([{ "key": name, "operator": "In", "values": [scene.namespace, evil.namespace] }]);
    let selector = json!({ "matchLabels": null, "matchExpressions": both });
    scene.patch("TrustDomain", domain, json!({ "spec": { "namespaceSelector": selector } })).await;
    evil.create(evil.service(ASSETS, json!({ "trustDomainRef": { "name": domain } }))).await;
    evil.wait_ready("GaiaService", &[ASSETS]).await;
    let server = ServiceOptions::asset_service(&scene.plane, &evil.namespace, domain);
    let server = ServiceProcess::start(&scene.plane, server).await.unwrap();
    server.wait_ready(SOON).await.unwrap();

    let policy = std::fs::read_to_string(shop.web().join("policy.json")).unwrap();
    let policy: Value = serde_json::from_str(&policy).unwrap();
    assert_eq!(policy["tokenIssuer"]["name"], AUTH, "{policy}");
    assert_eq!(policy["targets"], json!([]), "{policy}");
    let [port]: [u16; 1] = ports::free().unwrap();
    let mut config = runtime_config(WEB, shop.web(), ([127, 0, 0, 1], port).into());
    config.hosts = [(ASSETS.to_owned(), server.mesh_address())].into_iter().collect();
    let runtime = Runtime::start(config, Arc::new(SystemClock), Arc::new(()), |_| ()).await.unwrap();
    let key = scene.plane.dir().join("shared-key");
    std::fs::write(&key, API_KEY).unwrap();
    let caller = runtime.caller(&CallsConfig { auth_url: None, api_key_file: Some(key) });
    let call = async |target: &str| {
        let request = Request::get(format!("https://{ASSETS}/health")).body(Bytes::new()).unwrap();
        caller.call(target, request).await.map(|answer| answer.status())
    };
    let refused = call(ASSETS).await.unwrap_err();
    assert!(matches!(refused, CallError::WrongServer { .. }), "{refused:?}");
    let id = |namespace: &str| format!("spiffe://{domain}.example/ns/{namespace}/sa/{ASSETS}");
    let text = refused.to_string();
    assert!(
        text.contains(&id(&evil.namespace)) && text.contains(&format!("expected {}", id(&scene.namespace))),
        "{text}"
    );
    assert_eq!(call(&format!("{}/{ASSETS}", evil.namespace)).await.unwrap(), StatusCode::OK);
}

#[tokio::test]
async fn a_strict_service_ends_handshakes_without_a_client_certificate() {
    let Some(shop) = Shop::open_with(json!({}), json!({ "tls": { "mode": "Strict" } })).await else { return };
    shop.to_auth("/.well-known/jwks.json").send().await.unwrap_err();
    wait_for_failure(&shop.auth, "no_client_certificate").await;
    shop.to_auth("/.well-known/jwks.json").as_peer(shop.web()).send().await.unwrap().expect(200).unwrap();
    shop.scene.end().await;
}

/// curl's error for a handshake that the other side ended depends on timing; the service's counter does not.
async fn wait_for_failure(service: &ServiceProcess, reason: &str) {
    let line = format!(r#"gaia_tls_handshake_failures_total{{reason="{reason}"}} 1"#);
    let counted = async || service.metrics().await.is_ok_and(|metrics| metrics.contains(&line));
    wait::until(&format!("{reason} is counted"), SOON, counted).await.unwrap();
}

#[rstest]
#[case::by_api_key(Credential::ApiKey)]
#[case::by_mtls_and_token(Credential::PeerAndToken)]
#[tokio::test]
async fn an_asset_is_put_got_listed_and_deleted(#[case] credential: Credential) {
    let Some(shop) = Shop::open().await else { return };
    let token = shop.token().await;
    let call = |path: &str| match credential {
        Credential::ApiKey => shop.to_assets(path).api_key(API_KEY),
        Credential::PeerAndToken => shop.to_assets(path).as_peer(shop.web()).bearer(&token),
    };
    let send = async |call: Curl, status: u16| call.send().await.unwrap().expect(status).unwrap();

    send(call("/assets/notes/a.txt").method("PUT").body("first"), 201).await;
    send(call("/assets/notes/a.txt").method("PUT").body("second"), 204).await;
    assert_eq!(send(call("/assets/notes/a.txt"), 200).await, "second");
    let list: Value = serde_json::from_str(&send(call("/assets"), 200).await).unwrap();
    assert_eq!((&list["assets"][0]["path"], &list["assets"][0]["size"]), (&json!("notes/a.txt"), &json!(6)));
    send(call("/assets/notes/a.txt").method("DELETE"), 204).await;
    send(call("/assets/notes/a.txt"), 404).await;
    assert_eq!(send(call("/assets"), 200).await, r#"{"assets":[],"has_more":false}"#);
    shop.scene.end().await;
}

#[derive(Clone, Copy, Debug)]
enum Credential {
    ApiKey,
    PeerAndToken,
}

// ---- validation by other programs ----------------------------------------------------------------------------------

#[rstest]
#[case("RS256")]
#[case("ES256")]
#[tokio::test]
async fn pyjwt_accepts_a_token_with_the_mounted_key_set_and_no_other(#[case] algorithm: &str) {
    let python = tokio::task::spawn_blocking(assets::python_with_jwt).await.unwrap();
    let Some(python) = tier::available(Tier::B, python) else { return };
    let Some(shop) = Shop::open_with(json!({ "tokens": { "algorithm": algorithm } }), json!({})).await else { return };
    let token = shop.token().await;
    let id = |service: &str| format!("spiffe://{0}.example/ns/{0}/sa/{service}", shop.scene.namespace);
    let judge = async |token: &str, audience: &str| {
        let mut command = Command::new(&python);
        command.args(["-c", PYJWT, token, audience]).arg(shop.web().join("jwks.json"));
        process::output(command).await.unwrap()
    };

    let accepted = judge(&token, &id(ASSETS)).await;
    assert!(accepted.status.success(), "{}", String::from_utf8_lossy(&accepted.stderr));
    let seen: Value = serde_json::from_slice(&accepted.stdout).unwrap();
    assert_eq!((&seen["header"]["alg"], &seen["header"]["typ"]), (&json!(algorithm), &json!("at+jwt")));
    let claims = &seen["claims"];
    assert_eq!((&claims["sub"], &claims["client_id"]), (&json!(id(WEB)), &json!(id(WEB))));
    assert_eq!((&claims["aud"], &claims["scope"]), (&json!(id(ASSETS)), &json!("assets:read assets:write")));
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 15 * 60);

    let elsewhere = judge(&token, &id(AUTH)).await;
    assert!(String::from_utf8_lossy(&elsewhere.stderr).contains("InvalidAudienceError"));
    let (unsigned, _) = token.rsplit_once('.').unwrap();
    let (_, other_signature) = shop.token().await.rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let forged = judge(&format!("{unsigned}.{other_signature}"), &id(ASSETS)).await;
    assert!(String::from_utf8_lossy(&forged.stderr).contains("InvalidSignatureError"));
    shop.scene.end().await;
}

const PYJWT: &str = r#"
import json, jwt, sys
token, audience, key_set = sys.argv[1:]
header = jwt.get_unverified_header(token)
keys = {key.key_id: key for key in jwt.PyJWKSet.from_dict(json.load(open(key_set))).keys}
required = ["iss", "sub", "client_id", "aud", "jti", "iat", "exp"]
claims = jwt.decode(token, keys[header["kid"]].key, algorithms=["RS256", "ES256"], audience=audience,
                    issuer="gaia-platform", options={"require": required})
print(json.dumps({"header": header, "claims": claims}))
"#;

#[tokio::test]
async fn openssl_accepts_every_leaf_by_its_strict_rules() {
    let Some(shop) = Shop::open().await else { return };
    let openssl = OpenSsl::new();
    let bundle = shop.scene.trust("ca.crt").await;
    for service in [AUTH, ASSETS, WEB] {
        openssl.verify(&bundle, &shop.scene.secret_text(&format!("{service}-tls"), "tls.crt").await).await;
    }
    let shown = openssl_s_client(&shop.assets, &openssl, &bundle).await;
    assert!(shown.contains("Verification: OK") && shown.contains("Protocol version: TLSv1.3"), "{shown}");
    shop.scene.end().await;
}

async fn openssl_s_client(service: &ServiceProcess, openssl: &OpenSsl, bundle: &str) -> String {
    openssl.write("roots.pem", bundle);
    let address = service.mesh_address().to_string();
    let name = service.server_name();
    let check = ["-brief", "-x509_strict", "-verify_return_error", "-verify_hostname", name];
    let call = ["s_client", "-connect", &address, "-servername", name, "-CAfile", "roots.pem", "-no-CApath"];
    openssl.run(&[&call[..], &check].concat()).await
}

// ---- changes -------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_renewed_leaf_is_served_without_a_restart() {
    let Some(shop) = Shop::open().await else { return };
    let pids = shop.pids();
    for (name, service) in [(AUTH, &shop.auth), (ASSETS, &shop.assets)] {
        let before = service.served_leaf().await.unwrap();
        let request = json!({ "metadata": { "annotations": { "gaia.dev/renew-requested-at": "now" } } });
        shop.scene.patch("ServiceCertificate", name, request).await;
        let renewed = async || {
            let certificate = shop.scene.get("ServiceCertificate", name).await?;
            let serial = certificate["status"]["serialNumber"].as_str()?.to_owned();
            (serial != before.serial()).then_some(serial)
        };
        let serial = wait::until("it is renewed", REPAIR, renewed).await.unwrap();
        service.wait_serving(&serial, SOON).await.unwrap();
    }
    shop.assert_same_processes(pids);
    let token = shop.token().await;
    shop.to_assets("/assets").as_peer(shop.web()).bearer(&token).send().await.unwrap().expect(200).unwrap();
    shop.scene.end().await;
}

#[tokio::test]
async fn a_leaf_secret_that_was_broken_by_hand_is_repaired_and_never_served() {
    let Some(shop) = Shop::open().await else { return };
    let (pids, before) = (shop.pids(), shop.assets.served_leaf().await.unwrap());
    let foreign = shop.scene.secret_text("web-tls", "tls.key").await;
    shop.scene.patch("Secret", "asset-service-tls", json!({ "stringData": { "tls.key": foreign } })).await;
    // The served certificate verifies at all times, or the wait fails.
    let mut refused = Vec::new();
    let replaced = async || match shop.assets.served_leaf().await {
        Ok(leaf) => leaf.serial() != before.serial(),
        Err(error) => {
            refused.push(error);
            false
        }
    };
    wait::until("a new leaf is served", SOON, replaced).await.unwrap();
    assert!(refused.is_empty(), "{refused:?}");
    shop.assert_same_processes(pids);
    shop.scene.end().await;
}

#[tokio::test]
async fn a_tampered_trust_config_map_is_repaired_and_the_services_keep_running() {
    let Some(shop) = Shop::open().await else { return };
    let (pids, trust) = (shop.pids(), format!("{}-trust", shop.scene.domain));
    let (roots, keys) = (shop.scene.trust("ca.crt").await, shop.scene.trust("jwks.json").await);
    // curl's own files stay unchanged: they are not under test.
    let caller = tempfile::tempdir().unwrap();
    for file in ["ca.crt", "tls.crt", "tls.key"] {
        std::fs::copy(shop.web().join(file), caller.path().join(file)).unwrap();
    }
    for broken in [json!({ "ca.crt": "" }), json!({ "ca.crt": null, "jwks.json": "{\"keys\":[]}" })] {
        shop.scene.patch("ConfigMap", &trust, json!({ "data": broken })).await;
        let repaired = async || {
            let map = shop.scene.get("ConfigMap", &trust).await.unwrap();
            map["data"]["ca.crt"] == roots.as_str() && map["data"]["jwks.json"] == keys.as_str()
        };
        wait::until("the ConfigMap is repaired", REPAIR, repaired).await.unwrap();
    }
    shop.scene.delete("ConfigMap", &trust).await;
    let restored =
        async || shop.scene.get("ConfigMap", &trust).await.is_some_and(|map| map["data"]["ca.crt"] == *roots);
    wait::until("the ConfigMap is back", REPAIR, restored).await.unwrap();

    let works = async || {
        let token = shop.token_by(caller.path()).await;
        let call = Curl::new(&shop.assets, "/assets", caller.path()).as_peer(caller.path()).bearer(&token);
        call.send().await.unwrap().expect(200).unwrap();
    };
    works().await;
    let seen = async || std::fs::read_to_string(shop.assets.dir().join("ca.crt")).is_ok_and(|seen| seen == roots);
    wait::until("the mounted files are those of before", SOON, seen).await.unwrap();
    works().await;
    shop.assert_same_processes(pids);
    shop.scene.end().await;
}

#[tokio::test]
async fn a_caller_that_is_declared_later_gets_its_token_without_a_restart() {
    let Some(shop) = Shop::open().await else { return };
    let request = r#"{"service_name": "auth-service", "target_service": "asset-service"}"#;
    let ask = || shop.to_auth("/internal/service-token").json(request).as_peer(shop.auth.dir()).send();
    assert_eq!(ask().await.unwrap().status, 403);
    let callers = json!([{ "service": WEB }, { "service": AUTH, "scopes": ["assets:read"] }]);
    shop.scene.patch("GaiaService", ASSETS, json!({ "spec": { "callers": callers } })).await;
    let granted = async || ask().await.is_ok_and(|answer| answer.status == 200);
    wait::until("the new caller gets a token", Duration::from_secs(15), granted).await.unwrap();
    shop.scene.end().await;
}
