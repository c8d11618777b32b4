//! Arbitrary specs and histories.

use gaia_api::Span;
use gaia_api::crd::{
    DistrustMode, GaiaServiceSpec, SecretRef, ServiceCertificateSpec, ServiceRef, TokenAlgorithm, TrustDomainSpec,
};
use proptest::prelude::*;

use super::World;
use super::pods::{Reload, Sight};
use super::specs::{certificate, plain_domain, private_key, service, template, trust_domain};
use super::tamper::{Edit, SERVICES, Spec, Step, TD, Tamper};
use super::turmoil::Turmoil;

/// The initial state of a story.
#[derive(Clone)]
pub(crate) struct Seed {
    pub(crate) domain: Option<TrustDomainSpec>,
    pub(crate) certificates: Vec<(usize, ServiceCertificateSpec)>,
    pub(crate) services: Vec<(usize, GaiaServiceSpec)>,
    pub(crate) external_ca: Option<u64>,
}

/// As short as possible: the output of a failed case must be readable.
impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "domain {}, external CA {:?}", text(&self.domain), self.external_ca)?;
        self.certificates.iter().try_for_each(|(index, spec)| write!(f, ", certificate {index} {}", text(spec)))?;
        self.services.iter().try_for_each(|(index, spec)| write!(f, ", service {index} {}", text(spec)))
    }
}

impl Seed {
    pub(crate) fn world(&self) -> World {
        let mut world = World::new();
        world.external_ca = Some(super::tamper::external_ca(self.external_ca));
        if let Some(spec) = &self.domain {
            world.create_domain(TD, spec.clone());
        }
        for (index, spec) in self.services.iter().rev() {
            let (namespace, name) = SERVICES[index % SERVICES.len()];
            world.create_service(namespace, name, spec.clone());
        }
        for (index, spec) in &self.certificates {
            world.advance(1);
            world.person_creates(*index, spec.clone());
        }
        world
    }
}

/// As JSON.
pub(super) fn text(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap()
}

/// An arbitrary beginning, and arbitrary things that happen.
pub(crate) fn history(length: usize) -> impl Strategy<Value = (Seed, Vec<Step>)> {
    let domain = prop_oneof![9 => trust_domain().prop_map(Some), 1 => Just(None), 6 => Just(Some(plain_domain()))];
    let certificates = prop::collection::vec((0usize..4, certificate()), 0..3);
    let services = prop::collection::vec((0usize..3, service()), 0..3);
    let seed = (domain, certificates, services, prop::option::of(0u64..9))
        .prop_map(|(domain, certificates, services, external_ca)| Seed { domain, certificates, services, external_ca });
    (seed, steps(length))
}

fn steps(length: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 0..length)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Settle),
        3 => clock().prop_map(Step::Advance),
        2 => (0usize..8).prop_map(Step::Look),
        2 => (0usize..8, 0usize..5).prop_map(|(which, writes)| Step::CrashAfter(which, writes)),
        1 => Just(Step::Crash),
        1 => (1u32..5).prop_map(Step::Refuse),
        1 => Just(Step::Lag),
        8 => (0usize..24, tamper()).prop_map(|(which, tamper)| Step::Tamper(which, tamper)),
        7 => (0usize..8, edit()).prop_map(|(which, edit)| Step::Edit(which, edit)),
        3 => turmoil().prop_map(Step::Stir),
        1 => (1usize..4).prop_map(Step::Watch),
    ]
}

fn clock() -> impl Strategy<Value = i64> {
    const DAY: i64 = super::DAY;
    prop_oneof![
        prop::sample::select(vec![-600, 1, 60, 3600, 91 * DAY, -91 * DAY, 400 * DAY, 3650 * DAY]),
        -DAY..DAY,
        0..200 * DAY,
    ]
}

