//! Rotations as seen by administrators: columns, conditions and events, refusals and their reasons.

use std::time::Duration;

use crate::common::chronicle::{Chronicle, id_in, name_in, states_of};
use crate::common::openssl::OpenSsl;
use crate::common::{SOON, Scene};
use gaia_e2e::wait::{self, Seen};
use gaia_pki::Certificate;
use serde_json::{Value, json};

// ---- requested -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_raised_revision_rotates_the_ca_with_visible_progress() {
    let Some(scene) = Scene::begin().await else { return };
    let seen = scene.rotating(json!({}), "8s").await;
    let domain = scene.domain.clone();
    let first = id_in(&seen.ring("ca"), "Active").unwrap();
    scene.raise("ca", 2).await;

    seen.wait_for_states("ca", &["Active", "Published"]).await;
    let next = id_in(&seen.ring("ca"), "Published").unwrap();
    // Until every bundle has it, the message names the missing ones.
    let announced = async || match scene.condition("TrustDomain", &domain, "CARotating").await {
        Some(said) if said.message.contains(&format!("CA {next} was published at")) => Seen::Yes(said),
        said => Seen::NotYet(format!("{said:?}")),
    };
    let said = wait::until("the status has the time when the next CA signs", SOON, announced).await.unwrap();
    assert_eq!((&*said.status, &*said.reason), ("True", "Publishing"));
    assert!(said.message.contains("it is activated at"), "{}", said.message);
    assert_eq!(column(&scene, "ROTATING").await, "CA");
    assert_eq!(column(&scene, "READY").await, "True");
    assert_eq!(roots(&scene).await, 2, "the next root is trusted before it signs");

    seen.wait_for_states("ca", &["Retiring", "Active"]).await;
    assert_eq!(column(&scene, "READY").await, "True");
    assert_eq!(roots(&scene).await, 2, "the old root is trusted as long as what it signed is in use");
    seen.wait_for_states("ca", &["Removed", "Active"]).await;
    scene.wait_rotated().await;
    assert_eq!(scene.condition("TrustDomain", &domain, "CARotating").await.unwrap().status, "False");
    assert_eq!(column(&scene, "ROTATING").await, "-");
    assert_eq!(roots(&scene).await, 1);
    assert!(scene.leaf_is_whole("worker-tls").await);
    assert_eq!(seen.revision("worker-tls"), 2);
    let status = scene.get("TrustDomain", &domain).await.unwrap()["status"].clone();
    assert_eq!((&status["ca"]["active"]["id"], &status["ca"]["next"]), (&json!(next), &Value::Null));
    told(
        &scene,
        &[
            ("RotationStarted", "rotationRevision is 2"),
            ("RotationSwitched", &format!("activated CA {next}")),
            ("RotationCompleted", &format!("removed CA {first}: every certificate it signed is replaced")),
        ],
    )
    .await;
    ends_well(scene, seen).await;
}

#[tokio::test]
async fn a_raised_revision_rotates_the_signing_key_with_visible_progress() {
    let Some(scene) = Scene::begin().await else { return };
    let issuer = json!({ "namespace": scene.namespace, "name": "auth" });
    scene.create(scene.service("auth", json!({}))).await;
    let seen = scene.rotating(json!({ "tokens": { "maxTTL": "10s", "issuedBy": issuer } }), "2s").await;
    let domain = scene.domain.clone();
    let (first, next) = (id_in(&seen.ring("signing"), "Active").unwrap(), name_in(&seen.ring("signing"), "Published"));
    let next = next.unwrap();
    assert_eq!(column(&scene, "SIGNING-KEY").await, first);
    assert_eq!(kids(&scene).await.len(), 2, "the next key is known before it is needed");
    scene.raise("tokens", 2).await;

    seen.wait_for_states("signing", &["Retiring", "Active", "Published"]).await;
    scene.wait_for("TrustDomain", &domain, "SigningKeysRotating=True", "Retiring", SOON).await;
    assert_eq!(column(&scene, "ROTATING").await, "SigningKey");
    assert_eq!(column(&scene, "SIGNING-KEY").await, next[..8]);
    assert_eq!(kids(&scene).await.len(), 3, "tokens of the old key are still good");
    let handed = scene.secret_text(&format!("{domain}-token-signer"), "kid").await;
    assert_eq!(handed, next, "the issuer has the new key");

    seen.wait_for_states("signing", &["Removed", "Active", "Published"]).await;
    scene.wait_rotated().await;
    assert_eq!(column(&scene, "ROTATING").await, "-");
    let kids = kids(&scene).await;
    assert!(kids.len() == 2 && kids[0] == next, "{kids:?}");
    told(
        &scene,
        &[
            ("RotationStarted", "rotationRevision is 2"),
            ("RotationSwitched", &format!("activated signing key {}", &next[..8])),
            ("RotationCompleted", &format!("removed signing key {first}: the last token it signed has expired")),
        ],
    )
    .await;
    assert_eq!(seen.revision("worker-tls"), 1, "certificates have nothing to do with it");
    ends_well(scene, seen).await;
}

