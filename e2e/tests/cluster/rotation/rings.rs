//! Faults of rings: damage, loss, old backups. Nothing is lost, and no leaked generation is trusted again.

use std::collections::BTreeSet;

use crate::common::chronicle::{id_in, name_in, states_of};
use crate::common::{OPERATOR_NAMESPACE, Plane, SOON, Scene};
use crate::rotation::rings_support::{
    backup, copy, ends_well, epoch_of, id_in_nth, is_refused, keys_are_gone, leaf, objects, outdated, put_back,
    restored, ring, rotated, signing_keys_are_settled, stalls,
};
use gaia_e2e::wait::{self, Seen};
use serde_json::{Value, json};

// ---- damaged, lost, and restored by an administrator ---------------------------------------------------------------

#[tokio::test]
async fn a_ring_that_cannot_be_read_is_left_alone_until_it_is_restored_from_its_copy() {
    let Some(scene) = Scene::begin().await else { return };
    let seen = rotated(&scene).await;
    let domain = scene.domain.clone();
    let before = (scene.trust("ca.crt").await, leaf(&scene).await);
    let active = id_in(&seen.ring("ca"), "Active").unwrap();
    let mark = scene.mark().await;
    let garbage = json!({ "stringData": { "ring.json": "{ \"formatVersion\": 1, " } });
    scene.patch_in(OPERATOR_NAMESPACE, "Secret", &ring(&scene, "ca"), garbage).await;
    let message = scene.wait_for("TrustDomain", &domain, "Stalled=True", "RingUnreadable", SOON).await;
    assert!(message.contains(&ring(&scene, "ca")), "{message}");
    // A rotation and a certificate that are requested now must wait.
    scene.raise("ca", 3).await;
    scene.create(scene.certificate("late", json!({}))).await;
    scene.wait_for("ServiceCertificate", "late", "Ready=False", "TrustDomainNotReady", SOON).await;
    assert_eq!(objects(&scene.writes(mark).await), [""; 0]);
    // Others are not affected.
    let other = scene.plane.scene().await;
    other.rotating(json!({}), "1s").await;

    scene.annotate("gaia.dev/restore", "ca@1").await;
    let asked = "metadata.annotations[gaia.dev/restore]: \"ca@1\" cannot be restored: the existing copy has epoch 2";
    stalls(&scene, "RestoreNotPossible", asked).await;
    scene.annotate("gaia.dev/restore", "ca@2").await;
    seen.wait_for_states("ca", &["Removed", "Removed", "Active"]).await;
    scene.wait_rotated().await;
    scene.wait_for("TrustDomain", &domain, "Stalled=False", "Settled", SOON).await;
    scene.wait_ready("ServiceCertificate", &["worker", "late"]).await;
    restored(&scene, &seen, "ca", 2).await;
    assert_eq!(id_in_nth(&seen.ring("ca"), 1), active, "the CA that signed is the one that was rotated from");
    assert_ne!((scene.trust("ca.crt").await, leaf(&scene).await), before, "and the rotation took place");
    scene.end().await;
}

#[tokio::test]
async fn a_deleted_ring_is_restored_from_its_copy_without_re_issues() {
    let Some(scene) = Scene::begin().await else { return };
    let seen = rotated(&scene).await;
    let domain = scene.domain.clone();
    let before = (scene.trust("ca.crt").await, leaf(&scene).await);
    for (kind, which) in [("ca", "ca"), ("signing", "signing")] {
        let epoch = epoch_of(&copy(&scene, which).await);
        let keys = name_in(&seen.ring(which), "Active").unwrap();
        let mark = scene.mark().await;
        scene.delete_in(OPERATOR_NAMESPACE, "Secret", &ring(&scene, which)).await;
        let message = scene.wait_for("TrustDomain", &domain, "Stalled=True", "RingMissing", SOON).await;
        assert!(message.contains(&ring(&scene, which)) && message.contains("its copy exists"), "{message}");
        assert_eq!(objects(&scene.writes(mark).await), [""; 0], "no new root and no new key without a request");
        scene.annotate("gaia.dev/restore", &format!("{kind}@{epoch}")).await;
        scene.wait_for("TrustDomain", &domain, "Stalled=False", "Settled", SOON).await;
        scene.wait_rotated().await;
        seen.catch_up().await;
        assert_eq!(name_in(&seen.ring(which), "Active").unwrap(), keys, "the same one signs");
        restored(&scene, &seen, which, epoch).await;
    }
    scene.wait_ready("ServiceCertificate", &["worker"]).await;
    assert_eq!((scene.trust("ca.crt").await, leaf(&scene).await), before);
    scene.end().await;
}

