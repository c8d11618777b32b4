//! Duration of a decision: about a TrustDomain with 10,000 leaves and 200 instances, at rest and during a rotation, and
//! about one certificate. `cargo bench -p gaia-plan`

#[path = "../tests/world/mod.rs"]
mod world;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use gaia_api::crd::ServiceCertificateSpec;
use gaia_plan::trust_domain;
use world::{Pod, Resource, TD, Turmoil, World, plain_domain};

fn large() -> World {
    let mut world = World::new();
    world.create_domain(TD, plain_domain());
    for index in 0..NAMESPACES {
        world.namespaces.insert(format!("n{index}"), Default::default());
    }
    for index in 0..LEAVES {
        let namespace = format!("n{}", index % NAMESPACES);
        world.create_certificate_of(&namespace, &format!("service-{index}"), ServiceCertificateSpec::default());
    }
    world.settle();
    for index in 0..INSTANCES {
        let service = format!("service-{index}");
        world.start(Pod::of(&format!("n{}", index % NAMESPACES), &service, &format!("{service}-0")));
    }
    world.advance(world::DAY / 2);
    world.settle();
    world
}

fn plan(criterion: &mut Criterion) {
    let mut world = large();
    criterion.bench_function("a TrustDomain with 10,000 leaves and 200 instances, at rest", |bencher| {
        world.with_domain(TD, false, |observed| bencher.iter(|| trust_domain::plan(black_box(observed), world.now)));
    });
    let first = Resource::Certificate(("n0".to_owned(), "service-0".to_owned()));
    criterion.bench_function("one certificate, at rest, with looking it up", |bencher| {
        bencher.iter(|| world.plan(black_box(&first)));
    });
    world.stir(Turmoil::Rotate(true));
    world.settle();
    world.advance(300);
    world.settle();
    assert_eq!(world.states(true), "Retiring, Active");
    world.advance(10);
    world.probe();
    criterion.bench_function("the same TrustDomain, in the middle of a rotation of its CA", |bencher| {
        world.with_domain(TD, false, |observed| bencher.iter(|| trust_domain::plan(black_box(observed), world.now)));
    });
}

criterion_group! { name = plans; config = Criterion::default().sample_size(20); targets = plan }
criterion_main!(plans);

const NAMESPACES: usize = 100;
const LEAVES: usize = 10_000;
const INSTANCES: usize = 200;
