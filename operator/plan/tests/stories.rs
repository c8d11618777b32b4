//! Dated stories of one TrustDomain and its certificates, in the order of events. `cas`: CAs and rings,
//! their names and validities; `rotation`: rotations and what holds them; `services`: GaiaServices and certificates.

#![expect(clippy::unwrap_used, reason = "helpers of tests, which clippy.toml lets do it")]

#[path = "stories/rotation/aborts.rs"]
mod aborts;
#[path = "stories/rotation/answers.rs"]
mod answers;
#[path = "stories/cas/authorities.rs"]
mod authorities;
#[path = "stories/rotation/compromise.rs"]
mod compromise;
#[path = "stories/cas/constrained.rs"]
mod constrained;
#[path = "stories/cas/domains.rs"]
mod domains;
#[path = "stories/services/endpoints.rs"]
mod endpoints;
#[path = "stories/cas/epochs.rs"]
mod epochs;
#[path = "stories/cas/external_cas.rs"]
mod external_cas;
#[path = "stories/rotation/instances.rs"]
mod instances;
#[path = "stories/rotation/isolation.rs"]
mod isolation;
#[path = "stories/cas/keys.rs"]
mod keys;
#[path = "stories/rotation/lagging.rs"]
mod lagging;
#[path = "stories/services/leaves.rs"]
mod leaves;
#[path = "stories/cas/lifetimes.rs"]
mod lifetimes;
#[path = "stories/services/modes.rs"]
mod modes;
#[path = "stories/cas/names.rs"]
mod names;
#[path = "stories/rotation/past_deadline.rs"]
mod past_deadline;
#[path = "stories/cas/restores.rs"]
mod restores;
#[path = "stories/rotation/retained.rs"]
mod retained;
#[path = "stories/rotation/runbooks.rs"]
mod runbooks;
#[path = "stories/services/services.rs"]
mod services;
#[path = "stories/services/targets.rs"]
mod targets;
mod world;

use gaia_api::Span;
use gaia_api::crd::{
    AllowedNames, CallerSpec, CertificateOverrides, GaiaServiceSpec, NamespaceSelector, ObjectTemplate, PrivateKeySpec,
    Renewal, SecretRef, ServiceCertificateSpec, ServiceRef, TrustDomainSpec,
};
use gaia_api::names::annotation;
use gaia_plan::Action;
use gaia_plan::object::ObjectKey;
use gaia_plan::trust_domain::ExternalCa;
use jiff::Timestamp;
use rstest::rstest;
use world::{DAY, Name, Pod, Reload, Resource, Sight, TD, Tamper, World, plain_domain};

/// A TrustDomain named gaia since 2026-01-01, and ServiceCertificate shop/web.
fn web() -> World {
    let mut world = World::new();
    world.create_domain(TD, plain_domain());
    world.create_certificate_of("shop", "web", ServiceCertificateSpec::default());
    world
}

/// The same with signing keys that are not rotated in these years.
fn quiet(mut world: World) -> World {
    world.edit_domain(TD, |found| found.spec.tokens.rotation_period = Span::hours(99_999));
    world
}

fn external_ca(number: u64, end: &str) -> Option<Result<ExternalCa, String>> {
    let fingerprint = gaia_pki::sha256_hex(format!("brought {number}").as_bytes());
    Some(Ok(ExternalCa { fingerprint, not_after: at(end), ..ExternalCa::default() }))
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

/// The actions of the operator until it is at rest.
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

/// A TrustDomain whose tokens are issued by that service.
fn issuer_in(namespace: &str, of: &str) -> World {
    let mut world = World::new();
    let mut spec = plain_domain();
    spec.tokens.issued_by = Some(ServiceRef { namespace: namespace.to_owned(), name: of.to_owned() });
    world.create_domain(TD, spec);
    world.create_service(namespace, of, GaiaServiceSpec::default());
    world
}

/// The issuer auth/auth-service with pod auth-0, and shop/asset-service with pods shop-0 and shop-1. All reload after a minute
/// and report. Half a day has passed.
fn fleet() -> World {
    fleet_of(GaiaServiceSpec::default())
}

/// The same with that asset-service.
fn fleet_of(assets: GaiaServiceSpec) -> World {
    let mut world = issuer_in("auth", "auth-service");
    world.create_service("shop", "asset-service", assets);
    world.settle();
    world.start(Pod::of("auth", "auth-service", "auth-0").issuer());
    world.start(Pod::of("shop", "asset-service", "shop-0"));
    world.start(Pod::of("shop", "asset-service", "shop-1"));
    world.advance(DAY / 2);
    world.settle();
    assert_eq!((world.states(true), world.states(false)), ("Active".to_owned(), "Active, Published".to_owned()));
    world
}

/// Raises `rotationRevision` of the CA (true) or the signing keys.
fn ask_to_rotate(world: &mut World, ca: bool) {
    world.edit_domain(TD, |found| {
        let spec = &mut found.spec;
        *(if ca { &mut spec.ca.rotation_revision } else { &mut spec.tokens.rotation_revision }) += 1;
    });
    world.settle();
}

fn annotate(world: &mut World, name: &str, value: &str) {
    world.edit_domain(TD, |found| {
        found.metadata.annotations.get_or_insert_default().insert(name.to_owned(), value.to_owned());
    });
    world.settle();
}

fn take_away(world: &mut World, name: &str) {
    world.edit_domain(TD, |found| {
        found.metadata.annotations.get_or_insert_default().remove(name);
    });
    world.settle();
}

/// The operator looks every ten seconds.
fn wait(world: &mut World, seconds: i64) {
    for _ in 0..seconds / 10 {
        world.advance(10);
        world.settle();
    }
}

/// Waits until the states of that ring are these; at most a day. Returns after how many seconds they were.
#[track_caller]
fn until(world: &mut World, ca: bool, states: &str) -> i64 {
    for round in 0..8_640 {
        if world.states(ca) == states {
            return round * 10;
        }
        world.advance(10);
        world.settle();
    }
    panic!("still {} and not {states}: {:?}", world.states(ca), world.reported(&domain()).conditions());
}

/// The short ids of a ring's generations, oldest first.
fn ids(world: &World, ca: bool) -> Vec<String> {
    if ca {
        world.ca_ring(TD).unwrap().generations.iter().map(|generation| generation.id.clone()).collect()
    } else {
        world.signing_ring(TD).unwrap().generations.iter().map(|generation| generation.id.clone()).collect()
    }
}

/// The short id of the CA that signed a stored leaf.
fn issuer_of(world: &World, namespace: &str, service: &str) -> String {
    let stored = world.secret(namespace, &format!("{service}-tls")).unwrap();
    world.leaf(stored).unwrap().0.issuer[..8].to_owned()
}

/// Fails if anything was ever against an invariant.
#[track_caller]
fn sound(world: &World) {
    assert!(world.violations.is_empty(), "{:#?}", world.violations);
}

fn status(world: &World) -> gaia_api::crd::TrustDomainStatus {
    world.domains[TD].status.clone().unwrap()
}

/// Reasons of the events since the log had that length.
fn events(world: &World, since: usize) -> Vec<&'static str> {
    world.log[since..].iter().flat_map(|done| done.action.events()).map(|event| event.reason).collect()
}
