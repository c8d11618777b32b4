//! Requirements on a bring-your-own CA.

use jiff::Timestamp;

use crate::key::{KeyError, PrivateKey};
use crate::sign::SignError;
use crate::x509::certificate::{Certificate, CertificateError, key_matches};
use crate::x509::name::NameError;
use crate::x509::validity::ValidityError;

/// The reason why a chain is not a CA that can sign leaves. Each variant is one reason, worded for the user who created
/// it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaError {
    /// More than 64 KiB.
    #[error("{what} is {bytes} bytes long, more than the maximum of {limit}")]
    TooLarge {
        /// `the certificate chain`, `the key` or `the extra roots`.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The longest that is read.
        limit: usize,
    },
    /// More than 10 certificates.
    #[error("{what} has {found} certificates, more than the maximum of {limit}")]
    TooMany {
        /// `the certificate chain` or `the extra roots`.
        what: &'static str,
        /// The number of certificates.
        found: usize,
        /// The most that are read.
        limit: usize,
    },
    /// The chain has no certificate.
    #[error("the certificate chain has no certificate")]
    NoCertificate,
    /// The chain or the extra roots cannot be read.
    #[error("{what} cannot be read: {source}")]
    Certificate {
        /// `the certificate chain` or `the extra roots`.
        what: &'static str,
        /// The reason why not.
        source: CertificateError,
    },
    /// The private key cannot be read or is of a kind that is not used.
    #[error("the CA key cannot be used: {0}")]
    Key(#[source] KeyError),
    /// The key does not belong to any certificate of the chain.
    #[error("the CA key {key} does not belong to the certificate {subject:?}, whose key is {certificate}")]
    KeyMismatch {
        /// Subject of the first certificate.
        subject: String,
        /// Fingerprint of the certificate's public key.
        certificate: String,
        /// Fingerprint of the key's public half.
        key: String,
    },
    /// The chain does not start with the certificate of the key, or is not followed by its issuers in order.
    #[error("the certificate chain is out of order: {subject:?} should be at position {position}")]
    OutOfOrder {
        /// The certificate that is elsewhere.
        subject: String,
        /// Its correct position, counted from 1.
        position: usize,
    },
    /// A certificate was not issued by the next one, nor by any other given.
    #[error("{subject:?} was not signed by {issuer:?}, the certificate that follows it")]
    NotChaining {
        /// The certificate.
        subject: String,
        /// The one that follows it.
        issuer: String,
    },
    /// Certificates follow the root.
    #[error("{subject:?} follows the root {root:?} in the certificate chain")]
    AfterRoot {
        /// The certificate that follows.
        subject: String,
        /// The root.
        root: String,
    },
    /// The path ends before a self-signed root.
    #[error("{subject:?} is not self-signed and its issuer {issuer:?} is neither in the chain nor in the extra roots")]
    NoRoot {
        /// The subject at which the path ends.
        subject: String,
        /// The issuer it names.
        issuer: String,
    },
    /// basicConstraints is absent or has CA:FALSE.
    #[error("{subject:?} is not a CA certificate (basicConstraints)")]
    NotACa {
        /// The certificate.
        subject: String,
    },
    /// keyUsage is there, without keyCertSign.
    #[error("{subject:?} may not sign certificates (keyUsage without keyCertSign)")]
    MayNotSign {
        /// The certificate.
        subject: String,
    },
    /// The certificate's key is of a kind that is not used.
    #[error("{subject:?} has a key that is not supported: {kind}")]
    UnsupportedKey {
        /// The certificate.
        subject: String,
        /// The kind as text, such as `RSA 1024`.
        kind: String,
    },
    /// The certificate's signature is of a kind that is not verified, SHA-1 for example.
    #[error("{subject:?} is signed with an algorithm that is not supported: {algorithm}")]
    UnsupportedSignature {
        /// The certificate.
        subject: String,
        /// The algorithm's object identifier in dots.
        algorithm: String,
    },
    /// The certificate has no name that those below it could call their issuer (RFC 5280 section 4.1.2.6).
    #[error("certificate {position} of the chain has an empty subject, which a CA may not have")]
    EmptySubject {
        /// 1-based position from the signing certificate up.
        position: usize,
    },
    /// A critical extension that peers do not process, so they refuse the certificate (RFC 5280 section 4.2).
    #[error("{subject:?} has a critical extension that is not supported: {oid}")]
    CriticalExtension {
        /// The certificate.
        subject: String,
        /// The extension's object identifier in dots.
        oid: String,
    },
    /// A serial number that Go refuses to read (RFC 5280 section 4.1.2.2).
    #[error("{subject:?} has a serial number that is {what}")]
    Serial {
        /// The certificate.
        subject: String,
        /// `negative` or `longer than 20 octets`.
        what: &'static str,
    },
    /// The two fields for the signature algorithm differ (RFC 5280 section 4.1.1.2).
    #[error("{subject:?} names two different signature algorithms")]
    SignatureAlgorithmDiffers {
        /// The certificate.
        subject: String,
    },
    /// OpenSSL finds no issuer for a certificate whose authorityKeyIdentifier names another one.
    #[error("{subject:?} has an authorityKeyIdentifier whose {field} is not that of its issuer {issuer:?}")]
    AuthorityKeyId {
        /// The certificate.
        subject: String,
        /// Its issuer.
        issuer: String,
        /// `keyIdentifier`, `authorityCertSerialNumber` or `authorityCertIssuer`.
        field: &'static str,
    },
    /// Leaves need both purposes, and peers ask for them all the way up.
    #[error("{subject:?} is not for {usage} (extendedKeyUsage)")]
    ForbidsUsage {
        /// The certificate.
        subject: String,
        /// The missing purpose.
        usage: crate::leaf::Usage,
    },
    /// Critical name constraints of a kind that Go does not process.
    #[error("{subject:?} has critical nameConstraints for {kind}, which not every peer processes")]
    ConstraintKind {
        /// The certificate.
        subject: String,
        /// The kind of name.
        kind: &'static str,
    },
    /// pathLen does not allow as many certificates below as there are.
    #[error("{subject:?} allows {path_len} CA certificates below it, there are {below} (pathLenConstraint)")]
    PathLength {
        /// The certificate.
        subject: String,
        /// The pathLen constraint.
        path_len: u32,
        /// The number of CA certificates below it.
        below: usize,
    },
    /// It has expired.
    #[error("{subject:?} expired at {not_after}, it is {now}")]
    Expired {
        /// The certificate.
        subject: String,
        /// Its notAfter.
        not_after: Timestamp,
        /// The moment of the check.
        now: Timestamp,
    },
    /// Before its beginning.
    #[error("{subject:?} is not valid before {not_before}, it is {now}")]
    NotYetValid {
        /// The certificate.
        subject: String,
        /// Its beginning.
        not_before: Timestamp,
        /// The moment of the check.
        now: Timestamp,
    },
    /// A name for a new root is not usable.
    #[error("creating a root: {0}")]
    Name(#[from] NameError),
    /// The validity of a new root is no time span.
    #[error("creating a root: {0}")]
    Validity(#[from] ValidityError),
    /// A new root could not be signed.
    #[error("creating a root: {0}")]
    Sign(#[from] SignError),
}

/// Reads the certificates of the chain and of the extra roots, within bounds.
pub(crate) fn read(
    chain_pem: &[u8],
    key_pem: &str,
    extra_roots_pem: Option<&[u8]>,
) -> Result<(Vec<Certificate>, Vec<Certificate>), CaError> {
    within("the key", key_pem.len())?;
    let given = certificates("the certificate chain", chain_pem)?;
    if given.is_empty() {
        return Err(CaError::NoCertificate);
    }
    let extra = extra_roots_pem.map(|pem| certificates("the extra roots", pem)).transpose()?;
    Ok((given, extra.unwrap_or_default()))
}

/// The path from the certificate of `key` to a root, from the `given` chain and, where that ends, the `extra`
/// certificates.
pub(crate) fn complete(
    given: Vec<Certificate>,
    extra: &[Certificate],
    key: &PrivateKey,
) -> Result<Vec<Certificate>, CaError> {
    check_order(&given, key)?;
    let mut path = given;
    // Each step adds a certificate that is not in the path yet, so the loop terminates.
    while let Some(last) = path.last().filter(|last| !last.is_self_signed()) {
        let Some(issuer) = extra.iter().find(|extra| last.is_signed_by(extra) && !path.contains(extra)) else {
            // A certificate with the right name that did not verify may be too weak to be tried.
            extra.iter().filter(|extra| extra.subject_der() == last.issuer_der()).try_for_each(check_strength)?;
            return Err(no_root(last));
        };
        path.push(issuer.clone());
    }
    Ok(path)
}

/// Checks a whole path: the key belongs to its first certificate, each is signed by the next and may do what it does.
pub(crate) fn check(path: &[Certificate], key: &PrivateKey) -> Result<(), CaError> {
    check_order(path, key)?;
    for (below, certificate) in path.iter().enumerate() {
        let subject = certificate.subject();
        if certificate.has_empty_subject() {
            return Err(CaError::EmptySubject { position: below + 1 });
        }
        if let Some(oid) = certificate.unknown_critical_extension() {
            return Err(CaError::CriticalExtension { subject, oid: oid.to_owned() });
        }
        if !certificate.is_ca() {
            return Err(CaError::NotACa { subject });
        }
        if !certificate.may_sign_certificates() {
            return Err(CaError::MayNotSign { subject });
        }
        if let Some(path_len) = certificate.path_len().filter(|limit| usize::try_from(*limit).is_ok_and(|l| l < below))
        {
            return Err(CaError::PathLength { subject, path_len, below });
        }
    }
    match path.last() {
        Some(last) if last.is_self_signed() => Ok(()),
        Some(last) => Err(no_root(last)),
        None => Err(CaError::NoCertificate),
    }
}

fn check_order(path: &[Certificate], key: &PrivateKey) -> Result<(), CaError> {
    let first = path.first().ok_or(CaError::NoCertificate)?;
    check_keys(path)?;
    if !key_matches(first, key) {
        return Err(match path.iter().find(|other| key_matches(other, key)) {
            Some(other) => CaError::OutOfOrder { subject: other.subject(), position: 1 },
            None => CaError::KeyMismatch {
                subject: first.subject(),
                certificate: first.public_key().fingerprint(),
                key: key.public_key().fingerprint(),
            },
        });
    }
    for (index, pair) in path.windows(2).enumerate() {
        let [certificate, next] = pair else { continue };
        if certificate.is_self_signed() {
            return Err(CaError::AfterRoot { subject: next.subject(), root: certificate.subject() });
        }
        if !certificate.is_signed_by(next) {
            return Err(match path.iter().find(|other| certificate.is_signed_by(other)) {
                Some(other) => CaError::OutOfOrder { subject: other.subject(), position: index + 2 },
                None => CaError::NotChaining { subject: certificate.subject(), issuer: next.subject() },
            });
        }
    }
    Ok(())
}

/// The signing certificate needs a key that Gaia can sign with, those above it one that peers verify.
fn check_keys(path: &[Certificate]) -> Result<(), CaError> {
    for (index, certificate) in path.iter().enumerate() {
        let key = certificate.public_key();
        if index == 0 && key.spec().is_none() {
            return Err(CaError::UnsupportedKey { subject: certificate.subject(), kind: key.describe() });
        }
        check_strength(certificate)?;
    }
    Ok(())
}

/// Checks that peers accept its key, and its signature algorithm.
fn check_strength(certificate: &Certificate) -> Result<(), CaError> {
    let (subject, key) = (certificate.subject(), certificate.public_key());
    if !key.is_strong() {
        return Err(CaError::UnsupportedKey { subject, kind: key.describe() });
    }
    match certificate.unsupported_signature() {
        Some(algorithm) => Err(CaError::UnsupportedSignature { subject, algorithm }),
        None => Ok(()),
    }
}

fn no_root(last: &Certificate) -> CaError {
    CaError::NoRoot { subject: last.subject(), issuer: last.issuer() }
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<Certificate>, CaError> {
    within(what, pem.len())?;
    let certificates = match Certificate::chain_from_pem(pem) {
        Err(CertificateError::None) => Vec::new(),
        read => read.map_err(|source| CaError::Certificate { what, source })?,
    };
    match certificates.len() {
        found if found > MAX_CERTIFICATES => Err(CaError::TooMany { what, found, limit: MAX_CERTIFICATES }),
        _ => Ok(certificates),
    }
}

fn within(what: &'static str, bytes: usize) -> Result<(), CaError> {
    if bytes > MAX_BYTES { Err(CaError::TooLarge { what, bytes, limit: MAX_BYTES }) } else { Ok(()) }
}

/// The longest PEM text that is read.
const MAX_BYTES: usize = 64 * 1024;
/// The most certificates that are read from one PEM text.
const MAX_CERTIFICATES: usize = 10;
