//! Dated stories of one TrustDomain and its certificates, told in the order in which things happen.

#![expect(clippy::unwrap_used, reason = "helpers of tests, which clippy.toml lets do it")]

#[path = "stories/domains.rs"]
mod domains;
#[path = "stories/leaves.rs"]
mod leaves;
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

/// A TrustDomain whose tokens are issued by that service.
fn issuer_in(namespace: &str, of: &str) -> World {
    let mut world = World::new();
    let mut spec = plain_domain();
    spec.tokens.issued_by = Some(ServiceRef { namespace: namespace.to_owned(), name: of.to_owned() });
    world.create_domain(TD, spec);
    world.create_service(namespace, of, GaiaServiceSpec::default());
    world
}
