//! The operator's client certificates for probes: one per TrustDomain, valid for an hour, in memory only.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use gaia_pki::Ca;
use jiff::{SignedDuration, Timestamp};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::version::TLS13;
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::cache::Subject;
use crate::execute::executor::Executor;
use crate::execute::issue;
use crate::store::Store;
use crate::store::error::ExecuteError;

/// The operator's identities, by TrustDomain.
#[derive(Default)]
pub(super) struct Identities {
    kept: RwLock<HashMap<String, Identity>>,
    /// Ensures that one is generated at a time.
    minting: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Identity {
    client: Arc<ClientConfig>,
    /// The CA that signed it, by its fingerprint.
    ca: String,
    spiffe_trust_domain: String,
    made: Timestamp,
}

/// The client for probes: with the operator's certificate, or anonymous.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) config: Arc<ClientConfig>,
    /// True if it has a client certificate.
    pub(super) is_operator: bool,
}

impl Identities {
    /// The client for an instance. Without a client certificate the leaf is still visible.
    pub(super) async fn client<S: Store>(&self, executor: &Executor<S>, subject: &Subject) -> Client {
        if let Some(config) = self.fresh(subject, executor.clock.now()) {
            return Client { config, is_operator: true };
        }
        let _one = self.minting.lock().await;
        if let Some(config) = self.fresh(subject, executor.clock.now()) {
            return Client { config, is_operator: true };
        }
        match mint(executor, subject).await {
            Ok(identity) => {
                let config = Arc::clone(&identity.client);
                let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
                kept.insert(subject.trust_domain.clone(), identity);
                Client { config, is_operator: true }
            }
            Err(error) => {
                tracing::warn!(trust_domain = subject.trust_domain, %error, "instances are probed without a certificate");
                Client { config: Arc::new(anonymous()), is_operator: false }
            }
        }
    }

    /// Renewed at half its validity, when another CA is activated, and when the clock was set back.
    fn fresh(&self, subject: &Subject, now: Timestamp) -> Option<Arc<ClientConfig>> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let identity = kept.get(&subject.trust_domain)?;
        let age = now.duration_since(identity.made);
        let is_fresh = identity.ca == subject.ca
            && identity.spiffe_trust_domain == subject.spiffe_trust_domain
            && age >= SignedDuration::ZERO
            && age < HALF_LIFE;
        is_fresh.then(|| Arc::clone(&identity.client))
    }
}

async fn mint<S: Store>(executor: &Executor<S>, subject: &Subject) -> Result<Identity, ExecuteError> {
    let ca = executor.signing_ca(&subject.trust_domain, &subject.ca).await?;
    let now = executor.clock.now();
    Ok(Identity {
        client: Arc::new(operator_client(&ca, &subject.spiffe_trust_domain, now)?),
        ca: subject.ca.clone(),
        spiffe_trust_domain: subject.spiffe_trust_domain.clone(),
        made: now,
    })
}

/// A client that presents a new certificate of the operator.
pub(super) fn operator_client(
    ca: &Ca,
    spiffe_trust_domain: &str,
    now: Timestamp,
) -> Result<ClientConfig, ExecuteError> {
    let (chain, key) = issue::operator_leaf(ca, spiffe_trust_domain, now)?;
    let internal = |error: &dyn std::fmt::Display| ExecuteError::Internal(error.to_string());
    let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<Vec<_>, _>>().map_err(|e| internal(&e))?;
    let key = PrivateKeyDer::from_pem_slice(key.to_pem().as_bytes()).map_err(|e| internal(&e))?;
    let config = builder().with_client_auth_cert(chain, key).map_err(|e| internal(&e))?;
    Ok(with_our_habits(config))
}

/// A client without a certificate.
pub(super) fn anonymous() -> ClientConfig {
    with_our_habits(builder().with_no_client_auth())
}

fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let provider = Arc::new(default_provider());
    let verifier = Arc::new(AnyServer(Arc::clone(&provider)));
    // TLS 1.3 is what aws-lc-rs always has.
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]);
    let builder = builder.unwrap_or_else(|error| unreachable!("the provider has no TLS 1.3: {error}"));
    builder.dangerous().with_custom_certificate_verifier(verifier)
}

fn with_our_habits(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A resumed session would present the certificate of an earlier one.
    config.resumption = Resumption::disabled();
    config
}

/// Accepts any server certificate as long as the server holds the key: the chain is verified afterwards.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not used".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

const HALF_LIFE: SignedDuration = SignedDuration::from_mins(30);