fn tamper() -> impl Strategy<Value = Tamper> {
    use Tamper as T;
    let harmless = vec![T::DropLabel, T::OtherAnnotations, T::SwapKey, T::EmptyCa, T::Garbage, T::AddKey, T::Delete];
    let harsh = vec![
        T::DropAllLabels,
        T::DropAnnotations,
        T::HighEpoch,
        T::DropOwners,
        T::ReplaceByForeign,
        T::Immutable,
        T::OtherType,
    ];
    prop_oneof![prop::sample::select(harmless), prop::sample::select(harsh)]
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        2 => (0usize..3).prop_map(Edit::Selector),
        2 => Just(Edit::FlipNamespace),
        2 => trust_domain().prop_map(|spec| Edit::DomainSpec(Spec(Box::new(spec)))),
        1 => Just(Edit::DomainGone),
        2 => Just(Edit::DomainAgain),
        1 => any::<bool>().prop_map(Edit::Bootstrap),
        2 => prop::option::of(0usize..3).prop_map(Edit::IssuedBy),
        1 => prop::option::of(0u64..9).prop_map(Edit::Brought),
        4 => certificate().prop_map(|spec| Edit::CertificateSpec(Spec(Box::new(spec)))),
        1 => Just(Edit::CertificateGone),
        2 => (0usize..4, certificate()).prop_map(|(index, spec)| Edit::CertificateNew(index, Spec(Box::new(spec)))),
        2 => (0u8..3).prop_map(Edit::Renew),
        2 => service().prop_map(|spec| Edit::ServiceSpec(Spec(Box::new(spec)))),
        1 => Just(Edit::ServiceGone),
        2 => (0usize..3).prop_map(Edit::ServiceNew),
        2 => any::<bool>().prop_map(Edit::RingGone),
        1 => any::<bool>().prop_map(Edit::RingUnreadable),
        1 => any::<bool>().prop_map(Edit::RingCopy),
        2 => (0usize..10).prop_map(Edit::Foreign),
        1 => Just(Edit::Adopt),
    ]
}

/// An initial state in which all requests can be met, with only such events as the operator can repair.
pub(crate) fn possible_history(length: usize) -> impl Strategy<Value = (Seed, Vec<Step>)> {
    let certificates = prop::collection::vec((0usize..4, possible_certificate()), 0..3);
    let services = prop::collection::vec((0usize..3, service()), 0..3).prop_map(|mut services| {
        for (_, spec) in &mut services {
            spec.certificate = None;
            // The decision whether keys may be disabled is another story, too.
            spec.auth.mode = spec.auth.mode.filter(|_| spec.auth.api_keys_secret_ref.is_none());
        }
        services
    });
    let issuer = prop::option::of(prop::sample::select(vec![0usize, 2]));
    let seed = (issuer, any::<bool>(), certificates, services).prop_map(|(issuer, es256, certificates, services)| {
        let mut domain = plain_domain();
        domain.tokens.issued_by = issuer
            .map(|index| ServiceRef { namespace: SERVICES[index].0.to_owned(), name: SERVICES[index].1.to_owned() });
        domain.tokens.algorithm = if es256 { TokenAlgorithm::ES256 } else { TokenAlgorithm::RS256 };
        // A GaiaService with the name of a certificate that a user created is another story.
        let issuer = issuer.map(|index| (index, GaiaServiceSpec::default()));
        let services: Vec<_> =
            issuer.into_iter().chain(services).filter(|(index, _)| index % SERVICES.len() != 1).collect();
        Seed { domain: Some(domain), certificates, services, external_ca: None }
    });
    (seed, prop::collection::vec(possible_step(), 0..length))
}

fn possible_certificate() -> impl Strategy<Value = ServiceCertificateSpec> {
    (template(), prop::sample::select(vec!["1h", "24h", "3240h"]), private_key(), any::<bool>()).prop_map(
        |(secret_template, life, key, headless)| ServiceCertificateSpec {
            secret_template,
            duration: Some(Span::parse(life).unwrap()),
            private_key: Some(key),
            headless,
            ..ServiceCertificateSpec::default()
        },
    )
}

