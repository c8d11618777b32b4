//! Arbitrary specs and histories.

use gaia_api::Span;
use gaia_api::crd::{
    AllowedNames, AuthMode, AuthSpec, CallerSpec, CertificateOverrides, DeletionPolicy, DistrustMode, GaiaServiceSpec,
    KeyAlgorithm, KeyUsage, ObjectTemplate, PrivateKeySpec, Renewal, SecretRef, ServiceCertificateSpec, ServiceRef,
    TlsMode, TlsSpec, TokenAlgorithm, TrustDomainSpec, both_usages,
};
use proptest::prelude::*;

use super::World;
use super::pods::{Reload, Sight};
use super::tamper::{Edit, SERVICES, Spec, Step, TD, Tamper, selector};
use super::turmoil::Turmoil;

/// One that every service of the stories may use.
pub(crate) fn plain_domain() -> TrustDomainSpec {
    TrustDomainSpec {
        trust_domain: "gaia.local".to_owned(),
        namespace_selector: selector(1),
        allowed_names: allowed(),
        allowed_endpoints: vec![],
        ca: gaia_api::crd::CaSpec::default(),
        certificate_defaults: gaia_api::crd::CertificateDefaults::default(),
        tokens: gaia_api::crd::TokensSpec::default(),
        revoked: gaia_api::crd::RevokedSpec::default(),
        user_token_issuers: vec![],
        auth: gaia_api::crd::TrustDomainAuth::default(),
        propagation: gaia_api::crd::PropagationSpec::default(),
    }
}

fn allowed() -> Vec<AllowedNames> {
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    vec![
        AllowedNames {
            namespaces: list(&["shop"]),
            dns_names: list(&["shop.example.com", "*.cdn.example.com", "*.gaia-system.svc"]),
            ip_ranges: list(&["10.0.0.0/8"]),
        },
        AllowedNames {
            namespaces: list(&["other", "auth"]),
            dns_names: list(&["*.example.org"]),
            ip_ranges: list(&["fd00::/8"]),
        },
    ]
}

fn duration() -> impl Strategy<Value = Span> {
    // From too short for the default propagation times to three years.
    prop::sample::select(vec!["10m", "20m", "1h", "24h", "720h", "3240h", "26280h"])
        .prop_map(|text| Span::parse(text).unwrap())
}

fn private_key() -> impl Strategy<Value = PrivateKeySpec> {
    prop::sample::select(vec![
        PrivateKeySpec::default(),
        PrivateKeySpec { algorithm: KeyAlgorithm::RSA, size: Some(3072) },
        PrivateKeySpec { algorithm: KeyAlgorithm::ECDSA, size: Some(384) },
    ])
}

/// Any spec that the schema lets through, impossible ones too.
fn trust_domain() -> impl Strategy<Value = TrustDomainSpec> {
    let ca = prop_oneof![
        4 => Just(None),
        2 => prop::sample::select(vec!["24h", "2000h", "9000h", "99999h"]).prop_map(|d| Some(Span::parse(d).unwrap()))
    ];
    let brought = prop::bool::weighted(0.1);
    let propagation = prop::sample::select(vec![("3m", "1h", "60s"), ("1s", "1m", "0s"), ("24h", "168h", "10m")]);
    let issuer = prop::option::of(0..SERVICES.len());
    (
        (0usize..3, any::<bool>(), ca, brought, private_key(), duration()),
        (propagation, issuer, any::<bool>(), prop::bool::weighted(0.1)),
    )
        .prop_map(|((select, grants, ca, brought, key, leaf), (times, issuer, es256, revision))| {
            let mut spec = plain_domain();
            spec.namespace_selector = selector(select);
            if !grants {
                spec.allowed_names.clear();
            }
            if brought {
                spec.ca.existing_secret_ref = Some(SecretRef { name: "our-ca".to_owned() });
            } else {
                spec.ca.duration = ca;
                spec.ca.private_key = Some(key.clone());
            }
            spec.certificate_defaults.duration = leaf;
            spec.certificate_defaults.private_key = key;
            spec.propagation.min_delay = Span::parse(times.0).unwrap();
            spec.propagation.deadline = Span::parse(times.1).unwrap();
            spec.propagation.clock_skew = Span::parse(times.2).unwrap();
            spec.tokens.issued_by = issuer.map(|index| ServiceRef {
                namespace: SERVICES[index].0.to_owned(),
                name: SERVICES[index].1.to_owned(),
            });
            spec.tokens.algorithm = if es256 { TokenAlgorithm::ES256 } else { TokenAlgorithm::RS256 };
            spec.ca.rotation_revision = if revision { 2 } else { 1 };
            spec
        })
}

fn template() -> impl Strategy<Value = ObjectTemplate> {
    let map = |keys: Vec<&'static str>| prop::collection::btree_map(prop::sample::select(keys), "[ab]", 0..2);
    (map(vec!["team", "tier"]), map(vec!["note", "example.com/x"])).prop_map(|(labels, annotations)| {
        let owned = |map: std::collections::BTreeMap<&str, String>| {
            map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
        };
        ObjectTemplate { labels: owned(labels), annotations: owned(annotations) }
    })
}

