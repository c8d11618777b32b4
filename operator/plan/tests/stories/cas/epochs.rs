//! Epochs in projections: what a tenant writes there is repaired, what a newer ring wrote stops an older one.

use super::*;
use gaia_api::crd::{DistrustMode, DistrustedCa};
use gaia_api::names::{self, key};
use gaia_plan::object::ObjectKey;

fn set(world: &mut World, object: &ObjectKey, annotation: &str, value: Option<&str>) {
    let version = world.fresh();
    let stored = world.objects.get_mut(object).unwrap();
    match value {
        Some(value) => stored.facts.annotations.insert(annotation.to_owned(), value.to_owned()),
        None => stored.facts.annotations.remove(annotation),
    };
    stored.touch(version);
}

fn ring_key(ca: bool) -> ObjectKey {
    ObjectKey::secret("gaia-system", if ca { names::ca_ring(TD) } else { names::signing_ring(TD) })
}

/// A ring as main wrote it: without the key of the MACs, and so are its projections.
fn as_main_wrote_it(world: &mut World) {
    for ca in [true, false] {
        let version = world.fresh();
        let stored = world.objects.get_mut(&ring_key(ca)).unwrap();
        stored.content.remove(key::EPOCH_MAC_KEY);
        stored.touch(version);
    }
    for stored in world.objects.values_mut() {
        stored.facts.annotations.remove(annotation::CA_EPOCH_MAC);
        stored.facts.annotations.remove(annotation::SIGNING_EPOCH_MAC);
    }
}

#[rstest]
#[case::trust_ca(ObjectKey::config_map("shop", "gaia-trust"), annotation::CA_EPOCH)]
#[case::trust_signing(ObjectKey::config_map("shop", "gaia-trust"), annotation::SIGNING_EPOCH)]
#[case::signer(ObjectKey::secret("auth", "gaia-token-signer"), annotation::SIGNING_EPOCH)]
#[case::grants(ObjectKey::config_map("auth", "gaia-grants"), annotation::SIGNING_EPOCH)]
#[case::leaf(ObjectKey::secret("shop", "asset-service-tls"), annotation::CA_EPOCH)]
fn an_epoch_that_a_tenant_wrote_is_repaired_and_freezes_nothing(
    #[case] object: ObjectKey,
    #[case] epoch: &str,
    #[values("999999", "18446744073709551615", "4503599627370496")] claim: &str,
    #[values(false, true)] copies_mac: bool,
) {
    let mut world = fleet();
    set(&mut world, &object, epoch, Some(claim));
    if !copies_mac {
        set(&mut world, &object, &format!("{epoch}-mac"), None);
    }
    world.settle();
    says(&world, &domain(), "Stalled", "False", "Settled");
    assert!(world.objects[&object].facts.number(epoch).unwrap() < 100);
    ask_to_rotate(&mut world, true);
    ask_to_rotate(&mut world, false);
    until(&mut world, true, "Removed, Active");
    until(&mut world, false, "Removed, Active, Published");
    // And each time again, also during a distrust.
    set(&mut world, &object, epoch, Some(claim));
    let leaked = world.ca_ring(TD).unwrap().active().unwrap().material.fingerprint.clone();
    world.edit_domain(TD, |found| {
        found.spec.ca.distrusted = vec![DistrustedCa { fingerprint: leaked, mode: DistrustMode::Immediate }];
    });
    world.settle();
    assert_eq!(world.states(true), "Removed, Distrusted, Active");
    sound(&world);
}

#[test]
fn a_mac_that_is_taken_away_or_taken_from_another_object_is_repaired() {
    let mut world = fleet();
    let shop = ObjectKey::config_map("shop", "gaia-trust");
    let of = |world: &World, ns: &str| {
        world.config_map(ns, "gaia-trust").unwrap().facts.annotations[annotation::CA_EPOCH_MAC].clone()
    };
    let (right, other) = (of(&world, "shop"), of(&world, "auth"));
    assert_ne!(right, other);
    for wrong in [None, Some(other.as_str())] {
        set(&mut world, &shop, annotation::CA_EPOCH_MAC, wrong);
        world.settle();
        assert_eq!(of(&world, "shop"), right);
    }
    sound(&world);
}

