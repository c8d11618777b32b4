//! The signing ring: instances always know the next key.

use super::*;
use gaia_api::crd::TokenAlgorithm;

#[test]
fn a_signing_key_is_known_before_it_signs_and_goes_after_its_last_token() {
    let mut world = fleet();
    let old = ids(&world, false)[0].clone();
    ask_to_rotate(&mut world, false);
    // The next key was published half a day ago.
    assert_eq!(world.states(false), "Retiring, Active, Published");
    let message = says(&world, &domain(), "SigningKeysRotating", "True", "WaitingForInstances");
    assert!(message.contains("1 of 1 instances do not sign with key"), "{message}");
    assert!(message.contains("auth/auth-0: Stale: does not sign with key"), "{message}");
    wait(&mut world, 60);
    let message = says(&world, &domain(), "SigningKeysRotating", "True", "Retiring");
    // Switched after a minute: 3m + 1h + 1m later.
    assert_eq!(message, format!("signing key {old} no longer signs; its last token expires by 2026-01-01T13:05:00Z"));
    until(&mut world, false, "Removed, Active, Published");
    assert_eq!(world.now, at("2026-01-01T13:05:00Z"));
    world.is_whole().unwrap();
    sound(&world);
}

#[test]
fn an_issuer_that_does_not_take_the_new_key_keeps_the_old_one_alive() {
    let mut world = fleet();
    world.pod("auth-0").reload = Reload::Never;
    ask_to_rotate(&mut world, false);
    wait(&mut world, 4 * 3600);
    assert_eq!(world.states(false), "Retiring, Active, Published");
    let message = says(&world, &domain(), "SigningKeysRotating", "True", "PastDeadline");
    assert!(message.contains("auth/auth-0"), "{message}");
    assert_eq!(status(&world).laggards[0].pod, "auth-0");
    world.restart("auth-0");
    until(&mut world, false, "Removed, Active, Published");
    sound(&world);
}

#[test]
fn a_verifier_that_does_not_know_the_next_key_holds_it_back() {
    let mut world = fleet();
    ask_to_rotate(&mut world, false);
    world.pod("shop-0").reload = Reload::Never;
    until(&mut world, false, "Removed, Active, Published");
    // The key after the next was published, and shop-0 has not loaded it.
    ask_to_rotate(&mut world, false);
    wait(&mut world, 600);
    // It was published more than an hour ago.
    let message = says(&world, &domain(), "SigningKeysRotating", "True", "PastDeadline");
    assert!(message.contains("shop/shop-0: Stale: has not loaded signing key"), "{message}");
    world.restart("shop-0");
    until(&mut world, false, "Removed, Retiring, Active, Published");
    until(&mut world, false, "Removed, Removed, Active, Published");
    sound(&world);
}

#[test]
fn another_algorithm_is_a_rotation() {
    let mut world = fleet();
    world.edit_domain(TD, |found| found.spec.tokens.algorithm = TokenAlgorithm::ES256);
    world.settle();
    assert_eq!(world.states(false), "Active, Removed, Published");
    assert_eq!(until(&mut world, false, "Retiring, Removed, Active, Published"), 240);
    until(&mut world, false, "Removed, Removed, Active, Published");
    world.advance(DAY);
    assert_eq!(doing(&mut world), [""; 0]);
    sound(&world);
}

#[test]
fn tokens_may_live_longer_only_once_the_ring_knows_it_and_old_keys_are_kept_for_that_long() {
    let mut world = fleet();
    world.edit_domain(TD, |found| found.spec.tokens.max_ttl = Span::hours(10));
    let done = doing(&mut world);
    assert_eq!(done[0], "replace Secret gaia-system/gaia-signing-ring: record the token validity 36000s", "{done:#?}");
    assert!(done[1..].iter().any(|done| done.starts_with("patch ConfigMap auth/gaia-grants")), "{done:#?}");
    wait(&mut world, 600);
    // Lowered again: there may be tokens of ten hours.
    world.edit_domain(TD, |found| found.spec.tokens.max_ttl = Span::minutes(5));
    world.settle();
    assert_eq!(world.signing_ring(TD).unwrap().max_ttl_high_water_seconds, Some(36_000));
    ask_to_rotate(&mut world, false);
    wait(&mut world, 9 * 3600);
    assert_eq!(world.states(false), "Retiring, Active, Published");
    until(&mut world, false, "Removed, Active, Published");
    sound(&world);
}

#[test]
fn too_short_a_key_period_is_a_warning_and_the_shortest_possible_is_used() {
    let mut world = fleet();
    world.edit_domain(TD, |found| {
        found.spec.tokens.max_ttl = Span::hours(24);
        found.spec.tokens.rotation_period = Span::hours(25);
    });
    world.settle();
    let message = says(&world, &domain(), "LifetimesTooTight", "True", "LifetimesTooTight");
    assert!(message.contains("spec.tokens.rotationPeriod is too short"), "{message}");
    assert!(message.contains("25h < 2 * 3m + 1h + 24h + 2 * 1m = 25h8m"), "{message}");
    says(&world, &domain(), "Stalled", "False", "Settled");
    // 12 h have passed since the first key was activated.
    wait(&mut world, 13 * 3600);
    assert_eq!(world.states(false), "Active, Published");
    wait(&mut world, 8 * 60);
    assert_eq!(world.states(false), "Retiring, Active, Published");
    // Lowering maxTTL alone does not help: tokens of a day may be in use.
    world.edit_domain(TD, |found| found.spec.tokens.max_ttl = Span::hours(1));
    world.settle();
    says(&world, &domain(), "LifetimesTooTight", "True", "LifetimesTooTight");
    world.edit_domain(TD, |found| found.spec.tokens.rotation_period = Span::hours(26));
    world.settle();
    assert_eq!(world.reported(&domain()).condition("LifetimesTooTight").0, "");
    sound(&world);
}

#[test]
fn without_instances_a_key_switches_by_time_alone() {
    let mut world = settled(web());
    ask_to_rotate(&mut world, false);
    assert_eq!(until(&mut world, false, "Retiring, Active, Published"), 240);
    // P + S until it counts as in use, then P + 1h + S.
    assert_eq!(until(&mut world, false, "Removed, Active, Published"), 240 + 240 + 3600);
    sound(&world);
}
