//! Impossible or forbidden objects are refused with the object and the field named, nothing is written for them, and
//! other objects are not delayed.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::common::openssl::OpenSsl;
use crate::common::{SOON, Scene};
use gaia_e2e::wait;
use kube::Api;
use kube::api::{ListParams, ObjectList};
use rstest::rstest;
use serde_json::{Value, json};

// ---- refused by the API server -------------------------------------------------------------------------------------

#[rstest]
#[case(json!({ "duration": "90d" }), "spec.duration", "must be a duration such as 2160h")]
#[case(json!({ "duration": "1s" }), "spec.duration", "must be between 10m and 26280h")]
#[case(json!({ "duration": "999999h" }), "spec.duration", "must be a duration such as 2160h")]
#[case(json!({ "duration": "99999h" }), "spec.duration", "must be between 10m and 26280h")]
#[case(json!({ "duration": "30m" }), "spec", "duration must be at least 1h, or at least 10m with allowShortLived")]
#[case(json!({ "privateKey": { "algorithm": "RSA", "size": 1024 } }), "spec.privateKey", "size must be 2048, 3072")]
#[case(json!({ "privateKey": { "algorithm": "DSA" } }), "spec.privateKey.algorithm", "supported values")]
#[case(json!({ "extraDNSNames": names(300) }), "spec.extraDNSNames", "must have at most 64 items")]
#[case(json!({ "extraDNSNames": ["münchen.example"] }), "spec.extraDNSNames[0]", "should match")]
#[case(json!({ "extraDNSNames": ["a..b"] }), "spec.extraDNSNames[0]", "should match")]
#[case(json!({ "extraDNSNames": ["../../etc"] }), "spec.extraDNSNames[0]", "should match")]
#[case(json!({ "secretName": "../other" }), "spec.secretName", "should match")]
#[case(json!({ "secretName": "schlüssel" }), "spec.secretName", "should match")]
#[case(json!({ "serviceAccountName": "a/../b" }), "spec.serviceAccountName", "should match")]
#[case(json!({ "trustDomainRef": { "name": "../gaia" } }), "spec.trustDomainRef.name", "should match")]
#[case(json!({ "ipAddresses": ["10.0.0.256"] }), "spec.ipAddresses", "must hold IPv4 or IPv6 addresses only")]
#[case(big_template(), "spec.secretTemplate.annotations", "16384")]
#[case(json!({ "secretTemplate": { "labels": { "app.kubernetes.io/managed-by": "me" } } }), "spec.secretTemplate.labels", "none of them gaia.dev/*")]
#[tokio::test]
async fn the_api_server_refuses_a_certificate_and_names_the_field(
    #[case] spec: Value,
    #[case] field: &str,
    #[case] why: &str,
) {
    let Some(scene) = Scene::begin().await else { return };
    let said = scene.refusal(scene.certificate("refused", spec)).await;
    assert!(said.contains("\"refused\"") && said.contains(field) && said.contains(why), "{said}");
    scene.end().await;
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("n{number}.example.com")).collect()
}

fn big_template() -> Value {
    let annotations: BTreeMap<String, String> = (0..4).map(|n| (format!("key{n}"), "x".repeat(16 * 1024))).collect();
    json!({ "secretTemplate": { "annotations": annotations } })
}

#[rstest]
#[case("with.dot")]
#[case("ünicode")]
#[case("a..b")]
#[tokio::test]
async fn the_api_server_refuses_a_name_that_is_no_label(#[case] name: &str) {
    let Some(scene) = Scene::begin().await else { return };
    for manifest in [scene.certificate(name, json!({})), scene.service(name, json!({}))] {
        let said = scene.refusal(manifest).await;
        assert!(said.contains("metadata.name") && said.contains(name), "{said}");
    }
    scene.end().await;
}

#[tokio::test]
async fn the_definitions_are_accepted_without_a_warning() {
    let Some(scene) = Scene::begin().await else { return };
    let crds = crate::common::files::crds();
    let apply =
        ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--warnings-as-errors", "-f", &crds];
    scene.plane.kubectl(&apply).await.unwrap();
    scene.end().await;
}

// ---- refused by the operator ---------------------------------------------------------------------------------------

