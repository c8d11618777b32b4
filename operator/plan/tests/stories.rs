//! Dated stories of one TrustDomain and its certificates, told in the order in which things happen.

mod world;

use gaia_api::Span;
use gaia_api::crd::{
    CallerSpec, CertificateOverrides, GaiaServiceSpec, ObjectTemplate, PrivateKeySpec, Renewal, SecretRef,
    ServiceCertificateSpec, ServiceRef, TrustDomainSpec,
};
use gaia_api::names::annotation;
use gaia_plan::Action;
use gaia_plan::object::ObjectKey;
use gaia_plan::trust_domain::BroughtCa;
use jiff::Timestamp;
use rstest::rstest;
use world::{DAY, Name, Resource, TD, Tamper, World, plain_domain};

/// A TrustDomain named gaia since 2026-01-01, and ServiceCertificate shop/web.
fn web() -> World {
    let mut world = World::new();
    world.create_domain(TD, plain_domain());
    world.create_certificate_of("shop", "web", ServiceCertificateSpec::default());
    world
}

fn settled(mut world: World) -> World {
    world.settle();
    world
}

fn name(namespace: &str, name: &str) -> Name {
    (namespace.to_owned(), name.to_owned())
}

fn domain() -> Resource {
    Resource::Domain(TD.to_owned())
}

fn certificate(namespace: &str, of: &str) -> Resource {
    Resource::Certificate(name(namespace, of))
}

fn service(namespace: &str, of: &str) -> Resource {
    Resource::Service(name(namespace, of))
}

/// What the operator does until it is at rest.
fn doing(world: &mut World) -> Vec<String> {
    let before = world.log.len();
    world.settle();
    world.done_since(before)
}

/// Status and reason of a condition, and its message.
#[track_caller]
fn says(world: &World, resource: &Resource, condition: &str, status: &str, reason: &str) -> String {
    let reported = world.reported(resource);
    let (found, why, message) = reported.condition(condition);
    assert_eq!((found, why), (status, reason), "{resource:?}: {message}");
    message.to_owned()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn a_first_issuance_is_two_rings_one_bundle_and_one_secret() {
    let mut world = web();
    assert_eq!(
        doing(&mut world),
        [
            "create Secret gaia-system/gaia-ca-ring with a new CA (ecdsa-256)",
            "create Secret gaia-system/gaia-signing-ring with a new signing key (rsa-2048) and its successor",
            "create Secret shop/web-tls: certificate for spiffe://gaia.local/ns/shop/sa/web until 2026-05-16T00:00:00Z",
            "create ConfigMap shop/gaia-trust",
        ]
    );
    says(&world, &domain(), "Ready", "True", "Ready");
    let message = says(&world, &certificate("shop", "web"), "Ready", "True", "Ready");
    assert_eq!(message, "Secret web-tls holds a certificate until 2026-05-16T00:00:00Z");
    let (leaf, key_matches) = world.leaf(world.secret("shop", "web-tls").unwrap()).unwrap();
    assert!(key_matches);
    assert_eq!(leaf.not_before, at("2025-12-31T23:55:00Z"));
    assert_eq!(leaf.dns, ["web", "web.shop", "web.shop.svc", "web.shop.svc.cluster.local"]);
}

#[test]
fn a_default_leaf_is_renewed_four_times_a_year_and_on_no_other_day() {
    let mut world = settled(web());
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
#[case::bundle(Tamper::EmptyCa, "Secret web-tls: put right data ca.crt")]
#[case::label(Tamper::DropLabel, "Secret web-tls: put right labels app.kubernetes.io/managed-by")]
#[case::labels(
    Tamper::DropAllLabels,
    "Secret web-tls: put right labels app.kubernetes.io/managed-by, gaia.dev/component, gaia.dev/trust-domain"
)]
#[case::owner(Tamper::DropOwners, "Secret web-tls: put right owner reference")]
#[case::annotations(Tamper::DropAnnotations, "issued a new certificate into Secret web-tls: what is asked for changed")]
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

