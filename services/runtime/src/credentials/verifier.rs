//! Verification of certificates in a handshake, on both sides: the chain with webpki, and in addition key usages,
//! identity and denylist.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use gaia_api::mount::TlsMode;
use gaia_auth::Denied;
use gaia_pki::{Certificate, KeyUsageError, sha256_hex};
use jiff::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::client::target::{Expected, Match};
use crate::credentials::peer::{Peers, Seen};
use crate::credentials::presented::{Presented, Verdict, presented_name};
use crate::observability::metrics::Metrics;

/// Verifies client certificates.
pub(crate) struct ClientVerifier {
    pub(crate) chain: Arc<dyn ClientCertVerifier>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) denied: Arc<Denied>,
    pub(crate) mode: TlsMode,
}

/// Verifies the certificate of the server of one target.
pub(crate) struct ServerVerifier {
    pub(crate) chain: Arc<dyn ServerCertVerifier>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) denied: Arc<Denied>,
    pub(crate) expected: Expected,
    pub(crate) metrics: Arc<Metrics>,
}

/// A refused client certificate.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Metric label, from a fixed set.
    pub(crate) reason: &'static str,
    pub(crate) error: Error,
}

impl ClientVerifier {
    /// Returns the identity of a chain.
    ///
    /// # Errors
    /// [`Refused`] if it does not verify, names no workload of the trust domain, or is revoked.
    pub(crate) fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Arc<Seen>, Refused> {
        let leaf = Certificate::from_der(end_entity)
            .map_err(|_| Refused { reason: "malformed", error: CertificateError::BadEncoding.into() })?;
        if leaf.is_version_1() {
            let error = "the client certificate is X.509 version 1, which has no subjectAltName".to_owned();
            return Err(Refused { reason: "x509_v1", error: Error::General(error) });
        }
        let path = signing(intermediates);
        let verified = self.chain.verify_client_cert(end_entity, &path, now);
        verified.map_err(|error| Refused::of(unless_key_usage(error, intermediates, &path)))?;
        leaf.check_leaf_key_usage().map_err(|error| Refused::of(key_usage(error)))?;
        let seen = self.peers.see(end_entity, intermediates, timestamp(now).map_err(Refused::of)?);
        if seen.is_below_revoked(&self.denied) || self.denied.is_leaf_revoked(&sha256_hex(end_entity)) {
            return Err(Refused::of(CertificateError::Revoked.into()));
        }
        if seen.identity.is_none() {
            let reason = if leaf.uris().is_empty() { "no_spiffe_id" } else { "other_spiffe_id" };
            return Err(Refused { reason, error: CertificateError::ApplicationVerificationFailure.into() });
        }
        Ok(seen)
    }
}

impl Refused {
    fn of(error: Error) -> Self {
        Self { reason: certificate_reason(&error), error }
    }

    /// Returns true if the certificate was revoked: its holder is refused in every TLS mode.
    fn is_revocation(&self) -> bool {
        self.error == Error::InvalidCertificate(CertificateError::Revoked)
    }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientVerifier").field("peers", &self.peers).finish_non_exhaustive()
    }
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerVerifier").field("expected", &self.expected).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let (verdict, result) = match self.check(end_entity, intermediates, now) {
            Ok(seen) => (Verdict::Peer(seen), Ok(ClientCertVerified::assertion())),
            Err(refused) => {
                // If no certificate is required, one that does not verify is treated as none.
                let is_none = self.mode == TlsMode::Permissive && !refused.is_revocation();
                let verdict = Verdict::NoPeer { reason: refused.reason, presented: presented_name(end_entity) };
                (verdict, if is_none { Ok(ClientCertVerified::assertion()) } else { Err(refused.error) })
            }
        };
        // Without a handshake to store the result in, a certificate that does not verify is refused.
        match Presented::note(verdict) {
            Ok(()) => result,
            Err(Verdict::Peer(_)) => result,
            Err(Verdict::NoPeer { .. }) => result.and(Err(CertificateError::ApplicationVerificationFailure.into())),
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
        if Presented::is_no_peer() {
            // The key may be of an unsupported type. Nothing is read from this certificate.
            return Ok(HandshakeSignatureValid::assertion());
        }
        self.chain.verify_tls13_signature(message, cert, signature)
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let path = signing(intermediates);
        let verified = self.chain.verify_server_cert(end_entity, &path, server_name, ocsp_response, now);
        let verified = verified.map_err(|error| unless_key_usage(error, intermediates, &path))?;
        let leaf = Certificate::from_der(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        leaf.check_leaf_key_usage().map_err(key_usage)?;
        if self.denied.is_leaf_revoked(&sha256_hex(end_entity)) {
            return Err(CertificateError::Revoked.into());
        }
        // A server's chain is parsed only for this check.
        if self.denied.has_issuers()
            && self.peers.see(end_entity, intermediates, timestamp(now)?).is_below_revoked(&self.denied)
        {
            return Err(CertificateError::Revoked.into());
        }
        match self.expected.check(&leaf) {
            Ok(found) => {
                self.metrics.server_identity(match found {
                    Match::SpiffeId => "spiffe_id",
                    Match::DnsName => "dns_name",
                });
                Ok(verified)
            }
            Err(unexpected) => {
                self.metrics.server_identity("unexpected");
                Err(CertificateError::Other(OtherError(Arc::new(unexpected))).into())
            }
        }
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

/// Returns the intermediates that may sign certificates: webpki does not check their keyUsage.
fn signing<'a, 'b>(intermediates: &'a [CertificateDer<'b>]) -> Cow<'a, [CertificateDer<'b>]> {
    let may_sign = |der: &&CertificateDer<'b>| {
        Certificate::from_der(der).is_ok_and(|certificate| certificate.may_sign_certificates())
    };
    if intermediates.iter().all(|der| may_sign(&der)) {
        return Cow::Borrowed(intermediates);
    }
    Cow::Owned(intermediates.iter().filter(may_sign).cloned().collect())
}

/// Returns the error for a path built without the intermediates that may not sign.
fn unless_key_usage(error: Error, presented: &[CertificateDer<'_>], path: &[CertificateDer<'_>]) -> Error {
    let is_cut = path.len() < presented.len();
    if is_cut && error == Error::InvalidCertificate(CertificateError::UnknownIssuer) {
        other(IntermediateMayNotSign)
    } else {
        error
    }
}

#[derive(Debug, thiserror::Error)]
#[error("an intermediate has a keyUsage without keyCertSign, or cannot be read")]
struct IntermediateMayNotSign;

fn key_usage(error: KeyUsageError) -> Error {
    other(error)
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

/// Returns the metric label for a refused certificate.
fn certificate_reason(error: &Error) -> &'static str {
    let Error::InvalidCertificate(error) = error else { return "other" };
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "not_yet_valid",
        CertificateError::Revoked => "revoked",
        // Bad signature: a CA with the name of a trusted one but another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => "unknown_ca",
        CertificateError::BadEncoding => "malformed",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => "purpose",
        CertificateError::Other(OtherError(cause)) if cause.is::<KeyUsageError>() => "key_usage",
        CertificateError::Other(OtherError(cause)) if cause.is::<IntermediateMayNotSign>() => "key_usage",
        _ => "other",
    }
}

pub(crate) fn timestamp(now: UnixTime) -> Result<Timestamp, Error> {
    let time = i64::try_from(now.as_secs()).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.ok_or(Error::FailedToGetCurrentTime)
}

#[cfg(test)]
pub(crate) mod tests;
