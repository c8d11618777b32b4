//! Leaves: issued, renewed, repaired, refused.

use super::*;

#[test]
fn a_first_issuance_is_two_rings_one_bundle_one_secret_and_a_next_key() {
    let mut world = web();
    assert_eq!(
        doing(&mut world),
        [
            "create Secret gaia-system/gaia-ca-ring with a new CA (ecdsa-256)",
            "create Secret gaia-system/gaia-signing-ring with a new signing key (rsa-2048) and its successor",
            "create Secret shop/web-tls: certificate for spiffe://gaia.local/ns/shop/sa/web until 2026-05-16T00:00:00Z",
            "create ConfigMap shop/gaia-trust",
            "replace Secret gaia-system/gaia-signing-ring: mark 00000009 as Published",
        ]
    );
    says(&world, &domain(), "Ready", "True", "Ready");
    let message = says(&world, &certificate("shop", "web"), "Ready", "True", "Ready");
    assert_eq!(message, "Secret web-tls holds a certificate that is valid until 2026-05-16T00:00:00Z");
    let (leaf, key_matches) = world.leaf(world.secret("shop", "web-tls").unwrap()).unwrap();
    assert!(key_matches);
    assert_eq!(leaf.not_before, at("2025-12-31T23:55:00Z"));
    assert_eq!(leaf.dns, ["web", "web.shop.svc", "web.shop.svc.cluster.local"]);
}

#[test]
fn a_default_leaf_is_renewed_four_times_a_year_and_on_no_other_day() {
    let mut world = settled(quiet(web()));
    let mut days = vec![];
    for day in 1..=366 {
        world.advance(DAY);
        match doing(&mut world).as_slice() {
            [] => {}
            [one] if one.starts_with("patch Secret shop/web-tls") => days.push(day),
            other => panic!("day {day}: {other:#?}"),
        }
        says(&world, &certificate("shop", "web"), "Ready", "True", "Ready");
    }
    // Two thirds of 135 days are 90, less a jitter of up to 6 hours.
    assert_eq!(days, [90, 180, 270, 360]);
}

#[rstest]
#[case::key(Tamper::SwapKey, "issued a new certificate into Secret web-tls: tls.key did not belong to tls.crt")]
#[case::garbage(Tamper::Garbage, "issued a new certificate into Secret web-tls: tls.crt or tls.key could not be read")]
#[case::bundle(Tamper::EmptyCa, "Secret web-tls: restored data ca.crt")]
#[case::label(Tamper::DropLabel, "Secret web-tls: restored labels app.kubernetes.io/managed-by")]
#[case::labels(
    Tamper::DropAllLabels,
    "Secret web-tls: restored labels app.kubernetes.io/managed-by, gaia.dev/component, gaia.dev/trust-domain"
)]
#[case::owner(Tamper::DropOwners, "Secret web-tls: restored owner reference")]
#[case::annotations(Tamper::DropAnnotations, "issued a new certificate into Secret web-tls: the spec changed")]
#[case::deleted(Tamper::Delete, "issued a new certificate into Secret web-tls: the Secret was missing")]
fn a_leaf_secret_that_was_tampered_with_is_put_right_by_one_write(#[case] tamper: Tamper, #[case] event: &str) {
    let mut world = settled(web());
    let before = world.log.len();
    world.tamper(&ObjectKey::secret("shop", "web-tls"), tamper);
    world.settle();
    let events: Vec<_> = world.log[before..].iter().map(|done| done.action.event().unwrap().message.clone()).collect();
    assert_eq!(events, [event]);
    says(&world, &certificate("shop", "web"), "Ready", "True", "Ready");
}

#[rstest]
#[case::immutable(Tamper::Immutable, "SecretImmutable")]
#[case::type_(Tamper::OtherType, "SecretTypeMismatch")]
#[case::foreign(Tamper::ReplaceByForeign, "SecretNotOwned")]
fn a_leaf_secret_that_cannot_be_put_right_is_left_alone(#[case] tamper: Tamper, #[case] reason: &str) {
    let mut world = settled(web());
    world.tamper(&ObjectKey::secret("shop", "web-tls"), tamper);
    assert_eq!(doing(&mut world), [""; 0]);
    let message = says(&world, &certificate("shop", "web"), "Stalled", "True", reason);
    assert!(message.starts_with("spec.secretName: Secret web-tls"), "{message}");
}

#[test]
fn a_deleted_certificate_takes_its_secret_along_unless_it_is_retained() {
    let mut world = settled(web());
    let retained =
        ServiceCertificateSpec { deletion_policy: gaia_api::crd::DeletionPolicy::Retain, ..Default::default() };
    world.create_certificate_of("shop", "worker", retained);
    world.settle();
    world.delete(&certificate("shop", "web"));
    world.delete(&certificate("shop", "worker"));
    assert!(world.secret("shop", "web-tls").is_none());
    assert!(world.secret("shop", "worker-tls").is_some());
    // No object there refers to the TrustDomain; its rings stay.
    assert_eq!(doing(&mut world), ["delete ConfigMap shop/gaia-trust"]);
    world.delete(&domain());
    assert!(world.ca_ring(TD).is_some() && world.signing_ring(TD).is_some());
}

