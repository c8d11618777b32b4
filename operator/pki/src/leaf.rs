//! Leaves: what services prove themselves with (SPIFFE X509-SVID, RFC 5280).

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType,
    string::Ia5String,
};

use crate::ca::Ca;
use crate::key::PrivateKey;
use crate::sign::{self, SignError, Signer};
use crate::x509::certificate::{Certificate, key_matches};
use crate::x509::name::{NameError, check_common_name, check_dns_name, check_spiffe_id};
use crate::x509::path::{PathError, verify_path};
use crate::x509::serial::Serial;
use crate::x509::validity::{Validity, ValidityError};

/// Extended key usage of a leaf (RFC 5280 section 4.2.1.12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Usage {
    /// TLS server authentication.
    ServerAuth,
    /// TLS client authentication.
    ClientAuth,
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ServerAuth => "serverAuth",
            Self::ClientAuth => "clientAuth",
        })
    }
}

/// Parameters of a leaf. The caller must check the permission for the names, and clamp the validity to the CA's.
#[derive(Debug, Clone)]
pub struct LeafRequest<'a> {
    /// The only URI in the subjectAltName, such as `spiffe://gaia.local/ns/default/sa/auth-service`.
    pub spiffe_id: &'a str,
    /// DNS names; one that comes twice is written once.
    pub dns_names: &'a [String],
    /// IP addresses; one that comes twice is written once.
    pub ip_addresses: &'a [IpAddr],
    /// At least one.
    pub usages: &'a [Usage],
    /// From 128 random bits.
    pub serial: Serial,
    /// Must end no later than [`Ca::not_after`].
    pub validity: Validity,
}

/// A leaf and what its Secret's `tls.crt` holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The leaf.
    pub certificate: Certificate,
    /// The leaf and the intermediates above it in PEM, in TLS order (RFC 8446 section 4.4.2), without the root.
    pub chain_pem: String,
}

