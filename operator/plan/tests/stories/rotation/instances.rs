//! Instances that a rotation waits for, and how they become current.

use super::*;
use gaia_plan::trust_domain::Abilities;

#[test]
fn a_pod_that_never_reloads_holds_the_rotation_is_named_and_lets_it_go_on_once_restarted() {
    let mut world = fleet();
    world.start(Pod::of("shop", "asset-service", "old").never_reloads());
    ask_to_rotate(&mut world, true);
    wait(&mut world, 3600);
    let message = says(&world, &domain(), "CARotating", "True", "WaitingForInstances");
    assert!(message.contains("1 of 4 instances do not trust CA"), "{message}");
    assert!(message.contains("shop/old: Stale: has not loaded the newest ca.crt"), "{message}");
    wait(&mut world, 600);
    says(&world, &domain(), "CARotating", "True", "PastDeadline");
    let laggards = status(&world).laggards;
    assert_eq!((laggards.len(), laggards[0].pod.as_str()), (1, "old"));
    says(&world, &domain(), "Ready", "True", "Ready");
    world.restart("old");
    world.settle();
    assert_eq!(world.states(true), "Retiring, Active");
    // It does not take its new leaf either.
    wait(&mut world, 3600);
    assert_eq!(world.states(true), "Retiring, Active");
    world.restart("old");
    until(&mut world, true, "Removed, Active");
    sound(&world);
}

#[test]
fn who_only_shows_its_leaf_is_current_once_restarted_after_the_publication() {
    let mut world = fleet();
    world.start(Pod::of("shop", "asset-service", "plain").seen_by(Sight::Handshake));
    ask_to_rotate(&mut world, true);
    wait(&mut world, 100);
    world.restart("plain");
    wait(&mut world, 300);
    // It started before the floor, and may have mounted the previous content.
    let message = says(&world, &domain(), "CARotating", "True", "WaitingForInstances");
    assert!(message.contains("shop/plain: Stale: no report (404)"), "{message}");
    world.restart("plain");
    world.settle();
    assert_eq!(world.states(true), "Retiring, Active");
    // For the leaf, a handshake is enough.
    until(&mut world, true, "Removed, Active");
    sound(&world);
}

#[rstest]
#[case::no_port(Sight::NoPort, "NotProbed: no probe port")]
#[case::refuses(Sight::Refuses, "Unreachable: connection refused")]
fn who_cannot_be_asked_is_not_taken_for_current(#[case] sight: Sight, #[case] why: &str) {
    let mut world = fleet();
    world.start(Pod::of("shop", "asset-service", "mute").seen_by(sight));
    ask_to_rotate(&mut world, true);
    wait(&mut world, 1800);
    let message = says(&world, &domain(), "CARotating", "True", "WaitingForInstances");
    assert!(message.contains(why), "{message}");
    sound(&world);
}

#[test]
fn a_pod_that_crashes_again_and_again_is_waited_for_until_it_stays_up_or_is_gone() {
    let mut world = fleet();
    world.start(Pod::of("shop", "asset-service", "sick").seen_by(Sight::NoPort).crashing());
    ask_to_rotate(&mut world, true);
    wait(&mut world, 1800);
    assert_eq!(world.states(true), "Active, Published");
    world.stop("sick");
    world.settle();
    assert_eq!(world.states(true), "Retiring, Active");
}

#[test]
fn best_effort_is_reported_and_not_waited_for() {
    let mut world = fleet();
    world.start(Pod::of("shop", "asset-service", "batch").never_reloads().best_effort());
    world.start(Pod::of("shop", "asset-service", "old").never_reloads());
    ask_to_rotate(&mut world, true);
    wait(&mut world, 600);
    let message = says(&world, &domain(), "CARotating", "True", "WaitingForInstances");
    assert!(message.contains("1 of 4 instances") && !message.contains("batch"), "{message}");
    let names: Vec<String> = status(&world).laggards.into_iter().map(|laggard| laggard.pod).collect();
    assert_eq!(names, ["batch", "old"]);
    world.stop("old");
    until(&mut world, true, "Removed, Active");
    wait(&mut world, 120);
    assert_eq!(status(&world).instances.unwrap().summary, "3/4");
}

