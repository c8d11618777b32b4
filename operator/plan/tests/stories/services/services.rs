//! The status of a GaiaService about its ServiceCertificate, and `Reconciling` and `Stalled` for deployment tools.

use super::*;
use gaia_api::crd::{AuthMode, AuthSpec, TlsMode, TlsSpec};

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
    // The signing key rotates and the leaf is renewed in this time, each at a different hour.
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
    assert_eq!(reported.condition("CARotating").0, "True", "the rotation is in progress");
    sound(&world);
}

/// asset-service in a fleet, which runs Permissive and asks for Strict.
fn waits_for_strict() -> World {
    let mut world = short_fleet();
    ask_for_strict(&mut world);
    world
}

/// A fleet whose evidence counts after two days.
fn short_fleet() -> World {
    let auth = AuthSpec { legacy_free_for: Span::hours(48), ..AuthSpec::default() };
    fleet_of(GaiaServiceSpec { auth, ..GaiaServiceSpec::default() })
}

fn ask_for_strict(world: &mut World) {
    world.edit_service(&name("shop", "asset-service"), |found| found.spec.tls.mode = TlsMode::Strict);
    world.settle();
}

fn tls(world: &World) -> (TlsMode, TlsMode) {
    let world::Status::Service(status) = world.reported(&service("shop", "asset-service")) else { panic!("a service") };
    let tls = status.tls.unwrap();
    (tls.mode, tls.desired_mode)
}

fn published_tls(world: &World) -> String {
    let text = &world.config_map("shop", "asset-service-auth").unwrap().content["policy.json"];
    serde_json::from_str::<serde_json::Value>(text).unwrap()["tlsMode"].as_str().unwrap().to_owned()
}

/// The operator reads ledgers every ten minutes.
fn watched_days(world: &mut World, days: i64) {
    for _ in 0..days * 144 {
        world.advance(600);
        world.settle();
    }
}

const GATED: (TlsMode, TlsMode) = (TlsMode::Permissive, TlsMode::Strict);
const STRICT: (TlsMode, TlsMode) = (TlsMode::Strict, TlsMode::Strict);

#[test]
fn strict_waits_until_no_caller_comes_without_a_client_certificate() {
    let mut world = waits_for_strict();
    let assets = service("shop", "asset-service");
    assert_eq!((tls(&world), published_tls(&world).as_str()), (GATED, "Permissive"));
    world.accept_plain("shop-0", "plain", "/assets");
    world.accept_plain("shop-1", "tls", "/thumbs");
    world.advance(60);
    world.settle();
    let message = says(&world, &assets, "PlainFree", "False", "PlainInUse");
    assert!(message.contains("curl on /assets by plain HTTP on 2026-01-01"), "{message}");
    assert!(message.contains("curl on /thumbs by TLS on 2026-01-01"), "{message}");
    let stalled = says(&world, &assets, "Stalled", "True", "PlainInUse");
    assert!(stalled.contains("gaia.dev/force-mode=Strict@"), "{stalled}");
    says(&world, &assets, "Ready", "True", "Ready");
    // Two days count from the end of the last day with such a caller.
    watched_days(&mut world, 2);
    assert_eq!(tls(&world), GATED);
    watched_days(&mut world, 1);
    assert_eq!((tls(&world), published_tls(&world).as_str()), (STRICT, "Strict"));
    says(&world, &assets, "PlainFree", "True", "Strict");
    says(&world, &assets, "Stalled", "False", "Settled");
    assert!(events(&world, 0).contains(&"ModeChanged"));
    assert!(world.config_map("shop", "asset-service-ledger").is_none(), "callers are no longer counted");
    assert_eq!(doing(&mut world), [""; 0]);

    // It can be left at any time, and entered again within a day although a caller appeared in between.
    let back = |world: &mut World| {
        world.edit_service(&name("shop", "asset-service"), |found| found.spec.tls.mode = TlsMode::Permissive);
        world.settle();
        assert_eq!(published_tls(world), "Permissive");
        world.accept_plain("shop-0", "plain", "/assets");
    };
    back(&mut world);
    world.crash();
    ask_for_strict(&mut world);
    assert_eq!(tls(&world), STRICT);
    back(&mut world);
    watched_days(&mut world, 2);
    assert!(world.config_map("shop", "asset-service-ledger").is_none(), "the run of before is forgotten");
    ask_for_strict(&mut world);
    assert_eq!(tls(&world), GATED);
    sound(&world);
}

