//! Checks of a CA by peers other than webpki: OpenSSL, with `-x509_strict` and without, Go, and Python 3.13.
//!
//! A CA that some peer refuses altogether is an error. One that only strict peers refuse is used with a warning.

use crate::ca::Ca;
use crate::chain::CaError;
use crate::leaf::Usage;
use crate::x509::certificate::Certificate;

impl Ca {
    /// Checks every certificate of the path as peers do that are stricter than [`Ca::load`]. Returns what only strict
    /// peers refuse (OpenSSL's `-x509_strict`, which Python 3.13 uses by default), each a whole phrase.
    ///
    /// # Errors
    /// [`CaError`] for what OpenSSL or Go refuse without any option, naming certificate and field.
    pub fn check_peers(&self) -> Result<Vec<String>, CaError> {
        let mut concerns = vec![];
        for (index, certificate) in self.path().iter().enumerate() {
            // The issuer of the root is the root itself.
            let issuer = self.path().get(index + 1).unwrap_or(certificate);
            check_serial(certificate)?;
            if !certificate.repeats_its_signature_algorithm() {
                return Err(CaError::SignatureAlgorithmDiffers { subject: certificate.subject() });
            }
            if let Some(field) = certificate.authority_mismatch(issuer) {
                let (subject, issuer) = (certificate.subject(), issuer.subject());
                return Err(CaError::AuthorityKeyId { subject, issuer, field });
            }
            for usage in [Usage::ServerAuth, Usage::ClientAuth] {
                if !certificate.allows(usage) {
                    return Err(CaError::ForbidsUsage { subject: certificate.subject(), usage });
                }
            }
            if let Some(kind) = certificate.subtrees().filter(|all| all.is_critical).and_then(|all| all.other) {
                return Err(CaError::ConstraintKind { subject: certificate.subject(), kind });
            }
            concerns.extend(concerns_of(certificate, index + 1 == self.path().len()));
        }
        Ok(concerns)
    }
}

fn check_serial(certificate: &Certificate) -> Result<(), CaError> {
    let subject = || certificate.subject();
    let octets = certificate.serial_octets();
    match octets.as_slice() {
        [] => Ok(()),
        [first, ..] if first & 0x80 != 0 => Err(CaError::Serial { subject: subject(), what: "negative" }),
        _ if octets.len() > MAX_SERIAL => Err(CaError::Serial { subject: subject(), what: "longer than 20 octets" }),
        _ => Ok(()),
    }
}

/// OpenSSL's `check_extensions` with `X509_V_FLAG_X509_STRICT` (RFC 5280 sections 4.1.2 and 4.2.1).
fn concerns_of(certificate: &Certificate, is_root: bool) -> Vec<String> {
    let subject = certificate.subject();
    let checks = [
        (certificate.serial_octets().iter().all(|octet| *octet == 0), "has the serial number 0"),
        (!certificate.has_critical_basic_constraints(), "has a basicConstraints extension that is not critical"),
        (!certificate.has_key_usage(), "has no keyUsage extension"),
        (certificate.subject_key_id().is_none(), "has no subjectKeyIdentifier extension"),
        (!is_root && certificate.authority_key_id().is_none(), "has no authorityKeyIdentifier extension"),
    ];
    checks.into_iter().filter(|(applies, _)| *applies).map(|(_, what)| format!("{subject:?} {what}")).collect()
}

/// RFC 5280 section 4.1.2.2.
const MAX_SERIAL: usize = 20;
