//! The extensions of a certificate, read once (RFC 5280 section 4.2).

use std::net::IpAddr;

use x509_parser::der_parser::Oid;
use x509_parser::extensions::{GeneralName, NameConstraints, ParsedExtension};
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_CRL_DISTRIBUTION_POINTS, OID_X509_EXT_EXTENDED_KEY_USAGE,
    OID_X509_EXT_KEY_USAGE, OID_X509_EXT_NAME_CONSTRAINTS, OID_X509_EXT_SUBJECT_ALT_NAME,
};
use x509_parser::prelude::X509Certificate;

use crate::leaf::Usage;
use crate::x509::certificate::CertificateError;
use crate::x509::constraints::Subtrees;
use crate::x509::key_usage::KeyUsage;

/// The extensions that restrict the use of a certificate.
#[derive(Clone, Default)]
pub(crate) struct Extensions {
    pub(crate) is_ca: bool,
    pub(crate) path_len: Option<u32>,
    /// Absent is not empty: without the extension every use is allowed.
    pub(crate) key_usage: Option<KeyUsage>,
    pub(crate) dns_names: Vec<String>,
    pub(crate) uris: Vec<String>,
    pub(crate) ip_addresses: Vec<IpAddr>,
    /// Absent is not empty: without the extension every use is allowed.
    pub(crate) usages: Option<Vec<Usage>>,
    pub(crate) subject_key_id: Option<Vec<u8>>,
    pub(crate) authority_key_id: Option<Vec<u8>>,
    /// The issuer's own issuer and serial number in the authority key identifier; the name in DER.
    pub(crate) authority_issuer: Option<Vec<u8>>,
    pub(crate) authority_serial: Option<Vec<u8>>,
    pub(crate) is_basic_critical: bool,
    pub(crate) subtrees: Option<Subtrees>,
    pub(crate) unknown_critical: Option<String>,
}

impl Extensions {
    /// Reads them; `position` is the certificate's in its chain, for errors.
    ///
    /// # Errors
    /// [`CertificateError::Extension`] for one that is unreadable or comes twice.
    pub(crate) fn of(certificate: &X509Certificate<'_>, position: usize) -> Result<Self, CertificateError> {
        let mut found = Self::default();
        let mut seen = Vec::new();
        for extension in certificate.extensions() {
            let refuse = || CertificateError::Extension { position, oid: extension.oid.to_string() };
            if seen.contains(&&extension.oid) {
                return Err(refuse());
            }
            seen.push(&extension.oid);
            if extension.critical && !PROCESSED.contains(&extension.oid) && found.unknown_critical.is_none() {
                found.unknown_critical = Some(extension.oid.to_id_string());
            }
            match extension.parsed_extension() {
                ParsedExtension::ParseError { .. } => return Err(refuse()),
                ParsedExtension::BasicConstraints(constraints) => {
                    found.is_ca = constraints.ca;
                    found.is_basic_critical = extension.critical;
                    found.path_len = constraints.path_len_constraint;
                }
                ParsedExtension::KeyUsage(usage) => {
                    found.key_usage = Some(KeyUsage {
                        digital_signature: usage.digital_signature(),
                        key_cert_sign: usage.key_cert_sign(),
                        crl_sign: usage.crl_sign(),
                    });
                }
                ParsedExtension::ExtendedKeyUsage(usage) => {
                    let known = [(usage.server_auth, Usage::ServerAuth), (usage.client_auth, Usage::ClientAuth)];
                    found.usages = Some(known.into_iter().filter_map(|(set, usage)| set.then_some(usage)).collect());
                }
                ParsedExtension::SubjectKeyIdentifier(id) => found.subject_key_id = Some(id.0.to_vec()),
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    found.authority_key_id = id.key_identifier.as_ref().map(|id| id.0.to_vec());
                    found.authority_serial = id.authority_cert_serial.map(<[u8]>::to_vec);
                    found.authority_issuer = id.authority_cert_issuer.iter().flatten().find_map(|name| match name {
                        GeneralName::DirectoryName(name) => Some(name.as_raw().to_vec()),
                        _ => None,
                    });
                }
                ParsedExtension::NameConstraints(constraints) => {
                    found.subtrees = Some(subtrees(constraints, extension.critical));
                }
                ParsedExtension::SubjectAlternativeName(names) => {
                    for name in &names.general_names {
                        found.take_name(name).ok_or_else(refuse)?;
                    }
                }
                _ => {}
            }
        }
        Ok(found)
    }

    fn take_name(&mut self, name: &GeneralName<'_>) -> Option<()> {
        match name {
            GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
            GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
            GeneralName::IPAddress(octets) => self.ip_addresses.push(ip_address(octets)?),
            GeneralName::Invalid(..) => return None,
            _ => {}
        }
        Some(())
    }
}

fn subtrees(constraints: &NameConstraints<'_>, is_critical: bool) -> Subtrees {
    let mut found = Subtrees { is_critical, ..Subtrees::default() };
    let permitted = constraints.permitted_subtrees.iter().flatten().map(|subtree| (true, &subtree.base));
    let excluded = constraints.excluded_subtrees.iter().flatten().map(|subtree| (false, &subtree.base));
    for (is_permitted, base) in permitted.chain(excluded) {
        match base {
            GeneralName::DNSName(name) if is_permitted => {
                found.permitted_dns.get_or_insert_default().push((*name).to_owned());
            }
            GeneralName::DNSName(name) => found.excluded_dns.push((*name).to_owned()),
            GeneralName::IPAddress(range) if is_permitted => {
                found.permitted_ip.get_or_insert_default().push(range.to_vec());
            }
            GeneralName::IPAddress(range) => found.excluded_ip.push(range.to_vec()),
            // Leaves have no e-mail address. URIs are checked with a trial certificate: all leaves have the same trust domain.
            GeneralName::RFC822Name(_) | GeneralName::URI(_) => {}
            GeneralName::DirectoryName(_) => found.other = Some("directoryName"),
            _ => found.other = Some("another kind of name"),
        }
    }
    found
}

fn ip_address(octets: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(octets).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

/// The extensions that OpenSSL and webpki alike process where they are critical.
const PROCESSED: [Oid<'static>; 6] = [
    OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_SUBJECT_ALT_NAME,
    OID_X509_EXT_BASIC_CONSTRAINTS,
    OID_X509_EXT_NAME_CONSTRAINTS,
    OID_X509_EXT_CRL_DISTRIBUTION_POINTS,
    OID_X509_EXT_EXTENDED_KEY_USAGE,
];
