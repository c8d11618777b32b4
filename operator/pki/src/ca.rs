//! Certificate authorities: our own self-signed ones, and those people bring.

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyUsagePurpose, SanType, string::Ia5String,
};

use crate::certificate::Certificate;
use crate::chain::{self, CaError};
use crate::key::PrivateKey;
use crate::name::{check_common_name, check_trust_domain};
use crate::serial::Serial;
use crate::sign::{self, SignError, Signer};
use crate::validity::Validity;

/// What is wanted in a root of our own.
#[derive(Debug, Clone)]
pub struct CaRequest<'a> {
    /// The subject's only attribute, 1 to 64 characters. Give each generation its own, so that peers that look an
    /// issuer up by name find one.
    pub common_name: &'a str,
    /// SPIFFE trust domain name; `spiffe://<trust domain>` is the CA's own id (SPIFFE X509-SVID section 3.1).
    pub trust_domain: &'a str,
    /// From 128 random bits.
    pub serial: Serial,
    /// How long the root holds; nothing it signs holds longer.
    pub validity: Validity,
}

/// A CA that can sign leaves: its certificate, its key, and the way up to a root. `Debug` shows no key.
#[derive(Debug, Clone)]
pub struct Ca {
    /// From the signing certificate up; the last is the root. Never empty, one element for a root that signs itself.
    path: Vec<Certificate>,
    key: PrivateKey,
}

impl Ca {
    /// Makes a root: version 3, basicConstraints CA:TRUE with pathLen 0 (critical), keyUsage keyCertSign and cRLSign
    /// (critical), both key identifiers, signed with SHA-256 or by a P-384 key with SHA-384.
    ///
    /// # Errors
    /// [`CaError::Name`], [`CaError::Validity`], [`CaError::Sign`], or what [`Ca::load`] would say of the result.
    pub fn self_signed(req: &CaRequest<'_>, key: PrivateKey) -> Result<Self, CaError> {
        check_common_name(req.common_name)?;
        check_trust_domain(req.trust_domain)?;
        let span = req.validity.seconds()?;
        let spiffe_id = Ia5String::try_from(format!("spiffe://{}", req.trust_domain))
            .map_err(|error| SignError::Template(error.to_string()))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, req.common_name);
        params.subject_alt_names = vec![SanType::URI(spiffe_id)];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let public = key.public_key();
        let signer = Signer { key: &key, key_id: sign::key_id(&public), name: None };
        let certificate = sign::sign(params, &public, req.serial, span, &signer)?;
        Self::new(vec![certificate], key)
    }

    /// Reads a CA that someone brought and checks that it holds at `now`; see [`Ca::load`] for the rest.
    ///
    /// # Errors
    /// [`CaError`], one variant for each reason.
    pub fn from_pem(
        chain_pem: &[u8],
        key_pem: &str,
        extra_roots_pem: Option<&[u8]>,
        now: Timestamp,
    ) -> Result<Self, CaError> {
        let ca = Self::load(chain_pem, key_pem, extra_roots_pem)?;
        ca.check_time(now)?;
        Ok(ca)
    }

    /// Reads a CA without asking what time it is: what a ring holds, or the first half of [`Ca::from_pem`].
    ///
    /// `chain_pem` (a `tls.crt`) is the signing certificate first, then each one's issuer; `extra_roots_pem` (a
    /// `ca.crt`) is searched for what is missing up to a self-signed root, and otherwise ignored.
    ///
    /// # Errors
    /// [`CaError`], one variant for each reason.
    pub fn load(chain_pem: &[u8], key_pem: &str, extra_roots_pem: Option<&[u8]>) -> Result<Self, CaError> {
        let (given, extra) = chain::read(chain_pem, key_pem, extra_roots_pem)?;
        let key = PrivateKey::from_pem(key_pem).map_err(CaError::Key)?;
        Self::new(chain::complete(given, &extra, &key)?, key)
    }

    /// Checks that every certificate up to the root holds at `now`.
    ///
    /// # Errors
    /// [`CaError::NotYetValid`] or [`CaError::Expired`], naming the certificate.
    pub fn check_time(&self, now: Timestamp) -> Result<(), CaError> {
        for certificate in &self.path {
            let (subject, not_before) = (certificate.subject(), certificate.not_before());
            if now < not_before {
                return Err(CaError::NotYetValid { subject, not_before, now });
            }
            if now > certificate.not_after() {
                return Err(CaError::Expired { subject, not_after: certificate.not_after(), now });
            }
        }
        Ok(())
    }

    /// The certificate whose key signs leaves.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.path[0]
    }

    /// The intermediates that a leaf must ship, the signing certificate first, without the root: empty for a root
    /// that signs leaves itself.
    #[must_use]
    pub fn chain(&self) -> &[Certificate] {
        &self.path[..self.path.len() - 1]
    }

    /// The root, which belongs into trust bundles.
    #[must_use]
    pub fn root(&self) -> &Certificate {
        &self.path[self.path.len() - 1]
    }

    /// The signing key.
    #[must_use]
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// The whole path in PEM, from the signing certificate to the root included: with [`PrivateKey::to_pem`] what a
    /// ring keeps, and what [`Ca::load`] reads back without extra roots.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.path.iter().map(Certificate::to_pem).collect()
    }

    /// The latest `not_before` of the path: before it, nothing signed here holds.
    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        self.path.iter().map(Certificate::not_before).fold(Timestamp::MIN, Timestamp::max)
    }

    /// The earliest `not_after` of the path: after it, nothing signed here holds, and no leaf may outlive it.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.path.iter().map(Certificate::not_after).fold(Timestamp::MAX, Timestamp::min)
    }

    /// What leaves name as their authority key identifier: the certificate's own identifier, whatever made it
    /// (RFC 5280 section 4.2.1.1), or one computed from the key if it has none.
    pub(crate) fn key_id(&self) -> Vec<u8> {
        let own = self.certificate().subject_key_id().map(<[u8]>::to_vec);
        own.unwrap_or_else(|| sign::key_id(&self.certificate().public_key()))
    }

    /// From the signing certificate up to the root.
    #[must_use]
    pub fn path(&self) -> &[Certificate] {
        &self.path
    }

    fn new(path: Vec<Certificate>, key: PrivateKey) -> Result<Self, CaError> {
        chain::check(&path, &key)?;
        Ok(Self { path, key })
    }
}