#[rstest]
#[case(json!({ "extraDNSNames": ["auth-service.other.svc"] }), "spec.extraDNSNames[0] \"auth-service.other.svc\"")]
#[case(json!({ "extraDNSNames": ["gaia-operator.gaia-system.svc"] }), "spec.extraDNSNames[0] \"gaia-operator.gaia-system.svc\"")]
#[case(json!({ "extraDNSNames": ["worker.example.com", "gaia-operator"] }), "spec.extraDNSNames[1] \"gaia-operator\"")]
#[case(json!({ "extraDNSNames": ["*.gaia-system.svc"] }), "spec.extraDNSNames[0] \"*.gaia-system.svc\"")]
#[case(json!({ "ipAddresses": ["192.0.2.1"] }), "spec.ipAddresses[0] \"192.0.2.1\"")]
#[tokio::test]
async fn a_name_that_was_not_granted_is_not_certified(#[case] spec: Value, #[case] what: &str) {
    let Some(scene) = Scene::begin().await else { return };
    // Even a grant does not cover the operator's own names.
    let granted = json!(["worker.example.com", "*.gaia-system.svc", "gaia-operator"]);
    let allowed = json!([{ "namespaces": [scene.namespace], "dnsNames": granted }]);
    scene.ready_domain(json!({ "allowedNames": allowed })).await;
    let message = is_refused(&scene, scene.certificate("refused", spec), "NameNotAllowed").await;
    assert!(message.contains(what), "{message}");
    scene.end().await;
}

#[tokio::test]
async fn a_namespace_that_is_not_selected_gets_nothing() {
    let Some(scene) = Scene::begin().await else { return };
    let elsewhere = json!({ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "elsewhere" } } });
    scene.ready_domain(elsewhere).await;
    let message = is_refused(&scene, scene.certificate("refused", json!({})), "NamespaceNotSelected").await;
    assert!(message.contains(&scene.namespace) && message.contains("spec.namespaceSelector"), "{message}");
    let mark = scene.mark().await;
    scene.create(scene.service("refused-too", json!({}))).await;
    scene.wait_for("GaiaService", "refused-too", "Stalled=True", "NamespaceNotSelected", SOON).await;
    scene.wrote(mark, &["create events refused-too", "patch gaiaservices/status refused-too"]).await;
    scene.end().await;
}

#[tokio::test]
async fn a_foreign_secret_is_left_alone_until_it_is_given_up() {
    let Some(scene) = Scene::begin().await else { return };
    scene.ready_domain(json!({})).await;
    let foreign =
        scene.secret(&scene.namespace, "theirs", "kubernetes.io/tls", json!({ "tls.crt": "a", "tls.key": "b" }));
    scene.create(foreign).await;
    let before = scene.get("Secret", "theirs").await;
    let mark = scene.mark().await;
    scene.create(scene.certificate("worker", json!({ "secretName": "theirs" }))).await;
    let message = scene.wait_for("ServiceCertificate", "worker", "Stalled=True", "SecretNotOwned", SOON).await;
    assert!(message.contains("spec.secretName: Secret theirs") && message.contains("gaia.dev/adopt"), "{message}");
    // The first certificate of a namespace adds the bundle. A Secret of another owner shows the time of the attempt.
    let wanted = [
        "create configmaps td-trust",
        "create events worker",
        "create secrets theirs -> 409",
        "patch servicecertificates/status worker",
    ];
    scene.wrote(mark, &wanted).await;
    assert_eq!(scene.get("Secret", "theirs").await, before);

    let adopt = json!({ "metadata": { "annotations": { "gaia.dev/adopt": "true" } } });
    scene.patch("Secret", "theirs", adopt).await;
    scene.wait_for("ServiceCertificate", "worker", "Ready=True", "Ready", RECHECKED).await;
    scene.wait_for("ServiceCertificate", "worker", "Stalled=False", "Settled", SOON).await;
    scene.end().await;
}

#[tokio::test]
async fn a_secret_of_ours_that_became_immutable_is_left_with_a_reason() {
    let Some(scene) = Scene::begin().await else { return };
    scene.ready_domain(json!({})).await;
    scene.create(scene.certificate("worker", json!({}))).await;
    scene.wait_ready("ServiceCertificate", &["worker"]).await;
    let mark = scene.mark().await;
    scene.patch("Secret", "worker-tls", json!({ "immutable": true })).await;
    let message = scene.wait_for("ServiceCertificate", "worker", "Stalled=True", "SecretImmutable", SOON).await;
    assert!(message.contains("spec.secretName: Secret worker-tls is immutable"), "{message}");
    scene
        .patch(
            "ServiceCertificate",
            "worker",
            json!({ "metadata": { "annotations": { "gaia.dev/renew-requested-at": "now" } } }),
        )
        .await;
    scene.wrote(mark, &["create events worker", "patch servicecertificates/status worker"]).await;
    scene.end().await;
}

