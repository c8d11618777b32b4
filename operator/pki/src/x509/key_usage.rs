//! keyUsage (RFC 5280 section 4.2.1.3) as the X509-SVID specification restricts it (section 4.3).

/// The bits that decide.
#[derive(Clone, Copy)]
pub(crate) struct KeyUsage {
    pub(crate) digital_signature: bool,
    pub(crate) key_cert_sign: bool,
    pub(crate) crl_sign: bool,
}

/// The reason why keyUsage does not allow a certificate to be a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyUsageError {
    /// It may sign certificates.
    #[error("keyUsage of the leaf has keyCertSign, which only a CA may have")]
    KeyCertSign,
    /// It may sign revocation lists.
    #[error("keyUsage of the leaf has cRLSign, which only a CA may have")]
    CrlSign,
    /// It may not sign a handshake.
    #[error("keyUsage of the leaf has no digitalSignature, which TLS 1.3 needs")]
    NoDigitalSignature,
}

impl KeyUsage {
    pub(crate) fn check_leaf(self) -> Result<(), KeyUsageError> {
        if self.key_cert_sign {
            Err(KeyUsageError::KeyCertSign)
        } else if self.crl_sign {
            Err(KeyUsageError::CrlSign)
        } else if self.digital_signature {
            Ok(())
        } else {
            Err(KeyUsageError::NoDigitalSignature)
        }
    }
}
