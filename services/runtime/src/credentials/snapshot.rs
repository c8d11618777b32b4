//! Credentials snapshot: an immutable set of loaded TLS material. Every change creates a new one.
//!
//! rustls resumes a session without verifying the client certificate again, so sessions are never resumed: there is no
//! session storage and there are no tickets, and both configurations are rebuilt.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use gaia_api::mount::{Policy, TlsMode};
use gaia_api::sync::lock;
use gaia_api::{Clock, SpiffeId};
use gaia_auth::tokens::KeySet;
use gaia_auth::{Denied, PeerIdentity};
use gaia_pki::sha256_hex;
use jiff::Timestamp;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;

use crate::client::mesh_client::{Hosts, MeshClient};
use crate::client::target::Expected;
use crate::credentials::parts::{Bundle, Jwks, Leaf, LoadedApiKeys, LoadedDenylist, LoadedPolicy};
use crate::credentials::peer::{Peers, Seen};
use crate::credentials::verifier::{ClientVerifier, ServerVerifier};
use crate::observability::metrics::Metrics;

/// The current credentials snapshot; `None` before the first.
pub(crate) type SnapshotReceiver = watch::Receiver<Option<Arc<CredentialsSnapshot>>>;

/// The loaded credentials used by listeners and clients until the next change.
#[derive(Debug)]
pub struct CredentialsSnapshot {
    pub(crate) parts: TakenParts,
    pub(crate) server: Arc<ServerConfig>,
    verifier: Arc<ClientVerifier>,
    clients: Arc<Clients>,
    /// SHA-256 of key set, denylist, policy and API keys.
    context: Arc<str>,
}

/// One client per target: a connection to one target is never used for another.
struct Clients {
    config: ClientConfig,
    chain: Arc<dyn ServerCertVerifier>,
    peers: Arc<Peers>,
    hosts: Hosts,
    metrics: Arc<Metrics>,
    by_target: Mutex<HashMap<String, MeshClient>>,
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clients")
    }
}

impl Clients {
    /// Returns the same configuration without clients.
    fn anew(&self) -> Self {
        Self {
            config: self.config.clone(),
            chain: Arc::clone(&self.chain),
            peers: Arc::clone(&self.peers),
            hosts: self.hosts.clone(),
            metrics: Arc::clone(&self.metrics),
            by_target: Mutex::default(),
        }
    }

    fn of(&self, target: &str, policy: &Policy, denied: &Arc<Denied>) -> MeshClient {
        let mut by_target = lock(&self.by_target);
        if let Some(client) = by_target.get(target) {
            return client.clone();
        }
        let mut config = self.config.clone();
        let verifier = ServerVerifier {
            chain: Arc::clone(&self.chain),
            peers: Arc::clone(&self.peers),
            denied: Arc::clone(denied),
            expected: Expected::of(policy, target),
            metrics: Arc::clone(&self.metrics),
        };
        // The verifier calls the default one first and adds checks.
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        let client = MeshClient::new(config, self.hosts.clone());
        if by_target.len() >= MAX_TARGETS {
            by_target.clear();
        }
        by_target.insert(target.to_owned(), client.clone());
        client
    }
}

/// The parts of the credential directory that a snapshot consists of.
#[derive(Debug, Clone)]
pub(crate) struct TakenParts {
    pub(crate) bundle: Arc<Bundle>,
    pub(crate) leaf: Arc<Leaf>,
    pub(crate) policy: Arc<LoadedPolicy>,
    pub(crate) denylist: Arc<LoadedDenylist>,
    /// None if none was ever loaded.
    pub(crate) jwks: Option<Arc<Jwks>>,
    pub(crate) api_keys: Arc<LoadedApiKeys>,
}

