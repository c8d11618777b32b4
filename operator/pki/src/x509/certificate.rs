//! Certificates as they are: parsed once, never changed (RFC 5280).

use std::fmt;
use std::net::IpAddr;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::SectionKind;
use x509_parser::prelude::{FromDer as _, X509Certificate, X509Name};

use crate::bundle::sha256_hex;
use crate::key::PrivateKey;
use crate::leaf::Usage;
use crate::public_key::{PublicKey, without_zeros};
use crate::x509::constraints::Subtrees;
use crate::x509::der;
use crate::x509::extensions::Extensions;
use crate::x509::key_usage::{KeyUsage, KeyUsageError};
use crate::x509::pem::{self, ArmorError};

/// The reason why bytes are not a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// The text is not PEM, or has a block that is not a certificate.
    #[error("reading certificates: {0}")]
    Armor(#[from] ArmorError),
    /// Blank, or PEM without a certificate.
    #[error("there is no certificate")]
    None,
    /// Not the DER of one X.509 certificate.
    #[error("certificate {position} is not X.509: {reason}")]
    Der {
        /// 1-based position in the chain.
        position: usize,
        /// The parser's message.
        reason: String,
    },
    /// An extension that decides what the certificate is for cannot be read.
    #[error("certificate {position} has an unreadable or repeated extension {oid}")]
    Extension {
        /// 1-based position in the chain.
        position: usize,
        /// Its object identifier in dots.
        oid: String,
    },
}

/// One X.509 certificate. Equality is that of the DER.
#[derive(Clone)]
pub struct Certificate {
    der: Vec<u8>,
    serial: String,
    not_before: Timestamp,
    not_after: Timestamp,
    /// DER.
    subject: Vec<u8>,
    /// DER.
    issuer: Vec<u8>,
    public_key: PublicKey,
    extensions: Extensions,
}