#[tokio::test]
async fn the_older_of_two_certificates_owns_the_secret_until_it_is_deleted() {
    let Some(scene) = Scene::begin().await else { return };
    scene.ready_domain(json!({})).await;
    scene.create(scene.certificate("z-older", json!({ "secretName": "shared" }))).await;
    scene.wait_ready("ServiceCertificate", &["z-older"]).await;
    // Ages are in whole seconds.
    let older = scene.get("ServiceCertificate", "z-older").await.unwrap()["metadata"]["creationTimestamp"].clone();
    let younger = scene.certificate("a-younger", json!({ "secretName": "shared" }));
    let is_later = async || scene.time_of_creation(younger.clone()).await.as_str() > older.as_str().unwrap();
    wait::until("a second has passed", SOON, is_later).await.unwrap();
    scene.create(younger).await;
    let message = scene.wait_for("ServiceCertificate", "a-younger", "Stalled=True", "SecretClaimed", SOON).await;
    assert!(message.contains("spec.secretName: Secret shared is written by the older ServiceCertificate z-older"));
    scene.wait_for("ServiceCertificate", "z-older", "Ready=True", "Ready", SOON).await;

    scene.delete("ServiceCertificate", "z-older").await;
    scene.wait_for("ServiceCertificate", "a-younger", "Ready=True", "Ready", SOON).await;
    let names = OpenSsl::new().names(&scene.secret_text("shared", "tls.crt").await).await;
    assert!(names.contains(&"DNS:a-younger".to_owned()), "{names:?}");
    scene.end().await;
}

#[tokio::test]
async fn two_certificates_of_one_age_do_not_fight_over_a_secret() {
    let Some(scene) = Scene::begin().await else { return };
    scene.ready_domain(json!({})).await;
    for n in 0..5 {
        let mark = scene.mark().await;
        let secret = format!("shared{n}");
        let names = [format!("z{n}"), format!("a{n}")];
        for name in &names {
            scene.create(scene.certificate(name, json!({ "secretName": secret }))).await;
        }
        let one_has_it = async || {
            let seen = [is_ready(&scene, &names[0]).await, is_ready(&scene, &names[1]).await];
            seen == [Some(true), Some(false)] || seen == [Some(false), Some(true)]
        };
        wait::until("one has it and the other reports that", SOON, one_has_it).await.unwrap();
        let writes = scene.writes(mark).await;
        // Both may have begun before either existed.
        let done = writes.iter().filter(|write| write.contains(" secrets ") && !write.ends_with("-> 409"));
        let of_secrets: Vec<&String> = done.collect();
        assert_eq!(of_secrets, [&format!("create secrets {secret}")]);
    }
    scene.end().await;
}

async fn is_ready(scene: &Scene, name: &str) -> Option<bool> {
    let stalled = scene.condition("ServiceCertificate", name, "Stalled").await?;
    let ready = scene.condition("ServiceCertificate", name, "Ready").await?;
    Some(ready.status == "True" && stalled.reason != "SecretClaimed")
}

#[tokio::test]
async fn a_created_trust_domain_is_used_within_seconds() {
    let Some(scene) = Scene::begin().await else { return };
    let mark = scene.mark().await;
    scene.create(scene.certificate("worker", json!({}))).await;
    scene.create(scene.service("orders", json!({}))).await;
    for (kind, name) in [("ServiceCertificate", "worker"), ("GaiaService", "orders")] {
        let message = scene.wait_for(kind, name, "Ready=False", "TrustDomainNotFound", SOON).await;
        assert!(message.contains(&format!("spec.trustDomainRef.name: TrustDomain {:?}", scene.domain)), "{message}");
    }
    let wanted = [
        "create events orders",
        "create events worker",
        "patch gaiaservices/status orders",
        "patch servicecertificates/status worker",
    ];
    scene.wrote(mark, &wanted).await;

    scene.create(scene.trust_domain(json!({}))).await;
    let seconds = Duration::from_secs(10);
    scene.wait_for("ServiceCertificate", "worker", "Ready=True", "Ready", seconds).await;
    scene.wait_for("GaiaService", "orders", "Ready=True", "Ready", seconds).await;
    scene.end().await;
}