impl TakenParts {
    /// Returns true if all parts are the same as before.
    pub(crate) fn are(&self, before: &Self) -> bool {
        let is_same_jwks = match (&self.jwks, &before.jwks) {
            (Some(jwks), Some(before)) => Arc::ptr_eq(jwks, before),
            (None, None) => true,
            _ => false,
        };
        is_same_jwks
            && Arc::ptr_eq(&self.policy, &before.policy)
            && Arc::ptr_eq(&self.api_keys, &before.api_keys)
            && self.make_the_same_tls_as(before)
    }

    /// Returns true if TLS configurations and connections of `before` stay valid: they depend on bundle, leaf,
    /// denylist, TLS mode and trust domain.
    fn make_the_same_tls_as(&self, before: &Self) -> bool {
        let (policy, old) = (&self.policy.policy, &before.policy.policy);
        Arc::ptr_eq(&self.bundle, &before.bundle)
            && Arc::ptr_eq(&self.leaf, &before.leaf)
            && Arc::ptr_eq(&self.denylist, &before.denylist)
            && policy.tls_mode == old.tls_mode
            && policy.service.spiffe_id.trust_domain() == old.service.spiffe_id.trust_domain()
    }

    /// Returns true if the expected identities of servers are the same as before.
    fn expect_the_same_servers_as(&self, before: &Self) -> bool {
        let (policy, old) = (&self.policy.policy, &before.policy.policy);
        (&policy.targets, &policy.token_issuer, policy.mode, &policy.service)
            == (&old.targets, &old.token_issuer, old.mode, &old.service)
    }

    fn context(&self) -> Arc<str> {
        let mut text = Vec::new();
        for part in [
            self.jwks.as_ref().map(|jwks| &*jwks.text),
            self.denylist.hash.as_deref().map(str::as_bytes),
            Some(self.policy.hash.as_bytes()),
            self.api_keys.hash.as_deref().map(str::as_bytes),
        ] {
            // Each part is hashed separately, so that the concatenation is unambiguous.
            text.extend(part.map(sha256_hex).unwrap_or_default().into_bytes());
            text.push(b' ');
        }
        sha256_hex(&text).into()
    }
}

impl CredentialsSnapshot {
    /// Builds a snapshot. TLS configurations and the connection pool of `before` are reused if nothing that they depend
    /// on has changed. Fails only if the parts do not match each other, which is checked when they are loaded.
    pub(crate) fn new(
        parts: TakenParts,
        before: Option<&Self>,
        hosts: &Hosts,
        provider: &Arc<CryptoProvider>,
        clock: &Arc<dyn Clock>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, String> {
        let context = parts.context();
        if let Some(before) = before.filter(|before| parts.make_the_same_tls_as(&before.parts)) {
            let is_same = parts.expect_the_same_servers_as(&before.parts);
            let clients = if is_same { Arc::clone(&before.clients) } else { Arc::new(before.clients.anew()) };
            let (server, verifier) = (Arc::clone(&before.server), Arc::clone(&before.verifier));
            return Ok(Self { parts, server, verifier, clients, context });
        }
        let trust_domain = parts.policy.policy.service.spiffe_id.trust_domain();
        let peers = Arc::new(Peers::new(Arc::clone(&parts.bundle), trust_domain));
        let verifier = Arc::new(verifier(&parts, &peers, provider)?);
        let server = server(&parts.leaf, Arc::<ClientVerifier>::clone(&verifier), provider, clock);
        let server = server.map_err(|error| error.to_string())?;
        let clients = Arc::new(Clients {
            chain: server_chain(&parts, provider)?,
            peers: Arc::clone(&peers),
            hosts: hosts.clone(),
            metrics: Arc::clone(metrics),
            config: client(&parts, provider, clock)?,
            by_target: Mutex::default(),
        });
        Ok(Self { parts, server: Arc::new(server), verifier, clients, context })
    }

    /// Returns the client for a target service, `name` or `namespace/name` (a bare name is in the own namespace), with
    /// this snapshot's leaf, bundle and connections. It accepts only servers with the target's SPIFFE ID.
    #[must_use]
    pub fn client(&self, target: &str) -> MeshClient {
        self.clients.of(target, self.policy(), &self.parts.denylist.denied)
    }

    /// Returns the policy.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.parts.policy.policy
    }

