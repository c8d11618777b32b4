//! Aborts of a rotation: safe at any time before the old generation is removed.

use super::*;

#[test]
fn a_ca_that_is_being_published_is_dropped() {
    let mut world = fleet();
    ask_to_rotate(&mut world, true);
    let [old, next] = ids(&world, true).try_into().unwrap();
    annotate(&mut world, annotation::ABORT, &next);
    assert_eq!(world.states(true), "Active, Removed");
    assert_eq!(world.ca_ring(TD).unwrap().active().unwrap().id, old);
    world.is_whole().unwrap();
    // The rotation does not restart, and the annotation that stays on the object has no further effect.
    world.advance(30 * DAY);
    let rings = doing(&mut world).iter().any(|done| done.contains("ca-ring"));
    assert!(!rings);
    says(&world, &domain(), "Stalled", "False", "Settled");
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Removed, Removed, Active");
    sound(&world);
}

#[test]
fn a_ca_that_is_staged_is_dropped_even_while_a_projection_cannot_be_written() {
    let mut world = fleet();
    world.edit_domain(TD, |found| found.spec.ca.rotation_revision = 2);
    world.reconcile(&domain());
    assert_eq!(world.states(true), "Active, Staged");
    let next = ids(&world, true)[1].clone();
    annotate(&mut world, annotation::ABORT, &next);
    assert_eq!(world.states(true), "Active, Removed");
    world.is_whole().unwrap();
    sound(&world);
}

#[test]
fn a_ca_that_signs_already_gives_way_to_the_one_before_it() {
    let mut world = fleet();
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Retiring, Active");
    wait(&mut world, 120);
    let [old, next] = ids(&world, true).try_into().unwrap();
    assert_eq!(issuer_of(&world, "shop", "asset-service"), next);
    annotate(&mut world, annotation::ABORT, &next);
    assert_eq!(world.states(true), "Active, Retiring");
    wait(&mut world, 60);
    assert_eq!(issuer_of(&world, "shop", "asset-service"), old);
    until(&mut world, true, "Active, Removed");
    world.advance(30 * DAY);
    assert!(!doing(&mut world).iter().any(|done| done.contains("ca-ring")));
    says(&world, &domain(), "Ready", "True", "Ready");
    sound(&world);
}

#[test]
fn an_abort_that_comes_too_late_is_ignored_with_a_warning() {
    let mut world = fleet();
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Removed, Active");
    let [old, next] = ids(&world, true).try_into().unwrap();
    annotate(&mut world, annotation::ABORT, &next);
    let message = says(&world, &domain(), "AnnotationIgnored", "True", "AnnotationIgnored");
    assert!(message.contains(" is ignored: the previous generation is already removed"), "{message}");
    annotate(&mut world, annotation::ABORT, &old);
    let message = says(&world, &domain(), "AnnotationIgnored", "True", "AnnotationIgnored");
    assert!(message.contains("it is already Removed"), "{message}");
    annotate(&mut world, annotation::ABORT, "nonsense");
    let message = says(&world, &domain(), "AnnotationIgnored", "True", "AnnotationIgnored");
    assert!(message.contains("no generation has that id"), "{message}");
    says(&world, &domain(), "Ready", "True", "Ready");
    says(&world, &domain(), "Stalled", "False", "Settled");
    assert_eq!(world.states(true), "Removed, Active");
    // It blocks nothing, and is removed with the annotation.
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Removed, Removed, Active");
    take_away(&mut world, annotation::ABORT);
    assert_eq!(world.reported(&domain()).condition("AnnotationIgnored").0, "");
    sound(&world);
}

#[test]
fn a_first_ca_cannot_be_aborted() {
    let mut world = fleet();
    let only = ids(&world, true)[0].clone();
    annotate(&mut world, annotation::ABORT, &only);
    let message = says(&world, &domain(), "AnnotationIgnored", "True", "AnnotationIgnored");
    assert!(message.contains("there was no previous generation"), "{message}");
}

