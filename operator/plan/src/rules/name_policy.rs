//! Which names a certificate may carry (invariant 15).

mod ambiguous;

use std::net::IpAddr;

use gaia_api::crd::{AllowedNames, ServiceCertificateSpec, reason};
use gaia_pki::NameConstraints;

pub use self::ambiguous::other_meaning;
use self::ambiguous::{is_in_newer_domain, is_of_namespace};
use crate::Refusal;

/// The ServiceCertificate that requests names, and its cluster.
#[derive(Debug, Clone, Copy)]
pub struct Requester<'a> {
    /// Namespace of the ServiceCertificate.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The cluster's DNS domain, e.g. `cluster.local`.
    pub cluster_domain: &'a str,
    /// The operator's own namespace.
    pub operator_namespace: &'a str,
}

/// The names a certificate gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Sorted, without repetition.
    pub dns: Vec<String>,
    /// Sorted, without repetition.
    pub ip: Vec<IpAddr>,
    /// The service's own names that are not certified because they have another meaning as well (`localhost`).
    pub left_out: Vec<String>,
    /// The same where it follows from the name of the namespace alone (`web.shop`, `google.com`). That is no fault of the
    /// service, so it is no warning.
    pub of_namespace: Vec<String>,
    /// Such names that the stored certificate has: they stay, as clients may use them.
    pub kept: Vec<String>,
    /// Such names in a newer top-level domain that `spec.extraDNSNames` asks for: they are certified.
    pub asked_for: Vec<String>,
}

/// Names of a certificate that the name constraints of a CA exclude.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ExcludedNames {
    /// The service's own names in the cluster.
    pub(crate) own: Vec<String>,
    /// Of `spec.extraDNSNames` and `spec.ipAddresses`.
    pub(crate) extra: Vec<String>,
}

impl Names {
    /// The names that a CA with these constraints can sign, and the others.
    pub(crate) fn within(
        &self,
        who: Requester<'_>,
        headless: bool,
        constraints: &NameConstraints,
    ) -> (Self, ExcludedNames) {
        if constraints.is_empty() {
            return (self.clone(), ExcludedNames::default());
        }
        let own = own_names(who, headless);
        let (dns, excluded): (Vec<_>, Vec<_>) = self.dns.iter().cloned().partition(|name| constraints.allow_dns(name));
        let (ip, addresses): (Vec<_>, Vec<_>) = self.ip.iter().copied().partition(|ip| constraints.allow_ip(*ip));
        let (own, mut extra): (Vec<_>, Vec<_>) = excluded.into_iter().partition(|name| own.contains(name));
        extra.extend(addresses.iter().map(ToString::to_string));
        (Self { dns, ip, ..self.clone() }, ExcludedNames { own, extra })
    }
}

/// The names of a certificate: a service's own, and the extra ones that its namespace was granted. `stored`: names with
/// another meaning in the stored certificate, if a CA of the ring issued it.
///
/// # Errors
/// `NameNotAllowed` with the field and the name.
pub fn names(
    who: Requester<'_>,
    spec: &ServiceCertificateSpec,
    granted: &[AllowedNames],
    stored: &[String],
) -> Result<Names, Refusal> {
    let (mut dns, mut left_out, mut of_namespace) = (vec![], vec![], vec![]);
    let (mut kept, mut asked_for) = (vec![], vec![]);
    for name in own_names(who, spec.headless) {
        if dns_is_granted(who.namespace, &name, granted) || !is_ambiguous(who, &name) {
            dns.push(name);
        } else if is_in_newer_domain(&name) && spec.extra_dns_names.contains(&name) {
            asked_for.push(name.clone());
            dns.push(name);
        } else if stored.contains(&name) {
            kept.push(name.clone());
            dns.push(name);
        } else if is_of_namespace(&name) {
            of_namespace.push(name);
        } else {
            left_out.push(name);
        }
    }
    for (index, name) in spec.extra_dns_names.iter().enumerate() {
        let allowed = dns.contains(name) || (!is_reserved(who, name) && dns_is_granted(who.namespace, name, granted));
        if !allowed {
            return Err(not_allowed(who, "extraDNSNames", index, name, "dnsNames"));
        }
        dns.push(name.clone());
    }
    let mut ip = vec![];
    for (index, text) in spec.ip_addresses.iter().enumerate() {
        match text.parse::<IpAddr>() {
            Ok(address) if ip_is_granted(who.namespace, address, granted) => ip.push(address),
            _ => return Err(not_allowed(who, "ipAddresses", index, text, "ipRanges")),
        }
    }
    dns.sort();
    dns.dedup();
    ip.sort();
    ip.dedup();
    Ok(Names { dns, ip, left_out, of_namespace, kept, asked_for })
}

/// Returns true if a service's own name also has another meaning.
fn is_ambiguous(who: Requester<'_>, name: &str) -> bool {
    let is_operator = who.namespace == who.operator_namespace && name == OPERATOR;
    other_meaning(name).is_some() && !is_operator
}