#[tokio::test]
async fn a_ring_from_an_old_backup_changes_nothing_and_the_newer_one_is_gone_on_with() {
    let Some(scene) = Scene::begin().await else { return };
    let seen = scene.rotating(json!({}), "1s").await;
    let old = backup(&scene, "ca").await;
    scene.raise("ca", 2).await;
    seen.wait_for_states("ca", &["Removed", "Active"]).await;
    scene.wait_rotated().await;
    let new = backup(&scene, "ca").await;
    outdated(&scene, &old).await;
    put_back(&scene, &new).await;
    scene.wait_for("TrustDomain", &scene.domain, "Stalled=False", "Settled", SOON).await;
    scene.wait_ready("ServiceCertificate", &["worker"]).await;
    assert!(scene.leaf_is_whole("worker-tls").await);
    assert_eq!(seen.revision("worker-tls"), 2, "the certificate is the one it was");
    scene.end().await;
}

#[tokio::test]
async fn a_ring_from_an_old_backup_is_brought_up_to_date_from_the_copy() {
    let Some(scene) = Scene::begin().await else { return };
    let seen = scene.rotating(json!({}), "1s").await;
    let old = backup(&scene, "ca").await;
    scene.raise("ca", 2).await;
    seen.wait_for_states("ca", &["Removed", "Active"]).await;
    scene.wait_rotated().await;
    let (active, bundle) = (id_in(&seen.ring("ca"), "Active").unwrap(), scene.trust("ca.crt").await);
    outdated(&scene, &old).await;
    scene.annotate("gaia.dev/restore", "ca@2").await;
    scene.wait_for("TrustDomain", &scene.domain, "Stalled=False", "Settled", SOON).await;
    seen.wait_for_states("ca", &["Removed", "Active"]).await;
    scene.wait_rotated().await;
    restored(&scene, &seen, "ca", 2).await;
    assert_eq!(id_in(&seen.ring("ca"), "Active").unwrap(), active);
    assert_eq!(scene.trust("ca.crt").await, bundle);
    assert_eq!(seen.revision("worker-tls"), 2, "the certificate is the one it was");
    scene.end().await;
}

#[tokio::test]
async fn a_distrusted_ca_stays_distrusted_after_a_restore() {
    let Some(scene) = Scene::begin().await else { return };
    let seen = scene.rotating(json!({ "tokens": { "maxTTL": "10s" } }), "1s").await;
    let domain = scene.domain.clone();
    let old = backup(&scene, "ca").await;
    let (leaked, id) = (name_in(&seen.ring("ca"), "Active").unwrap(), id_in(&seen.ring("ca"), "Active").unwrap());
    let listed = json!([{ "fingerprint": leaked, "mode": "Immediate" }]);
    scene.patch("TrustDomain", &domain, json!({ "spec": { "ca": { "distrusted": listed } } })).await;
    is_refused(&seen).await;
    scene.wait_rotated().await;
    signing_keys_are_settled(&seen).await;
    let bundle = scene.trust("ca.crt").await;
    keys_are_gone(&scene, &id).await;

    // The distrust is permanent.
    let mark = scene.mark().await;
    scene.patch("TrustDomain", &domain, json!({ "spec": { "ca": { "distrusted": null } } })).await;
    scene.wait_for("TrustDomain", &domain, "Stalled=False", "Settled", SOON).await;
    assert_eq!(objects(&scene.writes(mark).await), [""; 0]);

    // Lost and restored.
    let epoch = epoch_of(&copy(&scene, "ca").await);
    scene.delete_in(OPERATOR_NAMESPACE, "Secret", &ring(&scene, "ca")).await;
    scene.wait_for("TrustDomain", &domain, "Stalled=True", "RingMissing", SOON).await;
    scene.annotate("gaia.dev/restore", &format!("ca@{epoch}")).await;
    scene.wait_for("TrustDomain", &domain, "Stalled=False", "Settled", SOON).await;
    is_refused(&seen).await;
    scene.wait_rotated().await;
    keys_are_gone(&scene, &id).await;
    assert_eq!(scene.trust("ca.crt").await, bundle);

    // Restored from an earlier backup, and updated.
    outdated(&scene, &old).await;
    let epoch = epoch_of(&copy(&scene, "ca").await);
    scene.annotate("gaia.dev/restore", &format!("ca@{epoch}")).await;
    let message = "the ring is up to date";
    wait::until(message, SOON, async || {
        let states = states_of(&seen.ring("ca"));
        if states == ["Distrusted", "Active"] { Seen::Yes(()) } else { Seen::NotYet(format!("{states:?}")) }
    })
    .await
    .unwrap();
    scene.wait_for("TrustDomain", &domain, "Stalled=False", "Settled", SOON).await;
    scene.wait_rotated().await;
    keys_are_gone(&scene, &id).await;
    assert_eq!(scene.trust("ca.crt").await, bundle);
    assert!(scene.leaf_is_whole("worker-tls").await);
    assert_eq!(seen.revision("worker-tls"), 2, "it was replaced once");
    scene.end().await;
}