impl Certificate {
    /// Reads the DER of one certificate.
    ///
    /// # Errors
    /// [`CertificateError::Der`] or [`CertificateError::Extension`], with position 1.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        Self::parse(der, 1)
    }

    /// Reads all certificates of a PEM text in their order, such as a `tls.crt` or a `ca.crt`. The caller must bound
    /// the size of the input.
    ///
    /// # Errors
    /// Any [`CertificateError`]; [`CertificateError::None`] if there is none. A block of another kind is an error.
    pub fn chain_from_pem(pem: &[u8]) -> Result<Vec<Self>, CertificateError> {
        let blocks = pem::blocks(pem, &[SectionKind::Certificate], &[])?;
        if blocks.is_empty() {
            return Err(CertificateError::None);
        }
        blocks.iter().enumerate().map(|(index, block)| Self::parse(&block.der, index + 1)).collect()
    }

    /// One PEM block labelled `CERTIFICATE`.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem::encode("CERTIFICATE", &self.der).to_string()
    }

    /// The DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// SHA-256 of the DER, 64 lowercase hex digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        sha256_hex(&self.der)
    }

    /// The serial number in lowercase hex, two digits an octet, without leading zero octets.
    #[must_use]
    pub fn serial(&self) -> String {
        self.serial.clone()
    }

    /// The first moment at which it holds.
    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// The last moment at which it holds. A time past what [`Timestamp`] can hold (the RFC's "no well-defined
    /// expiration", 9999-12-31T23:59:59Z) is [`Timestamp::MAX`].
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// The subject as text for users; two different names may look alike.
    #[must_use]
    pub fn subject(&self) -> String {
        name_text(&self.subject)
    }

    /// The issuer as text for users; two different names may look alike.
    #[must_use]
    pub fn issuer(&self) -> String {
        name_text(&self.issuer)
    }

    /// The key it certifies.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.public_key.clone()
    }

    /// Returns true if basicConstraints has CA:TRUE (RFC 5280 section 4.2.1.9). Without the extension: false.
    #[must_use]
    pub fn is_ca(&self) -> bool {
        self.extensions.is_ca
    }

    /// The maximum number of CA certificates below this one; `None` is no limit.
    #[must_use]
    pub fn path_len(&self) -> Option<u32> {
        self.extensions.path_len
    }

    /// Returns true if keyUsage allows it to sign certificates, also if the extension is absent.
    #[must_use]
    pub fn may_sign_certificates(&self) -> bool {
        self.extensions.key_usage.is_none_or(|usage| usage.key_cert_sign)
    }

    /// Returns an error if keyUsage is present and not that of a TLS leaf.
    ///
    /// # Errors
    /// [`KeyUsageError`].
    pub fn check_leaf_key_usage(&self) -> Result<(), KeyUsageError> {
        self.extensions.key_usage.map_or(Ok(()), KeyUsage::check_leaf)
    }

    /// Returns true if it is X.509 version 1: it has no version field, and no extensions (RFC 5280 section 4.1.2.1).
    #[must_use]
    pub fn is_version_1(&self) -> bool {
        self.to_be_signed().is_some_and(|fields| fields.first().is_some_and(|first| first.tag == der::INTEGER))
    }

    /// The `dNSName`s of its subjectAltName.
    #[must_use]
    pub fn dns_names(&self) -> &[String] {
        &self.extensions.dns_names
    }

    /// The URIs of its subjectAltName.
    #[must_use]
    pub fn uris(&self) -> &[String] {
        &self.extensions.uris
    }

    /// The IP addresses of its subjectAltName.
    #[must_use]
    pub fn ip_addresses(&self) -> &[IpAddr] {
        &self.extensions.ip_addresses
    }

    /// The purposes of its extended key usage that Gaia knows; others are left out.
    #[must_use]
    pub fn usages(&self) -> &[Usage] {
        self.extensions.usages.as_deref().unwrap_or_default()
    }

    /// Returns true if it may be part of a chain for `usage`: its extended key usage includes it, or is absent. Peers
    /// check this for every certificate up to the root (OpenSSL, Go) or below it (webpki); `anyExtendedKeyUsage` alone
    /// does not count.
    #[must_use]
    pub fn allows(&self, usage: Usage) -> bool {
        self.extensions.usages.as_ref().is_none_or(|usages| usages.contains(&usage))
    }

    /// The subject key identifier's octets.
    #[must_use]
    pub fn subject_key_id(&self) -> Option<&[u8]> {
        self.extensions.subject_key_id.as_deref()
    }

    /// The authority key identifier's `keyIdentifier` octets.
    #[must_use]
    pub fn authority_key_id(&self) -> Option<&[u8]> {
        self.extensions.authority_key_id.as_deref()
    }

    /// Returns true if `issuer` issued this: the issuer name here is its subject byte for byte, and the signature
    /// verifies under its key with an algorithm that webpki accepts (so not with SHA-1, nor under RSA below 2048 bits).
    #[must_use]
    pub fn is_signed_by(&self, issuer: &Self) -> bool {
        self.issuer == issuer.subject && self.verifies_under(&issuer.public_key)
    }

    /// Returns true if it names `issuer` as its issuer: by name, byte for byte, and by key identifier, which both must
    /// have. No signature is verified; the caller must have verified the chain.
    #[must_use]
    pub fn names_as_issuer(&self, issuer: &Self) -> bool {
        let key = self.authority_key_id();
        self.issuer == issuer.subject && key.is_some() && key == issuer.subject_key_id()
    }

    /// Returns true if OpenSSL takes `issuer` for the issuer: [`Self::is_signed_by`], and the authority key identifier is
    /// not that of another issuer.
    #[must_use]
    pub fn is_issued_by(&self, issuer: &Self) -> bool {
        self.is_signed_by(issuer) && self.authority_mismatch(issuer).is_none()
    }

    /// Returns true if subject, public key and subject key identifier are those of `other`: certificates of one verify
    /// under the other.
    #[must_use]
    pub fn is_same_issuer(&self, other: &Self) -> bool {
        self.subject == other.subject
            && self.public_key.is_same_key(&other.public_key)
            && self.subject_key_id() == other.subject_key_id()
    }

    /// Returns true if it signed itself: a root.
    #[must_use]
    pub fn is_self_signed(&self) -> bool {
        self.is_signed_by(self)
    }

    /// The field of the authority key identifier that is not the issuer's, if one is: OpenSSL then finds no issuer.
    pub(crate) fn authority_mismatch(&self, issuer: &Self) -> Option<&'static str> {
        let own = &self.extensions;
        let differs = |named: Option<&[u8]>, found: &[u8]| named.is_some_and(|named| named != found);
        let serial = own.authority_serial.as_deref().map(without_zeros);
        // An issuer without a subject key identifier cannot differ.
        if issuer.subject_key_id().is_some_and(|found| differs(self.authority_key_id(), found)) {
            Some("keyIdentifier")
        } else if differs(serial, without_zeros(&issuer.serial_octets())) {
            Some("authorityCertSerialNumber")
        } else {
            differs(own.authority_issuer.as_deref(), &issuer.issuer).then_some("authorityCertIssuer")
        }
    }

    /// The octets of the serial number as they are encoded.
    pub(crate) fn serial_octets(&self) -> Vec<u8> {
        let serial = self.to_be_signed().and_then(|fields| fields.into_iter().find(|field| field.tag == der::INTEGER));
        serial.map(|serial| serial.content.to_vec()).unwrap_or_default()
    }

    /// Returns true if both fields name the same signature algorithm (RFC 5280 section 4.1.1.2).
    pub(crate) fn repeats_its_signature_algorithm(&self) -> bool {
        let outer = der::only(&self.der).and_then(|outer| der::elements(outer.content)).unwrap_or_default();
        let inner = self.to_be_signed().unwrap_or_default();
        // It follows the serial number.
        let inner = inner.iter().skip_while(|field| field.tag != der::INTEGER).nth(1);
        outer.get(1).map(|algorithm| algorithm.whole) == inner.map(|algorithm| algorithm.whole)
    }

    /// Returns true if basicConstraints is present and critical.
    pub(crate) fn has_critical_basic_constraints(&self) -> bool {
        self.extensions.is_basic_critical
    }

    /// Returns true if keyUsage is present.
    pub(crate) fn has_key_usage(&self) -> bool {
        self.extensions.key_usage.is_some()
    }

    /// The name constraints.
    pub(crate) fn subtrees(&self) -> Option<&Subtrees> {
        self.extensions.subtrees.as_ref()
    }

    /// The fields of the signed part.
    fn to_be_signed(&self) -> Option<Vec<der::Element<'_>>> {
        let outer = der::elements(der::only(&self.der)?.content)?;
        der::elements(outer.first()?.content)
    }

    /// The object identifier of the algorithm it was signed with, where [`Self::is_signed_by`] does not verify it.
    pub(crate) fn unsupported_signature(&self) -> Option<String> {
        let parts = der::only(&self.der).and_then(|outer| der::elements(outer.content)).unwrap_or_default();
        let supported = parts.get(1).is_some_and(|algorithm| {
            webpki::ALL_VERIFICATION_ALGS.iter().any(|verify| verify.signature_alg_id().as_ref() == algorithm.content)
        });
        let name = || Some(X509Certificate::from_der(&self.der).ok()?.1.signature_algorithm.algorithm.to_id_string());
        (!supported).then(|| name().unwrap_or_default())
    }

    /// The first critical extension that not every peer processes, as an object identifier in dots.
    pub(crate) fn unknown_critical_extension(&self) -> Option<&str> {
        self.extensions.unknown_critical.as_deref()
    }

    /// Returns true if the subject has no attribute at all.
    pub(crate) fn has_empty_subject(&self) -> bool {
        der::only(&self.subject).is_none_or(|name| name.content.is_empty())
    }

    /// The DER of the subject name.
    pub(crate) fn subject_der(&self) -> &[u8] {
        &self.subject
    }

    /// The DER of the issuer name.
    pub(crate) fn issuer_der(&self) -> &[u8] {
        &self.issuer
    }

    /// The certificate as rustls and webpki take it.
    pub(crate) fn as_pki(&self) -> CertificateDer<'_> {
        CertificateDer::from_slice(&self.der)
    }

    /// Returns true if the signature of this certificate verifies under `key`, whatever the names are.
    pub(crate) fn verifies_under(&self, key: &PublicKey) -> bool {
        let Some(parts) = der::only(&self.der).and_then(|outer| der::elements(outer.content)) else {
            return false;
        };
        let [tbs, algorithm, signature] = parts.as_slice() else {
            return false;
        };
        let Some([0, signature @ ..]) = (signature.tag == der::BIT_STRING).then_some(signature.content) else {
            return false;
        };
        let key_algorithm = der::only(key.spki_der()).and_then(|spki| der::elements(spki.content));
        let Some(key_algorithm) = key_algorithm.as_deref().and_then(<[_]>::first) else {
            return false;
        };
        webpki::ALL_VERIFICATION_ALGS
            .iter()
            .filter(|verify| {
                verify.signature_alg_id().as_ref() == algorithm.content
                    && verify.public_key_alg_id().as_ref() == key_algorithm.content
            })
            .any(|verify| verify.verify_signature(key.bits(), tbs.whole, signature).is_ok())
    }

    fn parse(bytes: &[u8], position: usize) -> Result<Self, CertificateError> {
        let refuse = |reason: String| CertificateError::Der { position, reason };
        let (rest, parsed) = X509Certificate::from_der(bytes).map_err(|error| refuse(error.to_string()))?;
        if !rest.is_empty() {
            return Err(refuse(format!("{} bytes follow it", rest.len())));
        }
        let public_key = PublicKey::from_spki_der(parsed.public_key().raw)
            .map_err(|_| refuse("its public key cannot be read".to_owned()))?;
        Ok(Self {
            der: bytes.to_vec(),
            serial: HEXLOWER.encode(without_zeros(parsed.raw_serial())),
            not_before: timestamp(parsed.validity().not_before.timestamp()),
            not_after: timestamp(parsed.validity().not_after.timestamp()),
            subject: parsed.subject().as_raw().to_vec(),
            issuer: parsed.issuer().as_raw().to_vec(),
            public_key,
            extensions: Extensions::of(&parsed, position)?,
        })
    }
}

/// Returns true if `cert` certifies the public half of `key`.
#[must_use]
pub fn key_matches(cert: &Certificate, key: &PrivateKey) -> bool {
    cert.public_key.is_same_key(&key.public_key())
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("subject", &self.subject())
            .field("uris", &self.extensions.uris)
            .field("serial", &self.serial)
            .field("not_after", &self.not_after)
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}

/// A name as text. It was parsed before, as part of its certificate.
fn name_text(der: &[u8]) -> String {
    X509Name::from_der(der).map(|(_, name)| name.to_string().escape_debug().to_string()).unwrap_or_default()
}

fn timestamp(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap_or(if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX })
}