#[rstest]
#[case::trust(ObjectKey::config_map("auth", "gaia-trust"))]
#[case::signer(ObjectKey::secret("auth", "gaia-token-signer"))]
#[case::grants(ObjectKey::config_map("auth", "gaia-grants"))]
#[case::policy(ObjectKey::config_map("auth", "auth-service-auth"))]
fn a_projection_is_put_right_whatever_is_done_to_it(#[case] key: ObjectKey) {
    let mut world = settled(issuer_in("auth", "auth-service"));
    let whole = world.objects[&key].content.clone();
    for tamper in [Tamper::DropLabel, Tamper::DropAllLabels, Tamper::Garbage, Tamper::AddKey, Tamper::Delete] {
        if tamper == Tamper::AddKey && key.name.ends_with("signer") {
            continue; // What others put beside the key stays there.
        }
        world.tamper(&key, tamper);
        let done = doing(&mut world);
        assert_eq!(done.len(), 1, "{tamper:?}: {done:#?}");
        assert_eq!(world.objects[&key].content, whole, "{tamper:?}");
        world.is_whole().unwrap();
    }
}

#[test]
fn a_signer_with_another_key_is_written_again() {
    let mut world = settled(issuer_in("auth", "auth-service"));
    let key = ObjectKey::secret("auth", "gaia-token-signer");
    world.tamper(&key, Tamper::SwapKey);
    let done = doing(&mut world);
    assert_eq!(done.len(), 1);
    assert!(done[0].starts_with("patch Secret auth/gaia-token-signer () with signing key"), "{done:#?}");
    world.is_whole().unwrap();
}

