//! Certificates: their fields, and the trust of the platform in them.

use gaia_pki::{Certificate, Usage, verify_path};
use jiff::Timestamp;
use serde::Serialize;

use super::trust::Trust;

/// A certificate.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CertificateView {
    /// Its place in the input, from 1.
    pub(super) position: usize,
    pub(super) subject: String,
    pub(super) issuer: String,
    pub(super) serial: String,
    /// Lower-case hex SHA-256 of the DER.
    pub(super) fingerprint: String,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
    /// Whole days until it expires; negative: since it expired.
    pub(super) days_left: i64,
    pub(super) is_ca: bool,
    pub(super) dns_names: Vec<String>,
    pub(super) ip_addresses: Vec<String>,
    pub(super) uris: Vec<String>,
    pub(super) usages: Vec<String>,
    pub(super) key: String,
    /// Of a CA: its generation in the platform.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) generation: Option<String>,
    pub(super) trust: Decision,
}

/// The decision about a certificate or token.
#[derive(Debug, Serialize)]
#[serde(tag = "state")]
pub(crate) enum Decision {
    /// It is valid, and a CA or key of the platform verifies it.
    Trusted {
        /// The CA or key, with its generation where that is known.
        by: String,
    },
    /// It is refused.
    NotTrusted {
        /// The cause.
        reason: String,
    },
    /// Nothing was given that could decide.
    NotChecked,
}

impl CertificateView {
    /// Decodes the certificate at `index` of a chain or bundle.
    pub(super) fn of(all: &[Certificate], index: usize, trust: &Trust, now: Timestamp) -> Option<Self> {
        let certificate = all.get(index)?;
        Some(Self {
            position: index + 1,
            subject: certificate.subject(),
            issuer: certificate.issuer(),
            serial: certificate.serial(),
            fingerprint: certificate.fingerprint(),
            not_before: certificate.not_before(),
            not_after: certificate.not_after(),
            days_left: days_left(certificate.not_after(), now),
            is_ca: certificate.is_ca(),
            dns_names: certificate.dns_names().to_vec(),
            ip_addresses: certificate.ip_addresses().iter().map(ToString::to_string).collect(),
            uris: certificate.uris().to_vec(),
            usages: certificate.usages().iter().map(ToString::to_string).collect(),
            key: certificate.public_key().describe(),
            generation: trust.ca_generation(&certificate.fingerprint()),
            trust: decide(all, certificate, trust, now),
        })
    }
}

/// Whole days until a time.
pub(super) fn days_left(time: Timestamp, now: Timestamp) -> i64 {
    (time.as_second() - now.as_second()).div_euclid(24 * 3600)
}

fn decide(all: &[Certificate], certificate: &Certificate, trust: &Trust, now: Timestamp) -> Decision {
    if trust.place.is_none() {
        return Decision::NotChecked;
    }
    match find_anchor(all, certificate, trust, now) {
        Ok(anchor) => {
            let generation = trust.ca_generation(&anchor.fingerprint());
            let generation = generation.map(|text| format!(", generation {text}")).unwrap_or_default();
            Decision::Trusted { by: format!("CA {}{generation}", anchor.subject()) }
        }
        Err(reason) => Decision::NotTrusted { reason },
    }
}

/// The trust anchor that verifies a certificate, or the reason why none does.
fn find_anchor<'a>(
    all: &[Certificate],
    certificate: &Certificate,
    trust: &'a Trust,
    now: Timestamp,
) -> Result<&'a Certificate, String> {
    if now < certificate.not_before() {
        return Err(format!("it is not valid before {}, it is {now}", certificate.not_before()));
    }
    if now > certificate.not_after() {
        return Err(format!("it expired at {}, it is {now}", certificate.not_after()));
    }
    let fingerprint = certificate.fingerprint();
    if trust.denylists.iter().any(|list| list.leaves.contains(&fingerprint)) {
        return Err("it is revoked (denylist.json, leaves)".to_owned());
    }
    let is_denied =
        |ca: &Certificate| trust.denylists.iter().any(|list| list.issuers.contains(&ca.public_key().fingerprint()));
    if all.iter().any(|above| above.is_ca() && is_denied(above)) {
        return Err("a CA of its chain is distrusted (denylist.json, issuers)".to_owned());
    }
    if certificate.is_ca() {
        let anchor = trust.anchors.iter().find(|anchor| *anchor == certificate || certificate.is_issued_by(anchor));
        return anchor.ok_or_else(|| not_issued(certificate, trust));
    }
    let above: Vec<Certificate> = all.iter().filter(|other| other.is_ca()).cloned().collect();
    // A certificate for clients only is not for servers.
    let usage = if certificate.allows(Usage::ServerAuth) { Usage::ServerAuth } else { Usage::ClientAuth };
    let mut nearest = None;
    for anchor in &trust.anchors {
        match verify_path(certificate, &above, anchor, usage, now) {
            Ok(()) => return Ok(anchor),
            Err(error) if certificate.issuer() == anchor.subject() => nearest = Some(error.to_string()),
            Err(_) => {}
        }
    }
    Err(nearest.unwrap_or_else(|| not_issued(certificate, trust)))
}

fn not_issued(certificate: &Certificate, trust: &Trust) -> String {
    let place = trust.place.as_deref().unwrap_or_default();
    let distrusted = trust
        .generations
        .iter()
        .find(|generation| generation.state == "Distrusted" && certificate.issuer().contains(&generation.id));
    match distrusted {
        Some(generation) => format!("its issuer is CA {}, which is distrusted", generation.id),
        None => format!("no CA of {place} has issued it; its issuer is {:?}", certificate.issuer()),
    }
}
