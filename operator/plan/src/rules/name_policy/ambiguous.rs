//! Short names that also mean something outside the service they are certified for.
//!
//! `<name>.<namespace>` in a namespace named like a top-level domain spells a public name (`google.com`); Kubernetes
//! documents the same hazard for its DNS ("Namespaces and DNS"). Some single labels mean a host everywhere.

use std::collections::HashSet;
use std::sync::LazyLock;

/// Another meaning of a DNS name, for which it is not certified for a service; none: no other meaning is known.
#[must_use]
pub fn other_meaning(name: &str) -> Option<&'static str> {
    if is_api_server(name) {
        return Some("the API server");
    }
    match name.split_once('.') {
        None if name == super::OPERATOR => Some("the operator"),
        None if HOSTS.contains(&name) => Some("a host with a special meaning"),
        Some((_, zone)) if ZONES.contains(&zone) => Some("a host in a local domain"),
        Some((_, zone)) if TOP_LEVEL.contains(zone) => Some("a host in a public domain"),
        None | Some(_) => None,
    }
}

/// Returns true for a DNS name in one of the newer top-level domains, which are words that namespaces are often named by
/// (`web.shop`).
pub(super) fn is_in_newer_domain(name: &str) -> bool {
    name.split_once('.').is_some_and(|(_, zone)| TOP_LEVEL.contains(zone) && !is_classic(zone))
}

/// Returns true if it is the name of the namespace that gives a DNS name its other meaning: every service there has such a
/// name.
pub(super) fn is_of_namespace(name: &str) -> bool {
    name.contains('.') && !is_api_server(name)
}

/// Top-level domains of RFC 1591, of countries, and those that were added before 2012.
fn is_classic(zone: &str) -> bool {
    GENERIC.contains(&zone) || (zone.len() == COUNTRY_CODE && TOP_LEVEL.contains(zone))
}

/// `kubernetes.default` in all its forms.
fn is_api_server(name: &str) -> bool {
    let rest = name.strip_prefix("kubernetes");
    rest.is_some_and(|rest| ["", ".default", ".default.svc"].contains(&rest) || rest.starts_with(".default.svc."))
}

/// Single labels that name a host on every machine or in every network: loopback (RFC 6761, `/etc/hosts`) and names
/// that clients look up without configuration.
const HOSTS: [&str; 9] = [
    "localhost",
    "localhost4",
    "localhost6",
    "ip6-localhost",
    "ip6-loopback",
    "broadcasthost",
    "wpad",
    "isatap",
    "autodiscover",
];
/// Domains outside the public DNS that networks use for their own hosts (RFC 6761, 6762, 8375, 7686, ICANN's reserved
/// names).
const ZONES: [&str; 12] = [
    "localhost",
    "local",
    "localdomain",
    "internal",
    "intranet",
    "private",
    "corp",
    "home",
    "lan",
    "mail",
    "onion",
    "svc",
];
const GENERIC: [&str; 22] = [
    "com", "net", "org", "edu", "gov", "mil", "int", "arpa", "aero", "asia", "biz", "cat", "coop", "info", "jobs",
    "mobi", "museum", "name", "pro", "tel", "travel", "xxx",
];
const COUNTRY_CODE: usize = 2;
/// The top-level domains of the public suffix list (ICANN section, version of 2025-03-28), one a line.
static TOP_LEVEL: LazyLock<HashSet<&'static str>> =
    LazyLock::new(|| include_str!("../../name_policy/tlds.txt").lines().collect());

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::loopback("localhost", true)]
    #[case::found_by_clients("wpad", true)]
    #[case::the_api_server("kubernetes", true)]
    #[case::the_api_server("kubernetes.default", true)]
    #[case::the_api_server("kubernetes.default.svc.cluster.local", true)]
    #[case::in_a_country("web.ai", true)]
    #[case::public("google.com", true)]
    #[case::a_word("web.shop", true)]
    #[case::a_service("ai", false)]
    #[case::local("printer.local", true)]
    #[case::loopback("web.localhost", true)]
    #[case::a_service("web", false)]
    #[case::a_service("com", false)]
    #[case::in_a_namespace("web.team-a", false)]
    #[case::with_svc("google.com.svc", false)]
    #[case::in_full("google.com.svc.cluster.local", false)]
    #[case::alike("kubernetes-dashboard", false)]
    #[case::alike("kubernetes.team-a", false)]
    fn names_with_another_meaning_are_known(#[case] name: &str, #[case] ambiguous: bool) {
        assert_eq!(other_meaning(name).is_some(), ambiguous, "{name}");
    }

    #[test]
    fn newer_top_level_domains_are_words() {
        assert!(["web.shop", "web.dev", "web.xn--p1ai"].into_iter().all(is_in_newer_domain));
        assert!(!["shop", "web.team-a", "web.shop.svc", "web.com", "web.ai"].into_iter().any(is_in_newer_domain));
        assert!(GENERIC.iter().all(|name| TOP_LEVEL.contains(name)));
    }

    #[test]
    fn the_list_of_top_level_domains_is_complete_and_plain() {
        assert!(TOP_LEVEL.len() > 1400);
        assert!(
            TOP_LEVEL.iter().all(|name| !name.contains('.') && *name == name.to_ascii_lowercase() && !name.is_empty())
        );
    }
}
