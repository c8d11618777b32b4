//! The identity that the server of a call must have.
//!
//! It depends on the target's name, never on the host in the URL: any namespace may have a service of that name, and
//! its leaf has the bare name too.

use std::collections::BTreeMap;
use std::sync::Arc;

use gaia_api::SpiffeId;
use gaia_api::mount::{AuthMode, Policy};
use gaia_pki::Certificate;

/// Targets of services that are called by a bare name and run in another namespace or under another name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Targets(Arc<BTreeMap<String, String>>);

impl Targets {
    /// Parses comma-separated entries `name=namespace/name`.
    ///
    /// # Errors
    /// A text that names the first invalid entry.
    pub fn parse(text: &str) -> Result<Self, String> {
        let entry = |entry: &str| {
            let (name, target) =
                entry.split_once('=').ok_or_else(|| format!("{entry:?} is not name=namespace/name"))?;
            let is_label = |part: &str| !part.is_empty() && !part.contains('/');
            let is_target =
                target.split_once('/').is_some_and(|(namespace, name)| is_label(namespace) && is_label(name));
            if !is_label(name) || !is_target {
                return Err(format!("{entry:?} is not name=namespace/name"));
            }
            Ok((name.to_owned(), target.to_owned()))
        };
        let entries = text.split(',').map(str::trim).filter(|text| !text.is_empty()).map(entry);
        Ok(Self(Arc::new(entries.collect::<Result<_, _>>()?)))
    }

    /// Returns the target of a name: the configured one, otherwise the name itself.
    pub(crate) fn get<'a>(&'a self, name: &'a str) -> &'a str {
        self.0.get(name).map_or(name, String::as_str)
    }

    /// Returns the token issuer: as configured for `auth-service`, otherwise as the policy names it, otherwise
    /// `auth-service` in the own namespace.
    pub(crate) fn token_issuer(&self, policy: &Policy) -> String {
        let configured = self.0.get(AUTH_SERVICE).cloned();
        let named = || policy.token_issuer.as_ref().map(|issuer| format!("{}/{}", issuer.namespace, issuer.name));
        configured.or_else(named).unwrap_or_else(|| AUTH_SERVICE.to_owned())
    }
}

/// The required identity of a target's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    target: String,
    id: SpiffeId,
    /// The target's namespace and DNS name, if another service account of the namespace is accepted for a leaf with the
    /// DNS name of the service.
    by_name: Option<(String, String)>,
}

/// How a certificate matches the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Match {
    /// By its SPIFFE ID.
    SpiffeId,
    /// By namespace and DNS name: the service has another service account, which the policy does not list.
    DnsName,
}

/// A server that is not the target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the server has SPIFFE ID {found}, expected {expected} for target {target}: check the URL of {target}; if the service \
     runs under another serviceAccountName, list this service in its spec.callers"
)]
pub(crate) struct UnexpectedIdentity {
    target: String,
    expected: SpiffeId,
    found: String,
}

impl Expected {
    /// Returns the expected identity of a target, `name` or `namespace/name`; a bare name is in the own namespace.
    pub(crate) fn of(policy: &Policy, target: &str) -> Self {
        let own = &policy.service;
        let (namespace, name) = target.split_once('/').unwrap_or((&own.namespace, target));
        let mut listed = policy.targets.iter().flatten().chain(&policy.token_issuer);
        let listed = listed.find(|known| known.namespace == namespace && known.name == name);
        // A policy without a list of targets was written by an operator that does not support them.
        let is_lenient = listed.is_none() && (policy.mode != AuthMode::JWTOnly || policy.targets.is_none());
        let default = || SpiffeId::workload(own.spiffe_id.trust_domain(), namespace, name);
        Self {
            target: target.to_owned(),
            id: listed.map_or_else(default, |listed| listed.spiffe_id.clone()),
            by_name: is_lenient.then(|| (namespace.to_owned(), format!("{name}.{namespace}.svc"))),
        }
    }

