//! Changes by others are repaired: quickly, with one Event, and without another write; at rest nothing is written.

use std::time::Duration;

use crate::common::{OPERATOR, OPERATOR_NAMESPACE, Plane, REPAIR, SOON, Scene};
use gaia_e2e::wait;
use gaia_pki::{KeySpec, PrivateKey};
use serde_json::{Value, json};

// ---- leaf Secrets --------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_deleted_secret_is_issued_again() {
    let Some(scene) = world().await else { return };
    let repair = Repair {
        about: ("ServiceCertificate", "worker"),
        reason: "CertificateRenewed",
        writes: &["create events worker", "create secrets worker-tls", "patch servicecertificates/status worker"],
    };
    let fault = async || scene.delete("Secret", "worker-tls").await;
    repair.happens(&scene, fault, async || scene.leaf_is_whole("worker-tls").await).await;
    scene.end().await;
}

#[tokio::test]
async fn a_deleted_secret_of_a_service_is_issued_again_and_reported() {
    let Some(scene) = world().await else { return };
    let repair = Repair {
        about: ("ServiceCertificate", "auth"),
        reason: "CertificateRenewed",
        writes: &[
            "create events auth",
            "create secrets auth-tls",
            "patch gaiaservices/status auth",
            "patch servicecertificates/status auth",
        ],
    };
    let fault = async || scene.delete("Secret", "auth-tls").await;
    repair.happens(&scene, fault, async || scene.leaf_is_whole("auth-tls").await).await;
    scene.end().await;
}

#[tokio::test]
async fn a_swapped_private_key_leads_to_a_new_certificate() {
    let Some(scene) = world().await else { return };
    let repair = Repair {
        about: ("ServiceCertificate", "worker"),
        reason: "CertificateRenewed",
        writes: &["create events worker", "patch secrets worker-tls", "patch servicecertificates/status worker"],
    };
    let other = PrivateKey::generate(KeySpec::Ecdsa256).unwrap().to_pem();
    let swapped = json!({ "stringData": { "tls.key": other.as_str() } });
    let fault = async || scene.patch("Secret", "worker-tls", swapped.clone()).await;
    repair.happens(&scene, fault, async || scene.leaf_is_whole("worker-tls").await).await;
    scene.end().await;
}

#[tokio::test]
async fn an_emptied_bundle_in_a_leaf_secret_is_filled_without_a_new_certificate() {
    let Some(scene) = world().await else { return };
    keeps_the_leaf(&scene, json!({ "data": { "ca.crt": "" } }), REPAIRED_SECRET).await;
    scene.end().await;
}

#[tokio::test]
async fn a_lost_managed_by_label_is_put_back_without_a_new_certificate() {
    let Some(scene) = world().await else { return };
    let removed = json!({ "metadata": { "labels": { "app.kubernetes.io/managed-by": null } } });
    keeps_the_leaf(&scene, removed, REPAIRED_LABEL).await;
    scene.end().await;
}

#[tokio::test]
async fn labels_that_are_all_lost_are_put_back_without_a_new_certificate() {
    let Some(scene) = world().await else { return };
    keeps_the_leaf(&scene, json!({ "metadata": { "labels": null } }), REPAIRED_LABEL).await;
    scene.end().await;
}

const REPAIRED_SECRET: &[&str] = &["create events worker", "patch secrets worker-tls"];
/// A Secret without the label is not watched. Its existence shows when it is to be created.
const REPAIRED_LABEL: &[&str] =
    &["create events worker", "create secrets worker-tls -> 409", "patch secrets worker-tls"];

async fn keeps_the_leaf(scene: &Scene, damage: Value, writes: &[&str]) {
    let before = scene.get("Secret", "worker-tls").await.unwrap();
    let repair = Repair { about: ("ServiceCertificate", "worker"), reason: "Repaired", writes };
    let fault = async || scene.patch("Secret", "worker-tls", damage.clone()).await;
    let as_before = async || {
        let now = scene.get("Secret", "worker-tls").await.unwrap();
        now["data"] == before["data"] && now["metadata"]["labels"] == before["metadata"]["labels"]
    };
    repair.happens(scene, fault, as_before).await;
}

// ---- objects of a TrustDomain --------------------------------------------------------------------------------------

#[tokio::test]
async fn a_deleted_trust_bundle_is_written_again() {
    let Some(scene) = world().await else { return };
    let writes = ["create configmaps td-trust", "create events td"];
    let fault = async || scene.delete("ConfigMap", &name(&scene, "trust")).await;
    comes_back(&scene, "ConfigMap", "trust", &writes, fault).await;
    scene.end().await;
}