#[tokio::test]
async fn a_second_revision_waits_until_the_rotation_under_way_is_over() {
    let Some(scene) = Scene::begin().await else { return };
    let seen = scene.rotating(json!({}), "6s").await;
    scene.raise("ca", 2).await;
    seen.wait_for_states("ca", &["Active", "Published"]).await;
    scene.raise("ca", 3).await;
    seen.wait_for_states("ca", &["Removed", "Removed", "Active"]).await;
    scene.wait_rotated().await;
    assert_eq!(seen.revision("worker-tls"), 3);
    for ring in seen.succession("ca") {
        let on_their_way = ring.matches("Staged").count() + ring.matches("Published").count();
        let living = on_their_way + ring.matches("Retiring").count();
        assert!(living <= 1, "two rotations at once: {ring}");
    }
    let started = scene.events("TrustDomain", &scene.domain).await;
    assert_eq!(started.iter().filter(|(reason, ..)| reason == "RotationStarted").count(), 2, "{started:?}");
    ends_well(scene, seen).await;
}

#[tokio::test]
async fn another_kind_of_key_is_a_rotation() {
    let Some(scene) = Scene::begin().await else { return };
    let seen = scene.rotating(json!({ "tokens": { "maxTTL": "10s" } }), "1s").await;
    let domain = scene.domain.clone();
    let spec = json!({ "ca": { "privateKey": { "size": 384 } }, "tokens": { "algorithm": "RS256" } });
    scene.patch("TrustDomain", &domain, json!({ "spec": spec })).await;
    seen.wait_for_states("ca", &["Removed", "Active"]).await;
    // The next key was of the old kind: another one had to be generated first.
    seen.wait_for_states("signing", &["Removed", "Removed", "Active", "Published"]).await;
    scene.wait_rotated().await;
    let root = scene.trust("ca.crt").await;
    let root = Certificate::chain_from_pem(root.as_bytes()).unwrap().remove(0);
    assert_eq!(root.public_key().spec(), Some(gaia_pki::KeySpec::Ecdsa384));
    let keys: Value = serde_json::from_str(&scene.trust("jwks.json").await).unwrap();
    let algorithms: Vec<&Value> = keys["keys"].as_array().unwrap().iter().map(|key| &key["alg"]).collect();
    assert_eq!(algorithms, ["RS256", "RS256"]);
    let events = scene.events("TrustDomain", &domain).await;
    let told = |text: &str| events.iter().any(|(reason, _, note)| reason == "RotationStarted" && note.contains(text));
    assert!(told("spec.ca.privateKey is") && told("spec.tokens.algorithm is RS256"), "{events:?}");
    ends_well(scene, seen).await;
}

#[tokio::test]
async fn signing_keys_rotate_by_themselves_once_their_period_has_passed() {
    let Some(scene) = Scene::begin().await else { return };
    let tokens = json!({ "rotationPeriod": "1m", "maxTTL": "10s" });
    let seen = scene.rotating(json!({ "tokens": tokens, "propagation": { "deadline": "10s" } }), "1s").await;
    let first = seen.ring("signing")["generations"][0].clone();
    let switched = async || seen.ring("signing")["generations"][1]["activatedTime"].as_str().map(str::to_owned);
    let at = wait::until("the next key signs", Duration::from_secs(90), switched).await.unwrap();
    let times = [first["activatedTime"].as_str().unwrap(), &at].map(|text| text.parse::<jiff::Timestamp>().unwrap());
    let period = times[1].duration_since(times[0]).as_secs();
    assert!((60..=75).contains(&period), "it took {period} s");
    seen.wait_for_states("signing", &["Removed", "Active", "Published"]).await;
    told(&scene, &[("RotationStarted", "rotationPeriod has passed")]).await;
    ends_well(scene, seen).await;
}