fn own_names(who: Requester<'_>, headless: bool) -> Vec<String> {
    let Requester { namespace, name, cluster_domain, .. } = who;
    let service = format!("{name}.{namespace}.svc");
    let full = format!("{service}.{cluster_domain}");
    let mut names = vec![name.to_owned(), format!("{name}.{namespace}"), service.clone(), full.clone()];
    if headless {
        names.extend([format!("*.{service}"), format!("*.{full}")]);
    }
    names
}

/// Returns true if the name belongs to the operator itself; it is certified for no other service.
fn is_reserved(who: Requester<'_>, name: &str) -> bool {
    let own = Requester { namespace: who.operator_namespace, name: OPERATOR, ..who };
    own_names(own, true).iter().any(|reserved| reserved == name || covers(name, reserved))
}

fn dns_is_granted(namespace: &str, name: &str, granted: &[AllowedNames]) -> bool {
    granted_to(namespace, granted)
        .flat_map(|entry| &entry.dns_names)
        .any(|pattern| pattern == name || (!name.starts_with("*.") && covers(pattern, name)))
}

/// Returns true if a pattern with a leading `*.` covers a name. The star matches exactly one label (RFC 6125, 6.4.3).
pub(crate) fn covers(pattern: &str, name: &str) -> bool {
    let Some(suffix) = pattern.strip_prefix("*.") else { return false };
    name.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == suffix)
}

fn ip_is_granted(namespace: &str, address: IpAddr, granted: &[AllowedNames]) -> bool {
    granted_to(namespace, granted).flat_map(|entry| &entry.ip_ranges).any(|range| contains(range, address))
}

fn granted_to<'a>(namespace: &'a str, granted: &'a [AllowedNames]) -> impl Iterator<Item = &'a AllowedNames> {
    granted.iter().filter(move |entry| entry.namespaces.iter().any(|granted| granted == namespace))
}

/// Returns true if an address is inside a network in CIDR form.
pub(crate) fn contains(cidr: &str, address: IpAddr) -> bool {
    let Some((network, bits)) = cidr.split_once('/') else { return false };
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            network.to_bits() & mask == address.to_bits() & mask
        }
        (IpAddr::V6(network), IpAddr::V6(address)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            network.to_bits() & mask == address.to_bits() & mask
        }
        _ => false,
    }
}

fn not_allowed(who: Requester<'_>, field: &str, index: usize, name: &str, grant: &str) -> Refusal {
    let Requester { namespace, .. } = who;
    Refusal::stalled(
        reason::NAME_NOT_ALLOWED,
        format!(
            "spec.{field}[{index}] {name:?} must be a name of this service or match spec.allowedNames[].{grant} of the \
             TrustDomain for namespace {namespace}"
        ),
    )
}

