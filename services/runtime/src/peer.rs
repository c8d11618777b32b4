//! Who a certificate says its holder is, and whether a client may come in with it.

use std::fmt;
use std::sync::Arc;

use gaia_api::SpiffeId;
use gaia_auth::PeerIdentity;
use gaia_pki::Certificate;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

/// The identity in a leaf that was verified: its one URI, which is a SPIFFE id of the trust domain.
pub(crate) fn identity(leaf: &[u8], trust_domain: &str) -> Option<PeerIdentity> {
    let leaf = Certificate::from_der(leaf).ok()?;
    let [uri] = leaf.uris() else { return None };
    let spiffe_id = SpiffeId::parse(uri).ok().filter(|id| id.trust_domain() == trust_domain)?;
    Some(PeerIdentity {
        spiffe_id,
        fingerprint: leaf.fingerprint(),
        serial: leaf.serial(),
        not_after: leaf.not_after(),
    })
}

/// What webpki demands of a client certificate, and an identity of the trust domain on top.
pub(crate) struct SpiffeVerifier {
    pub(crate) chain: Arc<dyn ClientCertVerifier>,
    pub(crate) trust_domain: String,
}

impl fmt::Debug for SpiffeVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpiffeVerifier").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for SpiffeVerifier {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        match identity(end_entity, &self.trust_domain) {
            Some(_) => Ok(verified),
            None => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }
    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, signature)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, signature)
    }
}