// ---- aborted -------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_published_rotation_can_be_aborted_and_requested_again() {
    let Some(scene) = Scene::begin().await else { return };
    let seen = scene.rotating(json!({}), "8s").await;
    let before = scene.trust("ca.crt").await;
    scene.raise("ca", 2).await;
    seen.wait_for_states("ca", &["Active", "Published"]).await;
    let given_up = id_in(&seen.ring("ca"), "Published").unwrap();
    scene.annotate("gaia.dev/abort", &given_up).await;
    seen.wait_for_states("ca", &["Active", "Removed"]).await;
    scene.wait_rotated().await;
    assert_eq!(scene.trust("ca.crt").await, before);
    assert_eq!(seen.revision("worker-tls"), 1, "nothing was signed by it");
    assert!(scene.leaf_is_whole("worker-tls").await);
    told(&scene, &[("RotationAborted", &format!("aborted the rotation to CA {given_up}"))]).await;
    let stalled = scene.condition("TrustDomain", &scene.domain, "Stalled").await.unwrap();
    assert_eq!(stalled.status, "False", "the annotation can stay: {stalled:?}");

    scene.raise("ca", 3).await;
    seen.wait_for_states("ca", &["Removed", "Removed", "Active"]).await;
    scene.wait_rotated().await;
    assert!(scene.leaf_is_whole("worker-tls").await);
    ends_well(scene, seen).await;
}

#[tokio::test]
async fn a_ca_that_signs_already_can_be_given_up_while_the_one_before_is_trusted() {
    let Some(scene) = Scene::begin().await else { return };
    let seen = scene.rotating(json!({}), "8s").await;
    let before = scene.trust("ca.crt").await;
    scene.raise("ca", 2).await;
    let reissued = async || seen.revision("worker-tls") == 2;
    wait::until("the certificate is of the new CA", SOON, reissued).await.unwrap();
    let given_up = id_in(&seen.ring("ca"), "Active").unwrap();
    scene.annotate("gaia.dev/abort", &given_up).await;
    seen.wait_for_states("ca", &["Active", "Retiring"]).await;
    seen.wait_for_states("ca", &["Active", "Removed"]).await;
    scene.wait_rotated().await;
    assert_eq!(scene.trust("ca.crt").await, before);
    assert!(scene.leaf_is_whole("worker-tls").await);
    assert_eq!(seen.revision("worker-tls"), 3, "it was issued by the new one, and then again by the old one");
    told(&scene, &[("RotationAborted", &format!("aborted the rotation to CA {given_up}"))]).await;
    ends_well(scene, seen).await;
}

#[tokio::test]
async fn a_signing_key_that_signs_already_can_be_given_up_while_the_one_before_is_trusted() {
    let Some(scene) = Scene::begin().await else { return };
    let seen = scene.rotating(json!({ "tokens": { "maxTTL": "10s" } }), "1s").await;
    let first = name_in(&seen.ring("signing"), "Active").unwrap();
    scene.raise("tokens", 2).await;
    seen.wait_for_states("signing", &["Retiring", "Active", "Published"]).await;
    let given_up = name_in(&seen.ring("signing"), "Active").unwrap();
    scene.annotate("gaia.dev/abort", &given_up[..8]).await;
    seen.wait_for_states("signing", &["Active", "Retiring", "Published"]).await;
    assert_eq!(kids(&scene).await.len(), 3, "what the key that was given up has signed is still good");
    seen.wait_for_states("signing", &["Active", "Removed", "Published"]).await;
    scene.wait_rotated().await;
    let kids = kids(&scene).await;
    assert!(kids.contains(&first) && !kids.contains(&given_up), "{kids:?}");
    ends_well(scene, seen).await;
}

