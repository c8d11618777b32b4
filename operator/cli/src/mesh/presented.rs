//! The certificate chain that a server presents, whatever it is.

use std::sync::Mutex;

use gaia_api::sync::lock;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// Accepts every certificate and records the chain, also of a handshake that fails later. The peer must prove that it
/// has the key; trust is evaluated by the caller, who reports both.
#[derive(Debug)]
pub(crate) struct Presented {
    chain: Mutex<Vec<Vec<u8>>>,
    provider: CryptoProvider,
}

impl Presented {
    /// The chain in DER, the leaf first; empty before a handshake.
    pub(crate) fn chain(&self) -> Vec<Vec<u8>> {
        lock(&self.chain).clone()
    }
}

impl Default for Presented {
    fn default() -> Self {
        Self { chain: Mutex::default(), provider: aws_lc_rs::default_provider() }
    }
}

impl ServerCertVerifier for Presented {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *lock(&self.chain) = std::iter::once(leaf).chain(issuers).map(|der| der.to_vec()).collect();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