#[tokio::test]
async fn durations_that_cannot_work_together_are_refused_with_both_numbers() {
    let Some(scene) = Scene::begin().await else { return };
    scene.ready_domain(json!({ "ca": { "duration": "13000h" } })).await;
    let short = scene.certificate("short", json!({ "duration": "10m", "allowShortLived": true }));
    let message = is_refused(&scene, short, "DurationNotPossible").await;
    assert!(message.contains("spec.duration") && message.contains("3m20s < 3m + 1m + 50s = 4m50s"), "{message}");
    // A certificate that would exceed its CA expires with it, and a condition reports it.
    scene.create(scene.certificate("long", json!({ "duration": "14000h" }))).await;
    let message = scene.wait_for("ServiceCertificate", "long", "DurationClamped=True", "DurationClamped", SOON).await;
    assert!(
        message.contains("spec.duration: requested 14000h, issued for 1") && message.contains("expiry of CA"),
        "{message}"
    );
    scene.wait_ready("ServiceCertificate", &["long"]).await;

    let mut domain = scene.trust_domain(json!({ "ca": { "duration": "24h" } }));
    let name = format!("{}-short", scene.domain);
    domain["metadata"]["name"] = json!(name);
    let mark = scene.mark().await;
    scene.create(domain).await;
    let message = scene.wait_for("TrustDomain", &name, "Stalled=True", "DurationNotPossible", SOON).await;
    assert!(message.contains("spec.ca") && message.contains("24h < 4(3240h + 3m + 1h)"), "{message}");
    // The refusal, and that another TrustDomain has its spec.trustDomain.
    let wanted = ["create events td-short", "create events td-short", "patch trustdomains/status td-short"];
    // An Event of the certificate before may be late.
    scene.wrote_but(mark, &wanted, |write| write.ends_with(" long")).await;
    scene.end().await;
}

// ---- user tokens ---------------------------------------------------------------------------------------------------

#[tokio::test]
async fn an_undeclared_issuer_of_user_tokens_is_reported_and_blocks_nothing_else() {
    let Some(scene) = Scene::begin().await else { return };
    scene.create(scene.trust_domain(json!({}))).await;
    let tokens = json!({ "issuers": ["partner"], "scopes": ["assets:read"] });
    scene.create(scene.service("early", json!({ "auth": { "userTokens": tokens } }))).await;
    let message = scene.wait_for("GaiaService", "early", "Stalled=True", "UserTokenIssuerNotFound", SOON).await;
    assert!(message.contains("spec.auth.userTokens.issuers") && message.contains("\"partner\""), "{message}");
    assert!(message.contains(&format!("TrustDomain {}", scene.domain)), "{message}");
    scene.wait_for("GaiaService", "early", "Ready=True", "Ready", SOON).await;

    let partner =
        json!({ "name": "partner", "issuer": "https://partner.example", "jwksURL": "https://partner.example/jwks" });
    scene.patch("TrustDomain", &scene.domain, json!({ "spec": { "userTokenIssuers": [partner] } })).await;
    scene.wait_for("GaiaService", "early", "Stalled=False", "Settled", SOON).await;
    let policy = scene.get("ConfigMap", "early-auth").await.unwrap();
    let policy: Value = serde_json::from_str(policy["data"]["policy.json"].as_str().unwrap()).unwrap();
    let expected = json!({
        "issuers": [{ "name": "partner", "issuer": "https://partner.example", "profile": "Supabase",
            "verification": "JWKS", "jwksURL": "https://partner.example/jwks" }],
        "scopes": ["assets:read"],
    });
    assert_eq!(policy["userTokens"], expected);
    scene.end().await;
}