#[rstest]
#[case::trust(ObjectKey::config_map("auth", "gaia-trust"), domain())]
#[case::signer(ObjectKey::secret("auth", "gaia-token-signer"), domain())]
#[case::policy(ObjectKey::config_map("auth", "auth-service-auth"), service("auth", "auth-service"))]
fn an_immutable_projection_that_is_wrong_is_named_and_holds_up_nothing(#[case] key: ObjectKey, #[case] by: Resource) {
    let mut world = settled(issuer_in("auth", "auth-service"));
    world.tamper(&key, Tamper::Garbage);
    world.tamper(&key, Tamper::Immutable);
    let elsewhere = ObjectKey::config_map("shop", "gaia-trust");
    world.create_certificate_of("shop", "web", ServiceCertificateSpec::default());
    world.settle();
    let message = says(&world, &by, "Stalled", "True", "ObjectImmutable");
    assert!(message.contains(&key.to_string()), "{message}");
    assert!(world.objects.contains_key(&elsewhere));
    says(&world, &certificate("shop", "web"), "Ready", "True", "Ready");
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
    // Nobody there refers to the TrustDomain any more; its rings stay.
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
    let mut world = web();
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
fn certificates_wait_for_a_trust_domain_that_is_missing() {
    let mut world = World::new();
    world.create_certificate_of("shop", "web", ServiceCertificateSpec::default());
    assert_eq!(doing(&mut world), [""; 0]);
    let message = says(&world, &certificate("shop", "web"), "Ready", "False", "TrustDomainNotFound");
    assert_eq!(message, "spec.trustDomainRef.name: TrustDomain \"gaia\" does not exist");
    says(&world, &certificate("shop", "web"), "Stalled", "False", "Settled");

    world.create_domain(TD, TrustDomainSpec { namespace_selector: None, ..plain_domain() });
    world.settle();
    says(&world, &certificate("shop", "web"), "Stalled", "True", "NamespaceNotSelected");
    world.edit_domain(TD, |found| found.spec.namespace_selector = plain_domain().namespace_selector);
    world.settle();
    says(&world, &certificate("shop", "web"), "Ready", "True", "Ready");
}

#[test]
fn a_trust_domain_that_was_deleted_and_made_again_has_the_same_ca() {
    let mut world = settled(web());
    let before = world.objects.clone();
    world.delete(&domain());
    assert_eq!(doing(&mut world), [""; 0]);
    // What is there stays good until its end.
    says(&world, &certificate("shop", "web"), "Ready", "True", "Ready");
    world.create_domain(TD, plain_domain());
    assert_eq!(doing(&mut world), [""; 0]);
    assert_eq!(before, world.objects);
    says(&world, &domain(), "Ready", "True", "Ready");
}

#[rstest]
#[case("gaia-ca-ring", "trust ConfigMaps made from it exist and certificates of this TrustDomain exist")]
#[case("gaia-signing-ring", "trust ConfigMaps made from it exist and certificates of this TrustDomain exist")]
fn a_ring_that_is_lost_is_not_made_anew_until_a_person_says_so(#[case] ring: &str, #[case] evidence: &str) {
    let mut world = settled(web());
    let key = ObjectKey::secret("gaia-system", ring);
    let backup = world.objects[&key].clone();
    world.remove(&key);
    assert_eq!(doing(&mut world), [""; 0]);
    let message = says(&world, &domain(), "Stalled", "True", "RingMissing");
    assert!(message.contains(&format!("Secret gaia-system/{ring} is missing although {evidence}")), "{message}");
    assert!(message.contains("gaia.dev/bootstrap=uid-"), "{message}");

    // Neither a new TrustDomain nor a wrong uid helps.
    world.delete(&domain());
    world.create_domain(TD, plain_domain());
    let allow = |world: &mut World, uid: String| {
        world.edit_domain(TD, |found| {
            found.metadata.annotations.get_or_insert_default().insert(annotation::BOOTSTRAP.to_owned(), uid);
        });
    };
    allow(&mut world, "uid-1".to_owned());
    assert_eq!(doing(&mut world), [""; 0]);
    says(&world, &domain(), "Stalled", "True", "RingMissing");

    // The backup does,
    world.objects.insert(key.clone(), backup);
    assert_eq!(doing(&mut world), [""; 0]);
    says(&world, &domain(), "Ready", "True", "Ready");
    world.is_whole().unwrap();

    // and so does a person who wants to start over.
    world.remove(&key);
    world.settle();
    let uid = world.domains[TD].metadata.uid.clone().unwrap();
    allow(&mut world, uid);
    world.settle();
    says(&world, &domain(), "Ready", "True", "Ready");
    says(&world, &certificate("shop", "web"), "Ready", "True", "Ready");
    world.is_whole().unwrap();
}

#[test]
fn a_ring_of_a_newer_operator_is_not_touched() {
    let mut world = settled(web());
    world.apply(&world::Step::Edit(0, world::Edit::RingUnreadable(true)));
    assert_eq!(doing(&mut world), [""; 0]);
    let message = says(&world, &domain(), "Stalled", "True", "RingUnreadable");
    assert!(message.contains("formatVersion 2, this operator reads up to 1; nothing is changed"), "{message}");
}

/// A TrustDomain whose tokens are issued by that service, and shop/asset-service, which auth-service may call.
fn issuer_in(namespace: &str, of: &str) -> World {
    let mut world = World::new();
    let mut spec = plain_domain();
    spec.tokens.issued_by = Some(ServiceRef { namespace: namespace.to_owned(), name: of.to_owned() });
    world.create_domain(TD, spec);
    world.create_service(namespace, of, GaiaServiceSpec::default());
    world
}

#[test]
fn a_service_gets_a_certificate_a_policy_and_its_place_in_the_grants() {
    let mut world = issuer_in("auth", "auth-service");
    let caller = CallerSpec {
        service: "auth-service".to_owned(),
        namespace: Some("auth".to_owned()),
        scopes: vec!["write".to_owned(), "read".to_owned()],
        on_behalf_of: false,
    };
    world.create_service("shop", "asset-service", GaiaServiceSpec { callers: vec![caller], ..Default::default() });
    let done = doing(&mut world);
    for wanted in [
        "create ServiceCertificate shop/asset-service",
        "create ConfigMap shop/asset-service-auth",
        "create Secret auth/gaia-token-signer with signing key",
        "create ConfigMap auth/gaia-grants",
        "create ConfigMap shop/gaia-trust",
        "create Secret shop/asset-service-tls: certificate for spiffe://gaia.local/ns/shop/sa/asset-service",
    ] {
        assert_eq!(done.iter().filter(|done| done.starts_with(wanted)).count(), 1, "{wanted}: {done:#?}");
    }
    let json = |namespace: &str, object: &str, key: &str| -> serde_json::Value {
        serde_json::from_str(&world.config_map(namespace, object).unwrap().content[key]).unwrap()
    };
    let policy = json("shop", "asset-service-auth", "policy.json");
    assert_eq!(policy["callers"][0]["spiffeId"], "spiffe://gaia.local/ns/auth/sa/auth-service");
    assert_eq!(policy["callers"][0]["scopes"], serde_json::json!(["read", "write"]));
    assert_eq!((&policy["mode"], &policy["tlsMode"]), (&"Dual".into(), &"Permissive".into()));
    let grants = json("auth", "gaia-grants", "grants.json");
    assert_eq!(grants["grants"][0]["target"], "spiffe://gaia.local/ns/shop/sa/asset-service");
    assert_eq!(grants["services"].as_array().unwrap().len(), 2);
    says(&world, &service("shop", "asset-service"), "Ready", "True", "Ready");
    says(&world, &service("shop", "asset-service"), "PolicyPublished", "True", "Published");

    // The child follows its service, and a change of it by hand is undone.
    world.edit_service(&name("shop", "asset-service"), |service| {
        service.spec.certificate = Some(CertificateOverrides {
            duration: Some(Span::hours(24)),
            secret_template: ObjectTemplate {
                labels: [("team".to_owned(), "a".to_owned())].into(),
                ..Default::default()
            },
            ..Default::default()
        });
    });
    let done = doing(&mut world);
    assert!(done[0].starts_with("patch ServiceCertificate shop/asset-service"), "{done:#?}");
    assert!(done[1].starts_with("patch Secret shop/asset-service-tls"), "{done:#?}");
    assert_eq!(world.secret("shop", "asset-service-tls").unwrap().facts.labels["team"], "a");
    world.edit_service(&name("shop", "asset-service"), |service| service.spec.certificate = None);
    world.settle();
    assert!(!world.secret("shop", "asset-service-tls").unwrap().facts.labels.contains_key("team"));
    world.edit_certificate(&name("shop", "asset-service"), |child| child.spec.headless = true);
    let done = doing(&mut world);
    assert!(done[0].contains("headless"), "{done:#?}");
}

#[test]
fn a_certificate_made_by_hand_is_not_taken_over_by_a_service_of_that_name() {
    let mut world = web();
    world.create_service("shop", "web", GaiaServiceSpec::default());
    world.settle();
    let message = says(&world, &service("shop", "web"), "Stalled", "True", "ObjectNotOwned");
    assert_eq!(message, "ServiceCertificate web exists and does not belong to this GaiaService; delete or rename it");
    assert!(world.config_map("shop", "web-auth").is_some());
    world.holds(9).unwrap();
}

#[test]
fn the_signing_key_leaves_the_namespace_whose_service_issues_no_more() {
    let mut world = issuer_in("auth", "auth-service");
    world.create_service("other", "auth-two", GaiaServiceSpec::default());
    world.settle();
    assert!(world.secret("auth", "gaia-token-signer").is_some());
    world.edit_domain(TD, |found| {
        found.spec.tokens.issued_by = Some(ServiceRef { namespace: "other".into(), name: "auth-two".into() });
    });
    let done = doing(&mut world);
    assert_eq!(done[2..], ["delete Secret auth/gaia-token-signer", "delete ConfigMap auth/gaia-grants"], "{done:#?}");
    assert!(done[0].starts_with("create Secret other/gaia-token-signer"), "{done:#?}");
    world.is_whole().unwrap();
    world.edit_domain(TD, |found| found.spec.tokens.issued_by = None);
    assert_eq!(doing(&mut world), ["delete Secret other/gaia-token-signer", "delete ConfigMap other/gaia-grants"]);
}

#[test]
fn a_field_without_behaviour_is_named_and_nothing_else_is_different() {
    let mut world = settled(issuer_in("auth", "auth-service"));
    world.edit_domain(TD, |found| {
        found.spec.ca.rotation_revision = 2;
        found.spec.revoked.jtis = vec!["a".to_owned()];
    });
    world.edit_service(&name("auth", "auth-service"), |found| {
        found.spec.rotation_wave = 3;
        found.spec.endpoints = vec!["host:8443".to_owned()];
    });
    assert_eq!(doing(&mut world), [""; 0]);
    let message = says(&world, &domain(), "Stalled", "True", "NotSupportedYet");
    assert_eq!(message, "not supported yet, and without effect: spec.ca.rotationRevision, spec.revoked.jtis");
    let message = says(&world, &service("auth", "auth-service"), "Stalled", "True", "NotSupportedYet");
    assert_eq!(message, "not supported yet, and without effect: spec.endpoints, spec.rotationWave");
    for resource in [domain(), service("auth", "auth-service"), certificate("auth", "auth-service")] {
        says(&world, &resource, "Ready", "True", "Ready");
    }
    says(&world, &certificate("auth", "auth-service"), "Stalled", "False", "Settled");
}

fn brought(number: u64, end: &str) -> Option<Result<BroughtCa, String>> {
    let fingerprint = gaia_pki::sha256_hex(format!("brought {number}").as_bytes());
    Some(Ok(BroughtCa { fingerprint, not_after: at(end) }))
}

#[test]
fn a_ca_from_outside_is_taken_once_it_is_good_and_its_successor_is_only_announced() {
    let mut world = web();
    world.edit_domain(TD, |found| found.spec.ca.existing_secret_ref = Some(SecretRef { name: "our-ca".to_owned() }));
    world.brought = Some(Err("tls.key is not PEM".to_owned()));
    assert_eq!(doing(&mut world), [""; 0]);
    let message = says(&world, &domain(), "Stalled", "True", "CAInvalid");
    assert_eq!(message, "spec.ca.existingSecretRef: Secret gaia-system/our-ca: tls.key is not PEM");
    says(&world, &certificate("shop", "web"), "Ready", "False", "TrustDomainNotReady");

    // Too short for two leaves of 135 days. What is said does not change from look to look.
    world.brought = brought(1, "2026-02-01T00:00:00Z");
    world.settle();
    let message = says(&world, &domain(), "Stalled", "True", "DurationNotPossible");
    assert!(message.contains("our-ca ends at 2026-02-01T00:00:00Z, too soon for certificates of 3240h"), "{message}");
    assert!(message.ends_with("= 6482h11m"), "{message}");
    world.advance(1);
    world.settle();
    assert_eq!(message, says(&world, &domain(), "Stalled", "True", "DurationNotPossible"));

    world.brought = brought(2, "2027-02-01T00:00:00Z");
    let done = doing(&mut world);
    assert!(done[0].starts_with("create Secret gaia-system/gaia-ca-ring with a new copy of the CA "), "{done:#?}");
    says(&world, &certificate("shop", "web"), "Ready", "True", "Ready");

    world.brought = brought(3, "2030-01-01T00:00:00Z");
    assert_eq!(doing(&mut world), [""; 0]);
    let message = says(&world, &domain(), "Stalled", "True", "NotSupportedYet");
    assert!(message.contains("spec.ca.existingSecretRef (another CA than the one in force)"), "{message}");
    says(&world, &domain(), "Ready", "True", "Ready");
}

#[test]
fn no_leaf_outlives_its_ca_and_an_ended_ca_is_said_so() {
    let mut world = web();
    world.edit_domain(TD, |found| found.spec.ca.duration = Some(Span::hours(6_500)));
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
    let mut world = settled(web());
    world.advance(90 * DAY);
    world.fail_next = 1;
    assert_eq!(doing(&mut world), [""; 0]);
    says(&world, &certificate("shop", "web"), "Ready", "True", "Ready");
    says(&world, &certificate("shop", "web"), "Reconciling", "True", "WriteFailed");
    assert_eq!(world.plan(&certificate("shop", "web")).next_check, at("2026-04-01T00:00:01Z"));
    // The clock was wrong: nothing is to be renewed yet, and so nothing has failed.
    world.advance(-80 * DAY);
    assert_eq!(doing(&mut world), [""; 0]);
    says(&world, &certificate("shop", "web"), "Reconciling", "False", "Settled");
    world.advance(80 * DAY + 1);
    assert_eq!(doing(&mut world).len(), 1);
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
    assert_eq!(message, "waits for its next attempt: issued too often: a burst of 10, then one a minute");
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
    assert!(message.contains("the clock is behind"), "{message}");
    assert_eq!(world.plan(&certificate("shop", "web")).next_check, at("2025-12-31T23:55:00Z"));
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