#[tokio::test]
async fn a_ring_of_a_newer_operator_is_left_alone() {
    let Some(scene) = Scene::begin().await else { return };
    let seen = rotated(&scene).await;
    let name = ring(&scene, "ca");
    let mut newer = seen.ring("ca");
    newer["formatVersion"] = json!(2);
    let written = json!({ "stringData": { "ring.json": newer.to_string() } });
    let mark = scene.mark().await;
    scene.patch_in(OPERATOR_NAMESPACE, "Secret", &name, written).await;
    let message = scene.wait_for("TrustDomain", &scene.domain, "Stalled=True", "RingUnreadable", SOON).await;
    assert!(message.contains("has formatVersion 2, this operator reads up to 1"), "{message}");
    scene.raise("ca", 3).await;
    assert_eq!(objects(&scene.writes(mark).await), [""; 0]);

    newer["formatVersion"] = json!(1);
    let written = json!({ "stringData": { "ring.json": newer.to_string() } });
    scene.patch_in(OPERATOR_NAMESPACE, "Secret", &name, written).await;
    seen.wait_for_states("ca", &["Removed", "Removed", "Active"]).await;
    scene.wait_rotated().await;
    ends_well(scene, seen).await;
}

// ---- in the middle of a rotation -----------------------------------------------------------------------------------

#[tokio::test]
async fn a_trust_domain_recreated_in_a_rotation_continues_it() {
    let Some(scene) = Scene::begin().await else { return };
    let seen = scene.rotating(json!({}), "3s").await;
    let domain = scene.domain.clone();
    let spec = scene.get("TrustDomain", &domain).await.unwrap()["spec"].clone();
    scene.raise("ca", 2).await;
    seen.wait_for_states("ca", &["Active", "Published"]).await;
    let next = id_in(&seen.ring("ca"), "Published");
    scene.delete("TrustDomain", &domain).await;
    let gone = async || scene.get("TrustDomain", &domain).await.is_none();
    wait::until("the TrustDomain is gone", SOON, gone).await.unwrap();
    scene.create(scene.trust_domain(spec)).await;
    seen.wait_for_states("ca", &["Removed", "Active"]).await;
    scene.wait_rotated().await;
    assert_eq!(id_in(&seen.ring("ca"), "Active"), next);
    scene.wait_ready("ServiceCertificate", &["worker"]).await;
    assert_eq!(seen.revision("worker-tls"), 2);
    ends_well(scene, seen).await;
}