#[test]
fn a_renewal_is_done_once_for_each_request() {
    let mut world = settled(web());
    let handled = |world: &World| {
        let annotations = &world.secret("shop", "web-tls").unwrap().facts.annotations;
        annotations.get(annotation::RENEW_REQUESTED_AT).cloned()
    };
    assert_eq!(handled(&world), None);
    for request in ["2026-02-01", "again", "again and again"] {
        world.advance(60);
        world.ask_to_renew(&name("shop", "web"), request);
        assert_eq!(doing(&mut world).len(), 1);
        assert_eq!(handled(&world).as_deref(), Some(request));
        world.crash();
        assert_eq!(doing(&mut world), [""; 0]);
    }
    let Resource::Certificate(key) = certificate("shop", "web") else { unreachable!() };
    assert_eq!(world.certificates[&key].status.as_ref().unwrap().revision, Some(4));
    // A long value is kept as its hash, and not repeated either.
    world.ask_to_renew(&key, &"x".repeat(1000));
    assert_eq!(doing(&mut world).len(), 1);
    assert_eq!(handled(&world).map(|value| value.len()), Some(64));
    assert_eq!(doing(&mut world), [""; 0]);
}

#[test]
fn who_asks_for_no_renewal_gets_none_but_is_told_of_the_end() {
    let mut world = quiet(web());
    world.edit_certificate(&name("shop", "web"), |found| found.spec.renewal = Renewal::Disabled);
    world.settle();
    world.advance(134 * DAY);
    assert_eq!(doing(&mut world), [""; 0]);
    says(&world, &certificate("shop", "web"), "Ready", "True", "Ready");
    world.advance(2 * DAY);
    assert_eq!(doing(&mut world), [""; 0]);
    says(&world, &certificate("shop", "web"), "Ready", "False", "Expired");
    world.ask_to_renew(&name("shop", "web"), "please");
    assert_eq!(doing(&mut world).len(), 1);
    says(&world, &certificate("shop", "web"), "Ready", "True", "Ready");
}

#[test]
fn of_two_certificates_for_one_secret_the_older_wins_and_the_other_takes_over() {
    let shared = || ServiceCertificateSpec { secret_name: Some("shared".to_owned()), ..Default::default() };
    let mut world = settled(web());
    world.create_certificate_of("shop", "zebra", shared());
    world.advance(10);
    world.create_certificate_of("shop", "antelope", shared());
    world.settle();
    says(&world, &certificate("shop", "zebra"), "Ready", "True", "Ready");
    let message = says(&world, &certificate("shop", "antelope"), "Stalled", "True", "SecretClaimed");
    assert_eq!(message, "spec.secretName: Secret shared is written by the older ServiceCertificate zebra");
    says(&world, &certificate("shop", "antelope"), "Ready", "False", "SecretClaimed");

    world.delete(&certificate("shop", "zebra"));
    assert_eq!(doing(&mut world).len(), 1);
    says(&world, &certificate("shop", "antelope"), "Ready", "True", "Ready");
}

#[test]
fn no_leaf_outlives_its_ca_and_an_ended_ca_is_said_so() {
    // A bring-your-own CA is not replaced unless the user provides another one.
    let mut world = quiet(web());
    world.edit_domain(TD, |found| found.spec.ca.existing_secret_ref = Some(SecretRef { name: "our-ca".to_owned() }));
    world.external_ca = external_ca(1, "2026-09-28T20:00:00Z");
    world.settle();
    // 6,500 hours are 270 days and 20 hours: renewed on day 90 and 180, from then on clamped.
    world.advance(181 * DAY);
    world.settle();
    world.advance(80 * DAY);
    assert_eq!(doing(&mut world), [""; 0]);
    says(&world, &domain(), "ExpiringSoon", "True", "CAExpiresSoon");
    let (leaf, _) = world.leaf(world.secret("shop", "web-tls").unwrap()).unwrap();
    assert_eq!(leaf.not_after, at("2026-09-28T20:00:00Z"));

    world.advance(20 * DAY);
    assert_eq!(doing(&mut world), [""; 0]);
    says(&world, &certificate("shop", "web"), "Ready", "False", "Expired");
    says(&world, &domain(), "Ready", "False", "CAExpired");
    world.remove(&ObjectKey::secret("shop", "web-tls"));
    assert_eq!(doing(&mut world), [""; 0]);
    says(&world, &certificate("shop", "web"), "Stalled", "True", "CAExpired");
}

#[test]
fn a_write_that_fails_is_tried_again_after_a_second_and_forgotten_once_it_is_not_needed() {
    let mut world = settled(quiet(web()));
    world.advance(90 * DAY);
    world.fail_next = 1;
    assert_eq!(doing(&mut world), [""; 0]);
    says(&world, &certificate("shop", "web"), "Ready", "True", "Ready");
    says(&world, &certificate("shop", "web"), "Reconciling", "True", "WriteFailed");
    assert_eq!(world.plan(&certificate("shop", "web")).next_check, at("2026-04-01T00:00:01Z"));
    // The clock was wrong: no renewal is due, so nothing has failed.
    world.advance(-80 * DAY);
    assert_eq!(doing(&mut world), [""; 0]);
    says(&world, &certificate("shop", "web"), "Reconciling", "False", "Settled");
    world.advance(80 * DAY + 1);
    assert_eq!(doing(&mut world).len(), 1);
}

