//! Name constraints of a CA and of those above it (RFC 5280 section 4.2.1.10), for DNS names and IP addresses.
//!
//! Where peers differ the strictest one counts: a name is allowed only if OpenSSL, Go and webpki all accept it.

use std::net::IpAddr;

use crate::x509::certificate::Certificate;

/// The name constraints of all certificates of a path. The default allows every name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NameConstraints(Vec<Subtrees>);

/// The name constraints of one certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Subtrees {
    /// None: every DNS name.
    pub(crate) permitted_dns: Option<Vec<String>>,
    pub(crate) excluded_dns: Vec<String>,
    /// Address and mask, 8 or 32 octets. None: every address.
    pub(crate) permitted_ip: Option<Vec<Vec<u8>>>,
    pub(crate) excluded_ip: Vec<Vec<u8>>,
    /// A kind of name that not every peer can compare, such as `directoryName`.
    pub(crate) other: Option<&'static str>,
    pub(crate) is_critical: bool,
}

impl NameConstraints {
    /// Those of a path, from the signing certificate to the root.
    #[must_use]
    pub fn of<'a>(path: impl IntoIterator<Item = &'a Certificate>) -> Self {
        Self(path.into_iter().filter_map(|certificate| certificate.subtrees().cloned()).collect())
    }

    /// Returns true if every name is allowed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns true if a certificate below may have this DNS name; its first label may be `*`.
    #[must_use]
    pub fn allow_dns(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        self.0.iter().all(|subtrees| {
            let permitted = subtrees.permitted_dns.as_ref();
            permitted.is_none_or(|all| all.iter().any(|base| is_within(base, &name)))
                && !subtrees.excluded_dns.iter().any(|base| is_within(base, &name) || covers(&name, base))
        })
    }

    /// Returns true if a certificate below may have this IP address.
    #[must_use]
    pub fn allow_ip(&self, address: IpAddr) -> bool {
        let octets = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        self.0.iter().all(|subtrees| {
            let permitted = subtrees.permitted_ip.as_ref();
            permitted.is_none_or(|all| all.iter().any(|range| is_in_range(range, &octets)))
                && !subtrees.excluded_ip.iter().any(|range| is_in_range(range, &octets))
        })
    }
}

/// Returns true if a name is the base or below it; with a leading dot, below it only. An empty base matches all names.
fn is_within(base: &str, name: &str) -> bool {
    let base = base.to_ascii_lowercase();
    if base.is_empty() || name == base {
        return true;
    }
    let suffix = if base.starts_with('.') { base } else { format!(".{base}") };
    name.len() > suffix.len() && name.ends_with(&suffix)
}

/// Returns true if a wildcard matches an excluded name.
fn covers(name: &str, base: &str) -> bool {
    let base = base.to_ascii_lowercase();
    let base = base.trim_start_matches('.');
    let parent = name.strip_prefix("*.");
    parent.is_some_and(|parent| base.split_once('.').is_some_and(|(_, rest)| rest == parent))
}

fn is_in_range(range: &[u8], address: &[u8]) -> bool {
    let (base, mask) = range.split_at(range.len() / 2);
    base.len() == address.len()
        && base.iter().zip(mask).zip(address).all(|((base, mask), octet)| base & mask == octet & mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn constraints(permitted: &[&str], excluded: &[&str]) -> NameConstraints {
        let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        NameConstraints(vec![Subtrees {
            permitted_dns: (!permitted.is_empty()).then(|| texts(permitted)),
            excluded_dns: texts(excluded),
            ..Subtrees::default()
        }])
    }

    #[rstest]
    #[case(&["svc"], &[], "a.b.svc", true)]
    #[case(&["svc"], &[], "svc", true)]
    #[case(&[".svc"], &[], "svc", false)]
    #[case(&[".svc"], &[], "*.svc", true)]
    #[case(&["svc"], &[], "asvc", false)]
    #[case(&["b.svc"], &[], "*.svc", false)]
    #[case(&["B.svc"], &[], "a.b.SVC", true)]
    #[case(&[], &["b.svc"], "*.svc", false)]
    #[case(&[], &["a.b.svc"], "*.svc", true)]
    #[case(&[], &["b.svc"], "a.b.svc", false)]
    #[case(&[], &["b.svc"], "c.svc", true)]
    #[case(&[], &[""], "c", false)]
    fn a_name_is_allowed_as_the_strictest_peer_has_it(
        #[case] permitted: &[&str],
        #[case] excluded: &[&str],
        #[case] name: &str,
        #[case] allowed: bool,
    ) {
        assert_eq!(constraints(permitted, excluded).allow_dns(name), allowed);
    }

    #[test]
    fn an_address_is_compared_under_its_mask() {
        let range = vec![10, 0, 0, 0, 255, 0, 0, 0];
        let permitted = Subtrees { permitted_ip: Some(vec![range.clone()]), ..Subtrees::default() };
        let excluded = Subtrees { excluded_ip: vec![range], ..Subtrees::default() };
        for (text, is_inside) in [("10.1.2.3", true), ("11.1.2.3", false)] {
            let address = text.parse().unwrap();
            assert_eq!(NameConstraints(vec![permitted.clone()]).allow_ip(address), is_inside);
            assert_eq!(NameConstraints(vec![excluded.clone()]).allow_ip(address), !is_inside);
        }
        assert!(!NameConstraints(vec![permitted]).allow_ip("::1".parse().unwrap()));
        assert!(NameConstraints::default().allow_ip("::1".parse().unwrap()));
    }
}