#[tokio::test]
async fn an_edited_trust_bundle_is_put_right() {
    let Some(scene) = world().await else { return };
    let writes = ["create events td", "patch configmaps td-trust"];
    let edited = json!({ "data": { "ca.crt": "an attacker's", "extra": "1" } });
    let fault = async || scene.patch("ConfigMap", &name(&scene, "trust"), edited.clone()).await;
    comes_back(&scene, "ConfigMap", "trust", &writes, fault).await;
    scene.end().await;
}

#[tokio::test]
async fn a_trust_bundle_without_its_label_gets_it_back() {
    let Some(scene) = world().await else { return };
    let writes = ["create configmaps td-trust -> 409", "create events td", "patch configmaps td-trust"];
    let removed = json!({ "metadata": { "labels": { "app.kubernetes.io/managed-by": null } } });
    let fault = async || scene.patch("ConfigMap", &name(&scene, "trust"), removed.clone()).await;
    comes_back(&scene, "ConfigMap", "trust", &writes, fault).await;
    scene.end().await;
}

#[tokio::test]
async fn a_deleted_token_signer_is_written_again() {
    let Some(scene) = world().await else { return };
    let writes = ["create events td", "create secrets td-token-signer"];
    let fault = async || scene.delete("Secret", &name(&scene, "token-signer")).await;
    comes_back(&scene, "Secret", "token-signer", &writes, fault).await;
    scene.end().await;
}

#[tokio::test]
async fn a_token_signer_with_another_key_gets_its_own_back() {
    let Some(scene) = world().await else { return };
    let writes = ["create events td", "patch secrets td-token-signer"];
    let other = PrivateKey::generate(KeySpec::Ecdsa256).unwrap().to_pem();
    let edited = json!({ "stringData": { "jwt-signing.key": other.as_str() } });
    let fault = async || scene.patch("Secret", &name(&scene, "token-signer"), edited.clone()).await;
    comes_back(&scene, "Secret", "token-signer", &writes, fault).await;
    scene.end().await;
}

#[tokio::test]
async fn a_ring_without_its_label_gets_it_back() {
    let Some(scene) = world().await else { return };
    let ring = name(&scene, "ca-ring");
    let before = scene.get_in(OPERATOR_NAMESPACE, "Secret", &ring).await.unwrap();
    let domain = scene.domain.clone();
    let repair = Repair {
        about: ("TrustDomain", &domain),
        reason: "Repaired",
        writes: &["create events td", "patch secrets td-ca-ring"],
    };
    let removed = json!({ "metadata": { "labels": { "app.kubernetes.io/managed-by": null } } });
    let fault = async || scene.patch_in(OPERATOR_NAMESPACE, "Secret", &ring, removed.clone()).await;
    let as_before = async || {
        let now = scene.get_in(OPERATOR_NAMESPACE, "Secret", &ring).await.unwrap();
        now["metadata"]["labels"] == before["metadata"]["labels"] && now["data"] == before["data"]
    };
    repair.happens(&scene, fault, as_before).await;
    scene.end().await;
}

/// After the damage, a projection has its previous content.
async fn comes_back(scene: &Scene, kind: &str, what: &str, writes: &[&str], fault: impl AsyncFnOnce()) {
    let name = name(scene, what);
    let before = scene.get(kind, &name).await.unwrap();
    let domain = scene.domain.clone();
    let repair = Repair { about: ("TrustDomain", &domain), reason: "Repaired", writes };
    let as_before = async || {
        let now = scene.get(kind, &name).await.unwrap_or_default();
        now["data"] == before["data"] && now["metadata"]["labels"] == before["metadata"]["labels"]
    };
    repair.happens(scene, fault, as_before).await;
}

fn name(scene: &Scene, what: &str) -> String {
    format!("{}-{what}", scene.domain)
}

// ---- objects of a GaiaService --------------------------------------------------------------------------------------

#[tokio::test]
async fn an_edited_policy_is_put_right() {
    let Some(scene) = world().await else { return };
    let before = scene.get("ConfigMap", "auth-auth").await.unwrap()["data"].clone();
    let repair = Repair {
        about: ("GaiaService", "auth"),
        reason: "Repaired",
        writes: &["create events auth", "patch configmaps auth-auth"],
    };
    let edited = json!({ "data": { "policy.json": "{}" } });
    let fault = async || scene.patch("ConfigMap", "auth-auth", edited.clone()).await;
    let as_before = async || scene.get("ConfigMap", "auth-auth").await.unwrap()["data"] == before;
    repair.happens(&scene, fault, as_before).await;
    scene.end().await;
}

#[tokio::test]
async fn an_edited_certificate_of_a_service_is_put_right() {
    let Some(scene) = world().await else { return };
    let before = scene.get("ServiceCertificate", "auth").await.unwrap()["spec"].clone();
    let repair = Repair {
        about: ("GaiaService", "auth"),
        reason: "Repaired",
        // The generation it was last seen in; whether the one between is reported too depends on timing.
        writes: &["create events auth", "patch servicecertificates auth", "patch servicecertificates/status auth"],
    };
    let edited = json!({ "spec": { "renewal": "Disabled" } });
    let fault = async || scene.patch("ServiceCertificate", "auth", edited.clone()).await;
    let as_before = async || scene.get("ServiceCertificate", "auth").await.unwrap()["spec"] == before;
    repair.happens(&scene, fault, as_before).await;
    scene.end().await;
}