#[test]
fn roots_beside_a_leaf_that_cannot_be_had_any_more_are_tried_again_after_a_second_too() {
    let mut world = settled(quiet(web()));
    world.edit_certificate(&("shop".to_owned(), "web".to_owned()), |found| {
        found.spec.extra_dns_names = vec!["not.granted.example.com".to_owned()];
    });
    world.settle();
    says(&world, &certificate("shop", "web"), "Stalled", "True", "NameNotAllowed");
    world.tamper(&ObjectKey::secret("shop", "web-tls"), Tamper::EmptyCa);
    world.fail_next = 1;
    assert_eq!(doing(&mut world), [""; 0]);
    assert_eq!(world.plan(&certificate("shop", "web")).next_check.duration_since(world.now).as_secs(), 1);
    world.advance(1);
    assert_eq!(
        doing(&mut world),
        ["patch Secret shop/web-tls (annotations gaia.dev/ca-epoch, gaia.dev/ca-epoch-mac; data ca.crt)"]
    );
}

#[test]
fn a_spec_that_flaps_waits_for_its_budget_while_the_old_leaf_serves() {
    let mut world = settled(web());
    for round in 0..20 {
        let life = Span::hours(if round % 2 == 0 { 24 } else { 48 });
        world.edit_certificate(&name("shop", "web"), |found| found.spec.duration = Some(life));
        world.settle();
    }
    let issued = world.log.iter().filter(|done| matches!(done.action, Action::IssueLeaf(_))).count();
    assert_eq!(issued, 10);
    let message = says(&world, &certificate("shop", "web"), "Reconciling", "True", "Issuing");
    assert_eq!(message, "waiting for the next attempt: issued too often: a burst of 10, then one a minute");
    assert_eq!(world.plan(&certificate("shop", "web")).next_check, at("2026-01-01T00:01:00Z"));
    world.advance(60);
    assert_eq!(doing(&mut world).len(), 1);
    says(&world, &certificate("shop", "web"), "Ready", "True", "Ready");
}

#[test]
fn a_clock_behind_its_own_ca_signs_nothing_that_would_be_empty() {
    let mut world = web();
    let spec = ServiceCertificateSpec {
        duration: Some(Span::minutes(20)),
        allow_short_lived: true,
        private_key: Some(PrivateKeySpec::default()),
        ..Default::default()
    };
    world.edit_certificate(&name("shop", "web"), |found| found.spec = spec);
    world.settle();
    world.remove(&ObjectKey::secret("shop", "web-tls"));
    world.advance(-3000);
    assert_eq!(doing(&mut world), [""; 0]);
    let message = says(&world, &certificate("shop", "web"), "Reconciling", "True", "Issuing");
    assert!(message.contains("clock is behind"), "{message}");
    assert_eq!(world.plan(&certificate("shop", "web")).next_check, at("2025-12-31T23:35:01Z"));
    world.advance(3000);
    assert_eq!(doing(&mut world).len(), 1);
}

#[rstest]
#[case("a.cdn.example.com", true)]
#[case("auth-service.other.svc", false)]
#[case("gaia-operator.gaia-system.svc", false)]
fn a_name_is_certified_only_where_it_was_granted(#[case] dns: &str, #[case] granted: bool) {
    let mut world = settled(web());
    world.edit_certificate(&name("shop", "web"), |found| found.spec.extra_dns_names = vec![dns.to_owned()]);
    assert_eq!(doing(&mut world).len(), usize::from(granted));
    if granted {
        says(&world, &certificate("shop", "web"), "Ready", "True", "Ready");
    } else {
        let message = says(&world, &certificate("shop", "web"), "Ready", "False", "NameNotAllowed");
        assert!(message.starts_with(&format!("spec.extraDNSNames[0] {dns:?} must be")), "{message}");
    }
}

#[test]
fn a_foreign_secret_is_taken_only_when_it_is_given_up() {
    let mut world = World::new();
    world.create_domain(TD, plain_domain());
    let key = ObjectKey::secret("shop", "web-tls");
    world.put_foreign(&key);
    world.create_certificate_of("shop", "web", ServiceCertificateSpec::default());
    world.settle();
    says(&world, &certificate("shop", "web"), "Stalled", "True", "SecretNotOwned");
    assert_eq!(world.plan(&certificate("shop", "web")).next_check, at("2026-01-01T00:00:10Z"));
    world.apply(&world::Step::Edit(0, world::Edit::Adopt));
    assert_eq!(doing(&mut world).len(), 1);
    says(&world, &certificate("shop", "web"), "Ready", "True", "Ready");
    assert_eq!(world.objects[&key].content["somebody"], "else");
    world.is_whole().unwrap();
}