    /// Matches a server's leaf, whose chain was verified, with the target.
    ///
    /// # Errors
    /// [`UnexpectedIdentity`] if it does not match.
    pub(crate) fn check(&self, leaf: &Certificate) -> Result<Match, UnexpectedIdentity> {
        let uris = leaf.uris();
        if uris == [self.id.as_str()] {
            return Ok(Match::SpiffeId);
        }
        let is_by_name = |(namespace, dns_name): &(String, String)| {
            let [uri] = uris else { return false };
            let id = SpiffeId::parse(uri).ok().filter(|id| id.trust_domain() == self.id.trust_domain());
            let is_neighbour =
                id.as_ref().and_then(SpiffeId::workload_parts).is_some_and(|(found, _)| found == namespace);
            is_neighbour && leaf.dns_names().contains(dns_name)
        };
        if self.by_name.as_ref().is_some_and(is_by_name) {
            return Ok(Match::DnsName);
        }
        let found = match uris {
            [] => "none".to_owned(),
            uris => uris.join(", ").chars().take(LONGEST_FOUND).collect(),
        };
        Err(UnexpectedIdentity { target: self.target.clone(), expected: self.id.clone(), found })
    }
}

const AUTH_SERVICE: &str = "auth-service";
const LONGEST_FOUND: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::policy;

    /// Kind: a server of another namespace with the same name. The Python example is tested with the same table.
    #[test]
    fn servers_are_accepted_and_refused_as_the_vectors_say() {
        #[derive(serde::Deserialize)]
        struct Vectors {
            cases: Vec<Case>,
        }
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Case {
            name: String,
            policy: Policy,
            target: String,
            uris: Vec<String>,
            dns_names: Vec<String>,
            result: String,
        }
        let text = include_str!("../../../../docs/examples/vectors/targets.json");
        let vectors: Vectors = serde_json::from_str(text).unwrap();
        assert!(vectors.cases.len() > 10);
        for case in vectors.cases {
            let leaf = leaf(&case.uris, &case.dns_names);
            let result = match Expected::of(&case.policy, &case.target).check(&leaf) {
                Ok(Match::SpiffeId) => "spiffeId",
                Ok(Match::DnsName) => "dnsName",
                Err(_) => "refused",
            };
            assert_eq!(result, case.result, "{}", case.name);
        }
    }

    fn leaf(uris: &[String], dns_names: &[String]) -> Certificate {
        let mut params = rcgen::CertificateParams::default();
        let uris = uris.iter().map(|uri| rcgen::SanType::URI(uri.as_str().try_into().unwrap()));
        let names = dns_names.iter().map(|name| rcgen::SanType::DnsName(name.as_str().try_into().unwrap()));
        params.subject_alt_names = uris.chain(names).collect();
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        Certificate::from_der(params.self_signed(&key).unwrap().der()).unwrap()
    }

    #[test]
    fn a_refusal_names_target_expected_and_found_identity() {
        let evil = leaf(&["spiffe://gaia.local/ns/evil/sa/auth-service".to_owned()], &["auth-service".to_owned()]);
        let error = Expected::of(&policy("gateway"), "auth-service").check(&evil).unwrap_err().to_string();
        for part in
            ["ns/evil/sa/auth-service", "expected spiffe://gaia.local/ns/shop/sa/auth-service", "target auth-service"]
        {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_token_issuer_is_the_configured_one_then_that_of_the_policy() {
        let mut policy = policy("gateway");
        let configured = Targets::parse("auth-service=a/tokens, chat-service=b/chat").unwrap();
        assert_eq!(Targets::default().token_issuer(&policy), "auth-service");
        policy.token_issuer = Some(crate::testing::identity("issuer"));
        assert_eq!(Targets::default().token_issuer(&policy), "shop/issuer");
        assert_eq!(configured.token_issuer(&policy), "a/tokens");
        assert_eq!((configured.get("chat-service"), configured.get("asset-service")), ("b/chat", "asset-service"));
        for bad in ["a", "a=b", "a=b/", "a=/b", "a=b/c/d", "=b/c", "a/b=c/d"] {
            assert!(Targets::parse(bad).is_err(), "{bad}");
        }
    }
}
