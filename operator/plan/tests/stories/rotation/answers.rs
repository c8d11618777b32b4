//! Annotations that request one action: the answer is recorded in the ring, and an annotation that stays on the object
//! has no further effect.

use super::*;

/// Answers that a ring has recorded: annotation, value and why it was ignored.
fn recorded(world: &World, ca: bool, name: &str) -> Option<serde_json::Value> {
    let ring = if ca {
        serde_json::to_value(&world.ca_ring(TD).unwrap().handled)
    } else {
        serde_json::to_value(&world.signing_ring(TD).unwrap().handled)
    };
    ring.unwrap().get(name).cloned()
}

/// One-time annotations: an `advance-without` that was used for one rotation must not let the next one pass, in which the
/// same generation is the old one.
#[test]
fn an_advance_without_lets_one_rotation_pass_and_not_the_next() {
    let mut world = fleet();
    world.start(Pod::of("shop", "asset-service", "old").never_reloads());
    ask_to_rotate(&mut world, true);
    let next = ids(&world, true)[1].clone();
    wait(&mut world, 600);
    annotate(&mut world, annotation::ADVANCE_WITHOUT, &next);
    until(&mut world, true, "Removed, Active");
    let answer = recorded(&world, true, annotation::ADVANCE_WITHOUT).unwrap();
    assert_eq!((&answer["value"], &answer["rotation"]), (&next.clone().into(), &next.clone().into()));
    // The next rotation: the pod has the new bundle, but still serves the certificate of the old CA.
    ask_to_rotate(&mut world, true);
    wait(&mut world, 300);
    world.restart("old");
    until(&mut world, true, "Removed, Retiring, Active");
    wait(&mut world, 1200);
    assert_eq!(world.states(true), "Removed, Retiring, Active", "{next} is not removed while a pod serves its leaf");
    // Named again, as the generation that is replaced, it is still the handled value; the new one is another request.
    let active = ids(&world, true)[2].clone();
    annotate(&mut world, annotation::ADVANCE_WITHOUT, &active);
    until(&mut world, true, "Removed, Removed, Active");
    sound(&world);
}

/// A value that matched nothing when it was first seen does not take effect later.
#[test]
fn an_abort_that_was_too_early_does_not_poison_a_later_state() {
    let mut world = fleet();
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Retiring, Active");
    let [old, new] = ids(&world, true).try_into().unwrap();
    annotate(&mut world, annotation::ABORT, &old);
    let message = says(&world, &domain(), "AnnotationIgnored", "True", "AnnotationIgnored");
    assert!(message.contains("metadata.annotations[gaia.dev/abort]") && message.contains("it is already Retiring"));
    // A restore activates the named generation while another one retires.
    wait(&mut world, 60);
    let copy = world.secret("gaia-system", "gaia-ca-ring-previous").unwrap();
    let epoch = serde_json::from_str::<serde_json::Value>(&copy.content["ring.json"]).unwrap()["epoch"].clone();
    annotate(&mut world, annotation::RESTORE, &format!("ca@{epoch}"));
    assert_eq!(world.ca_ring(TD).unwrap().active().unwrap().id, old, "the abort of {old} was answered before");
    assert_eq!(world.states(true), "Active, Retiring");
    let _ = new;
    sound(&world);
}

/// GitOps keeps an annotation on the object: once it is removed and set again, it is a new request.
#[test]
fn an_annotation_that_was_taken_away_is_forgotten() {
    let mut world = fleet();
    annotate(&mut world, annotation::ABORT, "nonsense");
    assert!(recorded(&world, true, annotation::ABORT).unwrap()["ignored"].is_string());
    says(&world, &domain(), "AnnotationIgnored", "True", "AnnotationIgnored");
    says(&world, &domain(), "Ready", "True", "Ready");
    says(&world, &domain(), "Stalled", "False", "Settled");
    assert_eq!(doing(&mut world), Vec::<String>::new(), "at rest with the annotation");
    take_away(&mut world, annotation::ABORT);
    assert_eq!(recorded(&world, true, annotation::ABORT), None);
    assert_eq!(world.reported(&domain()).condition("AnnotationIgnored").0, "");
    assert_eq!(doing(&mut world), Vec::<String>::new());
    sound(&world);
}

/// Recording an answer is no transition: the copy of the ring, which a restore returns to, is kept.
#[test]
fn an_answer_that_is_recorded_alone_does_not_replace_the_copy() {
    let mut world = fleet();
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Removed, Active");
    let copy = |world: &World| world.secret("gaia-system", "gaia-ca-ring-previous").unwrap().content.clone();
    let before = copy(&world);
    annotate(&mut world, annotation::ABORT, "nonsense");
    annotate(&mut world, annotation::ADVANCE_WITHOUT, "00000000");
    assert_eq!(copy(&world), before);
    sound(&world);
}

/// A new ring starts at the spec's revision; it is not rotated for a number that was raised for an earlier ring.
#[test]
fn a_new_ring_is_not_rotated_for_a_revision_that_the_spec_has_from_the_start() {
    let mut world = World::new();
    let mut spec = plain_domain();
    (spec.ca.rotation_revision, spec.tokens.rotation_revision) = (7, 5);
    world.create_domain(TD, spec);
    world.create_certificate_of("shop", "web", ServiceCertificateSpec::default());
    world.settle();
    assert_eq!((world.ca_ring(TD).unwrap().revision, world.signing_ring(TD).unwrap().revision), (7, 5));
    wait(&mut world, 1200);
    assert_eq!((world.states(true), world.states(false)), ("Active".to_owned(), "Active, Published".to_owned()));
    ask_to_rotate(&mut world, true);
    assert_eq!(world.states(true), "Active, Published");
    sound(&world);
}