/// The reason why there is no leaf.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// A name cannot be in a certificate.
    #[error("issuing a leaf: {0}")]
    Name(#[from] NameError),
    /// The validity is no time span.
    #[error("issuing a leaf: {0}")]
    Validity(#[from] ValidityError),
    /// No usage was requested.
    #[error("issuing a leaf for {spiffe_id}: it has no usage")]
    NoUsage {
        /// The SPIFFE ID of the leaf.
        spiffe_id: String,
    },
    /// It would hold longer than the CA or a certificate above it.
    #[error("issuing a leaf for {spiffe_id}: it would be valid until {not_after}, its CA only until {ca_not_after}")]
    OutlivesCa {
        /// The SPIFFE ID of the leaf.
        spiffe_id: String,
        /// The requested expiry.
        not_after: Timestamp,
        /// The earliest expiry in the CA's chain.
        ca_not_after: Timestamp,
    },
    /// It would expire before its CA, or a certificate above it, becomes valid.
    #[error("issuing a leaf for {spiffe_id}: it would be valid until {not_after}, its CA only from {ca_not_before}")]
    PredatesCa {
        /// The SPIFFE ID of the leaf.
        spiffe_id: String,
        /// The requested expiry.
        not_after: Timestamp,
        /// The latest beginning in the CA's chain.
        ca_not_before: Timestamp,
    },
    /// A certificate above it is only for other purposes.
    #[error("issuing a leaf for {spiffe_id}: {subject:?} above it is not for {usage} (extendedKeyUsage)")]
    CaForbidsUsage {
        /// The SPIFFE ID of the leaf.
        spiffe_id: String,
        /// The certificate that forbids it.
        subject: String,
        /// The forbidden usage.
        usage: Usage,
    },
    /// It could not be signed.
    #[error("issuing a leaf for {spiffe_id}: {source}")]
    Sign {
        /// The SPIFFE ID of the leaf.
        spiffe_id: String,
        /// The reason why not.
        source: SignError,
    },
    /// The signed certificate differs from the request: a defect of this crate. The certificate is discarded.
    #[error("issuing a leaf for {spiffe_id}: the signed leaf has the wrong {what}, so it is not used")]
    NotAsAsked {
        /// The SPIFFE ID of the leaf.
        spiffe_id: String,
        /// The part that differs.
        what: &'static str,
    },
    /// It was signed, but does not chain: the CA's constraints forbid it, for example.
    #[error("issuing a leaf for {spiffe_id}: {source}")]
    Path {
        /// The SPIFFE ID of the leaf.
        spiffe_id: String,
        /// The error of webpki.
        source: PathError,
    },
}

/// Issues a leaf for the public half of `key`, signed by `ca`, and verifies its chain before it is returned.
///
/// The profile: version 3, empty subject with a critical subjectAltName of exactly one URI and the requested DNS names
/// and addresses, basicConstraints CA:FALSE (critical), keyUsage digitalSignature and with RSA keyEncipherment
/// (critical), extendedKeyUsage as requested, both key identifiers. Signed with SHA-256, by a P-384 CA with SHA-384.
///
/// # Errors
/// [`LeafError`]. A leaf that webpki does not accept under `ca` for each of its usages is never returned.
pub fn issue_leaf(ca: &Ca, req: &LeafRequest<'_>, key: &PrivateKey) -> Result<Leaf, LeafError> {
    issue_leaf_to(None, ca, req, key)
}

/// The same with a common name as the subject, for servers that map users by it. The subjectAltName is then not critical
/// (RFC 5280 section 4.2.1.6).
///
/// # Errors
/// As [`issue_leaf`], and for a common name that is empty or longer than 64 characters.
pub fn issue_leaf_to(
    common_name: Option<&str>,
    ca: &Ca,
    req: &LeafRequest<'_>,
    key: &PrivateKey,
) -> Result<Leaf, LeafError> {
    let spiffe_id = || req.spiffe_id.to_owned();
    let mut params = params(req, key)?;
    if let Some(name) = common_name {
        check_common_name(name)?;
        params.distinguished_name.push(DnType::CommonName, name);
    }
    let span = req.validity.seconds()?;
    check_span(ca, req)?;
    check_usages(ca, req)?;
    let signer = Signer { key: ca.key(), key_id: ca.key_id(), name: Some(ca.certificate().subject_der()) };
    let certificate = sign::sign(params, &key.public_key(), req.serial, span, &signer)
        .map_err(|source| LeafError::Sign { spiffe_id: spiffe_id(), source })?;
    check(ca, req, key, &certificate)?;
    let chain_pem = std::iter::once(&certificate).chain(ca.chain()).map(Certificate::to_pem).collect();
    Ok(Leaf { certificate, chain_pem })
}

fn params(req: &LeafRequest<'_>, key: &PrivateKey) -> Result<CertificateParams, LeafError> {
    if req.usages.is_empty() {
        return Err(LeafError::NoUsage { spiffe_id: req.spiffe_id.to_owned() });
    }
    check_spiffe_id(req.spiffe_id)?;
    req.dns_names.iter().try_for_each(|name| check_dns_name(name))?;

    let ascii = |name: &str| {
        Ia5String::try_from(name).map_err(|error| LeafError::Sign {
            spiffe_id: req.spiffe_id.to_owned(),
            source: SignError::Template(error.to_string()),
        })
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.key_usages.extend(key.spec().is_rsa().then_some(KeyUsagePurpose::KeyEncipherment));
    params.extended_key_usages = once_each(req.usages).map(|usage| purpose(*usage)).collect();
    params.subject_alt_names = vec![SanType::URI(ascii(req.spiffe_id)?)];
    for name in once_each(req.dns_names) {
        params.subject_alt_names.push(SanType::DnsName(ascii(name)?));
    }
    params.subject_alt_names.extend(once_each(req.ip_addresses).map(|address| SanType::IpAddress(*address)));
    Ok(params)
}

fn check_span(ca: &Ca, req: &LeafRequest<'_>) -> Result<(), LeafError> {
    let not_after = req.validity.not_after;
    if not_after.as_second() > ca.not_after().as_second() {
        let (spiffe_id, ca_not_after) = (req.spiffe_id.to_owned(), ca.not_after());
        return Err(LeafError::OutlivesCa { spiffe_id, not_after, ca_not_after });
    }
    if not_after.as_second() < ca.not_before().as_second() {
        let (spiffe_id, ca_not_before) = (req.spiffe_id.to_owned(), ca.not_before());
        return Err(LeafError::PredatesCa { spiffe_id, not_after, ca_not_before });
    }
    Ok(())
}

fn check_usages(ca: &Ca, req: &LeafRequest<'_>) -> Result<(), LeafError> {
    for usage in req.usages {
        if let Some(above) = ca.chain().iter().chain([ca.root()]).find(|above| !above.allows(*usage)) {
            let (spiffe_id, subject) = (req.spiffe_id.to_owned(), above.subject());
            return Err(LeafError::CaForbidsUsage { spiffe_id, subject, usage: *usage });
        }
    }
    Ok(())
}

/// Checks the signed leaf as a peer would: right issuer, right key, right names, and a path to the root.
fn check(ca: &Ca, req: &LeafRequest<'_>, key: &PrivateKey, leaf: &Certificate) -> Result<(), LeafError> {
    let wrong = |what| Err(LeafError::NotAsAsked { spiffe_id: req.spiffe_id.to_owned(), what });
    if leaf.issuer_der() != ca.certificate().subject_der() {
        return wrong("issuer");
    }
    if !leaf.is_signed_by(ca.certificate()) {
        return wrong("signature");
    }
    if !key_matches(leaf, key) {
        return wrong("key");
    }
    if leaf.serial() != req.serial.to_string() {
        return wrong("serial");
    }
    if leaf.uris() != [req.spiffe_id] || leaf.is_ca() {
        return wrong("identity");
    }
    let at = leaf.not_before().max(ca.not_before());
    for usage in req.usages {
        verify_path(leaf, ca.chain(), ca.root(), *usage, at)
            .map_err(|source| LeafError::Path { spiffe_id: req.spiffe_id.to_owned(), source })?;
    }
    Ok(())
}

fn purpose(usage: Usage) -> ExtendedKeyUsagePurpose {
    match usage {
        Usage::ServerAuth => ExtendedKeyUsagePurpose::ServerAuth,
        Usage::ClientAuth => ExtendedKeyUsagePurpose::ClientAuth,
    }
}

fn once_each<T: Ord>(items: &[T]) -> impl Iterator<Item = &T> {
    let mut seen = BTreeSet::new();
    items.iter().filter(move |item| seen.insert(*item))
}