fn possible_step() -> impl Strategy<Value = Step> {
    use Tamper as T;
    let tamper = vec![
        T::DropLabel,
        T::OtherAnnotations,
        T::SwapKey,
        T::EmptyCa,
        T::Garbage,
        T::AddKey,
        T::DropAllLabels,
        T::DeleteProjection,
    ];
    prop_oneof![
        2 => Just(Step::Settle),
        2 => prop::sample::select(vec![-600, 1, 60, 3600, 91 * super::DAY]).prop_map(Step::Advance),
        3 => (0usize..8).prop_map(Step::Look),
        4 => (0usize..8, 0usize..5).prop_map(|(which, writes)| Step::CrashAfter(which, writes)),
        1 => Just(Step::Crash),
        1 => (1u32..5).prop_map(Step::Refuse),
        1 => Just(Step::Lag),
        6 => (0usize..24, prop::sample::select(tamper)).prop_map(|(which, tamper)| Step::Tamper(which, tamper)),
        1 => (0usize..8, (0u8..3).prop_map(Edit::Renew)).prop_map(|(which, edit)| Step::Edit(which, edit)),
        1 => (0usize..8, Just(Edit::DomainAgain)).prop_map(|(which, edit)| Step::Edit(which, edit)),
    ]
}

/// Rotations of both rings, with events of users, pods, clocks and crashes.
pub(crate) fn rotating_history(length: usize) -> impl Strategy<Value = (Seed, Vec<Step>)> {
    let times = prop::sample::select(vec![("3m", "1h", "60s"), ("10s", "1m", "5s"), ("1h", "2h", "10m")]);
    let leaf = prop::sample::select(vec!["24h", "3240h"]);
    let domain = (times, leaf, prop::bool::weighted(0.2)).prop_map(|(times, leaf, external_ca)| {
        let mut spec = plain_domain();
        spec.propagation.min_delay = Span::parse(times.0).unwrap();
        spec.propagation.deadline = Span::parse(times.1).unwrap();
        spec.propagation.clock_skew = Span::parse(times.2).unwrap();
        spec.certificate_defaults.duration = Span::parse(leaf).unwrap();
        spec.tokens.issued_by =
            Some(ServiceRef { namespace: SERVICES[0].0.to_owned(), name: SERVICES[0].1.to_owned() });
        spec.ca.existing_secret_ref = external_ca.then(|| SecretRef { name: "our-ca".to_owned() });
        spec
    });
    let services = (any::<bool>(), any::<bool>()).prop_map(|(shop, other)| {
        let all = [(0, true), (1, shop), (2, other)];
        all.into_iter().filter(|(_, there)| *there).map(|(index, _)| (index, GaiaServiceSpec::default())).collect()
    });
    let certificates = prop::collection::vec((prop::sample::select(vec![0usize, 2, 3]), possible_certificate()), 0..2);
    let seed = (domain, certificates, services).prop_map(|(domain, certificates, services)| Seed {
        domain: Some(domain),
        certificates,
        services,
        external_ca: Some(4),
    });
    let pods = prop::collection::vec(pod(), 0..4);
    (seed, pods, prop::collection::vec(rotating_step(), 0..length)).prop_map(|(seed, pods, steps)| {
        let begin = [Step::Settle].into_iter().chain(pods.into_iter().map(Step::Stir)).chain([Step::Watch(2)]);
        (seed, begin.chain(steps).collect())
    })
}