// ---- modes ---------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn tokens_alone_are_refused_while_keys_are_configured_until_a_person_insists_and_every_way_back_is_open() {
    let Some(scene) = Scene::begin().await else { return };
    scene.create(scene.trust_domain(json!({ "auth": { "defaultMode": "APIKeyOnly" } }))).await;
    let keys = json!({ "apiKeysSecretRef": { "name": "legacy-keys" } });
    scene.create(scene.service("legacy", json!({ "auth": keys }))).await;
    scene.wait_for("GaiaService", "legacy", "Ready=True", "Ready", SOON).await;
    assert_eq!(modes(&scene).await, json!({ "mode": "APIKeyOnly", "desiredMode": "APIKeyOnly" }));

    scene
        .patch(
            "GaiaService",
            "legacy",
            json!({ "spec": { "auth": { "mode": "JWTOnly" }, "tls": { "mode": "Strict" } } }),
        )
        .await;
    let message = scene.wait_for("GaiaService", "legacy", "Stalled=True", "LegacyKeysInUse", SOON).await;
    assert!(message.contains("spec.auth.mode") && message.contains("Secret legacy-keys"), "{message}");
    assert_eq!(modes(&scene).await, json!({ "mode": "APIKeyOnly", "desiredMode": "JWTOnly" }));
    // The message names the field to set.
    let asked = message.rsplit('=').next().unwrap().to_owned();
    let force = json!({ "metadata": { "annotations": { "gaia.dev/force-mode": asked } } });
    scene.patch("GaiaService", "legacy", force).await;
    scene.wait_for("GaiaService", "legacy", "Stalled=False", "Settled", SOON).await;
    assert_eq!(modes(&scene).await, json!({ "mode": "JWTOnly", "desiredMode": "JWTOnly" }));

    scene.patch("GaiaService", "legacy", json!({ "spec": { "auth": { "mode": "Dual" } } })).await;
    let back = async || modes(&scene).await == json!({ "mode": "Dual", "desiredMode": "Dual" });
    wait::until("Dual runs again", SOON, back).await.unwrap();
    scene.end().await;
}

async fn modes(scene: &Scene) -> serde_json::Value {
    scene.get("GaiaService", "legacy").await.unwrap()["status"]["auth"].clone()
}

// ---- the others ----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn refused_objects_delay_no_valid_ones() {
    let Some(scene) = Scene::begin().await else { return };
    scene.ready_domain(json!({})).await;
    let foreign = scene.secret(&scene.namespace, "theirs", "Opaque", json!({ "a": "b" }));
    scene.create(foreign).await;
    let bad = [
        json!({ "extraDNSNames": ["auth-service.other.svc"] }),
        json!({ "secretName": "theirs" }),
        json!({ "duration": "10m", "allowShortLived": true }),
        json!({ "trustDomainRef": { "name": "nowhere" } }),
    ];
    let mut manifests: Vec<Value> =
        bad.into_iter().enumerate().map(|(n, spec)| scene.certificate(&format!("bad{n}"), spec)).collect();
    manifests.extend((0..50).map(|n| scene.certificate(&format!("good{n}"), json!({}))));
    let created = futures::future::join_all(manifests.into_iter().map(|manifest| scene.try_create(manifest))).await;
    assert!(created.iter().all(Result::is_ok), "{created:?}");
    let api = scene.api("ServiceCertificate", Some(&scene.namespace));
    let ready = async || -> Result<(), String> {
        let all = list(&api).await;
        let ready = |name: &str| {
            all[name]["conditions"].as_array().is_some_and(|all| {
                all.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
            })
        };
        let missing: Vec<String> = (0..50).map(|n| format!("good{n}")).filter(|name| !ready(name)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?}")) }
    };
    wait::until("all good ones are Ready", Duration::from_secs(20), ready).await.unwrap();
    for n in 0..4 {
        assert!(scene.condition("ServiceCertificate", &format!("bad{n}"), "Ready").await.unwrap().status == "False");
    }
    scene.end().await;
}

/// The statuses of all objects, by name.
async fn list(api: &Api<kube::api::DynamicObject>) -> BTreeMap<String, Value> {
    let all: ObjectList<kube::api::DynamicObject> = api.list(&ListParams::default()).await.unwrap();
    all.items.into_iter().map(|item| (item.metadata.name.unwrap(), item.data["status"].clone())).collect()
}

// ---- shared --------------------------------------------------------------------------------------------------------

/// A certificate is refused with a reason: only an Event, its status, and the namespace's bundle are written.
async fn is_refused(scene: &Scene, manifest: Value, reason: &str) -> String {
    let name = manifest["metadata"]["name"].as_str().unwrap().to_owned();
    let mark = scene.mark().await;
    scene.create(manifest).await;
    let message = scene.wait_for("ServiceCertificate", &name, "Stalled=True", reason, SOON).await;
    let ready = scene.wait_for("ServiceCertificate", &name, "Ready=False", reason, SOON).await;
    assert_eq!(ready, message);
    let (event, status) = (format!("create events {name}"), format!("patch servicecertificates/status {name}"));
    scene.wrote_but(mark, &[&event, &status], |write| write == "create configmaps td-trust").await;
    message
}

/// Objects of other owners are read every ten seconds.
const RECHECKED: Duration = Duration::from_secs(35);