    /// Returns the denylist.
    #[must_use]
    pub fn denied(&self) -> &Denied {
        &self.parts.denylist.denied
    }

    /// Returns the platform's public keys; `None` if none were ever loaded.
    pub(crate) fn keys(&self) -> Option<&KeySet> {
        self.parts.jwks.as_ref().map(|jwks| &*jwks.keys)
    }

    /// Returns the hash of key set, denylist, policy and API keys: decisions based on them stay valid until it changes.
    #[must_use]
    pub fn context(&self) -> Arc<str> {
        Arc::clone(&self.context)
    }

    /// Returns the text of `jwks.json`; `None` if none was ever loaded.
    #[must_use]
    pub fn jwks(&self) -> Option<&[u8]> {
        self.parts.jwks.as_ref().map(|jwks| jwks.text.as_ref())
    }

    /// Returns true if the leaf has not expired.
    pub(crate) fn is_in_date(&self, now: Timestamp) -> bool {
        now <= self.parts.leaf.certificate.not_after()
    }

    /// Returns the identity and the root of a chain that was verified with this snapshot.
    pub(crate) fn see(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Arc<Seen> {
        match chain.split_first() {
            Some((leaf, intermediates)) => self.verifier.peers.see(leaf, intermediates, now),
            None => Arc::default(),
        }
    }

    /// Returns true if a peer is the operator, the only caller that may query the instance's state.
    pub(crate) fn is_operator(&self, peer: &PeerIdentity) -> bool {
        peer.spiffe_id == SpiffeId::operator(self.trust_domain())
    }

    /// Returns true if the policy lists a caller.
    #[must_use]
    pub fn declares(&self, caller: &SpiffeId) -> bool {
        self.policy().callers.iter().any(|declared| declared.spiffe_id == *caller)
    }

    /// Returns true if a peer with that chain would be accepted now. An empty chain is accepted where none is required.
    pub(crate) fn admits(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> bool {
        match chain.split_first() {
            Some((leaf, intermediates)) => self.verifier.check(leaf, intermediates, unix(now)).is_ok(),
            None => !self.verifier.client_auth_mandatory(),
        }
    }

    fn trust_domain(&self) -> &str {
        self.policy().service.spiffe_id.trust_domain()
    }
}

fn verifier(parts: &TakenParts, peers: &Arc<Peers>, provider: &Arc<CryptoProvider>) -> Result<ClientVerifier, String> {
    let policy = &parts.policy.policy;
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(&parts.bundle.store), Arc::clone(provider));
    let builder = match policy.tls_mode {
        TlsMode::Permissive => builder.allow_unauthenticated(),
        TlsMode::Strict => builder,
    };
    let chain = builder.build().map_err(|error| error.to_string())?;
    let denied = Arc::clone(&parts.denylist.denied);
    Ok(ClientVerifier { chain, peers: Arc::clone(peers), denied, mode: policy.tls_mode })
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

fn server_chain(parts: &TakenParts, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let builder = WebPkiServerVerifier::builder_with_provider(Arc::clone(&parts.bundle.store), Arc::clone(provider));
    Ok(builder.build().map_err(|error| error.to_string())?)
}

/// Returns the TLS configuration of clients without the verifier of a target.
fn client(parts: &TakenParts, provider: &Arc<CryptoProvider>, clock: &Arc<dyn Clock>) -> Result<ClientConfig, String> {
    let mut config = ClientConfig::builder_with_details(Arc::clone(provider), time(clock))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| error.to_string())?
        .with_root_certificates(Arc::clone(&parts.bundle.store))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&parts.leaf.key))));
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

/// Adapter from [`Clock`] to rustls.
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

/// Targets are configured by name; a service has fewer than this.
const MAX_TARGETS: usize = 256;