#[tokio::test]
async fn a_finished_rotation_cannot_be_aborted_and_the_reason_is_reported() {
    let Some(scene) = Scene::begin().await else { return };
    let seen = scene.rotating(json!({}), "1s").await;
    let domain = scene.domain.clone();
    scene.raise("ca", 2).await;
    seen.wait_for_states("ca", &["Removed", "Active"]).await;
    scene.wait_rotated().await;
    let (old, active) = (id_in(&seen.ring("ca"), "Removed").unwrap(), id_in(&seen.ring("ca"), "Active").unwrap());
    for (asked, why) in [
        (active.as_str(), "the previous generation is already removed"),
        (old.as_str(), "it is already Removed"),
        ("00000000", "no generation has that id"),
    ] {
        scene.annotate("gaia.dev/abort", asked).await;
        let named = format!("metadata.annotations[gaia.dev/abort]: {asked:?} is ignored: {why}");
        wait::until(&named, SOON, async || match scene.condition("TrustDomain", &domain, "AnnotationIgnored").await {
            Some(seen) if seen.message.starts_with(&named) => Seen::Yes(()),
            other => Seen::NotYet(format!("{other:?}")),
        })
        .await
        .unwrap();
    }
    assert_eq!(scene.condition("TrustDomain", &domain, "Ready").await.unwrap().status, "True");
    scene.patch("TrustDomain", &domain, json!({ "metadata": { "annotations": { "gaia.dev/abort": null } } })).await;
    assert_eq!(scene.condition("TrustDomain", &domain, "Stalled").await.unwrap().status, "False");
    assert_eq!(states_of(&seen.ring("ca")), ["Removed", "Active"]);
    ends_well(scene, seen).await;
}

// ---- leaves that are revoked ---------------------------------------------------------------------------------------

#[tokio::test]
async fn a_revoked_certificate_is_on_the_denylist_and_replaced() {
    let Some(scene) = Scene::begin().await else { return };
    let seen = scene.rotating(json!({}), "1s").await;
    let openssl = OpenSsl::new();
    let leaked = openssl.fingerprint(&scene.secret_text("worker-tls", "tls.crt").await).await;
    let mark = scene.mark().await;
    scene.patch("TrustDomain", &scene.domain, json!({ "spec": { "revoked": { "leaves": [leaked] } } })).await;
    let replaced = async || seen.revision("worker-tls") == 2 && scene.trust("denylist.json").await.contains(&leaked);
    wait::until("it is replaced and refused", SOON, replaced).await.unwrap();
    let denylist: Value = serde_json::from_str(&scene.trust("denylist.json").await).unwrap();
    assert_eq!(denylist["leaves"], json!([leaked]));
    assert!(scene.leaf_is_whole("worker-tls").await);
    let writes = scene.writes(mark).await;
    let of_objects = writes.iter().filter(|write| !write.contains(" events ") && !write.contains("/status "));
    assert_eq!(of_objects.collect::<Vec<_>>(), ["patch configmaps td-trust", "patch secrets worker-tls"]);
    wait::until("an event reports it", SOON, async || {
        let events = scene.events("ServiceCertificate", "worker").await;
        let told = events.iter().any(|(.., note)| note.contains("the certificate was revoked"));
        if told { Seen::Yes(()) } else { Seen::NotYet(format!("{events:?}")) }
    })
    .await
    .unwrap();
    ends_well(scene, seen).await;
}

// ---- impossible times ----------------------------------------------------------------------------------------------

