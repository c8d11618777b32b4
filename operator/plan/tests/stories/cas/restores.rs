//! Restores of a ring from its copy.

use super::*;
use gaia_api::crd::{DistrustMode, DistrustedCa};

fn epoch(world: &World, ring: &str) -> u64 {
    let stored = world.secret("gaia-system", &format!("{ring}-previous")).unwrap();
    let ring: serde_json::Value = serde_json::from_str(&stored.content["ring.json"]).unwrap();
    ring["epoch"].as_u64().unwrap()
}

fn restore(world: &mut World, ring: &str) {
    let short = if ring == "gaia-ca-ring" { "ca" } else { "signing" };
    let value = format!("{short}@{}", epoch(world, ring));
    annotate(world, annotation::RESTORE, &value);
}

#[test]
fn a_ca_ring_that_was_deleted_comes_back_from_its_copy_without_a_new_root() {
    let mut world = fleet();
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Removed, Active");
    let active = ids(&world, true)[1].clone();
    world.remove(&ObjectKey::secret("gaia-system", "gaia-ca-ring"));
    assert_eq!(doing(&mut world), [""; 0]);
    says(&world, &domain(), "Stalled", "True", "RingMissing");
    restore(&mut world, "gaia-ca-ring");
    assert_eq!(world.ca_ring(TD).unwrap().active().unwrap().id, active);
    says(&world, &domain(), "Ready", "True", "Ready");
    says(&world, &domain(), "Stalled", "False", "Settled");
    until(&mut world, true, "Removed, Active");
    // The annotation that stays on the object restores nothing more.
    let before = world.log.len();
    wait(&mut world, 600);
    assert!(!events(&world, before).contains(&"RingRestored"));
    world.is_whole().unwrap();
    sound(&world);
}

#[test]
fn a_ring_that_cannot_be_read_comes_back_from_its_copy() {
    let mut world = fleet();
    ask_to_rotate(&mut world, false);
    until(&mut world, false, "Removed, Active, Published");
    let active = ids(&world, false)[1].clone();
    world.apply(&world::Step::Edit(0, world::Edit::RingUnreadable(false)));
    world.settle();
    says(&world, &domain(), "Stalled", "True", "RingUnreadable");
    restore(&mut world, "gaia-signing-ring");
    assert_eq!(world.signing_ring(TD).unwrap().active().unwrap().id, active);
    until(&mut world, false, "Removed, Active, Removed, Published");
    world.is_whole().unwrap();
    sound(&world);
}

#[test]
fn nothing_that_has_signed_since_the_copy_is_lost() {
    let mut world = fleet();
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Retiring, Active");
    let [old, new] = ids(&world, true).try_into().unwrap();
    wait(&mut world, 60);
    assert_eq!(issuer_of(&world, "shop", "asset-service"), new);
    // The copy is from before the switch: the old one signs again, and the new one is trusted as long as its leaves are about.
    restore(&mut world, "gaia-ca-ring");
    assert_eq!(world.states(true), "Active, Retiring");
    assert_eq!(world.ca_ring(TD).unwrap().active().unwrap().id, old);
    annotate(&mut world, annotation::ABORT, &new);
    says(&world, &domain(), "AnnotationIgnored", "True", "AnnotationIgnored");
    until(&mut world, true, "Active, Removed");
    assert_eq!(issuer_of(&world, "shop", "asset-service"), old);
    sound(&world);
}

#[test]
fn what_a_copy_calls_published_is_published_anew() {
    let mut world = fleet();
    ask_to_rotate(&mut world, true);
    let next = ids(&world, true)[1].clone();
    annotate(&mut world, annotation::ABORT, &next);
    assert_eq!(world.states(true), "Active, Removed");
    wait(&mut world, 3600);
    restore(&mut world, "gaia-ca-ring");
    assert_eq!(world.states(true), "Active, Published");
    assert_eq!(until(&mut world, true, "Retiring, Active"), 240);
    sound(&world);
}

#[test]
fn no_restore_makes_a_ca_sign_that_nobody_trusts_any_more() {
    let mut world = fleet();
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Retiring, Active");
    // An administrator keeps the copy from before the cut-over, and restores it a week later.
    let key = ObjectKey::secret("gaia-system", "gaia-ca-ring-previous");
    let backup = world.objects[&key].clone();
    until(&mut world, true, "Removed, Active");
    world.advance(7 * DAY);
    world.settle();
    let [_, new] = ids(&world, true).try_into().unwrap();
    world.objects.insert(key, backup);
    restore(&mut world, "gaia-ca-ring");
    assert_eq!(world.ca_ring(TD).unwrap().active().unwrap().id, new);
    assert_eq!(world.states(true), "Retiring, Active");
    until(&mut world, true, "Removed, Active");
    sound(&world);
}

