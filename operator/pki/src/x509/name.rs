//! The names a certificate may carry: SPIFFE ids and DNS names, checked for their form only. Who may have which name
//! is the planner's to decide.

use std::net::IpAddr;

/// The reason why a name cannot be in a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a SPIFFE trust domain (SPIFFE-ID section 2.1).
    #[error("trust domain {name:?} {reason}")]
    TrustDomain {
        /// The name, shortened if long.
        name: String,
        /// The cause.
        reason: &'static str,
    },
    /// Not a SPIFFE id of a workload (SPIFFE-ID section 2, X509-SVID section 2).
    #[error("SPIFFE id {name:?} {reason}")]
    SpiffeId {
        /// The name, shortened if long.
        name: String,
        /// The cause.
        reason: &'static str,
    },
    /// Not a DNS name that a `dNSName` may hold (RFC 5280 section 4.2.1.6, RFC 6125 for the wildcard).
    #[error("DNS name {name:?} {reason}")]
    DnsName {
        /// The name, shortened if long.
        name: String,
        /// The cause.
        reason: &'static str,
    },
    /// Not a common name (RFC 5280 appendix A.1, `ub-common-name`).
    #[error("common name {name:?} {reason}")]
    CommonName {
        /// The name, shortened if long.
        name: String,
        /// The cause.
        reason: &'static str,
    },
}

/// Checks a SPIFFE trust domain name: 1 to 255 of `a-z 0-9 . - _`.
pub(crate) fn check_trust_domain(name: &str) -> Result<(), NameError> {
    trust_domain_problem(name).map_or(Ok(()), |reason| Err(NameError::TrustDomain { name: shortened(name), reason }))
}

/// Checks a workload's SPIFFE id: a trust domain and a path without empty or dot segments.
pub(crate) fn check_spiffe_id(id: &str) -> Result<(), NameError> {
    let refuse = |reason| Err(NameError::SpiffeId { name: shortened(id), reason });
    if id.len() > MAX_SPIFFE_ID {
        return refuse("is longer than 2048 bytes");
    }
    let Some(rest) = id.strip_prefix("spiffe://") else {
        return refuse("does not begin with spiffe://");
    };
    let Some((trust_domain, path)) = rest.split_once('/') else {
        return refuse("has no path");
    };
    if let Some(reason) = trust_domain_problem(trust_domain) {
        return refuse(reason);
    }
    for segment in path.split('/') {
        if matches!(segment, "" | "." | "..") {
            return refuse("has an empty or a dot segment");
        }
        if !segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
            return refuse("has a character other than a-z A-Z 0-9 . _ - in its path");
        }
    }
    Ok(())
}

/// Checks a DNS name: letters, digits and hyphens in labels of 1 to 63 characters, at most 253 in all, and `*` only as
/// the whole first label, followed by at least two labels.
pub(crate) fn check_dns_name(name: &str) -> Result<(), NameError> {
    let refuse = |reason| Err(NameError::DnsName { name: shortened(name), reason });
    if name.len() > 253 {
        return refuse("is longer than 253 bytes");
    }
    if name.parse::<IpAddr>().is_ok() {
        return refuse("is an IP address");
    }
    let plain = match name.strip_prefix("*.") {
        Some(parent) if !parent.contains('.') => return refuse("has a wildcard for a whole top-level domain"),
        Some(parent) => parent,
        None => name,
    };
    for label in plain.split('.') {
        if label.is_empty() || label.len() > 63 {
            return refuse("has a label that is empty or longer than 63 bytes");
        }
        if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return refuse("has a character other than letters, digits and hyphens in a label");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return refuse("has a label that begins or ends with a hyphen");
        }
    }
    Ok(())
}

/// Checks a common name: 1 to 64 characters, none of them a control character.
pub(crate) fn check_common_name(name: &str) -> Result<(), NameError> {
    let refuse = |reason| Err(NameError::CommonName { name: shortened(name), reason });
    if name.is_empty() || name.chars().count() > 64 {
        return refuse("is empty or longer than 64 characters");
    }
    if name.chars().any(char::is_control) {
        return refuse("has a control character");
    }
    Ok(())
}

fn trust_domain_problem(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.len() > 255 {
        return Some("has a trust domain that is empty or longer than 255 bytes");
    }
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    (!name.bytes().all(allowed)).then_some("has a character other than a-z 0-9 . - _ in its trust domain")
}

fn shortened(name: &str) -> String {
    if name.chars().count() <= MAX_SHOWN {
        return name.to_owned();
    }
    name.chars().take(MAX_SHOWN).chain(['…']).collect()
}

/// SPIFFE-ID section 2.3.
const MAX_SPIFFE_ID: usize = 2048;
/// Characters of a refused name that an error repeats.
const MAX_SHOWN: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("auth-service")]
    #[case("auth-service.default.svc.cluster.local")]
    #[case("*.db.default.svc")]
    #[case("xn--bcher-kva.example")]
    fn a_usable_dns_name_is_accepted(#[case] name: &str) {
        assert_eq!(check_dns_name(name), Ok(()));
    }

    #[rstest]
    #[case("")]
    #[case("a..b")]
    #[case("a.b.")]
    #[case("-a.b")]
    #[case("a_b.c")]
    #[case("bücher.example")]
    #[case("*")]
    #[case("*.svc")]
    #[case("a.*.svc")]
    #[case("*a.b.c")]
    #[case("10.0.0.1")]
    #[case("::1")]
    #[case("a b")]
    #[case("a\0b.c")]
    #[case("http://a.b")]
    fn an_unusable_dns_name_is_refused(#[case] name: &str) {
        assert!(check_dns_name(name).is_err());
    }

    #[test]
    fn a_long_dns_name_or_label_is_refused_and_shortened_in_the_error() {
        assert!(check_dns_name(&"a".repeat(64)).is_err());
        let error = check_dns_name(&"a.".repeat(5000)).unwrap_err().to_string();
        assert!(error.len() < 160, "{error}");
    }

    #[rstest]
    #[case("spiffe://gaia.local/ns/default/sa/auth-service", true)]
    #[case("spiffe://gaia.local/gaia/operator", true)]
    #[case("spiffe://gaia.local", false)]
    #[case("spiffe://gaia.local/", false)]
    #[case("spiffe://Gaia.local/a", false)]
    #[case("spiffe:///a", false)]
    #[case("https://gaia.local/a", false)]
    #[case("spiffe://gaia.local/a//b", false)]
    #[case("spiffe://gaia.local/a/../b", false)]
    #[case("spiffe://gaia.local/a?b", false)]
    #[case("spiffe://gaia.local/a%2fb", false)]
    #[case("spiffe://user@gaia.local/a", false)]
    #[case("spiffe://gaia.local:8443/a", false)]
    fn a_spiffe_id_is_judged_by_its_form(#[case] id: &str, #[case] accepted: bool) {
        assert_eq!(check_spiffe_id(id).is_ok(), accepted);
    }

    #[rstest]
    #[case("", false)]
    #[case("Gaia CA 1", true)]
    #[case("Gaia\nCA", false)]
    fn a_common_name_is_judged_by_its_form(#[case] name: &str, #[case] accepted: bool) {
        assert_eq!(check_common_name(name).is_ok(), accepted);
    }
}
