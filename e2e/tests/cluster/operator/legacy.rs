//! Migration off API keys: their use is recorded and reported, and blocks JWTOnly; and the tokens of users.

use std::time::Duration;

use crate::common::objects::merged;
use crate::common::{SOON, Scene};
use gaia_e2e::wait::{self, Seen};
use gaia_e2e::{Curl, ServiceOptions, ServiceProcess};
use gaia_pki::sha256_hex;
use gaia_stand_ins::gotrue::{GoTrue, GoTrueOptions};
use serde_json::{Value, json};

const ASSETS: &str = "asset-service";
const API_KEY: &str = "gk_test_0123456789abcdef0123456789abcdef";
/// Usage reports are read every minute.
const A_MINUTE: Duration = Duration::from_secs(150);

/// asset-service with an API key and one instance, which is listed for the operator.
struct Shop {
    scene: Scene,
    assets: ServiceProcess,
}

impl Shop {
    async fn open(scene: Scene, domain: Value, auth: Value) -> Self {
        let quick = json!({ "propagation": { "minDelay": "3s", "deadline": "1m", "clockSkew": "1s" } });
        scene.ready_domain(merged(quick, domain)).await;
        let record =
            json!({ "id": "app", "sha256": sha256_hex(API_KEY.as_bytes()), "principal": "app", "state": "active" });
        let keys = json!({ "api-keys.json": json!({ "schemaVersion": 1, "keys": [record] }).to_string() });
        scene.create(scene.secret(&scene.namespace, "asset-service-api-keys", "Opaque", keys)).await;
        let auth = merged(json!({ "apiKeysSecretRef": { "name": "asset-service-api-keys" } }), auth);
        scene.create(scene.service(ASSETS, json!({ "auth": auth }))).await;
        scene.wait_ready("GaiaService", &[ASSETS]).await;
        let dir = scene.plane.dir().join("mounts").join(&scene.namespace);
        let options = ServiceOptions::asset_service(&scene.plane, &scene.namespace, &scene.domain).in_dir(dir);
        let assets = ServiceProcess::start(&scene.plane, options).await.unwrap();
        assets.wait_ready(SOON).await.unwrap();
        Self { scene, assets }
    }

    /// From now on the operator probes the instance.
    async fn list_instance(&self) {
        self.patch(json!({ "spec": { "endpoints": [self.assets.mesh_address().to_string()] } })).await;
        self.scene.wait_for("GaiaService", ASSETS, "Served=True", "AllServed", SOON).await;
    }

    async fn patch(&self, patch: Value) {
        self.scene.patch("GaiaService", ASSETS, patch).await;
    }

    fn list(&self) -> Curl {
        Curl::new(&self.assets, "/assets", self.assets.dir())
    }

    async fn use_key(&self) {
        self.list().api_key(API_KEY).send().await.unwrap().expect(200).unwrap();
    }

    /// The record, once it is as expected.
    async fn ledger(&self, what: &str, is_right: impl Fn(&Value) -> bool) -> Value {
        wait::until(what, A_MINUTE, async || {
            let map = self.scene.get("ConfigMap", "asset-service-ledger").await.unwrap_or_default();
            let record: Value = map["data"]["ledger.json"]
                .as_str()
                .and_then(|text| serde_json::from_str(text).ok())
                .unwrap_or_default();
            if is_right(&record) { Seen::Yes(record) } else { Seen::NotYet(record.to_string()) }
        })
        .await
        .unwrap()
    }

    async fn legacy_free(&self, status: &str, reason: &str) -> String {
        self.scene.wait_for("GaiaService", ASSETS, &format!("LegacyFree={status}"), reason, A_MINUTE).await
    }