#[rstest]
fn a_valid_epoch_above_the_ring_shows_an_older_backup_and_nothing_is_written(#[values(true, false)] ca: bool) {
    let mut world = fleet();
    let backup = world.objects[&ring_key(ca)].clone();
    ask_to_rotate(&mut world, ca);
    until(&mut world, ca, if ca { "Removed, Active" } else { "Removed, Active, Published" });
    let (now, mut old) = (world.objects[&ring_key(ca)].clone(), backup);
    old.facts.uid.clone_from(&now.facts.uid);
    old.touch(world.fresh());
    world.objects.insert(ring_key(ca), old);
    world.tamper(&ObjectKey::config_map("shop", "gaia-trust"), Tamper::Garbage);
    let before = world.log.len();
    world.settle();
    assert_eq!(world.done_since(before), [""; 0]);
    let message = says(&world, &domain(), "Stalled", "True", "RingOutdated");
    assert!(message.contains("an older ring never overwrites a newer one. Restore a newer backup"), "{message}");
    world.objects.insert(ring_key(ca), now);
    world.settle();
    says(&world, &domain(), "Stalled", "False", "Settled");
}

#[test]
fn an_upgraded_ring_gets_its_key_at_once_and_every_projection_its_mac() {
    let mut world = fleet();
    as_main_wrote_it(&mut world);
    let before = (world.ca_ring(TD).unwrap().epoch, world.signing_ring(TD).unwrap().epoch);
    let since = world.log.len();
    world.settle();
    let after = (world.ca_ring(TD).unwrap().epoch, world.signing_ring(TD).unwrap().epoch);
    assert_eq!(after, (before.0 + 1, before.1 + 1));
    assert!(!events(&world, since).contains(&"Repaired"), "an upgrade is no repair");
    for (object, stored) in &world.objects {
        for epoch in [annotation::CA_EPOCH, annotation::SIGNING_EPOCH] {
            let has = |name: &str| stored.facts.annotations.contains_key(name);
            assert_eq!(has(epoch), has(&format!("{epoch}-mac")), "{object}");
        }
    }
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Removed, Active");
    sound(&world);
}

#[test]
fn in_a_ring_of_main_one_tenants_epoch_is_tampering_and_most_namespaces_are_evidence() {
    let mut world = fleet();
    as_main_wrote_it(&mut world);
    set(&mut world, &ObjectKey::config_map("shop", "gaia-trust"), annotation::CA_EPOCH, Some("999"));
    world.settle();
    says(&world, &domain(), "Stalled", "False", "Settled");
    assert!(world.config_map("shop", "gaia-trust").unwrap().facts.number(annotation::CA_EPOCH).unwrap() < 99);

    // A backup that main wrote, restored after the upgrade: the issuer's namespace proves it.
    let mut world = fleet();
    as_main_wrote_it(&mut world);
    let backup = world.objects[&ring_key(true)].clone();
    world.settle();
    world.objects.insert(ring_key(true), backup);
    let before = world.log.len();
    world.settle();
    assert_eq!(world.done_since(before), [""; 0]);
    says(&world, &domain(), "Stalled", "True", "RingOutdated");
}

#[test]
fn a_bootstrap_is_not_led_astray_by_an_epoch_that_a_tenant_wrote() {
    let mut world = fleet();
    set(&mut world, &ObjectKey::config_map("shop", "gaia-trust"), annotation::CA_EPOCH, Some("18446744073709551615"));
    for ring in [ring_key(true), ObjectKey::secret("gaia-system", names::previous(&ring_key(true).name))] {
        world.objects.remove(&ring);
    }
    world.settle();
    let message = says(&world, &domain(), "Stalled", "True", "RingMissing");
    let asked = message.split_once("gaia.dev/bootstrap=").unwrap().1.to_owned();
    annotate(&mut world, annotation::BOOTSTRAP, &asked);
    assert!(world.ca_ring(TD).unwrap().epoch < 100);
    says(&world, &domain(), "Ready", "True", "Ready");
}
