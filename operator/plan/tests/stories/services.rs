//! What a GaiaService reports of its ServiceCertificate, and what `Reconciling` and `Stalled` say to tools that deploy.

use super::*;

const WEB: (&str, &str) = ("shop", "web");

fn web_service() -> Resource {
    service(WEB.0, WEB.1)
}

/// TrustDomain gaia and GaiaService shop/web with pod web-0.
fn shop() -> World {
    let mut world = World::new();
    world.create_domain(TD, plain_domain());
    world.create_service(WEB.0, WEB.1, GaiaServiceSpec::default());
    world.settle();
    world.start(Pod::of(WEB.0, WEB.1, "web-0"));
    world.advance(DAY / 2);
    world.settle();
    world
}

fn override_certificate(world: &mut World, edit: impl FnOnce(&mut CertificateOverrides)) {
    world.edit_service(&name(WEB.0, WEB.1), |found| edit(found.spec.certificate.get_or_insert_default()));
    world.settle();
}

#[test]
fn stalled_child_stalls_its_service_with_reason_and_message() {
    let mut world = shop();
    override_certificate(&mut world, |found| found.extra_dns_names = vec!["not.granted.example.com".to_owned()]);
    let of_child = says(&world, &certificate(WEB.0, WEB.1), "Stalled", "True", "NameNotAllowed");
    let message = says(&world, &web_service(), "Stalled", "True", "NameNotAllowed");
    assert_eq!(message, format!("ServiceCertificate web: {of_child}"));
    says(&world, &web_service(), "Reconciling", "False", "Settled");
    override_certificate(&mut world, |found| found.extra_dns_names = vec![]);
    says(&world, &web_service(), "Stalled", "False", "Settled");
    says(&world, &web_service(), "Ready", "True", "Ready");
    sound(&world);
}

#[rstest]
#[case::foreign_secret(|world: &mut World| world.put_foreign(&ObjectKey::secret("shop", "web-tls")), "SecretNotOwned")]
fn child_that_was_never_issued_stalls_its_service(#[case] obstruct: fn(&mut World), #[case] reason: &str) {
    let mut world = World::new();
    world.create_domain(TD, plain_domain());
    obstruct(&mut world);
    world.create_service(WEB.0, WEB.1, GaiaServiceSpec::default());
    world.settle();
    says(&world, &web_service(), "Stalled", "True", reason);
    says(&world, &web_service(), "Ready", "False", reason);
    sound(&world);
}

#[test]
fn changed_spec_is_reconciling_until_the_child_has_accepted_it() {
    let mut world = shop();
    world.edit_service(&name(WEB.0, WEB.1), |found| {
        found.spec.certificate.get_or_insert_default().duration = Some(Span::hours(48));
    });
    // The GaiaService alone: its ServiceCertificate is patched and not reconciled yet.
    let planned = world.plan(&web_service());
    world.run(&web_service(), &planned);
    let planned = world.plan(&web_service());
    assert_eq!(planned.actions, []);
    let (status, _, message) = planned.status.condition("Reconciling");
    assert_eq!((status, message), ("True", "ServiceCertificate web is not reconciled yet"));
    world.settle();
    says(&world, &web_service(), "Reconciling", "False", "Settled");
    sound(&world);
}

/// Every kind, at every step of a rotation and of a renewal that the clock started.
#[test]
fn rotation_started_by_the_clock_is_not_reconciling_for_any_kind() {
    let mut world = shop();
    world.edit_domain(TD, |found| {
        found.spec.ca.rotation_period = Some(Span::hours(99_999));
        found.spec.tokens.rotation_period = Span::hours(2_160);
    });
    world.settle();
    let resources = [domain(), certificate(WEB.0, WEB.1), web_service()];
    let settled = |world: &World| {
        for resource in &resources {
            // Also a plan that has yet to be carried out reports no progress of the spec.
            let planned = world.plan(resource);
            for status in [&planned.status, &world.reported(resource)] {
                let (reconciling, reason, message) = status.condition("Reconciling");
                assert_eq!(reconciling, "False", "{resource:?}: {reason}: {message}");
            }
        }
    };
    // The signing key rotates and the leaf is renewed in this time, each at its own hour.
    for _ in 0..(95 * 24) {
        world.advance(3_600);
        settled(&world);
        world.settle();
        settled(&world);
    }
    assert!(events(&world, 0).contains(&"RotationSwitched") && events(&world, 0).contains(&"CertificateRenewed"));
    // The CA rotates by its period.
    world.edit_domain(TD, |found| found.spec.ca.rotation_period = Some(Span::hours(95 * 24 + 24)));
    world.settle();
    for _ in 0..48 {
        world.advance(3_600);
        settled(&world);
        world.settle();
        settled(&world);
    }
    assert!(world.ca_ring(TD).unwrap().epoch > 2, "the CA has rotated");
    sound(&world);
}

#[test]
fn requested_rotation_is_reconciling_until_it_is_staged_and_rotating_after_that() {
    let mut world = shop();
    world.edit_domain(TD, |found| found.spec.ca.rotation_revision += 1);
    let (status, ..) = {
        let planned = world.plan(&domain());
        (planned.status.condition("Reconciling").0.to_owned(),)
    };
    assert_eq!(status, "True");
    world.settle();
    says(&world, &domain(), "Reconciling", "False", "Settled");
    let reported = world.reported(&domain());
    assert_eq!(reported.condition("CARotating").0, "True", "the rotation is under way");
    sound(&world);
}
