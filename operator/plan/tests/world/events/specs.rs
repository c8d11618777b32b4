//! Arbitrary specs of the three kinds.

use gaia_api::Span;
use gaia_api::crd::{
    AllowedNames, AuthMode, AuthSpec, CallerSpec, CertificateOverrides, DeletionPolicy, GaiaServiceSpec, KeyAlgorithm,
    KeyUsage, ObjectTemplate, PrivateKeySpec, Renewal, SecretRef, ServiceCertificateSpec, ServiceRef, TlsMode, TlsSpec,
    TokenAlgorithm, TrustDomainSpec, both_usages,
};
use proptest::prelude::*;

use super::tamper::{SERVICES, TD, selector};

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

pub(super) fn private_key() -> impl Strategy<Value = PrivateKeySpec> {
    prop::sample::select(vec![
        PrivateKeySpec::default(),
        PrivateKeySpec { algorithm: KeyAlgorithm::RSA, size: Some(3072) },
        PrivateKeySpec { algorithm: KeyAlgorithm::ECDSA, size: Some(384) },
    ])
}

/// Any spec that the schema lets through, impossible ones too.
pub(super) fn trust_domain() -> impl Strategy<Value = TrustDomainSpec> {
    let ca = prop_oneof![
        4 => Just(None),
        2 => prop::sample::select(vec!["24h", "2000h", "9000h", "99999h"]).prop_map(|d| Some(Span::parse(d).unwrap()))
    ];
    let external_ca = prop::bool::weighted(0.1);
    let propagation = prop::sample::select(vec![("3m", "1h", "60s"), ("1s", "1m", "0s"), ("24h", "168h", "10m")]);
    let issuer = prop::option::of(0..SERVICES.len());
    (
        (0usize..3, any::<bool>(), ca, external_ca, private_key(), duration()),
        (propagation, issuer, any::<bool>(), prop::bool::weighted(0.1)),
    )
        .prop_map(|((select, grants, ca, external_ca, key, leaf), (times, issuer, es256, revision))| {
            let mut spec = plain_domain();
            spec.namespace_selector = selector(select);
            if !grants {
                spec.allowed_names.clear();
            }
            if external_ca {
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

pub(super) fn template() -> impl Strategy<Value = ObjectTemplate> {
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

pub(super) fn certificate() -> impl Strategy<Value = ServiceCertificateSpec> {
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

pub(super) fn service() -> impl Strategy<Value = GaiaServiceSpec> {
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
