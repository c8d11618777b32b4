//! Pods that do not reload, past the deadline of a rotation.

use super::isolation::{until, wait};
use super::*;
use gaia_api::crd::PastDeadline;

#[test]
fn one_lagging_pod_is_left_behind_past_the_deadline_where_the_spec_allows_it() {
    let mut world = fleet();
    world.edit_domain(TD, |found| found.spec.propagation.past_deadline = PastDeadline::LeaveBehind);
    world.start(Pod::of("shop", "asset-service", "old").never_reloads());
    ask_to_rotate(&mut world, true);
    wait(&mut world, 3600);
    assert_eq!(world.states(true), "Active, Published");
    let since = world.log.len();
    wait(&mut world, 300);
    assert_eq!(world.states(true), "Retiring, Active");
    until(&mut world, true, "Removed, Active");
    ask_to_rotate(&mut world, false);
    until(&mut world, false, "Removed, Active, Published");
    let all: Vec<_> = world.log[since..].iter().flat_map(|done| done.action.events()).collect();
    let left: Vec<_> = all.iter().filter(|event| event.reason == "InstancesLeftBehind").collect();
    assert!(left.len() >= 2 && left.iter().all(|event| event.message.contains("shop/old: ")), "{left:#?}");
    let completed = all.iter().find(|event| event.reason == "RotationCompleted").unwrap();
    assert!(completed.message.contains("may still use it: shop/old"), "{completed:#?}");
    assert!(status(&world).laggards.iter().all(|laggard| laggard.pod == "old"));
}

#[rstest]
#[case::wait(PastDeadline::Wait, 1)]
#[case::two_of_five(PastDeadline::LeaveBehind, 2)]
fn lagging_pods_hold_a_rotation_with_wait_and_where_they_are_too_many(#[case] mode: PastDeadline, #[case] pods: usize) {
    let mut world = fleet();
    world.edit_domain(TD, |found| found.spec.propagation.past_deadline = mode);
    for index in 0..pods {
        world.start(Pod::of("shop", "asset-service", &format!("old-{index}")).never_reloads());
    }
    ask_to_rotate(&mut world, true);
    wait(&mut world, 4 * 3600);
    assert_eq!(world.states(true), "Active, Published");
    says(&world, &domain(), "CARotating", "True", "PastDeadline");
    sound(&world);
}

#[test]
fn lagging_pod_of_the_token_issuer_is_never_left_behind() {
    let mut world = fleet();
    world.edit_domain(TD, |found| found.spec.propagation.past_deadline = PastDeadline::LeaveBehind);
    world.start(Pod::of("auth", "auth-service", "auth-old").issuer().never_reloads());
    ask_to_rotate(&mut world, true);
    wait(&mut world, 4 * 3600);
    assert_eq!(world.states(true), "Active, Published");
    sound(&world);
}

#[test]
fn unknown_instances_are_never_left_behind() {
    let mut world = fleet();
    world.edit_domain(TD, |found| found.spec.propagation.past_deadline = PastDeadline::LeaveBehind);
    world.pods_unknown = Some("pods may not be listed".to_owned());
    ask_to_rotate(&mut world, true);
    wait(&mut world, 4 * 3600);
    assert_eq!(world.states(true), "Active, Published");
    sound(&world);
}