const OPERATOR: &str = "gaia-operator";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const WHO: Requester<'_> = Requester {
        namespace: "shop",
        name: "asset-service",
        cluster_domain: "cluster.local",
        operator_namespace: "gaia-system",
    };

    fn grants() -> Vec<AllowedNames> {
        vec![
            AllowedNames {
                namespaces: vec!["shop".into()],
                dns_names: vec!["assets.example.com".into(), "*.cdn.example.com".into(), "*.gaia-system.svc".into()],
                ip_ranges: vec!["10.0.0.0/8".into(), "fd00::/8".into(), "192.168.1.7/32".into()],
            },
            AllowedNames {
                namespaces: vec!["other".into()],
                dns_names: vec!["other.example.com".into()],
                ip_ranges: vec!["0.0.0.0/0".into()],
            },
        ]
    }

    fn ask(dns: &[&str], ip: &[&str]) -> Result<Names, Refusal> {
        let spec = ServiceCertificateSpec {
            extra_dns_names: dns.iter().map(|s| (*s).to_owned()).collect(),
            ip_addresses: ip.iter().map(|s| (*s).to_owned()).collect(),
            ..Default::default()
        };
        names(WHO, &spec, &grants(), &[])
    }

    /// The names of a service without extra names.
    fn own(namespace: &str, name: &str, granted: &[AllowedNames], stored: &[&str]) -> Names {
        let who = Requester { namespace, name, ..WHO };
        let stored: Vec<String> = stored.iter().map(|name| (*name).to_owned()).collect();
        names(who, &ServiceCertificateSpec::default(), granted, &stored).unwrap()
    }

    #[rstest]
    #[case("team-a", "localhost", &["localhost"])]
    #[case("team-a", "wpad", &["wpad"])]
    #[case("team-a", "kubernetes", &["kubernetes"])]
    #[case("team-a", "gaia-operator", &["gaia-operator"])]
    #[case("gaia-system", "gaia-operator", &[])]
    #[case("team-a", "web", &[])]
    fn own_names_that_mean_something_else_are_left_out(
        #[case] namespace: &str,
        #[case] name: &str,
        #[case] left_out: &[&str],
    ) {
        let found = own(namespace, name, &[], &[]);
        assert_eq!(found.left_out, left_out);
        assert!(found.dns.iter().all(|certified| !left_out.contains(&certified.as_str())), "{found:?}");
        assert!(found.dns.contains(&format!("{name}.{namespace}.svc")));
    }

    /// The kind: a warning that follows from the name of the namespace, applies to every service in it, and cannot be
    /// resolved by an edit.
    #[rstest]
    #[case("shop", "web", &["web.shop"])]
    #[case("dev", "web", &["web.dev"])]
    #[case("prod", "orders", &["orders.prod"])]
    #[case("app", "web", &["web.app"])]
    #[case("com", "google", &["google.com"])]
    #[case("qa", "web", &["web.qa"])]
    #[case("local", "cluster", &["cluster.local"])]
    #[case("internal", "web", &["web.internal"])]
    #[case("team-a", "web", &[])]
    fn names_that_only_the_namespace_makes_ambiguous_are_left_out_without_a_warning(
        #[case] namespace: &str,
        #[case] name: &str,
        #[case] of_namespace: &[&str],
    ) {
        let found = own(namespace, name, &[], &[]);
        assert_eq!(
            (found.of_namespace, found.left_out.len()),
            (of_namespace.iter().map(|s| (*s).to_owned()).collect(), 0)
        );
        let unchanged = ["", &format!(".{namespace}.svc"), &format!(".{namespace}.svc.cluster.local")];
        assert!(unchanged.iter().all(|rest| found.dns.contains(&format!("{name}{rest}"))), "{:?}", found.dns);
    }

    #[test]
    fn no_name_of_the_api_server_is_certified() {
        let found = own("default", "kubernetes", &[], &[]);
        assert_eq!((found.dns.len(), found.left_out.len()), (0, 4), "{found:?}");
        let spec =
            ServiceCertificateSpec { extra_dns_names: vec!["kubernetes.default.svc".into()], ..Default::default() };
        let who = Requester { namespace: "default", name: "kubernetes", ..WHO };
        assert!(names(who, &spec, &[], &[]).is_err(), "nor if it is asked for");
    }

    /// A tightened rule never stops what runs, and a grant of the administrator counts.
    #[test]
    fn a_name_that_is_granted_or_that_the_stored_certificate_has_is_certified() {
        let grant = AllowedNames { namespaces: vec!["com".into()], dns_names: vec!["*.com".into()], ip_ranges: vec![] };
        let granted = own("com", "google", &[grant], &[]);
        assert!(granted.dns.contains(&"google.com".to_owned()) && granted.left_out.is_empty(), "{granted:?}");
        let kept = own("com", "google", &[], &["google.com", "example.com"]);
        assert!(
            kept.dns.contains(&"google.com".to_owned()) && !kept.dns.contains(&"example.com".to_owned()),
            "{kept:?}"
        );
        assert_eq!((kept.kept, kept.left_out), (vec!["google.com".to_owned()], vec![]));
    }

    #[test]
    fn a_service_gets_its_own_names() {
        let found = own("team-a", "asset-service", &[], &[]);
        let own = ["asset-service", "asset-service.team-a", "asset-service.team-a.svc"];
        assert_eq!(found.dns[..3], own);
        assert_eq!(found.dns[3..], ["asset-service.team-a.svc.cluster.local"]);
        assert_eq!((found.left_out, found.kept), (vec![], vec![]));
    }

    #[rstest]
    #[case("assets.example.com", true)]
    #[case("a.cdn.example.com", true)]
    #[case("*.cdn.example.com", true)]
    #[case("asset-service.shop.svc", true)]
    #[case("a.b.cdn.example.com", false)]
    #[case("cdn.example.com", false)]
    #[case("*.example.com", false)]
    #[case("other.example.com", false)]
    #[case("auth-service.other.svc", false)]
    #[case("gaia-operator", false)]
    #[case("gaia-operator.gaia-system.svc", false)]
    #[case("*.gaia-system.svc", false)]
    fn extra_dns_names_must_be_granted(#[case] name: &str, #[case] allowed: bool) {
        let answer = ask(&[name], &[]);
        assert_eq!(answer.is_ok(), allowed, "{answer:?}");
        if let Err(refusal) = answer {
            assert!(refusal.message.contains("spec.extraDNSNames[0]") && refusal.message.contains(name));
        }
    }

    #[rstest]
    #[case("10.1.2.3", true)]
    #[case("192.168.1.7", true)]
    #[case("192.168.1.8", false)]
    #[case("fd00::1", true)]
    #[case("fe80::1", false)]
    #[case("::ffff:10.1.2.3", false)]
    fn ip_addresses_must_be_granted(#[case] address: &str, #[case] allowed: bool) {
        assert_eq!(ask(&[], &[address]).is_ok(), allowed);
    }

    proptest! {
        #[test]
        fn no_name_outside_the_grants_is_ever_certified(name in "(\\*\\.)?[a-z]{1,3}(\\.[a-z]{1,7}){0,3}") {
            if let Ok(names) = ask(&[&name], &[]) {
                let own = own_names(WHO, false);
                let granted = name == "assets.example.com" || name.ends_with(".cdn.example.com");
                prop_assert!(own.contains(&name) || granted || name.ends_with(".gaia-system.svc"), "{:?}", names);
            }
        }
    }
}