#[test]
fn nobody_known_is_not_the_same_as_nobody() {
    let mut world = fleet();
    world.pods_unknown = Some("pods are not watched in namespace shop".to_owned());
    ask_to_rotate(&mut world, true);
    wait(&mut world, 7200);
    let message = says(&world, &domain(), "CARotating", "True", "PastDeadline");
    assert_eq!(message, "cannot list instances: pods are not watched in namespace shop");
    assert_eq!(world.states(true), "Active, Published");
    world.pods_unknown = None;
    until(&mut world, true, "Removed, Active");
    sound(&world);
}

#[test]
fn without_instances_a_ca_switches_and_goes_by_time_alone() {
    let mut world = settled(web());
    ask_to_rotate(&mut world, true);
    assert_eq!(until(&mut world, true, "Retiring, Active"), 240);
    let took = until(&mut world, true, "Removed, Active");
    // Jitter, P + S until the new leaf counts as in use, then P + S.
    assert!((480..=530).contains(&took), "{took}");
    sound(&world);
}

#[test]
fn acknowledgements_that_are_not_required_are_not_waited_for() {
    let mut world = fleet();
    world.edit_domain(TD, |found| found.spec.propagation.require_acknowledgement = false);
    world.start(Pod::of("shop", "asset-service", "old").never_reloads());
    ask_to_rotate(&mut world, true);
    assert_eq!(until(&mut world, true, "Retiring, Active"), 240);
    until(&mut world, true, "Removed, Active");
}

#[test]
fn a_person_lets_one_rotation_go_on_without_the_laggards_but_not_before_the_floor() {
    let mut world = fleet();
    world.start(Pod::of("shop", "asset-service", "old").never_reloads());
    ask_to_rotate(&mut world, true);
    let next = ids(&world, true)[1].clone();
    annotate(&mut world, annotation::ADVANCE_WITHOUT, "another");
    wait(&mut world, 600);
    assert_eq!(world.states(true), "Active, Published");
    annotate(&mut world, annotation::ADVANCE_WITHOUT, &next);
    assert_eq!(world.states(true), "Retiring, Active");
    until(&mut world, true, "Removed, Active");
    // The next rotation waits again.
    ask_to_rotate(&mut world, true);
    assert_eq!(until(&mut world, true, "Removed, Active, Published"), 0);
    wait(&mut world, 600);
    assert_eq!(world.states(true), "Removed, Active, Published");
    sound(&world);
}

#[test]
fn an_advance_does_not_shorten_the_floor() {
    let mut world = fleet();
    ask_to_rotate(&mut world, true);
    let next = ids(&world, true)[1].clone();
    annotate(&mut world, annotation::ADVANCE_WITHOUT, &next);
    assert_eq!(until(&mut world, true, "Retiring, Active"), 240);
    sound(&world);
}

#[test]
fn workloads_that_do_not_reload_are_restarted_wave_by_wave_and_only_when_something_waits_for_them() {
    let mut world = fleet();
    world.abilities = Abilities { nudge: false, restart: true };
    for (name, wave) in [("one", 1), ("two", 2)] {
        let pod = Pod::of("shop", "asset-service", &format!("{name}-0")).never_reloads().seen_by(Sight::NoPort);
        world.start(pod.in_wave(wave).of_deployment(name));
    }
    wait(&mut world, 1200);
    assert_eq!(restarts(&world), [""; 0], "nothing waits for them");
    ask_to_rotate(&mut world, true);
    // Two minutes after the write, plus the clock skew: a pod that starts then started after the write by any clock.
    wait(&mut world, 120 + 30);
    assert_eq!(restarts(&world), [""; 0], "its start might be told as too early");
    until(&mut world, true, "Retiring, Active");
    assert_eq!(restarts(&world), ["one", "two"]);
    until(&mut world, true, "Removed, Active");
    // Once for the bundle, once for the leaf.
    assert_eq!(restarts(&world), ["one", "two", "one", "two"]);
    wait(&mut world, 7200);
    assert_eq!(restarts(&world).len(), 4);
    sound(&world);
}

