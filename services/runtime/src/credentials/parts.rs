//! The parts of the credential directory, each validated separately.

use std::fmt;
use std::sync::Arc;

use gaia_api::mount::{self, ApiKeys, Denylist, Policy};
use gaia_api::names::key;
use gaia_auth::tokens::KeySet;
use gaia_auth::{ApiKeyTable, Denied, check_policy};
use gaia_pki::{Certificate, PathError, PrivateKey, Usage, key_matches, sha256_hex, verify_path};
use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::credentials::directory::Files;

/// The unexpired trusted roots.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) roots: Vec<Certificate>,
    pub(crate) store: Arc<RootCertStore>,
    /// Hash of the source text.
    pub(crate) hash: String,
}

/// The service's policy, and the hash of its source text.
#[derive(Debug)]
pub(crate) struct LoadedPolicy {
    pub(crate) policy: Policy,
    pub(crate) hash: String,
}

/// The denylist, and the hash of its source text; none if there is no file.
#[derive(Debug, Default)]
pub(crate) struct LoadedDenylist {
    pub(crate) denied: Arc<Denied>,
    pub(crate) hash: Option<String>,
}

/// The API keys, and the hash of their source text; none without the file.
#[derive(Debug, Default)]
pub(crate) struct LoadedApiKeys {
    pub(crate) table: ApiKeyTable,
    pub(crate) hash: Option<String>,
}

/// The platform's public keys, and their source text.
#[derive(Debug)]
pub(crate) struct Jwks {
    pub(crate) keys: Arc<KeySet>,
    pub(crate) text: Arc<[u8]>,
}

/// The certificate and key of this service.
pub(crate) struct Leaf {
    pub(crate) certificate: Certificate,
    /// The root of its chain when it was loaded.
    pub(crate) root: Certificate,
    pub(crate) key: Arc<CertifiedKey>,
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl LoadedPolicy {
    /// Logs the loaded policy.
    pub(crate) fn log_loaded(&self) {
        tracing::info!(mode = ?self.policy.mode, tls_mode = ?self.policy.tls_mode, "policy loaded");
    }
}

impl Jwks {
    /// Logs the loaded keys.
    pub(crate) fn log_loaded(&self) {
        tracing::info!(kids = self.keys.kids().join(" "), "JWT verification keys loaded");
    }
}

impl Bundle {
    /// Logs the loaded roots, with the expiry of the one that expires first.
    pub(crate) fn log_loaded(&self) {
        let serials: Vec<String> = self.roots.iter().map(Certificate::serial).collect();
        let not_after = self.roots.iter().map(Certificate::not_after).min();
        tracing::info!(
            serials = serials.join(" "),
            not_after = not_after.map(tracing::field::display),
            "CA bundle loaded"
        );
    }

    /// Returns true if both trust the same roots: same source text, same unexpired roots.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.hash == other.hash && self.roots.len() == other.roots.len()
    }
}

impl Leaf {
    /// Logs the loaded certificate.
    pub(crate) fn log_loaded(&self) {
        tracing::info!(
            serial = self.certificate.serial(),
            not_after = %self.certificate.not_after(),
            root = self.root.serial(),
            "TLS certificate loaded"
        );
    }

    /// Returns true if both have the same chain and root. The private key is the same if the certificate is.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.key.cert == other.key.cert && self.root.der() == other.root.der()
    }
}

/// Loads `ca.crt`: accepted if all certificates are CA certificates and at least one has not expired.
pub(crate) fn bundle(files: &Files, now: Timestamp) -> Result<Bundle, String> {
    let text = files.require(key::CA_CERT)?;
    let all = Certificate::chain_from_pem(text).map_err(|error| error.to_string())?;
    if all.len() > MAX_ROOTS {
        return Err(format!("{} certificates, at most {MAX_ROOTS} are permitted", all.len()));
    }
    if let Some(other) = all.iter().find(|certificate| !certificate.is_ca()) {
        return Err(format!("{:?} is not a CA certificate", other.subject()));
    }
    let roots: Vec<Certificate> = all.into_iter().filter(|root| now <= root.not_after()).collect();
    if roots.is_empty() {
        return Err("all root certificates have expired".to_owned());
    }
    let mut store = RootCertStore::empty();
    for root in &roots {
        let der = CertificateDer::from(root.der().to_vec());
        store.add(der).map_err(|error| format!("{:?} is not usable as a trust anchor: {error}", root.subject()))?;
    }
    Ok(Bundle { roots, store: Arc::new(store), hash: sha256_hex(text) })
}

/// Loads `jwks.json`.
pub(crate) fn jwks(files: &Files) -> Result<Jwks, String> {
    let text = files.require(key::JWKS)?;
    let keys = KeySet::parse(text).map_err(|error| error.to_string())?;
    Ok(Jwks { keys: Arc::new(keys), text: text.into() })
}