#[tokio::test]
async fn a_change_that_was_asked_for_is_no_repair() {
    let Some(scene) = world().await else { return };
    let repairs = async || {
        let events = scene.events("GaiaService", "auth").await;
        events.into_iter().filter(|(reason, ..)| reason == "Repaired").count()
    };
    let before = repairs().await;
    let mark = scene.mark().await;
    let asked = json!({ "spec": {
        "callers": [{ "service": "web", "scopes": ["a:read"] }],
        "certificate": { "renewal": "Disabled" },
    }});
    scene.patch("GaiaService", "auth", asked).await;
    scene.wait_ready("GaiaService", &["auth"]).await;
    let mut writes = scene.writes(mark).await;
    writes.dedup();
    let wanted = [
        // The caller does not exist.
        "create events auth",
        "patch configmaps auth-auth",
        "patch configmaps td-grants",
        "patch gaiaservices/status auth",
        "patch servicecertificates auth",
        "patch servicecertificates/status auth",
    ];
    assert_eq!(writes, wanted);
    assert_eq!(repairs().await, before);
    scene.end().await;
}

#[tokio::test]
async fn the_same_repair_again_raises_the_count_of_its_event() {
    let Some(scene) = world().await else { return };
    let count = async || {
        let events = scene.events("ServiceCertificate", "worker").await;
        let repaired: Vec<i32> = events.iter().filter(|event| event.0 == "Repaired").map(|event| event.1).collect();
        repaired
    };
    for times in 1..=3 {
        scene.patch("Secret", "worker-tls", json!({ "data": { "ca.crt": "" } })).await;
        wait::until(&format!("one Event says {times}"), REPAIR, async || count().await == [times]).await.unwrap();
    }
    scene.end().await;
}

// ---- the rest ------------------------------------------------------------------------------------------------------

