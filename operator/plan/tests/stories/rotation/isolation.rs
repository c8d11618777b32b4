//! The effect of one namespace, pod or tenant on the rotations of the whole TrustDomain.

use super::*;
use gaia_api::crd::{DistrustMode, DistrustedCa, DistrustedKey, LaggardKind};
use gaia_api::names;

/// The fleet, and eight more namespaces with one service each: ten in all.
fn crowd() -> World {
    let mut world = fleet();
    for index in 0..8 {
        let namespace = format!("team-{index}");
        world.namespaces.insert(namespace.clone(), [("env".to_owned(), "prod".to_owned())].into());
        world.create_service(&namespace, "web", GaiaServiceSpec::default());
    }
    world.settle();
    world
}

/// The operator looks every two minutes: a crowd takes long to plan.
pub(super) fn wait(world: &mut World, seconds: i64) {
    for _ in 0..seconds / 120 {
        world.advance(120);
        world.settle();
    }
}

#[track_caller]
pub(super) fn until(world: &mut World, ca: bool, states: &str) {
    for _ in 0..720 {
        if world.states(ca) == states {
            return;
        }
        wait(world, 120);
    }
    panic!("still {} and not {states}: {:?}", world.states(ca), world.reported(&domain()).conditions());
}

fn trust_in(namespace: &str) -> ObjectKey {
    ObjectKey::config_map(namespace, names::trust(TD))
}

/// No object can be created in that namespace, and its trust ConfigMap is deleted.
fn quota(world: &mut World, namespace: &str) {
    world.quotas.insert(namespace.to_owned());
    world.objects.remove(&trust_in(namespace));
    world.settle();
}

fn foreign(world: &mut World, namespace: &str) {
    world.tamper(&trust_in(namespace), Tamper::ReplaceByForeign);
    world.settle();
}

fn immutable(world: &mut World, namespace: &str) {
    world.objects.get_mut(&trust_in(namespace)).unwrap().facts.immutable = true;
}

/// The annotations of its trust ConfigMap leave no room for a change.
fn full_annotations(world: &mut World, namespace: &str) {
    world.full.insert(trust_in(namespace));
}

/// The same of its leaf Secret.
fn full_leaf(world: &mut World, namespace: &str) {
    world.full.insert(ObjectKey::secret(namespace, "web-tls"));
}

fn namespace_laggards(world: &World) -> Vec<String> {
    let laggards = status(world).laggards.into_iter();
    laggards.filter(|laggard| laggard.kind == Some(LaggardKind::Namespace)).map(|laggard| laggard.namespace).collect()
}

#[rstest]
#[case::quota(quota)]
#[case::foreign(foreign)]
#[case::immutable(immutable)]
#[case::full_annotations(full_annotations)]
#[case::full_leaf(full_leaf)]
fn namespace_that_refuses_writes_holds_a_rotation_only_until_d(#[case] break_it: fn(&mut World, &str)) {
    let mut world = crowd();
    break_it(&mut world, "team-3");
    ask_to_rotate(&mut world, true);
    // A refused projection is not a written one.
    wait(&mut world, 1800);
    assert_eq!(world.states(true), "Active, Staged");
    let message = says(&world, &domain(), "CARotating", "True", "Publishing");
    assert!(message.contains("held by namespace team-3 ("), "{message}");
    assert_eq!(namespace_laggards(&world), ["team-3"]);
    wait(&mut world, 1800);
    assert_eq!(world.states(true), "Active, Published", "D is counted from Staged");
    let since = world.log.len();
    until(&mut world, true, "Removed, Active");
    let message = says(&world, &domain(), "NamespaceLeftBehind", "True", "NamespaceLeftBehind");
    assert!(message.starts_with("namespace team-3 refuses published objects"), "{message}");
    says(&world, &domain(), "Stalled", "False", "Settled");
    says(&world, &domain(), "Reconciling", "False", "Settled");
    assert!(!events(&world, since).contains(&"RotationForced"));
    // Once the cause is removed, the namespace is caught up with.
    (world.quotas, world.full) = Default::default();
    world.objects.remove(&trust_in("team-3"));
    world.crash();
    wait(&mut world, 120);
    assert_eq!(world.reported(&domain()).condition("NamespaceLeftBehind").0, "");
    assert_eq!(namespace_laggards(&world), [""; 0]);
    let bundle = &world.config_map("team-3", "gaia-trust").unwrap().content["ca.crt"];
    assert_eq!(*bundle, world.config_map("team-4", "gaia-trust").unwrap().content["ca.crt"]);
}

