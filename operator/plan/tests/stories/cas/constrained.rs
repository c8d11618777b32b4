//! Bring-your-own CAs with name constraints: the names of services decide, extra names are left out.

use super::external_cas::{corporate_fleet, put};
use super::*;
use gaia_api::crd::AllowedNames;

const PERMITS_EXAMPLE_COM: &str = include_str!("../../fixtures/permits-example-com.pem");
const EXCLUDES_EXAMPLE_COM: &str = include_str!("../../fixtures/excludes-example-com.pem");

/// `corporate_fleet` with ServiceCertificate shop/web, which has the extra names web.example.com and 10.0.0.7.
fn fleet_with_extra_names() -> World {
    let (mut world, _) = corporate_fleet();
    world.edit_domain(TD, |found| {
        found.spec.allowed_names = vec![AllowedNames {
            namespaces: vec!["shop".to_owned()],
            dns_names: vec!["web.example.com".to_owned()],
            ip_ranges: vec!["10.0.0.0/8".to_owned()],
        }];
    });
    let spec = ServiceCertificateSpec {
        extra_dns_names: vec!["web.example.com".to_owned()],
        ip_addresses: vec!["10.0.0.7".to_owned()],
        ..Default::default()
    };
    world.create_certificate_of("shop", "web", spec);
    wait(&mut world, 120);
    world
}

fn names(world: &World) -> String {
    let stored = world.secret("shop", "web-tls").unwrap();
    world.leaf(stored).unwrap().0.dns.join(", ")
}

/// Kind: a CA that is activated with Ready=True and cannot sign the names in use.
#[test]
fn a_ca_that_cannot_sign_the_names_of_services_is_refused_and_named() {
    let mut world = fleet_with_extra_names();
    let before = ids(&world, true);
    let fingerprint = put(&mut world, PERMITS_EXAMPLE_COM, None);
    wait(&mut world, 600);
    assert_eq!(ids(&world, true), before);
    let message = says(&world, &domain(), "Stalled", "True", "CAInvalid");
    let expected = format!("CA {} in Secret gaia-system/our-ca cannot sign auth-service, ", &fingerprint[..8]);
    assert!(message.contains(&expected) && message.contains("of ServiceCertificate auth/auth-service"), "{message}");
    assert!(message.contains("put a CA that permits the names of services into"), "{message}");
    says(&world, &domain(), "Ready", "True", "Ready");
    says(&world, &certificate("shop", "web"), "Ready", "True", "Ready");
    let log = world.log.len();
    wait(&mut world, 3600);
    assert_eq!(events(&world, log), [""; 0], "no Event per retry");
    sound(&world);
}

/// The same before there is a ring: the ServiceCertificates that wait for it decide.
#[test]
fn a_first_ca_that_cannot_sign_the_names_of_services_is_refused() {
    let mut world = web();
    world.edit_domain(TD, |found| found.spec.ca.existing_secret_ref = Some(SecretRef { name: "our-ca".to_owned() }));
    put(&mut world, PERMITS_EXAMPLE_COM, None);
    world.settle();
    assert_eq!(world.states(true), "");
    let message = says(&world, &domain(), "Stalled", "True", "CAInvalid");
    assert!(message.contains("of ServiceCertificate shop/web, and names of "), "{message}");
    put(&mut world, EXCLUDES_EXAMPLE_COM, None);
    wait(&mut world, 60);
    says(&world, &domain(), "Ready", "True", "Ready");
    says(&world, &certificate("shop", "web"), "Ready", "True", "Ready");
}

/// Kind: a CA that is Ready while there is no service, and cannot sign any that follows.
#[test]
fn a_first_ca_that_cannot_sign_names_of_a_selected_namespace_is_refused_before_there_is_a_service() {
    let mut world = World::new();
    world.create_domain(TD, plain_domain());
    world.edit_domain(TD, |found| found.spec.ca.existing_secret_ref = Some(SecretRef { name: "our-ca".to_owned() }));
    put(&mut world, PERMITS_EXAMPLE_COM, None);
    world.settle();
    assert_eq!(world.states(true), "");
    let message = says(&world, &domain(), "Stalled", "True", "CAInvalid");
    assert!(message.contains("cannot sign <service>, <service>.auth, <service>.auth.svc, "), "{message}");
    assert!(message.contains("of services in namespace auth, and names of "), "{message}");
    put(&mut world, EXCLUDES_EXAMPLE_COM, None);
    wait(&mut world, 60);
    says(&world, &domain(), "Ready", "True", "Ready");
}