#[tokio::test]
async fn with_a_ring_times_that_cannot_work_are_a_warning_with_both_numbers_and_stop_nothing() {
    let Some(scene) = Scene::begin().await else { return };
    let seen = scene.rotating(json!({}), "1s").await;
    let domain = scene.domain.clone();
    let before = seen.ring("ca");
    for (spec, field, sum) in [
        (json!({ "ca": { "duration": "6000h" } }), "spec.ca", "6000h < 4(3240h + 1s + 30s) + 1s + 2 * 0s = 12960h2m5s"),
        (
            json!({ "ca": { "duration": null }, "tokens": { "rotationPeriod": "30m" } }),
            "spec.tokens.rotationPeriod",
            "30m < 2 * 1s + 30s + 1h + 2 * 0s = 1h0m32s",
        ),
        (
            json!({ "tokens": { "rotationPeriod": "20h", "maxTTL": "24h" } }),
            "spec.tokens.rotationPeriod",
            "20h < 2 * 1s + 30s + 24h + 2 * 0s = 24h0m32s",
        ),
        (
            json!({
                "tokens": { "rotationPeriod": "2160h" },
                "ca": { "rotationPeriod": "1h" },
                "propagation": { "deadline": "2h" },
            }),
            "spec.ca.rotationPeriod",
            "1h < 2 * 1s + 2h + 0s + 2 * 0s = 2h0m2s",
        ),
    ] {
        scene.patch("TrustDomain", &domain, json!({ "spec": spec })).await;
        let message = warns(&scene, "LifetimesTooTight", sum).await;
        assert!(message.contains(field), "{message}");
        assert_eq!(scene.condition("TrustDomain", &domain, "Stalled").await.unwrap().status, "False");
        assert_eq!(scene.condition("TrustDomain", &domain, "Ready").await.unwrap().status, "True");
    }
    assert_eq!(seen.ring("ca"), before, "a warning begins no rotation");
    // A rotation that is requested in this state continues, and so do certificates.
    scene.raise("ca", 2).await;
    scene.create(scene.certificate("late", json!({}))).await;
    scene.wait_ready("ServiceCertificate", &["late", "worker"]).await;
    seen.wait_for_states("ca", &["Removed", "Active"]).await;

    let long = scene.certificate("long", json!({ "duration": "26000h" }));
    let ca = json!({ "duration": "13000h", "rotationPeriod": null });
    let possible = json!({ "ca": ca, "propagation": { "deadline": "30s" } });
    scene.patch("TrustDomain", &domain, json!({ "spec": possible })).await;
    scene.raise("ca", 3).await;
    seen.wait_for_states("ca", &["Removed", "Removed", "Active"]).await;
    scene.create(long).await;
    let message = scene.wait_for("ServiceCertificate", "long", "DurationClamped=True", "DurationClamped", SOON).await;
    assert!(message.contains("spec.duration: requested 26000h, issued for 1"), "{message}");
    let gone = async || match scene.condition("TrustDomain", &domain, "LifetimesTooTight").await {
        None => Seen::Yes(()),
        Some(found) => Seen::NotYet(format!("{found:?}")),
    };
    wait::until("the warning is gone", SOON, gone).await.unwrap();
    ends_well(scene, seen).await;
}

// ---- shared --------------------------------------------------------------------------------------------------------

/// The cell of a column in the output of `kubectl get trustdomain`.
async fn column(scene: &Scene, name: &str) -> String {
    let printed = scene.plane.kubectl(&["get", "trustdomain", &scene.domain]).await.unwrap();
    let (header, row) = printed.split_once('\n').unwrap();
    let from = header.find(name).unwrap();
    row[from..].split_whitespace().next().unwrap().to_owned()
}

async fn roots(scene: &Scene) -> usize {
    scene.trust("ca.crt").await.matches("BEGIN CERTIFICATE").count()
}

/// The kids of the published key set, the active key's first.
async fn kids(scene: &Scene) -> Vec<String> {
    let keys: Value = serde_json::from_str(&scene.trust("jwks.json").await).unwrap();
    keys["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

/// Waits until the TrustDomain has a warning whose message contains `about`.
async fn warns(scene: &Scene, type_: &str, about: &str) -> String {
    scene.wait_for_message(type_, type_, about).await
}

/// Each of these events was sent once.
async fn told(scene: &Scene, wanted: &[(&str, &str)]) {
    for (reason, text) in wanted {
        wait::until(&format!("the event {reason}: {text}"), SOON, async || {
            let events = scene.events("TrustDomain", &scene.domain).await;
            let found: Vec<_> = events.iter().filter(|(is, _, note)| is == reason && note.contains(text)).collect();
            if found.len() == 1 && found[0].1 == 1 { Seen::Yes(()) } else { Seen::NotYet(format!("{events:?}")) }
        })
        .await
        .unwrap();
    }
}

async fn ends_well(scene: Scene, seen: Chronicle) {
    seen.catch_up().await;
    seen.nothing_twice();
    scene.end().await;
}
