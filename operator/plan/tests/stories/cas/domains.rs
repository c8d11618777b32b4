//! TrustDomains and GaiaServices: rings, projections, policies.

use super::*;

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
            continue; // Keys that other writers added are kept.
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
    // The stored certificate stays valid until it expires.
    says(&world, &certificate("shop", "web"), "Ready", "True", "Ready");
    world.create_domain(TD, plain_domain());
    assert_eq!(doing(&mut world), [""; 0]);
    assert_eq!(before, world.objects);
    says(&world, &domain(), "Ready", "True", "Ready");
}

#[rstest]
#[case("gaia-ca-ring", "trust ConfigMaps written from it exist and certificates of this TrustDomain exist")]
#[case(
    "gaia-signing-ring",
    "its copy exists and trust ConfigMaps written from it exist and certificates of this TrustDomain exist"
)]
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

    // and so does a user who wants to start over.
    world.remove(&key);
    world.settle();
    let message = says(&world, &domain(), "Stalled", "True", "RingMissing");
    let asked = message.split_once("gaia.dev/bootstrap=").unwrap().1.to_owned();
    allow(&mut world, asked);
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
    assert!(message.contains("formatVersion 2, this operator reads up to 1"), "{message}");
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
    // The message names the object to hand over, and the next check.
    for part in [
        "ServiceCertificate shop/web exists and does not belong to the operator",
        "kubectl annotate -n shop servicecertificate web gaia.dev/adopt=true",
        "refused if its trustDomainRef or secretName differs",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
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
    let policies = ["auth/auth-service-auth", "other/auth-two-auth"];
    let policies = policies.map(|name| format!("patch ConfigMap {name} (data policy.json)"));
    let deleted = |namespace: &str| {
        ["delete Secret NS/gaia-token-signer", "delete ConfigMap NS/gaia-grants"]
            .map(|text| text.replace("NS", namespace))
    };
    assert_eq!(
        done[2..],
        [deleted("auth"), policies.clone()].concat(),
        "the token issuer is in policy.json: {done:#?}"
    );
    assert!(done[0].starts_with("create Secret other/gaia-token-signer"), "{done:#?}");
    world.is_whole().unwrap();
    world.edit_domain(TD, |found| found.spec.tokens.issued_by = None);
    assert_eq!(doing(&mut world), [deleted("other"), policies].concat());
}

#[test]
fn a_ca_from_outside_is_taken_once_it_is_good() {
    let mut world = web();
    world.edit_domain(TD, |found| found.spec.ca.existing_secret_ref = Some(SecretRef { name: "our-ca".to_owned() }));
    world.external_ca = Some(Err("tls.key is not PEM".to_owned()));
    assert_eq!(doing(&mut world), [""; 0]);
    let message = says(&world, &domain(), "Stalled", "True", "CAInvalid");
    assert_eq!(message, "spec.ca.existingSecretRef: Secret gaia-system/our-ca: tls.key is not PEM");
    says(&world, &certificate("shop", "web"), "Ready", "False", "TrustDomainNotReady");

    // Too short for two leaves of 135 days. The message is the same at each evaluation.
    world.external_ca = external_ca(1, "2026-02-01T00:00:00Z");
    world.settle();
    let message = says(&world, &domain(), "Stalled", "True", "DurationNotPossible");
    assert!(
        message.contains("our-ca expires at 2026-02-01T00:00:00Z, too soon for certificates of 3240h"),
        "{message}"
    );
    assert!(message.ends_with("= 6482h11m"), "{message}");
    world.advance(1);
    world.settle();
    assert_eq!(message, says(&world, &domain(), "Stalled", "True", "DurationNotPossible"));

    world.external_ca = external_ca(2, "2027-02-01T00:00:00Z");
    let done = doing(&mut world);
    assert!(done[0].starts_with("create Secret gaia-system/gaia-ca-ring with a new copy of the CA "), "{done:#?}");
    says(&world, &certificate("shop", "web"), "Ready", "True", "Ready");

    world.settle();
    world.is_whole().unwrap();
}
