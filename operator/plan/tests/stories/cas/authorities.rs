//! The CA ring: activation of a new CA and removal of the old one.

use super::*;

#[test]
fn a_ca_is_published_then_signs_then_its_predecessor_goes_when_nothing_of_it_is_in_use() {
    let mut world = fleet();
    let before = world.log.len();
    ask_to_rotate(&mut world, true);
    assert_eq!(world.states(true), "Active, Published");
    assert_eq!(
        world
            .done_since(before)
            .iter()
            .map(|line| line.split_once(':').map_or("", |(what, _)| what))
            .collect::<Vec<_>>()[0],
        "replace Secret gaia-system/gaia-ca-ring"
    );
    let message = says(&world, &domain(), "CARotating", "True", "Publishing");
    assert!(message.contains("2026-01-01T12:04:00Z"), "{message}");
    let old = ids(&world, true)[0].clone();
    assert_eq!(until(&mut world, true, "Retiring, Active"), 240);
    // Jitter is at most half a minute; then kubelets take a minute.
    wait(&mut world, 30);
    for (namespace, service) in [("auth", "auth-service"), ("shop", "asset-service")] {
        assert_ne!(issuer_of(&world, namespace, service), old);
    }
    let message = says(&world, &domain(), "CARotating", "True", "WaitingForInstances");
    assert!(message.contains(&format!("3 of 5 instances still serve certificates of CA {old}")), "{message}");
    assert_eq!(status(&world).laggard_count, Some(3));
    wait(&mut world, 90);
    let message = says(&world, &domain(), "CARotating", "True", "Retiring");
    assert!(message.contains("will be removed at"), "{message}");
    assert!(status(&world).ca.unwrap().retiring[0].safe_to_remove_time.is_some());
    until(&mut world, true, "Removed, Active");
    assert!(world.elapsed - DAY / 2 < 700, "{}", world.elapsed);
    says(&world, &domain(), "CARotating", "False", "Settled");
    assert_eq!(
        events(&world, before).into_iter().filter(|reason| reason.starts_with("Rotation")).collect::<Vec<_>>(),
        ["RotationStarted", "RotationSwitched", "RotationCompleted"]
    );
    wait(&mut world, 300);
    says(&world, &domain(), "Ready", "True", "Ready");
    assert_eq!(status(&world).instances.unwrap().summary, "3/3");
    world.is_whole().unwrap();
    sound(&world);
}

#[test]
fn a_year_of_quarterly_cas_and_keys_leaves_nobody_behind() {
    let mut world = fleet();
    world.edit_domain(TD, |found| found.spec.ca.rotation_period = Some(Span::hours(90 * 24)));
    world.settle();
    let (mut cas, mut keys) = (0, 0);
    for day in 0..366 {
        for _ in 0..3 {
            world.advance(8 * 3600);
            world.settle();
            for (resource, condition) in [(domain(), "Ready"), (certificate("shop", "asset-service"), "Ready")] {
                assert_eq!(world.reported(&resource).condition(condition).0, "True", "day {day}");
            }
        }
        let switched = |ring: &str| {
            world
                .log
                .iter()
                .filter(|d| d.action.to_string().contains(ring) && d.action.to_string().contains(": activate "))
                .count()
        };
        (cas, keys) = (switched("ca-ring"), switched("signing-ring"));
    }
    assert_eq!((cas, keys), (4, 4));
    assert!(world.ca_ring(TD).unwrap().generations.len() <= 9);
    sound(&world);
}

#[test]
fn a_ca_that_nobody_rotates_is_replaced_before_its_end_and_nothing_is_shortened() {
    let mut world = quiet(fleet());
    // Leaves of 135 days: twice their validity, and twice 63 minutes, before the expiry.
    world.edit_domain(TD, |found| found.spec.ca.duration = Some(Span::hours(14_000)));
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Removed, Active");
    let end = world.ca_ring(TD).unwrap().active().unwrap().material.not_after;
    let due = end.checked_sub(jiff::SignedDuration::from_mins(2 * (3240 * 60 + 63))).unwrap();
    while world.now.checked_add(jiff::SignedDuration::from_hours(25)).unwrap() < due {
        world.advance(DAY);
        world.settle();
    }
    let left = due.duration_since(world.now).as_secs() - 60;
    world.advance(left);
    world.settle();
    says(&world, &domain(), "CARotating", "False", "Settled");
    says(&world, &domain(), "ExpiringSoon", "False", "Settled");
    let before = world.log.len();
    until(&mut world, true, "Removed, Active, Published");
    assert!(world.now >= due && world.now < due.checked_add(jiff::SignedDuration::from_secs(20)).unwrap());
    says(&world, &domain(), "ExpiringSoon", "True", "CAExpiresSoon");
    until(&mut world, true, "Removed, Removed, Active");
    assert!(!events(&world, before).contains(&"RotationForced"));
    says(&world, &domain(), "ExpiringSoon", "False", "Settled");
    sound(&world);
}