/// `GAIA_E2E_REST_SECONDS` watches longer.
#[tokio::test]
async fn at_rest_and_after_a_restart_nothing_is_written_but_the_lease() {
    let Some(plane) = Plane::own(&[]).await else { return };
    let operator = plane.start_operator().await;
    let scene = plane.scene().await;
    populate(&scene).await;
    add_everything_that_is_refused(&scene).await;
    scene.writes(scene.mark().await).await;

    let seconds = std::env::var("GAIA_E2E_REST_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let rest = Duration::from_secs(seconds);
    let mark = scene.mark().await;
    assert_eq!(writes_during(&scene, mark, rest).await, [""; 0], "at rest nothing but the lease is written");

    let mark = scene.mark().await;
    assert!(operator.sigterm(SOON).await.unwrap().success());
    operator.restart().unwrap();
    operator.wait_ready(SOON).await.unwrap();
    wait::until("it leads again", SOON, async || operator.metrics().await.map(|all| leads(&all))).await.unwrap();
    // Longer than any interval of unwatched objects. A foreign Secret is found by an attempt to create.
    let writes = writes_during(&scene, mark, rest.max(Duration::from_secs(15))).await;
    assert_eq!(writes, ["create secrets foreign -> 409"], "after a restart nothing but the lease is written");
    scene.end().await;
}

fn leads(metrics: &str) -> gaia_e2e::wait::Seen<()> {
    metrics.lines().any(|line| line.starts_with("gaia_") && line.contains("leader") && line.ends_with(" 1")).into()
}

/// All writes of the operator from `mark` on for some time, about any object, the lease apart.
async fn writes_during(scene: &Scene, mark: gaia_e2e::audit::AuditMark, period: Duration) -> Vec<String> {
    tokio::time::sleep(period).await;
    scene.mark().await;
    let writes = scene.plane.audit().writes_by(OPERATOR, mark).unwrap();
    let (leases, others): (Vec<_>, Vec<_>) = writes.iter().partition(|write| write.resource == "leases");
    assert!(!leases.is_empty(), "it is alive");
    others.into_iter().map(|write| scene.describe(write)).collect()
}

/// Objects in all the states that last.
async fn add_everything_that_is_refused(scene: &Scene) {
    scene.create(scene.secret(&scene.namespace, "foreign", "Opaque", json!({ "a": "b" }))).await;
    scene.create(scene.certificate("foreign", json!({ "secretName": "foreign" }))).await;
    scene.create(scene.certificate("z-claims", json!({ "secretName": "worker-tls" }))).await;
    scene.create(scene.certificate("names", json!({ "extraDNSNames": ["auth-service.other.svc"] }))).await;
    scene.create(scene.certificate("orphan", json!({ "trustDomainRef": { "name": "nowhere" } }))).await;
    scene.create(scene.certificate("short", json!({ "duration": "10m", "allowShortLived": true }))).await;
    // There is no answer: it is probed repeatedly, which writes nothing.
    let early = json!({ "auth": { "userTokens": { "issuers": ["nobody"] } }, "endpoints": ["127.0.0.1:9"] });
    scene.create(scene.service("early", early)).await;
    let mut brought = scene.trust_domain(json!({ "ca": { "existingSecretRef": { "name": "nowhere" } } }));
    brought["metadata"]["name"] = json!(format!("{}-brought", scene.domain));
    scene.create(brought).await;
    for (name, reason) in [
        ("foreign", "SecretNotOwned"),
        ("z-claims", "SecretClaimed"),
        ("names", "NameNotAllowed"),
        ("short", "DurationNotPossible"),
    ] {
        scene.wait_for("ServiceCertificate", name, "Stalled=True", reason, SOON).await;
    }
    scene.wait_for("ServiceCertificate", "orphan", "Ready=False", "TrustDomainNotFound", SOON).await;
    scene.wait_for("GaiaService", "early", "Stalled=True", "UserTokenIssuerNotFound", SOON).await;
    scene.wait_for("GaiaService", "early", "Ready=True", "Ready", SOON).await;
    wait::until("the endpoint was probed", SOON, async || {
        let domain = scene.get("TrustDomain", &scene.domain).await.unwrap_or_default();
        let served = scene.condition("GaiaService", "early", "Served").await;
        served.is_some_and(|served| served.message.contains("Unreachable"))
            && !domain.to_string().contains("NotProbed: not yet")
    })
    .await
    .unwrap();
    scene.wait_for("TrustDomain", &name(scene, "brought"), "Stalled=True", "CAInvalid", SOON).await;
}

// ---- shared --------------------------------------------------------------------------------------------------------

/// A TrustDomain, a service that issues its tokens, and a bare certificate; all Ready.
async fn world() -> Option<Scene> {
    let scene = Scene::begin().await?;
    populate(&scene).await;
    // Events come last: they share a limit with those about other scenes.
    for certificate in ["auth", "worker"] {
        let is_published = async || !scene.events("ServiceCertificate", certificate).await.is_empty();
        wait::until("the Event of the issuance is published", SOON, is_published).await.unwrap();
    }
    Some(scene)
}

async fn populate(scene: &Scene) {
    let issuer = json!({ "issuedBy": { "namespace": scene.namespace, "name": "auth" } });
    scene.create(scene.trust_domain(json!({ "tokens": issuer }))).await;
    scene.create(scene.service("auth", json!({}))).await;
    scene.create(scene.certificate("worker", json!({}))).await;
    scene.wait_ready("TrustDomain", &[&scene.domain]).await;
    scene.wait_ready("GaiaService", &["auth"]).await;
    scene.wait_ready("ServiceCertificate", &["auth", "worker"]).await;
    let signer = async || scene.get("Secret", &name(scene, "token-signer")).await.is_some();
    wait::until("the signer is there", SOON, signer).await.unwrap();
}

/// One repair: the object of its Event, the note, and all its writes.
struct Repair<'a> {
    about: (&'a str, &'a str),
    reason: &'a str,
    writes: &'a [&'a str],
}

impl Repair<'_> {
    async fn happens(self, scene: &Scene, fault: impl AsyncFnOnce(), is_repaired: impl AsyncFn() -> bool) {
        scene.writes(scene.mark().await).await;
        let (kind, name) = self.about;
        let before = scene.events(kind, name).await;
        let mark = scene.mark().await;
        fault().await;
        wait::until("it is repaired", REPAIR, async || is_repaired().await).await.unwrap();
        let told = async || scene.events(kind, name).await != before;
        wait::until("it is reported", SOON, told).await.unwrap();
        if kind == "GaiaService" {
            // Two plans include the certificate of a service: one may come too late, and report an intermediate state.
            let mut writes = scene.writes(mark).await;
            writes.retain(|write| !write.ends_with("-> 409"));
            writes.dedup();
            assert_eq!(writes, self.writes, "all that the operator writes");
        } else {
            scene.wrote(mark, self.writes).await;
        }
        assert!(is_repaired().await, "and it stays repaired");
        let after = scene.events(kind, name).await;
        let new: Vec<_> = after.iter().filter(|event| !before.contains(event)).collect();
        assert_eq!(new.len(), 1, "{new:?}");
        assert_eq!((new[0].0.as_str(), new[0].1), (self.reason, 1), "{new:?}");
        assert!(scene.condition(kind, name, "Ready").await.is_some_and(|ready| ready.status == "True"));
    }
}
