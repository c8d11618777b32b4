//! Verification of servers by the trust bundle and the SPIFFE ID; names of hosts are no identities.

use std::sync::{Arc, Mutex, PoisonError};

use gaia_pki::{Certificate, Usage, verify_path};
use jiff::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// The SPIFFE ID that a server must have.
#[derive(Debug)]
pub(super) struct Expected(pub(super) String);

/// A server, as its certificate names it.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) spiffe_id: String,
    pub(crate) issuer: String,
    pub(crate) not_after: Timestamp,
}

/// Accepts servers of the platform, or only one.
#[derive(Debug)]
pub(super) struct ServerIdentity {
    anchors: Vec<Certificate>,
    expected: Option<Expected>,
    provider: Arc<CryptoProvider>,
    peer: Mutex<Option<Peer>>,
}

impl ServerIdentity {
    pub(super) fn new(anchors: Vec<Certificate>, expected: Option<Expected>, provider: Arc<CryptoProvider>) -> Self {
        Self { anchors, expected, provider, peer: Mutex::default() }
    }

    /// The last server that was accepted.
    pub(super) fn peer(&self) -> Option<Peer> {
        self.peer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ServerCertVerifier for ServerIdentity {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let unreadable = |_| Error::InvalidCertificate(CertificateError::BadEncoding);
        let leaf = Certificate::from_der(end_entity).map_err(unreadable)?;
        let above = intermediates.iter().map(|der| Certificate::from_der(der)).collect::<Result<Vec<_>, _>>();
        let above = above.map_err(unreadable)?;
        let at = i64::try_from(now.as_secs()).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
        let at = at.unwrap_or(Timestamp::MAX);
        let paths = self.anchors.iter().map(|anchor| verify_path(&leaf, &above, anchor, Usage::ServerAuth, at));
        let mut reasons = vec![];
        for path in paths {
            match path {
                Ok(()) => {
                    let id = leaf.uris().join(" ");
                    if let Some(Expected(expected)) = &self.expected
                        && id != *expected
                    {
                        return Err(Error::General(format!("the server is {id:?} and must be {expected:?}")));
                    }
                    let peer = Peer { spiffe_id: id, issuer: leaf.issuer(), not_after: leaf.not_after() };
                    *self.peer.lock().unwrap_or_else(PoisonError::into_inner) = Some(peer);
                    return Ok(ServerCertVerified::assertion());
                }
                Err(error) => reasons.push(error.to_string()),
            }
        }
        Err(Error::General(format!("no CA of the platform verifies the server: {}", reasons.join("; "))))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