#[test]
fn only_when_waiting_would_shorten_certificates_does_time_decide() {
    let mut world = quiet(fleet());
    world.edit_domain(TD, |found| found.spec.ca.duration = Some(Span::hours(14_000)));
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Removed, Active");
    world.start(Pod::of("shop", "asset-service", "deaf").never_reloads());
    let end = world.ca_ring(TD).unwrap().active().unwrap().material.not_after;
    let last = end.checked_sub(jiff::SignedDuration::from_hours(3240)).unwrap();
    let before = world.log.len();
    while world.now.checked_add(jiff::SignedDuration::from_hours(25)).unwrap() < last {
        world.advance(DAY);
        world.settle();
    }
    let left = last.duration_since(world.now).as_secs();
    world.advance(left);
    world.settle();
    assert_eq!(world.states(true), "Removed, Active, Published");
    world.advance(1);
    world.settle();
    assert_eq!(world.states(true), "Removed, Retiring, Active");
    let forced: Vec<_> = world.log[before..]
        .iter()
        .flat_map(|d| d.action.events())
        .filter(|event| event.reason == "RotationForced")
        .collect();
    assert!(forced[0].warning && forced[0].message.starts_with("critical: activated CA "), "{forced:?}");
    assert!(forced[0].message.contains("shop/deaf: Stale: has not loaded the newest ca.crt"), "{forced:?}");
    sound(&world);
}

#[test]
fn a_second_request_waits_until_the_first_rotation_is_over() {
    let mut world = fleet();
    ask_to_rotate(&mut world, true);
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Retiring, Active");
    assert_eq!(world.ca_ring(TD).unwrap().revision, 2);
    until(&mut world, true, "Removed, Active, Published");
    assert_eq!(world.ca_ring(TD).unwrap().revision, 3);
    until(&mut world, true, "Removed, Removed, Active");
    world.advance(DAY);
    assert_eq!(doing(&mut world), [""; 0]);
    sound(&world);
}

#[test]
fn another_key_for_the_ca_is_a_rotation() {
    let mut world = fleet();
    world.edit_domain(TD, |found| {
        found.spec.ca.private_key =
            Some(PrivateKeySpec { algorithm: gaia_api::crd::KeyAlgorithm::ECDSA, size: Some(384) });
    });
    until(&mut world, true, "Removed, Active");
    assert_eq!(world.ca_ring(TD).unwrap().active().unwrap().material.key, gaia_pki::KeySpec::Ecdsa384);
    world.advance(DAY);
    assert_eq!(doing(&mut world), [""; 0]);
    sound(&world);
}

#[test]
fn a_new_certificate_in_the_secret_of_ones_own_ca_lives_the_same_life() {
    let mut world = issuer_in("auth", "auth-service");
    world.edit_domain(TD, |found| found.spec.ca.existing_secret_ref = Some(SecretRef { name: "our-ca".to_owned() }));
    world.external_ca = external_ca(1, "2030-01-01T00:00:00Z");
    world.settle();
    world.start(Pod::of("auth", "auth-service", "auth-0").issuer());
    world.external_ca = external_ca(2, "2031-01-01T00:00:00Z");
    until(&mut world, true, "Active, Published");
    until(&mut world, true, "Retiring, Active");
    until(&mut world, true, "Removed, Active");
    let active = world.ca_ring(TD).unwrap().active().unwrap().material.clone();
    assert!(
        active.is_external
            && active.fingerprint == external_ca(2, "2031-01-01T00:00:00Z").unwrap().unwrap().fingerprint
    );
    // The CA before it is put back: it is published again and signs.
    world.external_ca = external_ca(1, "2030-01-01T00:00:00Z");
    until(&mut world, true, "Active, Published");
    until(&mut world, true, "Removed, Active");
    assert_ne!(world.ca_ring(TD).unwrap().active().unwrap().material.fingerprint, active.fingerprint);
    // A raised revision waits for another certificate.
    ask_to_rotate(&mut world, true);
    assert_eq!(world.states(true), "Removed, Active");
    // Without the reference the operator generates its own.
    world.edit_domain(TD, |found| found.spec.ca.existing_secret_ref = None);
    until(&mut world, true, "Removed, Removed, Active");
    assert!(!world.ca_ring(TD).unwrap().active().unwrap().material.is_external);
    sound(&world);
}