/// The rotation went through before, and leaves failed in the namespace whose copy was outdated.
#[test]
fn foreign_object_in_one_namespace_hides_no_outdated_copy_in_another() {
    let mut world = crowd();
    foreign(&mut world, "team-3");
    ask_to_rotate(&mut world, true);
    full_annotations(&mut world, "team-4");
    world.objects.get_mut(&trust_in("team-4")).unwrap().content.insert("ca.crt".to_owned(), "outdated".to_owned());
    let version = world.fresh();
    world.objects.get_mut(&trust_in("team-4")).unwrap().touch(version);
    wait(&mut world, 4 * 3600);
    assert_eq!(world.states(true), "Active, Staged", "two of ten namespaces are more than 10 %");
    let message = says(&world, &domain(), "CARotating", "True", "PastDeadline");
    assert!(message.contains("team-3") && message.contains("team-4"), "{message}");
}

#[test]
fn more_than_a_tenth_of_the_namespaces_hold_a_rotation_until_advance_without() {
    let mut world = crowd();
    quota(&mut world, "team-3");
    quota(&mut world, "team-4");
    ask_to_rotate(&mut world, true);
    wait(&mut world, 4 * 3600);
    assert_eq!(world.states(true), "Active, Staged");
    let message = says(&world, &domain(), "CARotating", "True", "PastDeadline");
    let next = ids(&world, true)[1].clone();
    assert!(message.contains(&format!("gaia.dev/advance-without={next}")), "{message}");
    annotate(&mut world, annotation::ADVANCE_WITHOUT, &next);
    assert_eq!(world.states(true), "Active, Published");
    until(&mut world, true, "Removed, Active");
}

#[test]
fn token_issuers_namespace_and_a_single_namespace_are_never_left_behind() {
    let mut world = crowd();
    quota(&mut world, "auth");
    ask_to_rotate(&mut world, true);
    wait(&mut world, 4 * 3600);
    assert_eq!(world.states(true), "Active, Staged");

    let mut world = settled(web());
    quota(&mut world, "shop");
    ask_to_rotate(&mut world, true);
    wait(&mut world, 4 * 3600);
    assert_eq!(world.states(true), "Active, Staged");
}

#[test]
fn webhook_that_refuses_every_write_stops_the_step_and_leaves_no_namespace_behind() {
    let mut world = crowd();
    world.webhook_down = true;
    ask_to_rotate(&mut world, true);
    wait(&mut world, 4 * 3600);
    assert_eq!(world.states(true), "Active, Staged");
    assert_eq!(world.reported(&domain()).condition("NamespaceLeftBehind").0, "");
    says(&world, &domain(), "Reconciling", "True", "WriteFailed");
    world.webhook_down = false;
    until(&mut world, true, "Removed, Active");
    sound(&world);
}

#[test]
fn refusal_in_one_namespace_delays_no_write_in_another() {
    let mut world = crowd();
    quota(&mut world, "team-3");
    wait(&mut world, 360);
    world.objects.remove(&trust_in("team-7"));
    world.settle();
    assert!(world.objects.contains_key(&trust_in("team-7")), "it is written at once");
}