#[tokio::test]
async fn damage_in_a_rotation_is_repaired_before_it_continues() {
    let Some(scene) = Scene::begin().await else { return };
    scene.create(scene.service("auth", json!({}))).await;
    let issuer = json!({ "namespace": scene.namespace, "name": "auth" });
    let seen = scene.rotating(json!({ "tokens": { "issuedBy": issuer } }), "8s").await;
    scene.wait_ready("GaiaService", &["auth"]).await;
    let (trust, signer) = (format!("{}-trust", scene.domain), format!("{}-token-signer", scene.domain));
    let edited = json!({ "data": { "ca.crt": "an attacker's" } });
    let no_label = json!({ "metadata": { "labels": { "app.kubernetes.io/managed-by": null } } });
    let emptied = json!({ "data": { "ca.crt": null } });
    let lost = [
        (Damage::Delete("ConfigMap", &trust), "create configmaps td-trust"),
        (Damage::Delete("Secret", &signer), "create secrets td-token-signer"),
        (Damage::Patch("Secret", "worker-tls", emptied), "patch secrets worker-tls"),
    ];
    let spoilt = [
        (Damage::Patch("ConfigMap", &trust, edited), "patch configmaps td-trust"),
        (Damage::Patch("Secret", "worker-tls", no_label), "patch secrets worker-tls"),
    ];
    for (revision, damages) in [(2, &lost[..]), (3, &spoilt[..])] {
        scene.raise("ca", revision).await;
        let published = async || id_in(&seen.ring("ca"), "Published").is_some();
        wait::until("the next CA is published", SOON, published).await.unwrap();
        let mark = scene.mark().await;
        for (damage, _) in damages {
            damage.happens(&scene).await;
        }
        let over = async || {
            let ring = seen.ring("ca");
            ring["revision"] == revision && states_of(&ring).ends_with(&["Removed".to_owned(), "Active".to_owned()])
        };
        wait::until("the rotation is over", SOON, over).await.unwrap();
        scene.wait_rotated().await;
        let mut writes = scene.writes_now(mark).await;
        writes.retain(|write| write.succeeded() && write.resource != "events" && write.subresource.is_empty());
        writes.sort_by_key(|write| write.received);
        let writes: Vec<String> = writes.iter().map(|write| scene.describe(write)).collect();
        let before = writes.iter().take_while(|write| !write.starts_with("update secrets td-ca-ring"));
        let before: BTreeSet<&str> = before.map(String::as_str).collect();
        let repairs: BTreeSet<&str> = damages.iter().map(|(_, repair)| *repair).collect();
        assert_eq!(before, repairs, "{writes:#?}");
        for leaf in ["worker-tls", "auth-tls"] {
            assert!(scene.leaf_is_whole(leaf).await);
            assert_eq!(seen.revision(leaf), usize::try_from(revision).unwrap());
        }
    }
    ends_well(scene, seen).await;
}

enum Damage<'a> {
    Delete(&'static str, &'a str),
    Patch(&'static str, &'a str, Value),
}

impl Damage<'_> {
    async fn happens(&self, scene: &Scene) {
        match self {
            Self::Delete(kind, name) => scene.delete(kind, name).await,
            Self::Patch(kind, name, patch) => scene.patch(kind, name, patch.clone()).await,
        }
    }
}

#[tokio::test]
async fn a_backup_that_is_restored_without_owners_in_mid_rotation_is_gone_on_with() {
    let Some(plane) = Plane::own(&[]).await else { return };
    let operator = plane.start_operator().await;
    let scene = plane.scene().await;
    let seen = scene.rotating(json!({}), "3s").await;
    scene.raise("ca", 2).await;
    seen.wait_for_states("ca", &["Retiring", "Active"]).await;
    let reissued = async || seen.revision("worker-tls") == 2;
    wait::until("the certificate is of the new CA", SOON, reissued).await.unwrap();
    operator.kill9().unwrap();

    let kinds = [("TrustDomain", scene.domain.as_str()), ("ServiceCertificate", "worker"), ("Secret", "worker-tls")];
    let mut backups = vec![];
    for (kind, name) in kinds {
        let mut object = scene.get(kind, name).await.unwrap();
        for field in ["uid", "resourceVersion", "ownerReferences", "creationTimestamp", "managedFields"] {
            object["metadata"].as_object_mut().unwrap().remove(field);
        }
        object.as_object_mut().unwrap().remove("status");
        backups.push(object);
        scene.delete(kind, name).await;
    }
    for (kind, name) in kinds {
        let gone = async || scene.get(kind, name).await.is_none();
        wait::until("it is gone", SOON, gone).await.unwrap();
    }
    for object in backups {
        scene.create(object).await;
    }
    operator.restart().unwrap();
    seen.wait_for_states("ca", &["Removed", "Active"]).await;
    scene.wait_rotated().await;
    scene.wait_ready("ServiceCertificate", &["worker"]).await;
    seen.catch_up().await;
    assert_eq!(seen.revision("worker-tls"), 2, "nothing is re-issued");
    let owned = async || {
        let secret = scene.get("Secret", "worker-tls").await.unwrap();
        let certificate = scene.get("ServiceCertificate", "worker").await.unwrap();
        secret["metadata"]["ownerReferences"][0]["uid"] == certificate["metadata"]["uid"]
    };
    wait::until("it has its owner again", SOON, owned).await.unwrap();
    assert!(scene.leaf_is_whole("worker-tls").await);
    ends_well(scene, seen).await;
}
