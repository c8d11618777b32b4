//! One whole set of TLS material. It is never changed: any change makes a new one.
//!
//! rustls resumes a session without looking at the client certificate again, so nothing is ever resumed: no session
//! storage, no tickets, and both configurations are built anew.

use std::sync::Arc;

use gaia_api::Clock;
use gaia_api::mount::{Policy, TlsMode};
use gaia_auth::PeerIdentity;
use jiff::Timestamp;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::client::MeshClient;
use crate::material::{Bundle, Jwks, Leaf};
use crate::peer::{SpiffeVerifier, identity};

/// What listeners and clients of this service use until the next change.
#[derive(Debug)]
pub struct Generation {
    pub(crate) leaf: Arc<Leaf>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) server: Arc<ServerConfig>,
    jwks: Option<Arc<Jwks>>,
    verifier: Arc<dyn ClientCertVerifier>,
    client: MeshClient,
}

impl Generation {
    /// Builds both configurations. Fails only if the parts do not fit together, which they were judged to.
    pub(crate) fn new(
        bundle: &Bundle,
        leaf: Arc<Leaf>,
        policy: Arc<Policy>,
        jwks: Option<Arc<Jwks>>,
        provider: &Arc<CryptoProvider>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, String> {
        let verifier = verifier(bundle, &policy, provider)?;
        let server = server(&leaf, Arc::clone(&verifier), provider, clock).map_err(|error| error.to_string())?;
        let client = client(bundle, &leaf, provider, clock).map_err(|error| error.to_string())?;
        Ok(Self { leaf, policy, server: Arc::new(server), jwks, verifier, client: MeshClient::new(client) })
    }

    /// The client for calls to other services, with this generation's leaf, bundle and connections.
    #[must_use]
    pub fn client(&self) -> &MeshClient {
        &self.client
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The text of `jwks.json`; `None` if none was ever loaded.
    #[must_use]
    pub fn jwks(&self) -> Option<&[u8]> {
        self.jwks.as_ref().map(|jwks| jwks.text.as_ref())
    }

    /// Whether the leaf still holds.
    pub(crate) fn is_in_date(&self, now: Timestamp) -> bool {
        now <= self.leaf.certificate.not_after()
    }

    /// Who the holder of a leaf is that was verified in a handshake under this generation.
    pub(crate) fn identify(&self, leaf: &CertificateDer<'_>) -> Option<PeerIdentity> {
        identity(leaf, self.policy.service.spiffe_id.trust_domain())
    }

    /// Whether a peer with that chain would be let in now. Without a chain: where none is needed.
    pub(crate) fn admits(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> bool {
        match chain.split_first() {
            Some((leaf, intermediates)) => self.verifier.verify_client_cert(leaf, intermediates, unix(now)).is_ok(),
            None => !self.verifier.client_auth_mandatory(),
        }
    }
}

fn verifier(
    bundle: &Bundle,
    policy: &Policy,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(&bundle.store), Arc::clone(provider));
    let builder = match policy.tls_mode {
        TlsMode::Permissive => builder.allow_unauthenticated(),
        TlsMode::Strict => builder,
    };
    let chain = builder.build().map_err(|error| error.to_string())?;
    let trust_domain = policy.service.spiffe_id.trust_domain().to_owned();
    Ok(Arc::new(SpiffeVerifier { chain, trust_domain }))
}

fn server(
    leaf: &Leaf,
    verifier: Arc<dyn ClientCertVerifier>,
    provider: &Arc<CryptoProvider>,
    clock: &Arc<dyn Clock>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_details(Arc::clone(provider), time(clock))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&leaf.key))));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = alpn();
    Ok(config)
}

fn client(
    bundle: &Bundle,
    leaf: &Leaf,
    provider: &Arc<CryptoProvider>,
    clock: &Arc<dyn Clock>,
) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_details(Arc::clone(provider), time(clock))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(Arc::clone(&bundle.store))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&leaf.key))));
    config.resumption = Resumption::disabled();
    config.alpn_protocols = alpn();
    Ok(config)
}

fn alpn() -> Vec<Vec<u8>> {
    vec![b"h2".to_vec(), b"http/1.1".to_vec()]
}

fn time(clock: &Arc<dyn Clock>) -> Arc<dyn TimeProvider> {
    Arc::new(ClockTime(Arc::clone(clock)))
}

/// Our clock as rustls asks for it.
struct ClockTime(Arc<dyn Clock>);

impl std::fmt::Debug for ClockTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClockTime")
    }
}

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix(self.0.now()))
    }
}

fn unix(time: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(time.as_second()).unwrap_or_default()))
}