#[rstest]
#[case::immediate(DistrustMode::Immediate, 0)]
#[case::after_reissue(DistrustMode::AfterReissue, 360)]
fn distrust_waits_for_no_namespace(#[case] mode: DistrustMode, #[case] longest: i64) {
    let mut world = crowd();
    for namespace in ["team-3", "team-4", "team-5"] {
        quota(&mut world, namespace);
    }
    let leaked = world.ca_ring(TD).unwrap().active().unwrap().material.fingerprint.clone();
    world.edit_domain(TD, |found| {
        found.spec.ca.distrusted = vec![DistrustedCa { fingerprint: leaked.clone(), mode }];
    });
    world.settle();
    wait(&mut world, longest);
    assert_eq!(world.states(true), "Distrusted, Active");
    let ring = world.ca_ring(TD).unwrap();
    let bundle = &world.config_map("team-6", "gaia-trust").unwrap().content["ca.crt"];
    assert_eq!(*bundle, ring.active().unwrap().material.root);
    assert!(status(&world).exposure.unwrap().until.is_none(), "three namespaces may still hold the leaked CA");
}

/// Planned steps that are not taken are not reported as taken.
#[test]
fn ring_that_cannot_be_written_is_not_reported_as_written() {
    let mut world = fleet();
    world.edit_domain(TD, |found| found.spec.ca.rotation_revision += 1);
    world.fail_next = 1;
    world.reconcile(&domain());
    world.reconcile(&domain());
    let message = says(&world, &domain(), "CARotating", "True", "Held");
    assert!(message.starts_with("held: ") && message.contains("next step: stage a new CA"), "{message}");
}

#[test]
fn leftover_that_waits_for_a_finalizer_is_deleted_once() {
    let mut world = settled(web());
    world.objects.get_mut(&trust_in("shop")).unwrap().facts.is_deleting = true;
    world.certificates.clear();
    assert!(!doing(&mut world).iter().any(|done| done.starts_with("delete ConfigMap")));
}

/// Kind: a rotation that ended in seconds, with "every certificate it signed is replaced".
#[test]
fn selected_namespaces_that_are_not_watched_are_named_and_block_every_removal() {
    let mut world = fleet();
    world.unwatched = vec!["hidden".to_owned(), "unseen".to_owned()];
    ask_to_rotate(&mut world, true);
    ask_to_rotate(&mut world, false);
    wait(&mut world, 6 * 3600);
    assert_eq!(
        (world.states(true), world.states(false)),
        ("Retiring, Active".into(), "Retiring, Active, Published".into())
    );
    let message = says(&world, &domain(), "NamespacesNotWatched", "True", "NamespacesNotWatched");
    assert!(message.contains("2 selected namespaces are not watched: hidden, unseen"), "{message}");
    for condition in ["CARotating", "SigningKeysRotating"] {
        let message = says(&world, &domain(), condition, "True", "Held");
        assert!(message.contains("stays trusted: 2 selected namespaces are not watched"), "{message}");
    }
    assert!(!events(&world, 0).contains(&"RotationCompleted"));
    // Another rotation still starts.
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Retiring, Retiring, Active");
    world.unwatched.clear();
    until(&mut world, true, "Removed, Removed, Active");
    until(&mut world, false, "Removed, Active, Published");
    sound(&world);
}

#[test]
fn exposure_has_no_end_while_selected_namespaces_are_not_watched() {
    let mut world = fleet();
    world.unwatched = vec!["hidden".to_owned()];
    let leaked = world.ca_ring(TD).unwrap().active().unwrap().material.fingerprint.clone();
    world.edit_domain(TD, |found| {
        found.spec.ca.distrusted = vec![DistrustedCa { fingerprint: leaked, mode: DistrustMode::Immediate }];
    });
    wait(&mut world, 3600);
    assert_eq!(world.states(true), "Distrusted, Active");
    assert_eq!(status(&world).exposure.unwrap().until, None);
    world.unwatched.clear();
    wait(&mut world, 120);
    assert!(status(&world).exposure.unwrap().until.is_some());
}