#[test]
fn who_asks_for_no_renewal_keeps_the_old_root_until_that_leaf_ends() {
    let mut world = quiet(fleet());
    world.create_certificate_of(
        "shop",
        "web",
        ServiceCertificateSpec { renewal: Renewal::Disabled, ..Default::default() },
    );
    world.settle();
    let end = world.leaf(world.secret("shop", "web-tls").unwrap()).unwrap().0.not_after;
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Retiring, Active");
    wait(&mut world, 7200);
    let message = says(&world, &domain(), "CARotating", "True", "PastDeadline");
    assert!(message.contains("shop/web-tls: NotServed: the stored certificate is signed by CA"), "{message}");
    while world.now < end {
        assert_eq!(world.states(true), "Retiring, Active");
        world.advance(DAY / 2);
        world.settle();
    }
    until(&mut world, true, "Removed, Active");
    sound(&world);
}

#[test]
fn certificates_are_issued_anew_wave_by_wave_and_a_wave_that_does_not_follow_halts_the_rest() {
    let mut world = World::new();
    world.create_domain(TD, plain_domain());
    for (wave, (namespace, service)) in
        [("auth", "auth-service"), ("shop", "asset-service"), ("other", "chat-service")].into_iter().enumerate()
    {
        let rotation_wave = i32::try_from(wave).unwrap();
        world.create_service(namespace, service, GaiaServiceSpec { rotation_wave, ..Default::default() });
        world.settle();
        world.start(Pod::of(namespace, service, service).in_wave(rotation_wave));
    }
    let old = ids(&world, true)[0].clone();
    ask_to_rotate(&mut world, true);
    // The canary has the bundle, and will take no leaf of the new CA.
    until(&mut world, true, "Retiring, Active");
    world.pod("auth-service").reload = Reload::Never;
    wait(&mut world, 600);
    let issuers = |world: &World| {
        [("auth", "auth-service"), ("shop", "asset-service"), ("other", "chat-service")]
            .map(|(namespace, service)| issuer_of(world, namespace, service) == old)
    };
    assert_eq!(issuers(&world), [false, true, true]);
    world.restart("auth-service");
    world.settle();
    wait(&mut world, 30);
    assert_eq!(issuers(&world), [false, false, true]);
    wait(&mut world, 90);
    assert_eq!(issuers(&world), [false, false, false]);
    until(&mut world, true, "Removed, Active");
    sound(&world);
}

#[test]
fn new_certificates_are_spread_over_half_a_minute_at_most() {
    let mut world = quiet(web());
    for index in 0..40 {
        world.create_certificate_of("shop", &format!("s{index}"), ServiceCertificateSpec::default());
    }
    world.settle();
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Retiring, Active");
    let switched = world.ca_ring(TD).unwrap().active().unwrap().activated_time.unwrap();
    let before = world.log.len();
    for _ in 0..60 {
        world.advance(1);
        world.settle();
    }
    let issued = |done: &&world::Done| matches!(done.action, Action::IssueLeaf(_));
    let after: Vec<i64> =
        world.log[before..].iter().filter(issued).map(|done| done.at.duration_since(switched).as_secs()).collect();
    assert!(after.iter().all(|seconds| *seconds <= 30) && after.iter().any(|seconds| *seconds > 15), "{after:?}");
    assert!(after.windows(2).all(|pair| pair[0] <= pair[1]) && after.len() >= 35, "{after:?}");
    sound(&world);
}

#[test]
fn a_projection_that_is_missing_is_written_before_anything_else() {
    let mut world = fleet();
    ask_to_rotate(&mut world, true);
    world.advance(250);
    world.remove(&ObjectKey::config_map("shop", "gaia-trust"));
    let done = doing(&mut world);
    assert_eq!(done[0], "create ConfigMap shop/gaia-trust", "{done:#?}");
    assert!(done[1].contains(": activate "), "{done:#?}");
}

#[test]
fn a_quarter_in_one_jump_and_a_clock_that_goes_back() {
    let mut world = fleet();
    ask_to_rotate(&mut world, true);
    world.advance(91 * DAY);
    until(&mut world, true, "Removed, Active");
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Removed, Retiring, Active");
    wait(&mut world, 200);
    world.advance(-3600);
    let ring = world.ca_ring(TD).unwrap().clone();
    let rings = |world: &World, before: usize| world.done_since(before).iter().any(|done| done.contains("-ring"));
    let before = world.log.len();
    wait(&mut world, 1200);
    // No earlier time is recorded, whichever resource is reconciled.
    assert!(!rings(&world, before), "{:#?}", world.done_since(before));
    assert_eq!(*world.ca_ring(TD).unwrap(), ring);
    world.advance(3600);
    until(&mut world, true, "Removed, Removed, Active");
    sound(&world);
}

