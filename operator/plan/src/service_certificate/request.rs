//! The request that a ServiceCertificate makes, with all defaults, and its checks.

use std::time::Duration;

use gaia_api::SpiffeId;
use gaia_api::crd::reason::NAME_NOT_ALLOWED;
use gaia_api::crd::{KeyUsage, Renewal, SubjectCommonName};
use gaia_api::names::annotation;
use gaia_pki::{KeySpec, Usage, sha256_hex};
use jiff::Timestamp;

use super::Observed;
use crate::keyring::ring::{CaMaterial, CaRing, Generation};
use crate::leaf::{LeafFacts, backdate, end, key_spec, names_hash};
use crate::pacing::backoff::saturating_sub;
use crate::rules::limits;
use crate::rules::name_policy::{Names, Requester, names};
use crate::{Refusal, projection};

/// A checked request for a certificate.
pub(super) struct Request<'a> {
    pub(super) ring: &'a CaRing,
    pub(super) ca_fingerprint: &'a str,
    ca_not_before: Timestamp,
    ca_not_after: Timestamp,
    pub(super) spiffe_id: SpiffeId,
    pub(super) common_name: Option<String>,
    /// Those that the CA that signs can sign.
    pub(super) names: Names,
    /// Requested extra names that this CA cannot sign.
    pub(super) left_out: Vec<String>,
    /// All requested names.
    asked_names: Names,
    who: Requester<'a>,
    headless: bool,
    pub(super) usages: Vec<Usage>,
    pub(super) key: KeySpec,
    /// The requested validity.
    pub(super) asked: Duration,
    /// The same within `certificateDefaults.maxDuration`.
    pub(super) duration: Duration,
    /// The reason why a certificate of that validity may not reach its instances in time.
    pub(super) too_tight: Option<Refusal>,
    /// Hash over all of the above that a user can request.
    pub(super) hash: String,
    pub(super) renews: bool,
    /// P.
    pub(super) min_delay: Duration,
    /// Fingerprints of revoked leaves.
    pub(super) revoked: &'a [String],
    pub(super) renew_requested: Option<String>,
}

impl<'a> Request<'a> {
    pub(super) fn of(observed: &Observed<'a>) -> Result<Self, Refusal> {
        let certificate = observed.certificate;
        let spec = &certificate.spec;
        let domain = observed.domain.granted()?;
        let name = certificate.metadata.name.as_deref().unwrap_or_default();
        let namespace = certificate.metadata.namespace.as_deref().unwrap_or_default();
        let who = Requester {
            namespace,
            name,
            cluster_domain: observed.cluster_domain,
            operator_namespace: observed.operator_namespace,
        };
        let stored = observed.secret.ours().and_then(|secret| secret.leaf.as_ref());
        // Only what a CA of the ring has certified counts: anyone who may write the Secret could put another leaf there.
        let stored = stored.filter(|leaf| leaf.issuer.is_some()).map_or(&[][..], |leaf| &leaf.ambiguous_names);
        let names = names(who, spec, &domain.spec.allowed_names, stored)?;
        let defaults = &domain.spec.certificate_defaults;
        let asked = spec.duration.as_ref().unwrap_or(&defaults.duration).value();
        let duration = defaults.max_duration.as_ref().map_or(asked, |limit| asked.min(limit.value()));
        let times = &domain.spec.propagation;
        // A stored certificate in use is renewed nevertheless: an edit of the TrustDomain must not let it expire.
        let too_tight = limits::check_leaf(duration, times).map_err(|refusal| refusal.about("spec.duration")).err();
        let is_stored = observed.secret.ours().is_some_and(|secret| secret.leaf.is_some());
        if let Some(refusal) = too_tight.as_ref().filter(|_| !is_stored) {
            return Err(refusal.clone());
        }
        let account = spec.service_account_name.as_deref().unwrap_or(name);
        let spiffe_id = SpiffeId::workload(&domain.spec.trust_domain, namespace, account);
        let key = key_spec(spec.private_key.as_ref().unwrap_or(&defaults.private_key));
        let usages = usages(&spec.usages);
        let common_name = common_name(spec.subject_common_name, name);
        let mut wanted = serde_json::json!({
            "trustDomain": observed.domain.name,
            "spiffeId": spiffe_id,
            "dnsNames": names.dns,
            "ipAddresses": names.ip,
            // The requested value: a limit that is set later takes effect at the next renewal.
            "durationSeconds": asked.as_secs(),
            "privateKey": key.to_string(),
            "usages": usages.iter().map(ToString::to_string).collect::<Vec<_>>(),
        });
        if let Some(name) = &common_name {
            // Only then: without one the hash is that of leaves issued before there was such a field.
            wanted["commonName"] = name.as_str().into();
        }
        let hash = sha256_hex(projection::json(&wanted).as_bytes());
        let (ring, ca) = observed.domain.signer()?;
        let (signable, left_out) = signable(observed, &names, who, &spiffe_id, ca)?;
        Ok(Self {
            ring,
            ca_fingerprint: &ca.material.fingerprint,
            ca_not_before: ca.material.not_before,
            ca_not_after: ca.material.not_after,
            spiffe_id,
            common_name,
            names: signable,
            left_out,
            asked_names: names,
            who,
            headless: spec.headless,
            usages,
            key,
            asked,
            duration,
            too_tight,
            hash,
            renews: spec.renewal == Renewal::Enabled,
            min_delay: times.min_delay.value(),
            revoked: &domain.spec.revoked.leaves,
            renew_requested: renew_requested(observed),
        })
    }