#[test]
fn a_workload_is_not_restarted_for_a_key_that_does_not_sign_yet() {
    let mut world = fleet();
    world.abilities = Abilities { nudge: false, restart: true };
    world.start(Pod::of("shop", "asset-service", "one-0").never_reloads().seen_by(Sight::NoPort).of_deployment("one"));
    wait(&mut world, 1200);
    ask_to_rotate(&mut world, false);
    until(&mut world, false, "Removed, Active, Published");
    wait(&mut world, 120);
    // It has known the active key since it started, and lacks the next one, which has a quarter of a year left.
    assert_eq!(status(&world).instances.unwrap().summary, "3/4");
    assert_eq!(restarts(&world), [""; 0]);
    ask_to_rotate(&mut world, false);
    wait(&mut world, 600);
    assert_eq!(restarts(&world), ["one"], "now it holds the rotation");
    sound(&world);
}

#[test]
fn a_workload_whose_pods_do_not_come_up_is_restarted_once_and_halts_the_next_wave() {
    let mut world = fleet();
    world.abilities = Abilities { nudge: false, restart: true };
    for (name, wave) in [("one", 1), ("two", 2)] {
        let pod = Pod::of("shop", "asset-service", &format!("{name}-0")).never_reloads().seen_by(Sight::NoPort);
        world.start(pod.in_wave(wave).of_deployment(name));
    }
    ask_to_rotate(&mut world, true);
    world.pod("one-0").crashes = true;
    wait(&mut world, 1200);
    let restarted: Vec<String> = world
        .log
        .iter()
        .filter(|done| matches!(done.action, Action::RestartWorkload { .. }))
        .map(|done| done.action.to_string())
        .collect();
    assert_eq!(restarted.len(), 1, "{restarted:#?}");
    assert!(restarted[0].contains("Deployment shop/one"), "{restarted:#?}");
}

#[test]
fn a_pod_is_nudged_once_for_what_it_lacks() {
    let mut world = fleet();
    world.abilities = Abilities { nudge: true, restart: false };
    wait(&mut world, 600);
    let nudges = |world: &World| world.log.iter().filter(|done| matches!(done.action, Action::Nudge { .. })).count();
    let before = nudges(&world);
    ask_to_rotate(&mut world, true);
    wait(&mut world, 200);
    assert_eq!(nudges(&world) - before, 3);
    sound(&world);
}

/// The workloads that were restarted so far.
fn restarts(world: &World) -> Vec<String> {
    let restarted = |done: &world::Done| match &done.action {
        Action::RestartWorkload { target, .. } => Some(target.name.clone()),
        _ => None,
    };
    world.log.iter().filter_map(restarted).collect()
}

/// PODS-UPDATED 0/1 always names the pod, also once the rotation is over; and counts only what the pod mounts.
#[test]
fn a_pod_that_lags_after_a_signing_key_rotation_is_named() {
    let mut world = fleet();
    let mut plain = Pod::of("shop", "plain", "plain").never_reloads().seen_by(Sight::NoPort);
    plain.secret = None;
    world.start(plain);
    let mut leaf = Pod::of("shop", "asset-service", "leaf").seen_by(Sight::Handshake);
    leaf.trust = false;
    world.start(leaf);
    world.edit_domain(TD, |found| {
        found.spec.propagation.require_acknowledgement = false;
        found.spec.tokens.rotation_revision += 1;
    });
    world.settle();
    for _ in 0..3 {
        world.advance(2 * DAY);
        world.settle();
    }
    let world::Status::Domain(status) = world.reported(&domain()) else { unreachable!() };
    says(&world, &domain(), "SigningKeysRotating", "False", "Settled");
    assert_eq!(status.instances.unwrap().summary, "4/5");
    let named: Vec<_> = status.laggards.iter().map(|laggard| laggard.pod.as_str()).collect();
    assert_eq!((named, status.laggard_count), (vec!["plain"], Some(1)));
}
