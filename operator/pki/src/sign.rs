//! Assembles a certificate and signs it.
//!
//! rcgen writes the certificate, but it builds the issuer name from its own model, which loses repeated attributes,
//! multi-valued RDNs and string types it does not know. So rcgen is only used up to the signature: the issuer name is
//! replaced by the CA's subject, byte for byte, and the result is signed here.

use std::time::Duration;

use rcgen::{
    CertificateParams, Issuer, KeyIdMethod, PublicKeyData, SerialNumber, SignatureAlgorithm, SigningKey as RcgenKey,
};

use crate::key::{KeyError, KeySpec, PrivateKey};
use crate::public_key::PublicKey;
use crate::x509::certificate::{Certificate, CertificateError};
use crate::x509::der;
use crate::x509::serial::Serial;

/// The reason why a certificate could not be created. None depends on a user's input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// rcgen refused the parameters.
    #[error("assembling the certificate: {0}")]
    Template(String),
    /// rcgen's output does not have the form of a certificate.
    #[error("the assembled certificate does not have the form of RFC 5280 section 4.1")]
    Shape,
    /// The key is of a kind that has no signature algorithm here.
    #[error("{kind} keys cannot be certified")]
    UnsupportedKey {
        /// The kind as text.
        kind: String,
    },
    /// The signature could not be created.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The signed certificate cannot be parsed.
    #[error("reading the signed certificate back: {0}")]
    Certificate(#[from] CertificateError),
}

/// The signer: its key, key identifier, and name in DER. Without a name the certificate is its own issuer.
pub(crate) struct Signer<'a> {
    pub(crate) key: &'a PrivateKey,
    pub(crate) key_id: Vec<u8>,
    pub(crate) name: Option<&'a [u8]>,
}

/// Signs the certificate that `params` describe for `subject`. Serial, validity and both key identifiers are set here,
/// the rest is taken from `params`.
pub(crate) fn sign(
    mut params: CertificateParams,
    subject: &PublicKey,
    serial: Serial,
    (from, until): (u64, u64),
    signer: &Signer<'_>,
) -> Result<Certificate, SignError> {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(from);
    params.not_after = epoch + Duration::from_secs(until);
    params.serial_number = Some(SerialNumber::from(serial.as_bytes().to_vec()));
    params.key_identifier_method = KeyIdMethod::PreSpecified(key_id(subject));
    params.use_authority_key_identifier_extension = true;

    let mut issuer = CertificateParams::default();
    issuer.key_identifier_method = KeyIdMethod::PreSpecified(signer.key_id.clone());
    let issuer = Issuer::new(issuer, Unsigned::new(&signer.key.public_key())?);
    let template =
        params.signed_by(&Unsigned::new(subject)?, &issuer).map_err(|error| SignError::Template(error.to_string()))?;

    let (tbs, algorithm) = with_issuer(template.der(), signer.name).ok_or(SignError::Shape)?;
    let signature = signer.key.sign(&tbs)?;
    let signature = der::encode(der::BIT_STRING, &[&[0], &signature]);
    Ok(Certificate::from_der(&der::encode(der::SEQUENCE, &[&tbs, &algorithm, &signature]))?)
}

/// The key identifier of a public key: the first 160 bits of the SHA-256 of its bits (RFC 7093 section 2, method 1).
pub(crate) fn key_id(key: &PublicKey) -> Vec<u8> {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.bits());
    digest.as_ref()[..20].to_vec()
}

/// The TBSCertificate of `template` with `issuer` (or else its own subject) as the issuer, and the AlgorithmIdentifier
/// of the signature.
fn with_issuer(template: &[u8], issuer: Option<&[u8]>) -> Option<(Vec<u8>, Vec<u8>)> {
    let outer = der::elements(der::only(template)?.content)?;
    let [tbs, algorithm, _] = outer.as_slice() else {
        return None;
    };
    // version, serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo, extensions
    let fields = der::elements(tbs.content)?;
    if fields.len() != 8 {
        return None;
    }
    let mut parts: Vec<&[u8]> = fields.iter().map(|field| field.whole).collect();
    parts[3] = issuer.unwrap_or(parts[5]);
    Some((der::encode(der::SEQUENCE, &parts), algorithm.whole.to_vec()))
}

/// A public key for rcgen. Its signature is empty, because the real one is created after rcgen is done.
struct Unsigned {
    bits: Vec<u8>,
    algorithm: &'static SignatureAlgorithm,
}

impl Unsigned {
    fn new(key: &PublicKey) -> Result<Self, SignError> {
        let algorithm = match key.spec() {
            Some(KeySpec::Ecdsa256) => &rcgen::PKCS_ECDSA_P256_SHA256,
            Some(KeySpec::Ecdsa384) => &rcgen::PKCS_ECDSA_P384_SHA384,
            Some(KeySpec::Rsa2048 | KeySpec::Rsa3072 | KeySpec::Rsa4096) => &rcgen::PKCS_RSA_SHA256,
            None => return Err(SignError::UnsupportedKey { kind: key.describe() }),
        };
        Ok(Self { bits: key.bits().to_vec(), algorithm })
    }
}

impl PublicKeyData for Unsigned {
    fn der_bytes(&self) -> &[u8] {
        &self.bits
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

impl RcgenKey for Unsigned {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(Vec::new())
    }
}