    async fn runs(&self, mode: &str) {
        let what = format!("{mode} runs");
        wait::until(&what, A_MINUTE, async || {
            let found = self.scene.get("GaiaService", ASSETS).await.unwrap()["status"]["auth"].clone();
            if found["mode"] == mode { Seen::Yes(()) } else { Seen::NotYet(found.to_string()) }
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn api_key_use_is_reported_and_blocks_jwt_only_until_it_is_forced() {
    let Some(plane) = crate::common::Plane::own(&[]).await else { return };
    let operator = plane.start_operator().await;
    let shop = Shop::open(plane.scene().await, json!({}), json!({})).await;
    shop.legacy_free("False", "NotWatched").await;
    shop.use_key().await;
    shop.list_instance().await;

    let record = shop.ledger("the use is written down", |record| !record["entries"].is_null()).await;
    let entry = &record["entries"][0];
    assert_eq!((&entry["key"], &entry["caller"]["userAgent"]), (&json!("app"), &json!("curl")), "{record}");
    let today = entry["date"].as_str().unwrap().to_owned();
    let owner = shop.scene.get("ConfigMap", "asset-service-ledger").await.unwrap();
    assert_eq!(owner["metadata"]["ownerReferences"][0]["kind"], "GaiaService");
    let message = shop.legacy_free("False", "LegacyKeysInUse").await;
    let named = format!("key app by 127.0.0.1 curl on /assets on {today}");
    assert!(message.contains(&named), "{message}");
    let status = shop.scene.get("GaiaService", ASSETS).await.unwrap()["status"]["legacy"].clone();
    let caller = json!({ "key": "app", "caller": "127.0.0.1 curl on /assets", "lastUsedDate": today });
    assert_eq!(status, json!({ "lastUsedDate": today, "callers": [caller] }));
    let table = plane.kubectl(&["get", "gsvc", "-n", &shop.scene.namespace]).await.unwrap();
    assert!(table.contains("LEGACY-USED") && table.contains(&today), "{table}");
    let midnight: jiff::Timestamp = format!("{today}T00:00:00Z").parse().unwrap();
    let labels = format!("namespace=\"{}\",name=\"{ASSETS}\"", shop.scene.namespace);
    let metric = format!("gaia_legacy_last_used_timestamp_seconds{{{labels}}} {}", midnight.as_second());
    let metrics = operator.metrics().await.unwrap();
    assert!(metrics.contains(&metric), "{metrics}");

    // Refused, and the caller is named; the previous mode stays in force.
    let tokens_alone = json!({ "spec": { "auth": { "mode": "JWTOnly" }, "tls": { "mode": "Strict" } } });
    shop.patch(tokens_alone).await;
    let message = shop.scene.wait_for("GaiaService", ASSETS, "Stalled=True", "LegacyKeysInUse", SOON).await;
    assert!(message.contains(&named), "{message}");
    shop.scene.wait_for("GaiaService", ASSETS, "Ready=True", "Ready", SOON).await;
    // Strict of the same edit waits with it, and the caller by plain HTTP is named.
    let tls = shop.scene.get("GaiaService", ASSETS).await.unwrap()["status"]["tls"].clone();
    assert_eq!((&tls["mode"], &tls["desiredMode"]), (&json!("Permissive"), &json!("Strict")));
    let told = async || {
        let events = shop.scene.events("GaiaService", ASSETS).await;
        let told: Vec<_> = events.into_iter().filter(|(reason, ..)| reason == "LegacyKeysInUse").collect();
        if told.len() == 1 && told[0].2.contains(&named) { Seen::Yes(()) } else { Seen::NotYet(format!("{told:?}")) }
    };
    wait::until("an event reports it", SOON, told).await.unwrap();

    // An administrator overrides it by the annotation in the message.
    let asked = message.rsplit('=').next().unwrap().to_owned();
    shop.patch(json!({ "metadata": { "annotations": { "gaia.dev/force-mode": asked } } })).await;
    shop.runs("JWTOnly").await;
    let me = shop.assets.dir();
    let refused = async || {
        let answer = shop.list().as_peer(me).api_key(API_KEY).send().await.unwrap();
        if answer.status == 401 { Seen::Yes(()) } else { Seen::NotYet(format!("{answer:?}")) }
    };
    wait::until("keys are refused", SOON, refused).await.unwrap();
    let record = shop.ledger("that it runs is written down", |record| !record["jwtOnly"].is_null()).await;
    assert_eq!(record["jwtOnly"]["until"], Value::Null);

    // Back, and again without the annotation, which was for another generation: it was in force within the last day.
    shop.patch(json!({ "spec": { "auth": { "mode": "Dual" } } })).await;
    shop.runs("Dual").await;
    shop.ledger("that it ran is written down", |record| !record["jwtOnly"]["until"].is_null()).await;
    shop.patch(json!({ "spec": { "auth": { "mode": "JWTOnly" } } })).await;
    shop.runs("JWTOnly").await;
    shop.scene.wait_for("GaiaService", ASSETS, "Stalled=False", "Settled", SOON).await;

    // Without keys there is nothing to record.
    shop.patch(json!({ "spec": { "auth": { "apiKeysSecretRef": null } } })).await;
    shop.legacy_free("True", "NoKeys").await;
    let gone = async || shop.scene.get("ConfigMap", "asset-service-ledger").await.is_none();
    wait::until("the record is gone", SOON, gone).await.unwrap();
    operator.check_running().unwrap();
}

#[tokio::test]
async fn a_restarted_operator_keeps_the_evidence_and_a_crashed_instance_ends_it() {
    let Some(plane) = crate::common::Plane::own(&[]).await else { return };
    let operator = plane.start_operator().await;
    let shop = Shop::open(plane.scene().await, json!({}), json!({ "legacyFreeFor": "48h" })).await;
    shop.list_instance().await;
    let record = shop.ledger("the instance is read", |record| !record["instances"].is_null()).await;
    let since = record["watchedSince"].as_str().unwrap().to_owned();
    let message = shop.legacy_free("False", "NotWatched").await;
    assert!(message.contains(&since), "{message}");

    operator.restart().unwrap();
    operator.wait_ready(SOON).await.unwrap();
    shop.use_key().await;
    let record = shop.ledger("the new leader reads", |record| !record["entries"].is_null()).await;
    assert_eq!((record["watchedSince"].as_str(), &record["gap"]), (Some(since.as_str()), &Value::Null), "{record}");

    // Its uses since its last reading are lost with it.
    shop.assets.restart().unwrap();
    shop.assets.wait_ready(SOON).await.unwrap();
    let record = shop.ledger("the loss is noticed", |record| !record["gap"].is_null()).await;
    assert!(record["gap"]["what"].as_str().is_some_and(|what| !what.is_empty()), "{record}");
    assert!(record["watchedSince"].as_str().is_some_and(|later| later > since.as_str()), "{record}");
    assert_eq!(record["entries"][0]["key"], "app", "recorded uses stay");

    // An endpoint that is no longer listed has terminated, too. Without a recorded use, the gap alone blocks JWTOnly.
    shop.patch(json!({ "spec": { "endpoints": null } })).await;
    let gone = shop.ledger("it is gone", |record| record["instances"].is_null()).await;
    assert!(gone["gap"]["what"].is_string() && gone["gap"] != record["gap"], "{gone}");
    shop.scene.delete("ConfigMap", "asset-service-ledger").await;
    let message = shop.legacy_free("False", "EvidenceGap").await;
    assert!(message.contains("the record was deleted"), "{message}");
    operator.check_running().unwrap();
}

#[tokio::test]
async fn a_trust_domain_that_asks_for_tokens_alone_is_refused_by_a_service_that_speaks_plain_http() {
    let Some(scene) = Scene::begin().await else { return };
    scene.ready_domain(json!({ "auth": { "defaultMode": "JWTOnly" } })).await;
    scene.create(scene.service("plain", json!({}))).await;
    let message = scene.wait_for("GaiaService", "plain", "Stalled=True", "TLSNotStrict", SOON).await;
    assert!(message.starts_with("spec.tls.mode: must be Strict for JWTOnly"), "{message}");
    assert!(message.contains(&format!("spec.auth.defaultMode of TrustDomain {}", scene.domain)), "{message}");
    scene.wait_for("GaiaService", "plain", "Ready=True", "Ready", SOON).await;
    let found = scene.get("GaiaService", "plain").await.unwrap()["status"]["auth"].clone();
    assert_eq!(found, json!({ "mode": "Dual", "desiredMode": "JWTOnly" }));
    // No instance has served Permissive, so that Strict needs no evidence.
    scene.patch("GaiaService", "plain", json!({ "spec": { "tls": { "mode": "Strict" } } })).await;
    scene.wait_for("GaiaService", "plain", "Stalled=False", "Settled", SOON).await;
    scene.end().await;
}

#[tokio::test]
async fn a_user_of_a_declared_issuer_is_accepted_until_the_issuer_is_removed() {
    let Some(scene) = Scene::begin().await else { return };
    let gotrue = GoTrue::start(GoTrueOptions::default()).await.unwrap();
    gotrue.add_user("ada@example.com", "correct horse battery").unwrap();
    let issuers = json!({ "userTokenIssuers": [gotrue.issuer_entry("supabase")] });
    let users = json!({ "userTokens": { "issuers": ["supabase"], "scopes": ["assets:read"] } });
    let shop = Shop::open(scene, issuers, users).await;
    let login = Curl::to(&format!("{}/token?grant_type=password", gotrue.base_url()), shop.assets.dir());
    let login = login.header(&format!("apikey: {}", gotrue.anon_key()));
    let login = login.json(r#"{"email": "ada@example.com", "password": "correct horse battery"}"#);
    let session: Value = serde_json::from_str(&login.send().await.unwrap().expect(200).unwrap()).unwrap();
    let token = session["access_token"].as_str().unwrap();

    let answers = async |status: u16, call: Curl| {
        wait::until(&format!("asset-service answers {status}"), SOON, async || {
            let answer = call.clone().send().await.unwrap();
            if answer.status == status { Seen::Yes(()) } else { Seen::NotYet(format!("{answer:?}")) }
        })
        .await
        .unwrap();
    };
    answers(200, shop.list().bearer(token)).await;
    // The scopes of the policy limit those of a user.
    let put = Curl::new(&shop.assets, "/assets/a.txt", shop.assets.dir()).method("PUT").body("a").bearer(token);
    answers(403, put).await;
    answers(401, shop.list().bearer(gotrue.anon_key())).await;

    let none = json!({ "spec": { "userTokenIssuers": [] } });
    shop.scene.patch("TrustDomain", &shop.scene.domain, none).await;
    shop.scene.wait_for("GaiaService", ASSETS, "Stalled=True", "UserTokenIssuerNotFound", SOON).await;
    answers(401, shop.list().bearer(token)).await;
    shop.scene.end().await;
}
