//! Who a certificate says its holder is, and whether its holder may be talked to: as a client, and as a server.

use std::fmt;
use std::sync::Arc;

use gaia_api::SpiffeId;
use gaia_auth::{Denied, PeerIdentity};
use gaia_pki::{Certificate, Usage, sha256_hex, verify_path};
use jiff::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

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

/// The root that a client's chain leads to. Of several, as with a CA that was renewed under the same key, the newest:
/// the connection outlives the others.
pub(crate) fn root_of<'a>(
    roots: &'a [Certificate],
    chain: &[CertificateDer<'_>],
    now: Timestamp,
) -> Option<&'a Certificate> {
    let (leaf, intermediates) = chain.split_first()?;
    let leaf = Certificate::from_der(leaf).ok()?;
    // What is no certificate helps no chain.
    let intermediates: Vec<Certificate> =
        intermediates.iter().filter_map(|der| Certificate::from_der(der).ok()).collect();
    let leads_to = |root: &&Certificate| verify_path(&leaf, &intermediates, root, Usage::ClientAuth, now).is_ok();
    roots.iter().filter(leads_to).max_by_key(|root| root.not_before())
}

/// What webpki demands of a client certificate, and on top an identity of the trust domain and that it is not revoked.
pub(crate) struct ClientVerifier {
    pub(crate) chain: Arc<dyn ClientCertVerifier>,
    pub(crate) trust_domain: String,
    pub(crate) denied: Arc<Denied>,
}

/// What webpki demands of a server certificate, and on top that it is not revoked.
#[derive(Debug)]
pub(crate) struct ServerVerifier {
    pub(crate) chain: Arc<dyn ServerCertVerifier>,
    pub(crate) denied: Arc<Denied>,
}

fn check_revocation(denied: &Denied, leaf: &CertificateDer<'_>) -> Result<(), Error> {
    if denied.is_leaf_revoked(&sha256_hex(leaf)) { Err(CertificateError::Revoked.into()) } else { Ok(()) }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientVerifier").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        check_revocation(&self.denied, end_entity)?;
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

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        check_revocation(&self.denied, end_entity)?;
        Ok(verified)
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

#[cfg(test)]
mod tests {
    use gaia_pki::{Ca, CaRequest, KeySpec, LeafRequest, PrivateKey, Serial, Validity, issue_leaf};
    use jiff::SignedDuration;

    use super::*;
    use crate::testing::{TRUST_DOMAIN, spiffe_id};

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    /// A CA that began some days ago, and has that key.
    fn ca(key: &PrivateKey, days: i64) -> Ca {
        let request = CaRequest {
            common_name: "gaia test CA",
            trust_domain: TRUST_DOMAIN,
            serial: Serial::from_random([u8::try_from(days).unwrap(); 16]),
            validity: Validity {
                not_before: now() - SignedDuration::from_hours(24 * days),
                not_after: now() + SignedDuration::from_hours(240),
            },
        };
        Ca::self_signed(&request, PrivateKey::from_pem(&key.to_pem()).unwrap()).unwrap()
    }

    #[test]
    fn of_two_roots_with_one_key_the_newer_counts() {
        let (key, other) =
            (PrivateKey::generate(KeySpec::Ecdsa256).unwrap(), PrivateKey::generate(KeySpec::Ecdsa256).unwrap());
        let (older, newer, stranger) = (ca(&key, 2), ca(&key, 1), ca(&other, 1));
        let (private, gateway) = (PrivateKey::generate(KeySpec::Ecdsa256).unwrap(), spiffe_id("gateway"));
        let request = LeafRequest {
            spiffe_id: gateway.as_str(),
            dns_names: &[],
            ip_addresses: &[],
            usages: &[Usage::ClientAuth],
            serial: Serial::from_random([9; 16]),
            validity: Validity { not_before: now(), not_after: now() + SignedDuration::from_hours(1) },
        };
        let leaf = issue_leaf(&older, &request, &private).unwrap();
        let leaf = &Certificate::chain_from_pem(leaf.chain_pem.as_bytes()).unwrap()[0];
        let chain = [CertificateDer::from(leaf.der().to_vec())];
        let root = |roots: &[&Ca]| {
            let roots: Vec<Certificate> = roots.iter().map(|ca| ca.certificate().clone()).collect();
            root_of(&roots, &chain, now()).map(Certificate::fingerprint)
        };
        let fingerprint = |ca: &Ca| Some(ca.certificate().fingerprint());
        assert_eq!(root(&[&older, &newer, &stranger]), fingerprint(&newer));
        assert_eq!(root(&[&newer, &older]), fingerprint(&newer));
        assert_eq!(root(&[&stranger, &older]), fingerprint(&older));
        assert_eq!(root(&[&stranger]), None);
    }
}