fn rotating_step() -> impl Strategy<Value = Step> {
    use Tamper as T;
    let tamper =
        vec![T::DropLabel, T::SwapKey, T::EmptyCa, T::Garbage, T::DeleteProjection, T::Immutable, T::HighEpoch];
    let clock = prop::sample::select(vec![-3600, -60, 1, 10, 30, 60, 240, 3600, 5 * 3600, DAY, 91 * DAY]);
    const DAY: i64 = super::DAY;
    prop_oneof![
        3 => Just(Step::Settle),
        8 => (1usize..8).prop_map(Step::Watch),
        5 => clock.prop_map(Step::Advance),
        2 => Just(Step::Probe),
        5 => (0usize..6).prop_map(Step::Look),
        4 => (0usize..6, 0usize..5).prop_map(|(which, writes)| Step::CrashAfter(which, writes)),
        1 => (1u32..5).prop_map(Step::Refuse),
        1 => Just(Step::Lag),
        2 => (0usize..24, prop::sample::select(tamper)).prop_map(|(which, tamper)| Step::Tamper(which, tamper)),
        14 => turmoil().prop_map(Step::Stir),
        1 => (0usize..8, lost()).prop_map(|(which, edit)| Step::Edit(which, edit)),
        1 => (0u64..9).prop_map(|number| Step::Edit(0, Edit::Brought(Some(number)))),
    ]
}

fn lost() -> impl Strategy<Value = Edit> {
    prop_oneof![
        any::<bool>().prop_map(Edit::RingGone),
        any::<bool>().prop_map(Edit::RingUnreadable),
        Just(Edit::CertificateGone),
        (0usize..3).prop_map(Edit::ServiceNew),
        Just(Edit::FlipNamespace),
    ]
}

fn turmoil() -> impl Strategy<Value = Turmoil> {
    use Turmoil as T;
    let mode = prop::sample::select(vec![DistrustMode::AfterReissue, DistrustMode::Immediate]);
    let ring = any::<bool>();
    prop_oneof![
        8 => ring.prop_map(T::Rotate),
        4 => (ring, 0usize..4, mode).prop_map(|(ca, which, mode)| T::Distrust(ca, which, mode)),
        1 => Just(T::Forgive),
        2 => (ring, 0usize..3).prop_map(|(ca, which)| T::Abort(ca, which)),
        1 => (ring, 0usize..3).prop_map(|(ca, which)| T::AdvanceWithout(ca, which)),
        3 => ring.prop_map(T::Restore),
        1 => ring.prop_map(T::KeepCopy),
        1 => ring.prop_map(T::PutCopy),
        1 => Just(T::Algorithm),
        1 => prop::sample::select(vec![5u64, 60, 600]).prop_map(T::MaxTtl),
        1 => prop::sample::select(vec![2u64, 30, 300, 99_999]).prop_map(T::RotationPeriod),
        1 => any::<bool>().prop_map(T::RequireAcknowledgement),
        3 => pod(),
        3 => (0usize..6).prop_map(T::Restart),
        1 => (0usize..6).prop_map(T::Stop),
        2 => (0usize..6, any::<bool>()).prop_map(|(which, deaf)| T::Deaf(which, deaf)),
        1 => (0usize..6, 0usize..3).prop_map(|(which, generation)| T::Connect(which, generation)),
        1 => any::<bool>().prop_map(T::PodsKnown),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(nudge, restart)| T::Abilities(nudge, restart)),
        1 => (0usize..9).prop_map(T::Revoke),
        1 => (0usize..3, 0i32..3).prop_map(|(which, wave)| T::Wave(which, wave)),
    ]
}

fn pod() -> impl Strategy<Value = Turmoil> {
    let reload = prop_oneof![
        4 => prop::sample::select(vec![0i64, 5, 60, 90]).prop_map(Reload::After),
        1 => Just(Reload::Never)
    ];
    let sight = prop_oneof![
        4 => Just(Sight::Reports),
        1 => prop::sample::select(vec![Sight::Handshake, Sight::NoPort, Sight::Refuses])
    ];
    (0usize..3, reload, sight, prop::bool::weighted(0.9))
        .prop_map(|(which, reload, sight, required)| Turmoil::Start(which, reload, sight, required))
}