/// A CA that was activated before there was such a name stays in use, with a warning; what it cannot sign is refused.
#[test]
fn an_active_ca_that_cannot_sign_a_later_name_is_a_warning_and_the_service_is_stalled() {
    let mut world = World::new();
    world.create_domain(TD, TrustDomainSpec { namespace_selector: None, ..plain_domain() });
    world.edit_domain(TD, |found| found.spec.ca.existing_secret_ref = Some(SecretRef { name: "our-ca".to_owned() }));
    put(&mut world, PERMITS_EXAMPLE_COM, None);
    world.settle();
    assert_eq!(world.states(true), "Active");
    says(&world, &domain(), "CACannotSign", "", "");
    world.edit_domain(TD, |found| found.spec.namespace_selector = Some(NamespaceSelector::default()));
    world.create_certificate_of("shop", "web", ServiceCertificateSpec::default());
    world.settle();
    let message = says(&world, &certificate("shop", "web"), "Stalled", "True", "NameNotAllowed");
    assert!(message.contains("cannot sign web, web.shop.svc, "), "{message}");
    let message = says(&world, &domain(), "CACannotSign", "True", "CACannotSign");
    assert!(message.contains("of ServiceCertificate shop/web, and names of "), "{message}");
    assert!(
        message.contains("put a CA that permits the names of services into Secret gaia-system/our-ca"),
        "{message}"
    );
    says(&world, &domain(), "Ready", "True", "Ready");
    let log = world.log.len();
    wait(&mut world, 3600);
    assert_eq!(events(&world, log), [""; 0], "no Event per retry");
}

/// One tenant's extra names are no veto: they are listed until the deadline, and then left out.
#[test]
fn extra_names_that_the_next_ca_cannot_sign_are_listed_until_the_deadline_and_then_left_out() {
    let mut world = fleet_with_extra_names();
    let full = names(&world);
    put(&mut world, EXCLUDES_EXAMPLE_COM, None);
    until(&mut world, true, "Active, Published");
    wait(&mut world, 600);
    let message = says(&world, &certificate("shop", "web"), "NamesLeftOut", "True", "NamesLeftOut");
    assert!(message.contains("cannot sign web.example.com (nameConstraints): from "), "{message}");
    assert_eq!(world.states(true), "Active, Published", "it waits");
    let message = world.reported(&domain()).condition("CARotating").2.to_owned();
    assert!(message.contains("cannot sign web.example.com of ServiceCertificate shop/web"), "{message}");
    says(&world, &domain(), "Stalled", "False", "Settled");
    assert_eq!(names(&world), full, "nothing is issued for this before");
    until(&mut world, true, "Removed, Active");
    assert!(!names(&world).contains("web.example.com"), "{}", names(&world));
    let message = says(&world, &certificate("shop", "web"), "NamesLeftOut", "True", "NamesLeftOut");
    assert!(message.contains("certificates are issued without them"), "{message}");
    says(&world, &certificate("shop", "web"), "Ready", "True", "Ready");
    // At rest.
    let log = world.log.len();
    wait(&mut world, 3600);
    assert_eq!(world.done_since(log), [""; 0]);
    // The certificates of others have no such warning.
    assert_eq!(world.reported(&certificate("auth", "auth-service")).condition("NamesLeftOut").0, "");
    sound(&world);
}

/// Names that are removed need no wait, and a service that is created while a CA is published is checked too.
#[test]
fn names_are_looked_at_again_before_a_published_ca_is_activated() {
    let mut world = fleet_with_extra_names();
    put(&mut world, EXCLUDES_EXAMPLE_COM, None);
    until(&mut world, true, "Active, Published");
    wait(&mut world, 600);
    assert_eq!(world.states(true), "Active, Published");
    world.edit_certificate(&name("shop", "web"), |found| found.spec.extra_dns_names.clear());
    assert!(until(&mut world, true, "Retiring, Active") <= 20);
    sound(&world);
}