    /// Returns true if a stored certificate has all names of the request that its issuer can sign.
    pub(super) fn has_names_of(&self, leaf: &LeafFacts) -> bool {
        let issuer = self.ring.generations.iter().find(|ca| Some(&ca.material.fingerprint) == leaf.issuer.as_ref());
        let constraints = issuer.map(|ca| &ca.material.path.constraints).filter(|constraints| !constraints.is_empty());
        let by_issuer = constraints.map(|constraints| self.asked_names.within(self.who, self.headless, constraints).0);
        std::iter::once(&self.asked_names)
            .chain(&by_issuer)
            .any(|names| leaf.names_hash == hash_of(&self.spiffe_id, names))
    }

    /// The extra names that another CA could not sign.
    pub(super) fn left_out_by(&self, ca: &CaMaterial) -> Vec<String> {
        self.asked_names.within(self.who, self.headless, &ca.path.constraints).1.extra
    }

    /// Returns true if leaves of that CA are still trusted.
    pub(super) fn trusts(&self, fingerprint: &str) -> bool {
        self.ring.trusted().any(|generation| generation.material.fingerprint == fingerprint)
    }

    /// Returns the notBefore of a leaf issued now: slightly earlier, for clocks that are slow, but not before its CA's
    /// notBefore.
    pub(super) fn not_before(&self, now: Timestamp) -> Timestamp {
        gaia_api::crd::whole_seconds(saturating_sub(now, backdate(self.duration)).max(self.ca_not_before))
    }

    /// Returns the notAfter of a leaf issued now: never after its CA's.
    pub(super) fn not_after(&self, now: Timestamp) -> Timestamp {
        end(now, self.duration).min(self.ca_not_after)
    }
}

/// The names that a CA can sign, and the extra names that it cannot. What it has signed before it can sign.
fn signable(
    observed: &Observed<'_>,
    names: &Names,
    who: Requester<'_>,
    spiffe_id: &SpiffeId,
    ca: &Generation<CaMaterial>,
) -> Result<(Names, Vec<String>), Refusal> {
    let leaf = observed.secret.ours().and_then(|secret| secret.leaf.as_ref());
    let has_signed = |leaf: &LeafFacts| {
        leaf.issuer.as_ref() == Some(&ca.material.fingerprint) && leaf.names_hash == hash_of(spiffe_id, names)
    };
    if leaf.is_some_and(has_signed) {
        return Ok((names.clone(), vec![]));
    }
    let (signable, excluded) = names.within(who, observed.certificate.spec.headless, &ca.material.path.constraints);
    if excluded.own.is_empty() {
        return Ok((signable, excluded.extra));
    }
    Err(Refusal::stalled(
        NAME_NOT_ALLOWED,
        format!(
            "CA {} of TrustDomain {} cannot sign {}, names of this service in the cluster (nameConstraints): put a CA \
             that permits them into the Secret of spec.ca.existingSecretRef",
            ca.id,
            observed.domain.name,
            excluded.own.join(", ")
        ),
    ))
}

fn hash_of(spiffe_id: &SpiffeId, names: &Names) -> String {
    names_hash([spiffe_id.as_str()], names.dns.iter().map(String::as_str), &names.ip)
}

/// The requested common name, at most 64 characters (RFC 5280 appendix A.1, `ub-common-name`).
fn common_name(asked: SubjectCommonName, name: &str) -> Option<String> {
    match asked {
        SubjectCommonName::None => None,
        SubjectCommonName::ServiceName => Some(name.chars().take(MAX_COMMON_NAME).collect()),
    }
}

/// The value of the annotation that asks for a renewal. A long one is kept as its hash.
fn renew_requested(observed: &Observed<'_>) -> Option<String> {
    let value = observed.certificate.metadata.annotations.as_ref()?.get(annotation::RENEW_REQUESTED_AT)?;
    Some(if value.len() <= 256 { value.clone() } else { sha256_hex(value.as_bytes()) })
}

fn usages(wanted: &[KeyUsage]) -> Vec<Usage> {
    let mut usages: Vec<Usage> = wanted
        .iter()
        .map(|usage| match usage {
            KeyUsage::ServerAuth => Usage::ServerAuth,
            KeyUsage::ClientAuth => Usage::ClientAuth,
        })
        .collect();
    usages.sort();
    usages.dedup();
    usages
}

const MAX_COMMON_NAME: usize = 64;