/// Kind: three services at the schema's limits pushed the file over a mebibyte, and both rotations stopped.
#[test]
fn grants_of_one_namespace_never_displace_those_of_another() {
    let mut world = fleet();
    let caller = |index: usize| CallerSpec {
        service: format!("caller-{index:03}-{}", "x".repeat(40)),
        namespace: Some("elsewhere".to_owned()),
        scopes: (0..64).map(|scope| format!("scope-{scope:02}-{}", "y".repeat(80))).collect(),
        on_behalf_of: false,
    };
    for index in 0..3 {
        let spec = GaiaServiceSpec { callers: (0..64).map(caller).collect(), ..GaiaServiceSpec::default() };
        world.create_service("other", &format!("huge-{index}"), spec);
    }
    world.namespaces.get_mut("other").unwrap().insert("env".to_owned(), "prod".to_owned());
    world.settle();
    let grants = &world.config_map("auth", "gaia-grants").unwrap().content["grants.json"];
    assert!((500_000..=900 * 1024).contains(&grants.len()), "{}", grants.len());
    assert!(grants.contains("/sa/asset-service"), "a namespace below the equal share loses nothing");
    let is_cut = |index: usize| {
        let reported = world.reported(&service("other", &format!("huge-{index}")));
        reported.condition("GrantsTooLarge").0 == "True"
    };
    let cut: Vec<bool> = (0..3).map(is_cut).collect();
    assert!(!cut[0] && cut[2], "the oldest fits: {cut:?}");
    assert_eq!(world.reported(&service("shop", "asset-service")).condition("GrantsTooLarge").0, "");
    says(&world, &domain(), "Stalled", "False", "Settled");
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Removed, Active");
    for index in 1..3 {
        world.delete(&service("other", &format!("huge-{index}")));
    }
    world.settle();
    assert_eq!(world.reported(&service("other", "huge-0")).condition("GrantsTooLarge").0, "");
}

/// Kind: a step that must wait for the clock was reported as taken.
#[test]
fn times_of_a_ring_ahead_of_the_clock_are_a_warning_and_claim_no_step() {
    let mut world = fleet();
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Removed, Active");
    let before = world.ca_ring(TD).unwrap().generations.clone();
    world.advance(-DAY);
    ask_to_rotate(&mut world, true);
    let message = says(&world, &domain(), "ClockBehind", "True", "ClockBehind");
    assert!(message.contains("ahead of the operator's clock"), "{message}");
    let message = says(&world, &domain(), "CARotating", "True", "Held");
    assert!(message.starts_with("held: the rings hold the time"), "{message}");
    assert_eq!(world.ca_ring(TD).unwrap().generations, before, "no step was taken");
    wait(&mut world, DAY + 600);
    until(&mut world, true, "Removed, Removed, Active");
    assert_eq!(world.reported(&domain()).condition("ClockBehind").0, "");
}

#[rstest]
#[case::ca(true)]
#[case::signing_key(false)]
fn distrust_does_not_wait_for_a_time_that_a_clock_which_ran_ahead_wrote(#[case] ca: bool) {
    let mut world = fleet();
    let leaked = world.ca_ring(TD).unwrap().active().unwrap().material.fingerprint.clone();
    let kid = world.signing_ring(TD).unwrap().active().unwrap().material.jwk.kid().to_owned();
    world.start(Pod::of("shop", "asset-service", "old").never_reloads());
    world.edit_domain(TD, |found| {
        if ca {
            found.spec.ca.distrusted = vec![DistrustedCa { fingerprint: leaked, mode: DistrustMode::AfterReissue }];
        } else {
            found.spec.tokens.distrusted = vec![DistrustedKey { kid, mode: DistrustMode::AfterReissue }];
        }
    });
    world.settle();
    world.advance(-DAY);
    wait(&mut world, 600);
    // The CA that the clock which ran ahead issued is not used.
    let expected = if ca { "Distrusted, Removed, Active" } else { "Distrusted, Active" };
    assert!(world.states(ca).starts_with(expected), "{}", world.states(ca));
    if ca {
        assert!(world.ca_ring(TD).unwrap().active().unwrap().material.not_before <= world.now);
        says(&world, &domain(), "Ready", "True", "Ready");
    }
}