#[test]
fn instance_of_an_older_runtime_is_no_evidence_for_strict() {
    let mut world = short_fleet();
    world.pod("shop-1").plain = None;
    ask_for_strict(&mut world);
    watched_days(&mut world, 4);
    let message = says(&world, &service("shop", "asset-service"), "PlainFree", "False", "EvidenceGap");
    assert!(message.contains("shop-1 does not report callers without a client certificate"), "{message}");
    assert_eq!(tls(&world), GATED);
    sound(&world);
}

#[test]
fn strict_needs_no_evidence_where_permissive_never_ran_or_by_force() {
    let mut world = fleet();
    let spec = GaiaServiceSpec { tls: TlsSpec { mode: TlsMode::Strict }, ..GaiaServiceSpec::default() };
    world.create_service("shop", "chat-service", spec);
    world.settle();
    let text = &world.config_map("shop", "chat-service-auth").unwrap().content["policy.json"];
    assert!(text.contains(r#""tlsMode":"Strict""#), "{text}");

    // Nor where Permissive was published and no instance has served it.
    world.create_service("shop", "batch", GaiaServiceSpec::default());
    world.settle();
    world.edit_service(&name("shop", "batch"), |found| found.spec.tls.mode = TlsMode::Strict);
    world.settle();
    let text = &world.config_map("shop", "batch-auth").unwrap().content["policy.json"];
    assert!(text.contains(r#""tlsMode":"Strict""#), "{text}");

    ask_for_strict(&mut world);
    assert_eq!(tls(&world), GATED);
    let generation = world.services[&name("shop", "asset-service")].metadata.generation.unwrap();
    let force = |world: &mut World, value: String| {
        world.edit_service(&name("shop", "asset-service"), |found| {
            found.metadata.annotations.get_or_insert_default().insert(annotation::FORCE_MODE.to_owned(), value);
        });
        world.settle();
    };
    force(&mut world, format!("Strict@{}", generation - 1));
    assert_eq!(tls(&world), GATED, "an annotation for an earlier spec forces nothing");
    let generation = world.services[&name("shop", "asset-service")].metadata.generation.unwrap();
    let before = world.log.len();
    force(&mut world, format!("Strict@{generation}"));
    assert_eq!(tls(&world), STRICT);
    assert_eq!(events(&world, before), ["ModeForced"]);
    sound(&world);
}

/// The pair: `JWTOnly` that is held for the sake of keys does not close the port to callers without a certificate.
#[test]
fn tls_mode_waits_with_the_authentication_mode_of_the_same_edit() {
    let mut world = short_fleet();
    world.edit_service(&name("shop", "asset-service"), |found| {
        found.spec.auth.api_keys_secret_ref = Some(SecretRef { name: "asset-keys".to_owned() });
    });
    world.settle();
    world.use_key("shop-0", "app", "/assets");
    world.edit_service(&name("shop", "asset-service"), |found| {
        found.spec.tls.mode = TlsMode::Strict;
        found.spec.auth.mode = Some(AuthMode::JWTOnly);
    });
    world.settle();
    says(&world, &service("shop", "asset-service"), "Stalled", "True", "LegacyKeysInUse");
    assert_eq!((tls(&world), published_tls(&world).as_str()), (GATED, "Permissive"));
    watched_days(&mut world, 4);
    assert_eq!((tls(&world), published_tls(&world).as_str()), (STRICT, "Strict"));
    says(&world, &service("shop", "asset-service"), "Stalled", "False", "Settled");
    sound(&world);
}

/// Services of an operator from before `status.tls`: those with Strict keep it.
#[test]
fn service_of_an_older_operator_that_runs_strict_is_not_disturbed() {
    let mut world = fleet();
    let spec = GaiaServiceSpec { tls: TlsSpec { mode: TlsMode::Strict }, ..GaiaServiceSpec::default() };
    world.create_service("shop", "chat-service", spec);
    world.settle();
    for found in world.services.values_mut() {
        let status = found.status.as_mut().unwrap();
        status.tls = None;
        status.conditions.retain(|condition| condition.type_ != "PlainFree");
    }
    world.crash();
    assert_eq!(doing(&mut world), [""; 0], "nothing is written but statuses");
    let text = &world.config_map("shop", "chat-service-auth").unwrap().content["policy.json"];
    assert!(text.contains(r#""tlsMode":"Strict""#), "{text}");
    assert_eq!(tls(&world), (TlsMode::Permissive, TlsMode::Permissive));
    ask_for_strict(&mut world);
    assert_eq!(tls(&world), GATED, "and one that runs Permissive is gated");
    sound(&world);
}

/// Kind: references that match nothing were silent: callers, token issuers, a renewal that never happens, a missing
/// selector.
#[test]
fn declaration_that_names_nothing_is_a_warning_until_it_does() {
    let mut world = shop();
    let caller = |service: &str, namespace: Option<&str>| CallerSpec {
        service: service.to_owned(),
        namespace: namespace.map(str::to_owned),
        scopes: vec![],
        on_behalf_of: false,
    };
    world.edit_service(&name(WEB.0, WEB.1), |found| {
        found.spec.callers = vec![caller("web", None), caller("gateway", None), caller("web", Some("auth"))];
    });
    world.settle();
    let message = says(&world, &web_service(), "CallerNotFound", "True", "CallerNotFound");
    assert!(
        message.contains("shop/gateway") && message.contains("auth/web") && !message.contains("shop/web"),
        "{message}"
    );
    says(&world, &web_service(), "Ready", "True", "Ready");
    world.create_service(WEB.0, "gateway", GaiaServiceSpec::default());
    world.create_service("auth", "web", GaiaServiceSpec::default());
    world.settle();
    says(&world, &web_service(), "CallerNotFound", "", "");

    let issuer = ServiceRef { namespace: "auth".to_owned(), name: "auth-service".to_owned() };
    world.edit_domain(TD, |found| found.spec.tokens.issued_by = Some(issuer));
    world.settle();
    let message = says(&world, &domain(), "TokenIssuerNotFound", "True", "TokenIssuerNotFound");
    assert!(message.starts_with("spec.tokens.issuedBy: GaiaService auth/auth-service does not exist"), "{message}");
    says(&world, &domain(), "Ready", "True", "Ready");
    world.create_service("auth", "auth-service", GaiaServiceSpec::default());
    world.settle();
    says(&world, &domain(), "TokenIssuerNotFound", "", "");

    let mut selector = world.domains[TD].spec.namespace_selector.clone().unwrap();
    world.edit_domain(TD, |found| found.spec.namespace_selector = None);
    world.settle();
    let message = says(&world, &domain(), "NoNamespaceSelected", "True", "NoNamespaceSelected");
    assert!(message.starts_with("spec.namespaceSelector is not set"), "{message}");
    selector.match_labels.insert("env".to_owned(), "nowhere".to_owned());
    world.edit_domain(TD, |found| found.spec.namespace_selector = Some(selector.clone()));
    world.settle();
    let message = says(&world, &domain(), "NoNamespaceSelected", "True", "NoNamespaceSelected");
    assert!(message.starts_with("spec.namespaceSelector matches the labels of no namespace"), "{message}");
}

/// A caller in another TrustDomain gets no certificate that this one accepts.
#[test]
fn caller_in_another_trust_domain_is_a_warning() {
    let mut world = shop();
    let other = TrustDomainSpec { trust_domain: "other.local".to_owned(), ..plain_domain() };
    world.create_domain("other", other);
    let spec = GaiaServiceSpec {
        trust_domain_ref: gaia_api::crd::TrustDomainRef { name: "other".to_owned() },
        ..GaiaServiceSpec::default()
    };
    world.create_service(WEB.0, "foreign", spec);
    let caller = CallerSpec { service: "foreign".to_owned(), namespace: None, scopes: vec![], on_behalf_of: false };
    world.edit_service(&name(WEB.0, WEB.1), |found| found.spec.callers = vec![caller.clone()]);
    world.settle();
    let message = says(&world, &web_service(), "CallerNotFound", "True", "CallerNotFound");
    assert!(message.contains("belongs to another TrustDomain than gaia"), "{message}");
}

/// Both would issue the same SPIFFE IDs from different CAs.
#[test]
fn younger_trust_domain_of_the_same_name_warns() {
    let mut world = settled(web());
    world.advance(60);
    world.create_domain("second", plain_domain());
    world.settle();
    let second = Resource::Domain("second".to_owned());
    let message = says(&world, &second, "TrustDomainNameTaken", "True", "TrustDomainNameTaken");
    assert!(message.contains("TrustDomain gaia is older and has the same name gaia.local"), "{message}");
    says(&world, &second, "Ready", "True", "Ready");
    says(&world, &domain(), "TrustDomainNameTaken", "", "");
}

#[test]
fn secret_of_a_user_that_does_not_exist_is_a_warning() {
    let mut world = shop();
    world.edit_service(&name(WEB.0, WEB.1), |found| {
        found.spec.auth.api_keys_secret_ref = Some(SecretRef { name: "web-keys".to_owned() });
    });
    world.settle();
    says(&world, &web_service(), "SecretNotFound", "", "");
    world.memory.missing_secrets.insert("web-keys".to_owned());
    world.settle();
    let message = says(&world, &web_service(), "SecretNotFound", "True", "SecretNotFound");
    assert_eq!(
        message,
        "spec.auth.apiKeysSecretRef: Secret shop/web-keys does not exist; create it with the key api-keys.json"
    );
    says(&world, &web_service(), "Ready", "True", "Ready");
}

/// Texts of a pod are cut and contain no control characters.
#[test]
fn files_that_a_pod_refuses_are_named_in_its_service() {
    let mut world = shop();
    let pod = world.pods.iter_mut().find(|pod| pod.namespace == WEB.0).unwrap();
    let pod_name = pod.name.clone();
    pod.refused.insert("api_keys".to_owned(), format!("api-keys.json: \u{1b}[31m{}", "x".repeat(9999)));
    world.advance(3700);
    world.settle();
    let message = says(&world, &web_service(), "FilesRefused", "True", "FilesRefused");
    assert!(message.starts_with(&format!("{pod_name}: api_keys: api-keys.json: [31mx")), "{message}");
    assert!(message.ends_with("x; the previously loaded version stays in force") && message.len() < 400, "{message}");
    world.pods.iter_mut().for_each(|pod| pod.refused.clear());
    world.advance(3700);
    world.settle();
    says(&world, &web_service(), "FilesRefused", "", "");
}

#[test]
fn disabled_renewal_warns_before_the_certificate_expires() {
    let mut world = web();
    world.edit_certificate(&name("shop", "web"), |found| found.spec.renewal = Renewal::Disabled);
    world.settle();
    says(&world, &certificate("shop", "web"), "RenewalDisabled", "", "");
    world.advance(91 * DAY);
    world.settle();
    let message = says(&world, &certificate("shop", "web"), "RenewalDisabled", "True", "RenewalDisabled");
    assert!(message.contains("Secret web-tls expires at"), "{message}");
    says(&world, &certificate("shop", "web"), "Ready", "True", "Ready");
}