#[test]
fn a_tenants_long_duration_is_clamped_and_makes_no_ca_due() {
    let mut world = quiet(fleet());
    world.edit_domain(TD, |found| found.spec.ca.duration = Some(Span::hours(20_000)));
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Removed, Active");
    let web = ServiceCertificateSpec::default();
    world.create_certificate_of("shop", "web", web);
    world.settle();
    world.edit_certificate(&name("shop", "web"), |found| found.spec.duration = Some(Span::hours(26_280)));
    world.settle();
    let message = says(&world, &certificate("shop", "web"), "DurationClamped", "True", "DurationClamped");
    assert!(message.contains("spec.duration: requested 26280h, issued for 19"), "{message}");
    assert!(message.contains("limited by the expiry of CA "), "{message}");
    says(&world, &certificate("shop", "web"), "Ready", "True", "Ready");
    says(&world, &certificate("shop", "web"), "Stalled", "False", "Settled");
    world.advance(DAY);
    assert_eq!(doing(&mut world), [""; 0]);
    says(&world, &domain(), "ExpiringSoon", "False", "Settled");
}

#[test]
fn with_a_ring_what_cannot_hold_is_a_warning_with_both_numbers_and_stops_no_rotation() {
    let mut world = fleet();
    world.edit_domain(TD, |found| found.spec.ca.rotation_period = Some(Span::hours(1)));
    world.settle();
    let message = says(&world, &domain(), "LifetimesTooTight", "True", "LifetimesTooTight");
    assert!(message.contains("spec.ca.rotationPeriod is too short"), "{message}");
    assert!(message.contains("1h < 2 * 3m + 1h + 0s + 2 * 1m = 1h8m"), "{message}");
    says(&world, &domain(), "Stalled", "False", "Settled");
    says(&world, &domain(), "Ready", "True", "Ready");
    assert_eq!(world.states(true), "Active, Published", "the period has passed");
    world.edit_domain(TD, |found| found.spec.ca.rotation_period = None);
    until(&mut world, true, "Removed, Active");
    assert_eq!(world.reported(&domain()).condition("LifetimesTooTight").0, "");
}

#[test]
fn an_open_connection_of_the_old_ca_keeps_its_root() {
    let mut world = fleet();
    let old = world.ca_ring(TD).unwrap().active().unwrap().material.fingerprint.clone();
    world.pod("shop-0").connections = [(old.clone(), 2)].into();
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Retiring, Active");
    wait(&mut world, 1800);
    let message = says(&world, &domain(), "CARotating", "True", "WaitingForInstances");
    assert!(
        message.contains("shop/shop-0: Stale: has open connections of clients with certificates of CA"),
        "{message}"
    );
    world.pod("shop-0").connections.clear();
    until(&mut world, true, "Removed, Active");
    sound(&world);
}

#[test]
fn a_ca_counts_as_published_only_once_every_leaf_secret_holds_its_root() {
    let mut world = fleet();
    world.edit_domain(TD, |found| found.spec.ca.rotation_revision = 2);
    // The certificates are not reconciled.
    for _ in 0..6 {
        world.reconcile(&domain());
    }
    assert_eq!(world.states(true), "Active, Staged");
    let message = says(&world, &domain(), "CARotating", "True", "Publishing");
    assert!(message.ends_with("Secret auth/auth-service-tls does not hold the newest ca.crt yet"), "{message}");
    world.settle();
    assert_eq!(world.states(true), "Active, Published");
    sound(&world);
}

#[test]
fn a_ca_does_not_sign_while_a_leaf_secret_has_lost_its_root() {
    let mut world = fleet();
    ask_to_rotate(&mut world, true);
    world.settle();
    assert_eq!(world.states(true), "Active, Published");
    world.pods.clear();
    world.advance(239);
    world.tamper(&ObjectKey::secret("shop", "asset-service-tls"), Tamper::EmptyCa);
    world.advance(1);
    world.reconcile(&domain());
    assert_eq!(world.states(true), "Active, Published");
    let message = says(&world, &domain(), "CARotating", "True", "Publishing");
    assert!(message.contains("Secret shop/asset-service-tls does not hold the newest ca.crt yet"), "{message}");
    world.settle();
    assert_eq!(world.states(true), "Retiring, Active");
    sound(&world);
}

#[test]
fn a_ca_goes_when_all_it_signed_has_ended_however_long_files_take() {
    let mut world = World::new();
    world.create_domain(TD, world::plain_domain());
    world.settle();
    ask_to_rotate(&mut world, true);
    world.settle();
    world.edit_domain(TD, |found| {
        found.spec.propagation.min_delay = Span::hours(24);
        found.spec.certificate_defaults.duration = Span::hours(10);
    });
    world.advance(24 * 3600 + 60);
    world.settle();
    assert_eq!(world.states(true), "Retiring, Active");
    // Ten hours and the skew.
    world.advance(10 * 3600);
    world.settle();
    assert_eq!(world.plan(&domain()).next_check.duration_since(world.now).as_secs(), 60);
    assert_eq!(until(&mut world, true, "Removed, Active"), 60);
}