#[test]
fn a_next_signing_key_that_is_given_up_is_followed_by_another() {
    let mut world = fleet();
    let [old, next] = ids(&world, false).try_into().unwrap();
    annotate(&mut world, annotation::ABORT, &next);
    assert_eq!(world.states(false), "Active, Removed, Published");
    assert_eq!(world.signing_ring(TD).unwrap().active().unwrap().id, old);
    sound(&world);
}

#[test]
fn a_signing_key_that_signs_already_gives_way_and_its_tokens_are_accepted_to_their_end() {
    let mut world = fleet();
    ask_to_rotate(&mut world, false);
    let [old, next, _] = ids(&world, false).try_into().unwrap();
    wait(&mut world, 600);
    annotate(&mut world, annotation::ABORT, &next);
    assert_eq!(world.states(false), "Active, Retiring, Published");
    assert_eq!(world.signing_ring(TD).unwrap().active().unwrap().id, old);
    until(&mut world, false, "Active, Removed, Published");
    world.advance(30 * DAY);
    world.settle();
    assert_eq!(world.states(false), "Active, Removed, Published");
    sound(&world);
}

#[test]
fn an_aborted_change_of_the_algorithm_is_not_begun_anew_by_itself() {
    let mut world = fleet();
    world.edit_domain(TD, |found| found.spec.tokens.algorithm = gaia_api::crd::TokenAlgorithm::ES256);
    until(&mut world, false, "Retiring, Removed, Active, Published");
    let next = ids(&world, false)[2].clone();
    annotate(&mut world, annotation::ABORT, &next);
    assert_eq!(world.states(false), "Active, Removed, Retiring, Published");
    world.advance(DAY);
    world.settle();
    world.advance(DAY);
    world.settle();
    assert_eq!(world.states(false), "Active, Removed, Removed, Published");
    // A raised revision asks for it again.
    ask_to_rotate(&mut world, false);
    assert_eq!(world.states(false), "Retiring, Removed, Removed, Active, Published");
    sound(&world);
}

#[test]
fn an_abort_does_not_make_a_key_sign_that_a_restore_kept_only_in_case_it_had_signed() {
    let mut world = fleet();
    let active = ids(&world, false)[0].clone();
    wait(&mut world, 60);
    world.remove(&ObjectKey::secret("gaia-system", "gaia-signing-ring"));
    let copy = world.secret("gaia-system", "gaia-signing-ring-previous").unwrap();
    let epoch = serde_json::from_str::<serde_json::Value>(&copy.content["ring.json"]).unwrap()["epoch"].clone();
    annotate(&mut world, annotation::RESTORE, &format!("signing@{epoch}"));
    assert_eq!(world.states(false), "Active, Retiring, Published");
    annotate(&mut world, annotation::ABORT, &active);
    assert_eq!(world.states(false), "Active, Retiring, Published");
    says(&world, &domain(), "AnnotationIgnored", "True", "AnnotationIgnored");
    sound(&world);
}

/// Kind: a CA that becomes Active before its notBefore; no peer whose clock is right accepts what it signs.
#[test]
fn an_abort_back_to_a_ca_that_is_not_valid_yet_is_ignored_with_the_time() {
    let mut world = fleet();
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Retiring, Active");
    let [old, next] = ids(&world, true).try_into().unwrap();
    let begins = world.ca_ring(TD).unwrap().generation(&old).unwrap().material.not_before;
    // The clock ran ahead until now.
    world.advance(-30 * DAY);
    annotate(&mut world, annotation::ABORT, &next);
    assert_eq!(world.states(true), "Retiring, Active");
    let message = says(&world, &domain(), "AnnotationIgnored", "True", "AnnotationIgnored");
    assert!(message.contains(&format!("CA {old} before it is valid only from {begins}")), "{message}");
    // It never comes to life by itself; asked again later, it is carried out.
    world.advance(30 * DAY);
    world.settle();
    assert_eq!(world.states(true), "Retiring, Active");
    take_away(&mut world, annotation::ABORT);
    annotate(&mut world, annotation::ABORT, &next);
    assert_eq!(world.states(true), "Active, Retiring");
    assert!(world.violations.iter().all(|(invariant, _)| *invariant != 7), "{:#?}", world.violations);
}
