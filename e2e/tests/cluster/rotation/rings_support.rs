//! Rings in the tests of `operator_rings`: read, backed up, put back.
#![allow(unreachable_pub, reason = "a module of a test program")]

use std::collections::BTreeMap;

use crate::common::chronicle::{Chronicle, ring_of, states_of};
use crate::common::{SOON, Scene};
use gaia_e2e::wait::{self, Seen};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use serde_json::{Value, json};

/// A platform whose CA was rotated once.
pub async fn rotated(scene: &Scene) -> Chronicle {
    let seen = scene.rotating(json!({ "tokens": { "maxTTL": "10s" } }), "1s").await;
    scene.raise("ca", 2).await;
    seen.wait_for_states("ca", &["Removed", "Active"]).await;
    scene.wait_rotated().await;
    seen
}

pub fn ring(scene: &Scene, which: &str) -> String {
    format!("{}-{which}-ring", scene.domain)
}

pub async fn copy(scene: &Scene, which: &str) -> Secret {
    scene.rings().get(&format!("{}-previous", ring(scene, which))).await.unwrap()
}

pub fn epoch_of(secret: &Secret) -> u64 {
    ring_of(secret)["epoch"].as_u64().unwrap()
}

pub fn id_in_nth(ring: &Value, nth: usize) -> String {
    ring["generations"][nth]["id"].as_str().unwrap().to_owned()
}

pub async fn leaf(scene: &Scene) -> String {
    scene.secret_text("worker-tls", "tls.crt").await
}

pub async fn backup(scene: &Scene, which: &str) -> Secret {
    scene.rings().get(&ring(scene, which)).await.unwrap()
}

/// As `kubectl replace --force` of a backup does.
pub async fn put_back(scene: &Scene, backup: &Secret) {
    let name = backup.metadata.name.clone().unwrap();
    let mut now = scene.rings().get(&name).await.unwrap();
    now.data = backup.data.clone();
    scene.rings().replace(&name, &PostParams::default(), &now).await.unwrap();
}

/// An old backup replaces the ring: nothing is written from it.
pub async fn outdated(scene: &Scene, old: &Secret) {
    let before = (scene.trust("ca.crt").await, leaf(scene).await);
    let mark = scene.mark().await;
    put_back(scene, old).await;
    let message = scene.wait_for("TrustDomain", &scene.domain, "Stalled=True", "RingOutdated", SOON).await;
    assert!(message.contains("an older ring never overwrites a newer one"), "{message}");
    assert_eq!(objects(&scene.writes(mark).await), [""; 0]);
    assert_eq!((scene.trust("ca.crt").await, leaf(scene).await), before);
}

/// The ring records its restore, an Event reports it, and no epoch was used for two states.
pub async fn restored(scene: &Scene, seen: &Chronicle, which: &str, from: u64) {
    seen.catch_up().await;
    assert_eq!(seen.ring(which)["restoredFrom"], from);
    wait::until("an event reports it", SOON, async || {
        let events = scene.events("TrustDomain", &scene.domain).await;
        let text = format!("{} was restored from its copy of epoch {from}", ring(scene, which));
        let told = events.iter().any(|(reason, _, note)| reason == "RingRestored" && note.contains(&text));
        if told { Seen::Yes(()) } else { Seen::NotYet(format!("{events:?}")) }
    })
    .await
    .unwrap();
}

/// The first CA is distrusted, and this is acknowledged everywhere.
pub async fn is_refused(seen: &Chronicle) {
    wait::until("the CA that leaked is refused everywhere", SOON, async || {
        let ring = seen.ring("ca");
        let first = &ring["generations"][0];
        let is_refused = first["state"] == "Distrusted" && first["distrust"]["refusedTime"].is_string();
        if is_refused && states_of(&ring) == ["Distrusted", "Active"] {
            Seen::Yes(())
        } else {
            Seen::NotYet(ring.to_string())
        }
    })
    .await
    .unwrap();
}

/// Waits until the next signing key is published and the leaked one is refused: neither delays a rotation.
pub async fn signing_keys_are_settled(seen: &Chronicle) {
    wait::until("the signing keys are settled", SOON, async || {
        let ring = seen.ring("signing");
        let mut all = ring["generations"].as_array().unwrap().iter();
        let waits = |key: &Value| {
            key["state"] == "Staged" || (key["state"] == "Distrusted" && !key["distrust"]["refusedTime"].is_string())
        };
        if all.any(waits) { Seen::NotYet(ring.to_string()) } else { Seen::Yes(()) }
    })
    .await
    .unwrap();
}

/// Neither the ring nor its copy has the private key of a generation.
pub async fn keys_are_gone(scene: &Scene, id: &str) {
    for secret in [backup(scene, "ca").await, copy(scene, "ca").await] {
        let data: BTreeMap<String, ByteString> = secret.data.unwrap();
        let keys: Vec<&String> = data.keys().filter(|name| name.starts_with(id)).collect();
        assert_eq!(keys, [""; 0], "{:?}", secret.metadata.name);
    }
}

/// Waits until the TrustDomain is stalled with exactly that message.
pub async fn stalls(scene: &Scene, reason: &str, about: &str) {
    wait::until(&format!("it is stalled: {about}"), SOON, async || {
        match scene.condition("TrustDomain", &scene.domain, "Stalled").await {
            Some(found) if found.reason == reason && found.message.contains(about) => Seen::Yes(()),
            other => Seen::NotYet(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
}

/// Writes of objects: neither Events nor statuses.
pub fn objects(writes: &[String]) -> Vec<String> {
    let of_objects = writes.iter().filter(|write| !write.contains(" events ") && !write.contains("/status "));
    of_objects.cloned().collect()
}

pub async fn ends_well(scene: Scene, seen: Chronicle) {
    seen.catch_up().await;
    seen.nothing_twice();
    scene.end().await;
}