/// Loads `policy.json`: accepted if it was written for this service and is unambiguous.
pub(crate) fn policy(files: &Files, service_name: &str) -> Result<LoadedPolicy, String> {
    let text = files.require(key::POLICY)?;
    let policy: Policy = mount::read(key::POLICY, text).map_err(|error| error.to_string())?;
    if policy.service.name != service_name {
        return Err(format!("service.name is {:?}, expected {service_name:?}", policy.service.name));
    }
    check_policy(&policy).map_err(|error| error.to_string())?;
    Ok(LoadedPolicy { policy, hash: sha256_hex(text) })
}

/// Loads `denylist.json`; `None` if there is none.
pub(crate) fn denylist(files: &Files) -> Result<Option<LoadedDenylist>, String> {
    let Some(text) = files.get(key::DENYLIST)? else { return Ok(None) };
    let list: Denylist = mount::read(key::DENYLIST, text).map_err(|error| error.to_string())?;
    Ok(Some(LoadedDenylist { denied: Arc::new(Denied::from(&list)), hash: Some(sha256_hex(text)) }))
}

/// Loads `api-keys.json`. Without the file there are no keys: deleting the Secret disables all keys.
pub(crate) fn api_keys(files: &Files) -> Result<LoadedApiKeys, String> {
    let Some(text) = files.get(key::API_KEYS)? else { return Ok(LoadedApiKeys::default()) };
    let keys: ApiKeys = mount::read(key::API_KEYS, text).map_err(|error| error.to_string())?;
    let table = ApiKeyTable::try_from(keys).map_err(|error| error.to_string())?;
    Ok(LoadedApiKeys { table, hash: Some(sha256_hex(text)) })
}

/// Loads `tls.crt` and `tls.key`: accepted if the key matches, the certificate belongs to this service, is valid now,
/// may be used on both ends of a connection, and chains to the current bundle.
pub(crate) fn leaf(
    files: &Files,
    bundle: &Bundle,
    policy: &Policy,
    provider: &CryptoProvider,
    now: Timestamp,
) -> Result<Leaf, String> {
    let chain = Certificate::chain_from_pem(files.require(key::TLS_CERT)?).map_err(|error| error.to_string())?;
    let pem = std::str::from_utf8(files.require(key::TLS_KEY)?).map_err(|_| "tls.key is not text".to_owned())?;
    let private = PrivateKey::from_pem(pem).map_err(|error| error.to_string())?;
    let (certificate, intermediates) = chain.split_first().ok_or("tls.crt is empty")?;
    if !key_matches(certificate, &private) {
        return Err("tls.key does not belong to tls.crt".to_owned());
    }
    let own = policy.service.spiffe_id.as_str();
    if certificate.uris() != [own] {
        return Err(format!("the SPIFFE ID in tls.crt is {:?}, expected {own}", certificate.uris()));
    }
    if now < certificate.not_before() || now > certificate.not_after() {
        // The message must not contain the current time, otherwise it would be logged at every check.
        return Err(format!(
            "tls.crt is valid from {} until {} only",
            certificate.not_before(),
            certificate.not_after()
        ));
    }
    let root = root_of(certificate, intermediates, bundle, now)?.clone();
    let der =
        PrivateKeyDer::from_pem_slice(private.to_pem().as_bytes()).map_err(|_| "tls.key is not PEM".to_owned())?;
    let key = provider.key_provider.load_private_key(der).map_err(|error| format!("tls.key cannot sign: {error}"))?;
    let chain = chain.iter().map(|certificate| CertificateDer::from(certificate.der().to_vec())).collect();
    Ok(Leaf { certificate: certificate.clone(), root, key: Arc::new(CertifiedKey::new(chain, key)) })
}

/// Returns the root that a leaf chains to, both as a server and as a client.
fn root_of<'a>(
    leaf: &Certificate,
    intermediates: &[Certificate],
    bundle: &'a Bundle,
    now: Timestamp,
) -> Result<&'a Certificate, String> {
    let mut reason = "ca.crt is empty".to_owned();
    for root in &bundle.roots {
        let check = |usage| verify_path(leaf, intermediates, root, usage, now);
        match check(Usage::ServerAuth).and_then(|()| check(Usage::ClientAuth)) {
            Ok(()) => return Ok(root),
            Err(PathError::Path { root, usage, reason: why, .. }) => {
                reason = format!("tls.crt does not chain to {root:?} for {usage}: {why}");
            }
            Err(error) => reason = error.to_string(),
        }
    }
    Err(reason)
}

const MAX_ROOTS: usize = 64;