fn names() -> impl Strategy<Value = Vec<String>> {
    let pool = vec![
        "shop.example.com",
        "a.cdn.example.com",
        "*.cdn.example.com",
        "b.example.org",
        "*.example.org",
        "web.shop.svc",
        "auth-service.other.svc",
        "gaia-operator",
        "gaia-operator.gaia-system.svc",
        "x.gaia-system.svc",
        "*.com",
    ];
    let several = prop::collection::vec(prop::sample::select(pool).prop_map(str::to_owned), 1..3);
    prop_oneof![3 => Just(vec![]), 2 => several]
}

fn certificate() -> impl Strategy<Value = ServiceCertificateSpec> {
    let secret = prop_oneof![
        4 => Just(None),
        2 => Just(Some("shared-tls".to_owned())),
        1 => Just(Some(format!("{TD}-token-signer")))
    ];
    let addresses = prop::collection::vec(
        prop::sample::select(vec!["10.1.2.3", "192.168.0.1", "fd00::1", "::1"]).prop_map(str::to_owned),
        0..2,
    );
    let account = prop::option::weighted(0.3, Just("worker".to_owned()));
    (
        (secret, names(), addresses, prop::option::of(duration()), prop::option::of(private_key())),
        (any::<bool>(), template(), prop::bool::weighted(0.2), prop::bool::weighted(0.2), account, any::<bool>()),
    )
        .prop_map(
            |((secret_name, dns, ip, duration, key), (headless, template, disabled, retain, account, one))| {
                ServiceCertificateSpec {
                    secret_name,
                    service_account_name: account,
                    extra_dns_names: dns,
                    ip_addresses: ip,
                    duration,
                    allow_short_lived: true,
                    private_key: key,
                    headless,
                    secret_template: template,
                    renewal: if disabled { Renewal::Disabled } else { Renewal::Enabled },
                    deletion_policy: if retain { DeletionPolicy::Retain } else { DeletionPolicy::Delete },
                    usages: if one { vec![KeyUsage::ServerAuth] } else { both_usages() },
                    ..ServiceCertificateSpec::default()
                }
            },
        )
}

fn service() -> impl Strategy<Value = GaiaServiceSpec> {
    let caller = (0..SERVICES.len(), any::<bool>(), prop::collection::vec("[a-c]", 0..3)).prop_map(
        |(index, elsewhere, scopes)| CallerSpec {
            service: SERVICES[index].1.to_owned(),
            namespace: elsewhere.then(|| SERVICES[index].0.to_owned()),
            scopes,
            on_behalf_of: false,
        },
    );
    let overrides =
        prop::option::of((names(), prop::option::of(duration()), template()).prop_map(|(dns, life, template)| {
            CertificateOverrides {
                extra_dns_names: dns,
                duration: life,
                allow_short_lived: true,
                secret_template: template,
                ..CertificateOverrides::default()
            }
        }));
    let account = prop::option::weighted(0.2, Just("account".to_owned()));
    let keys = prop::option::weighted(0.3, Just(SecretRef { name: "keys".to_owned() }));
    (prop::collection::vec(caller, 0..3), overrides, account, keys, auth_mode()).prop_map(
        |(callers, certificate, service_account_name, api_keys_secret_ref, mode)| GaiaServiceSpec {
            callers,
            certificate,
            service_account_name,
            tls: TlsSpec { mode: TlsMode::Strict },
            auth: AuthSpec { api_keys_secret_ref, mode, ..AuthSpec::default() },
            ..GaiaServiceSpec::default()
        },
    )
}

fn auth_mode() -> impl Strategy<Value = Option<AuthMode>> {
    prop::option::of(prop::sample::select(vec![AuthMode::APIKeyOnly, AuthMode::Dual, AuthMode::JWTOnly]))
}

/// The initial state of a story.
#[derive(Clone)]
pub(crate) struct Seed {
    pub(crate) domain: Option<TrustDomainSpec>,
    pub(crate) certificates: Vec<(usize, ServiceCertificateSpec)>,
    pub(crate) services: Vec<(usize, GaiaServiceSpec)>,
    pub(crate) brought: Option<u64>,
}

/// As short as possible: the output of a failed case must be readable.
impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "domain {}, brought {:?}", text(&self.domain), self.brought)?;
        self.certificates.iter().try_for_each(|(index, spec)| write!(f, ", certificate {index} {}", text(spec)))?;
        self.services.iter().try_for_each(|(index, spec)| write!(f, ", service {index} {}", text(spec)))
    }
}

impl Seed {
    pub(crate) fn world(&self) -> World {
        let mut world = World::new();
        world.brought = Some(super::tamper::brought(self.brought));
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
        .prop_map(|(domain, certificates, services, brought)| Seed { domain, certificates, services, brought });
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
        Seed { domain: Some(domain), certificates, services, brought: None }
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
    let domain = (times, leaf, prop::bool::weighted(0.2)).prop_map(|(times, leaf, brought)| {
        let mut spec = plain_domain();
        spec.propagation.min_delay = Span::parse(times.0).unwrap();
        spec.propagation.deadline = Span::parse(times.1).unwrap();
        spec.propagation.clock_skew = Span::parse(times.2).unwrap();
        spec.certificate_defaults.duration = Span::parse(leaf).unwrap();
        spec.tokens.issued_by =
            Some(ServiceRef { namespace: SERVICES[0].0.to_owned(), name: SERVICES[0].1.to_owned() });
        spec.ca.existing_secret_ref = brought.then(|| SecretRef { name: "our-ca".to_owned() });
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
        brought: Some(4),
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
