//! Endpoints that the TrustDomain does not allow: a warning, no instance, and no evidence for a stricter mode.

use super::*;
use gaia_api::crd::{AllowedEndpoint, AuthMode, TlsMode, TlsSpec};

const WEB: (&str, &str) = ("shop", "web");
const ENDPOINT: &str = "web.example.com:443";

fn web_service() -> Resource {
    service(WEB.0, WEB.1)
}

/// As after an upgrade: shop/web takes API keys and has an endpoint, and the TrustDomain has no `allowedEndpoints`.
fn upgraded() -> World {
    let mut world = World::new();
    world.create_domain(TD, plain_domain());
    let mut spec = GaiaServiceSpec { endpoints: vec![ENDPOINT.to_owned()], ..GaiaServiceSpec::default() };
    spec.auth.api_keys_secret_ref = Some(SecretRef { name: "keys".to_owned() });
    world.create_service(WEB.0, WEB.1, spec);
    world.settle();
    world.advance(DAY / 2);
    world.settle();
    world
}

fn conditions(world: &World) -> Vec<String> {
    let world::Status::Service(status) = world.reported(&web_service()) else { panic!("it is a service") };
    status.conditions.iter().map(|condition| condition.type_.clone()).collect()
}

fn running(world: &World) -> (AuthMode, TlsMode) {
    let world::Status::Service(status) = world.reported(&web_service()) else { panic!("it is a service") };
    (status.auth.unwrap().mode, status.tls.unwrap().mode)
}

#[test]
fn endpoint_that_is_not_allowed_is_a_warning_and_everything_goes_on_by_time() {
    let mut world = upgraded();
    let warning = says(&world, &web_service(), "EndpointNotAllowed", "True", "EndpointNotAllowed");
    assert_eq!(
        warning,
        "spec.endpoints: web.example.com:443 is not probed and counts by time alone: spec.allowedEndpoints of TrustDomain \
         gaia has no entry for namespace shop and this host; next step: add one to spec.allowedEndpoints of TrustDomain \
         gaia, or remove the endpoint"
    );
    says(&world, &web_service(), "Ready", "True", "Ready");
    says(&world, &web_service(), "Stalled", "False", "Settled");
    world.edit_domain(TD, |found| found.spec.ca.rotation_revision = 2);
    world.settle();
    says(&world, &domain(), "CARotating", "True", "Publishing");
    for _ in 0..20 {
        world.advance(60);
        world.settle();
    }
    says(&world, &domain(), "CARotating", "False", "Settled");
    says(&world, &web_service(), "Ready", "True", "Ready");
    sound(&world);
}

#[rstest]
#[case::by_name(AllowedEndpoint { namespaces: vec!["shop".to_owned()], hosts: vec!["*.example.com".to_owned()], cidrs: vec![] }, false)]
#[case::for_another_namespace(AllowedEndpoint { namespaces: vec!["other".to_owned()], hosts: vec!["*.example.com".to_owned()], cidrs: vec![] }, true)]
#[case::by_network_alone(AllowedEndpoint { namespaces: vec!["shop".to_owned()], hosts: vec![], cidrs: vec!["0.0.0.0/0".to_owned()] }, true)]
fn warning_is_there_as_long_as_no_entry_allows_it(#[case] entry: AllowedEndpoint, #[case] remains: bool) {
    let mut world = upgraded();
    world.edit_domain(TD, |found| found.spec.allowed_endpoints = vec![entry]);
    world.settle();
    assert_eq!(conditions(&world).contains(&"EndpointNotAllowed".to_owned()), remains);
    sound(&world);
}

/// The operator cannot read the callers of an endpoint that it does not dial, however long it waits.
#[test]
fn endpoint_that_is_not_allowed_is_a_gap_in_the_evidence_on_api_keys() {
    let mut world = upgraded();
    let expected = "not every instance's ledger is read: the ledger of endpoint web.example.com:443 is not read: \
                    spec.allowedEndpoints of the TrustDomain does not allow it";
    assert_eq!(says(&world, &web_service(), "LegacyFree", "False", "EvidenceGap"), expected);
    let at_rest = doing(&mut world);
    assert_eq!(at_rest, Vec::<String>::new(), "the gap is written once");
    for _ in 0..40 {
        world.advance(DAY);
        world.settle();
    }
    assert_eq!(says(&world, &web_service(), "LegacyFree", "False", "EvidenceGap"), expected);
    world.edit_service(&name(WEB.0, WEB.1), |found| {
        (found.spec.auth.mode, found.spec.tls) = (Some(AuthMode::JWTOnly), TlsSpec { mode: TlsMode::Strict });
    });
    world.settle();
    assert_eq!(running(&world), (AuthMode::Dual, TlsMode::Permissive));
    sound(&world);
}

/// Without a probed instance it looks as if Permissive was never served.
#[test]
fn endpoint_that_is_not_allowed_may_have_served_permissive() {
    let mut world = upgraded();
    world.edit_service(&name(WEB.0, WEB.1), |found| found.spec.tls = TlsSpec { mode: TlsMode::Strict });
    world.settle();
    assert_eq!(running(&world).1, TlsMode::Permissive);
    world.advance(40 * DAY);
    world.settle();
    says(&world, &web_service(), "PlainFree", "False", "EvidenceGap");
    assert_eq!(running(&world).1, TlsMode::Permissive);
    sound(&world);
}