#[test]
fn what_leaked_does_not_come_back_and_its_key_is_in_no_copy() {
    let mut world = fleet();
    let leaked = world.ca_ring(TD).unwrap().active().unwrap().material.fingerprint.clone();
    world.edit_domain(TD, |found| {
        let mode = DistrustMode::Immediate;
        found.spec.ca.distrusted = vec![DistrustedCa { fingerprint: leaked.clone(), mode }];
    });
    world.settle();
    let copy = world.secret("gaia-system", "gaia-ca-ring-previous").unwrap();
    assert!(copy.content.values().all(|text| *text != format!("KEY {leaked}")));
    world.edit_domain(TD, |found| found.spec.ca.distrusted.clear());
    restore(&mut world, "gaia-ca-ring");
    assert_eq!(world.states(true), "Distrusted, Active");
    // The ring is lost too, and the copy holds no other generation that could sign.
    world.edit_domain(TD, |found| found.metadata.annotations = None);
    let mut lost = fleet();
    let leaked = lost.ca_ring(TD).unwrap().active().unwrap().material.fingerprint.clone();
    lost.edit_domain(TD, |found| {
        let mode = DistrustMode::Immediate;
        found.spec.ca.distrusted = vec![DistrustedCa { fingerprint: leaked.clone(), mode }];
    });
    lost.reconcile(&domain());
    assert_eq!(lost.states(true), "Distrusted, Active");
    lost.remove(&ObjectKey::secret("gaia-system", "gaia-ca-ring"));
    restore(&mut lost, "gaia-ca-ring");
    let message = says(&lost, &domain(), "Stalled", "True", "RestoreNotPossible");
    assert!(message.contains("no generation that may be activated"), "{message}");
    sound(&world);
    sound(&lost);
}

#[rstest]
#[case("ca@99", "the existing copy has epoch")]
#[case("nonsense@1", "it must be ca@<epoch> or signing@<epoch>")]
#[case("ca@x", "it must be ca@<epoch> or signing@<epoch>")]
fn what_cannot_be_restored_is_refused(#[case] asked: &str, #[case] why: &str) {
    let mut world = fleet();
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Removed, Active");
    annotate(&mut world, annotation::RESTORE, asked);
    let message = says(&world, &domain(), "Stalled", "True", "RestoreNotPossible");
    assert!(message.contains(why), "{message}");
    says(&world, &domain(), "Ready", "True", "Ready");
}

#[test]
fn a_crash_between_any_two_writes_of_a_rotation_changes_nothing() {
    let shape = |world: &World| (world.states(true), world.states(false), status(world).instances.unwrap().summary);
    let run = |die: Option<usize>| {
        let mut world = fleet();
        ask_to_rotate(&mut world, true);
        ask_to_rotate(&mut world, false);
        let mut left = die;
        for _ in 0..90 {
            world.advance(60);
            if let Some(writes) = left {
                world.probe();
                world.writes_left = Some(writes);
                for resource in world.resources() {
                    world.reconcile(&resource);
                }
                left = world.writes_left.filter(|left| *left > 0);
                world.writes_left = None;
                if left.is_none() {
                    world.crash();
                }
            } else {
                world.settle();
            }
        }
        sound(&world);
        world.is_whole().unwrap();
        shape(&world)
    };
    let calm = run(None);
    assert_eq!((calm.0.as_str(), calm.1.as_str()), ("Removed, Active", "Removed, Active, Published"));
    for writes in 1..40 {
        assert_eq!(run(Some(writes)), calm, "after {writes} writes");
    }
}

/// Kind: a CA that becomes Active before its notBefore.
#[test]
fn a_restore_makes_no_ca_sign_that_is_not_valid_yet() {
    let mut world = fleet();
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Retiring, Active");
    let [old, _] = ids(&world, true).try_into().unwrap();
    world.advance(-30 * DAY);
    restore(&mut world, "gaia-ca-ring");
    assert_eq!(world.states(true), "Retiring, Active");
    let message = says(&world, &domain(), "Stalled", "True", "RestoreNotPossible");
    assert!(message.contains(&format!("CA {old} would sign, and it is valid only from")), "{message}");
    // Where the ring is lost, the CA that signed last signs again: nothing is lost by it.
    world.remove(&ObjectKey::secret("gaia-system", "gaia-ca-ring"));
    world.settle();
    assert!(world.ca_ring(TD).unwrap().active().is_some());
    assert!(world.violations.iter().all(|(invariant, _)| *invariant != 7), "{:#?}", world.violations);
}
