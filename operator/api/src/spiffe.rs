//! SPIFFE ids as Gaia writes them.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The identity of a workload: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
///
/// Source: SPIFFE-ID specification, section 2. Gaia writes and accepts only this form of path, and the operator's own
/// reserved name (see [`SpiffeId::operator`]).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain_end: usize,
}

/// The reason why a text is not one of Gaia's SPIFFE ids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} must be spiffe://<trust domain>/ns/<namespace>/sa/<service account>, at most 2048 bytes")]
pub struct InvalidSpiffeId {
    text: String,
}

impl SpiffeId {
    /// The id of a workload.
    #[must_use]
    pub fn workload(trust_domain: &str, namespace: &str, service_account: &str) -> Self {
        Self {
            text: format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}").into(),
            trust_domain_end: SCHEME.len() + trust_domain.len(),
        }
    }

    /// The operator's own id, `spiffe://<trust domain>/gaia/operator`: a reserved name no workload can be given.
    #[must_use]
    pub fn operator(trust_domain: &str) -> Self {
        Self {
            text: format!("{SCHEME}{trust_domain}/gaia/operator").into(),
            trust_domain_end: SCHEME.len() + trust_domain.len(),
        }
    }

    /// Reads an id, strictly: only the two shapes Gaia writes.
    ///
    /// # Errors
    /// [`InvalidSpiffeId`] for anything else, including upper case, empty segments, queries and fragments.
    pub fn parse(text: &str) -> Result<Self, InvalidSpiffeId> {
        let invalid = || InvalidSpiffeId { text: text.chars().take(200).collect() };
        if text.len() > 2048 {
            return Err(invalid());
        }
        let rest = text.strip_prefix(SCHEME).ok_or_else(invalid)?;
        let (trust_domain, path) = rest.split_once('/').ok_or_else(invalid)?;
        if !is_dns_name(trust_domain) {
            return Err(invalid());
        }
        let segments: Vec<&str> = path.split('/').collect();
        match segments.as_slice() {
            ["ns", namespace, "sa", account] if is_dns_name(namespace) && is_dns_name(account) => {}
            ["gaia", "operator"] => {}
            _ => return Err(invalid()),
        }
        Ok(Self { text: text.into(), trust_domain_end: SCHEME.len() + trust_domain.len() })
    }

    /// The whole id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain, e.g. `gaia.local`.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..self.trust_domain_end]
    }

    /// Namespace and service account of a workload; none for the operator.
    #[must_use]
    pub fn workload_parts(&self) -> Option<(&str, &str)> {
        let path = &self.text[self.trust_domain_end..];
        path.strip_prefix("/ns/")?.split_once("/sa/")
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = InvalidSpiffeId;
    fn try_from(text: String) -> Result<Self, InvalidSpiffeId> {
        Self::parse(&text)
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> String {
        id.text.as_ref().to_owned()
    }
}

/// Lower-case DNS subdomain characters, as Kubernetes names and SPIFFE trust domains have them.
fn is_dns_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}

const SCHEME: &str = "spiffe://";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_id_survives_a_round_trip() {
        let id = SpiffeId::workload("gaia.local", "shop", "asset-service");
        assert_eq!(SpiffeId::parse(id.as_str()).as_ref(), Ok(&id));
        assert_eq!(id.trust_domain(), "gaia.local");
        assert_eq!(id.workload_parts(), Some(("shop", "asset-service")));
        assert_eq!(SpiffeId::operator("gaia.local").workload_parts(), None);
    }

    #[test]
    fn anything_but_the_two_shapes_is_refused() {
        for text in [
            "",
            "spiffe://",
            "spiffe://gaia.local",
            "spiffe://gaia.local/",
            "spiffe://gaia.local/ns/a/sa/",
            "spiffe://gaia.local/ns//sa/b",
            "spiffe://gaia.local/ns/a/sa/b/",
            "spiffe://gaia.local/ns/a/sa/b?x",
            "spiffe://Gaia.local/ns/a/sa/b",
            "https://gaia.local/ns/a/sa/b",
            "spiffe://gaia.local/ns/../sa/b",
            "spiffe://gaia.local:1/ns/a/sa/b",
            "spiffe://gaia.local/gaia/operator/x",
        ] {
            assert!(SpiffeId::parse(text).is_err(), "{text}");
        }
    }
}
