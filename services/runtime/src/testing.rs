//! A small platform in a directory, for tests: a CA, a signing key, and the mounted files of each service.
//!
//! All functions panic on failure; they are for tests only.
#![allow(clippy::unwrap_used, reason = "a test whose setup fails has failed")]

mod audit;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use axum::body::Body;
use gaia_api::mount::{
    ApiKeyRecord, ApiKeyRules, ApiKeyState, ApiKeys, AuthMode, Caller, Denylist, Grant, Grants, Policy, SCHEMA_VERSION,
    ServiceIdentity, TlsMode, TokenRules, UserTokens,
};
use gaia_api::names::key;
use gaia_api::{Clock as _, Span, SpiffeId, SystemClock};
use gaia_auth::issue::{ServiceClaims, Signer};
use gaia_pki::{
    Ca, CaRequest, Certificate, Jwk, JwkSet, KeySpec, LeafRequest, PrivateKey, Serial, SigningAlgorithm, Usage,
    Validity, issue_leaf,
};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use jiff::{SignedDuration, Timestamp};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

#[cfg(test)]
pub(crate) use self::audit::set_recorder;
pub use self::audit::{AuditLines, Written, audit_lines};
use crate::client::mesh_client::{Hosts, MeshClient};
use crate::client::target::Targets;
use crate::config::{LogFormat, RuntimeConfig};

/// The trust domain of every [`Platform`].
pub const TRUST_DOMAIN: &str = "gaia.local";
/// The namespace of every service.
pub const NAMESPACE: &str = "shop";

/// The files of one mounted directory, by name.
pub type MountedFiles = BTreeMap<&'static str, Vec<u8>>;

/// One trust domain.
#[derive(Debug)]
pub struct Platform {
    ca: Ca,
    signing_key: PrivateKey,
    serials: AtomicU8,
    now: Timestamp,
}

impl Default for Platform {
    fn default() -> Self {
        Self::new()
    }
}

impl Platform {
    /// Creates a platform with new keys, valid now. Its tokens are signed with ES256.
    #[must_use]
    pub fn new() -> Self {
        Self::with_signing_key(KeySpec::Ecdsa256)
    }

    /// Creates a platform with a token signing key of this kind.
    #[must_use]
    pub fn with_signing_key(spec: KeySpec) -> Self {
        let now = SystemClock.now();
        let request = CaRequest {
            common_name: "gaia test CA",
            trust_domain: TRUST_DOMAIN,
            serial: Serial::from_random([9; 16]),
            validity: Validity { not_before: now - hours(48), not_after: now + hours(480) },
        };
        let ca = Ca::self_signed(&request, PrivateKey::generate(KeySpec::Ecdsa256).unwrap()).unwrap();
        let signing_key = PrivateKey::generate(spec).unwrap();
        Self { ca, signing_key, serials: AtomicU8::new(1), now }
    }

    /// Returns `ca.crt`.
    #[must_use]
    pub fn bundle(&self) -> String {
        self.ca.certificate().to_pem()
    }

    /// Returns `jwks.json`.
    #[must_use]
    pub fn jwks(&self) -> String {
        serde_json::to_string(&JwkSet::new(vec![self.jwk()]).unwrap()).unwrap()
    }

    fn jwk(&self) -> Jwk {
        let algorithm = match self.signing_key.spec() {
            KeySpec::Ecdsa256 | KeySpec::Ecdsa384 => SigningAlgorithm::Es256,
            _ => SigningAlgorithm::Rs256,
        };
        Jwk::from_public_key(&self.signing_key.public_key(), algorithm).unwrap()
    }

    /// Returns `jwt-signing.key`.
    #[must_use]
    pub fn signing_key(&self) -> String {
        self.signing_key.to_pem().to_string()
    }

    /// Returns the signer that auth-service would use.
    #[must_use]
    pub fn signer(&self) -> Signer {
        Signer::from_pem(self.signing_key().as_bytes()).unwrap()
    }

    /// Issues a service token like auth-service, valid for a quarter of an hour.
    #[must_use]
    pub fn service_token(&self, caller: &str, target: &str, scope: Option<&str>) -> String {
        self.service_token_until(caller, target, scope, SystemClock.now() + SignedDuration::from_mins(15))
    }

    /// Issues a service token with another expiry.
    #[must_use]
    pub fn service_token_until(&self, caller: &str, target: &str, scope: Option<&str>, end: Timestamp) -> String {
        let claims = ServiceClaims {
            iss: "gaia-platform".into(),
            sub: spiffe_id(caller).to_string(),
            client_id: spiffe_id(caller).to_string(),
            service: caller.into(),
            aud: spiffe_id(target).to_string(),
            jti: "j".into(),
            iat: SystemClock.now().as_second(),
            exp: end.as_second(),
            scope: scope.map(str::to_owned),
        };
        self.signer().sign(&claims).unwrap()
    }

    /// Issues `tls.crt` and `tls.key` of a service on the loopback address, valid for a day.
    #[must_use]
    pub fn leaf(&self, service: &str) -> MountedFiles {
        self.leaf_for(spiffe_id(service).as_str(), self.now - hours(1), self.now + hours(24))
    }

    /// Issues a leaf with any identity and validity.
    #[must_use]
    pub fn leaf_for(&self, spiffe_id: &str, not_before: Timestamp, not_after: Timestamp) -> MountedFiles {
        self.issue(&LeafRequest {
            spiffe_id,
            dns_names: &["localhost".to_owned()],
            ip_addresses: &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
            usages: &[Usage::ServerAuth, Usage::ClientAuth],
            serial: self.serial(),
            validity: Validity { not_before, not_after },
        })
    }

    /// Issues the operator's client certificate, with its reserved name and no other.
    #[must_use]
    pub fn operator_leaf(&self) -> MountedFiles {
        self.issue(&LeafRequest {
            spiffe_id: SpiffeId::operator(TRUST_DOMAIN).as_str(),
            dns_names: &[],
            ip_addresses: &[],
            usages: &[Usage::ClientAuth],
            serial: self.serial(),
            validity: Validity { not_before: self.now - hours(1), not_after: self.now + hours(1) },
        })
    }

    fn serial(&self) -> Serial {
        Serial::from_random([self.serials.fetch_add(1, Ordering::Relaxed); 16])
    }

    fn issue(&self, request: &LeafRequest<'_>) -> MountedFiles {
        let private = PrivateKey::generate(KeySpec::Ecdsa256).unwrap();
        let leaf = issue_leaf(&self.ca, request, &private).unwrap();
        BTreeMap::from([
            (key::TLS_CERT, leaf.chain_pem.into_bytes()),
            (key::TLS_KEY, private.to_pem().as_bytes().to_vec()),
        ])
    }

    /// Returns all files that a pod of a service in mode Dual, Permissive, mounts.
    #[must_use]
    pub fn mount(&self, service: &str) -> MountedFiles {
        let mut files = self.leaf(service);
        files.insert(key::CA_CERT, self.bundle().into_bytes());
        files.insert(key::JWKS, self.jwks().into_bytes());
        files.insert(key::DENYLIST, serde_json::to_vec(&Denylist::empty()).unwrap());
        files.insert(key::POLICY, serde_json::to_vec(&policy(service)).unwrap());
        files
    }

    /// Returns a client that trusts this platform and presents a leaf, or none.
    #[must_use]
    pub fn client(&self, leaf: Option<&MountedFiles>) -> MeshClient {
        MeshClient::new(self.client_config(leaf), Hosts::default())
    }

    /// Returns the TLS configuration of [`Platform::client`].
    #[must_use]
    pub fn client_config(&self, leaf: Option<&MountedFiles>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.ca.certificate().der().to_vec())).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots);
        match leaf {
            None => builder.with_no_client_auth(),
            Some(leaf) => {
                let chain = CertificateDer::pem_slice_iter(&leaf[key::TLS_CERT]).map(Result::unwrap).collect();
                let key = PrivateKeyDer::from_pem_slice(&leaf[key::TLS_KEY]).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        }
    }
}

/// A directory as kubelet creates it: files behind `..data`, swapped in one rename.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
    version: u32,
}

impl Mount {
    /// Writes the first version.
    #[must_use]
    pub fn new(path: &Path, files: &MountedFiles) -> Self {
        fs::create_dir_all(path).unwrap();
        let mut mount = Self { path: path.to_owned(), version: 0 };
        mount.swap(files);
        mount
    }

    /// Writes the next version, swaps it in, and removes the previous one, as kubelet does.
    pub fn swap(&mut self, files: &MountedFiles) {
        let old = self.path.join(format!("..{}", self.version));
        self.version += 1;
        let name = format!("..{}", self.version);
        let new = self.path.join(&name);
        fs::create_dir(&new).unwrap();
        for (file, content) in files {
            fs::write(new.join(file), content).unwrap();
        }
        symlink(&name, self.path.join("..data_tmp")).unwrap();
        fs::rename(self.path.join("..data_tmp"), self.path.join("..data")).unwrap();
        let _ = fs::remove_dir_all(old);
    }
}

/// The identity of a service.
#[must_use]
pub fn spiffe_id(service: &str) -> SpiffeId {
    SpiffeId::workload(TRUST_DOMAIN, NAMESPACE, service)
}

/// `policy.json` of a service: mode Dual, Permissive, and `gateway` as its one declared caller.
#[must_use]
pub fn policy(service: &str) -> Policy {
    Policy {
        schema_version: SCHEMA_VERSION,
        service: identity(service),
        tls_mode: TlsMode::Permissive,
        mode: AuthMode::Dual,
        tokens: tokens(),
        callers: vec![Caller { spiffe_id: spiffe_id("gateway"), scopes: vec![], on_behalf_of: false }],
        api_keys: ApiKeyRules::default(),
        user_tokens: UserTokens::default(),
        targets: None,
        token_issuer: None,
    }
}

/// Returns the record of an active API key with all scopes, which is not shared.
#[must_use]
pub fn api_key(id: &str, text: &str) -> ApiKeyRecord {
    ApiKeyRecord {
        id: id.to_owned(),
        sha256: gaia_pki::sha256_hex(text.as_bytes()),
        principal: "the app".to_owned(),
        scopes: vec![],
        expires: None,
        state: ApiKeyState::Active,
        mode: None,
        shared: false,
    }
}

/// Returns `api-keys.json` with shared keys, each with its ID, its text and its scopes (none: all).
#[must_use]
pub fn api_keys(keys: &[(&str, &str, &[&str])]) -> Vec<u8> {
    let record = |(id, text, scopes): &(&str, &str, &[&str])| ApiKeyRecord {
        principal: "old clients".to_owned(),
        scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
        shared: true,
        ..api_key(id, text)
    };
    api_key_file(keys.iter().map(record).collect())
}

/// Returns `api-keys.json` with these records.
#[must_use]
pub fn api_key_file(keys: Vec<ApiKeyRecord>) -> Vec<u8> {
    serde_json::to_vec(&ApiKeys { schema_version: SCHEMA_VERSION, keys }).unwrap()
}

/// Returns `grants.json`: all of these services, and the permitted calls with their scopes; gateway may act on behalf
/// of others.
#[must_use]
pub fn grants(services: &[&str], grants: &[(&str, &str, &[&str])]) -> Vec<u8> {
    let grant = |(caller, target, scopes): &(&str, &str, &[&str])| Grant {
        caller: spiffe_id(caller),
        target: spiffe_id(target),
        scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
        on_behalf_of: *caller == "gateway",
    };
    let grants = Grants {
        schema_version: SCHEMA_VERSION,
        tokens: tokens(),
        token_ttl_seconds: None,
        services: services.iter().map(|service| identity(service)).collect(),
        grants: grants.iter().map(grant).collect(),
    };
    serde_json::to_vec(&grants).unwrap()
}

/// Returns the configuration of a service on free loopback ports, with a short reload interval and no shutdown delay.
#[must_use]
pub fn config(service: &str, dir: &Path) -> RuntimeConfig {
    let loopback = (Ipv4Addr::LOCALHOST, 0).into();
    RuntimeConfig {
        service_name: service.to_owned(),
        dir: dir.to_owned(),
        mesh_address: loopback,
        admin_address: loopback,
        log: "info".to_owned(),
        log_format: LogFormat::Text,
        reload_interval: Span::parse("20ms").unwrap(),
        shutdown_delay: Span::seconds(0),
        drain_timeout: Span::seconds(5),
        handshake_rate: "200:1000".parse().unwrap(),
        mesh_proxies: vec![],
        overrides: BTreeMap::new(),
        hosts: Hosts::default(),
        targets: Targets::default(),
    }
}

/// Returns the status and body of a response.
pub async fn read<B>(response: Response<B>) -> (StatusCode, Vec<u8>)
where
    B: hyper::body::Body,
    B::Error: std::fmt::Debug,
{
    let status = response.status();
    (status, response.into_body().collect().await.unwrap().to_bytes().to_vec())
}

/// Sends a GET in plain HTTP, for the admin listener.
pub async fn get_plain(url: &str) -> (StatusCode, String) {
    let client: Client<_, Body> = Client::builder(TokioExecutor::new()).build_http();
    let (status, body) = read(client.request(Request::get(url).body(Body::empty()).unwrap()).await.unwrap()).await;
    (status, String::from_utf8(body).unwrap())
}

/// Waits until `check` returns true, for at most ten seconds.
pub async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !check().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(10), waiting).await.is_ok(), "timed out waiting until {what}");
}

/// Returns the leaf in a mounted `tls.crt`.
#[must_use]
pub fn certificate(files: &MountedFiles) -> Certificate {
    Certificate::chain_from_pem(&files[key::TLS_CERT]).unwrap().remove(0)
}

pub(crate) fn identity(service: &str) -> ServiceIdentity {
    ServiceIdentity { namespace: NAMESPACE.into(), name: service.to_owned(), spiffe_id: spiffe_id(service) }
}

fn tokens() -> TokenRules {
    TokenRules { issuer: "gaia-platform".into(), audience: "gaia-services".into(), max_ttl_seconds: 3600 }
}

fn hours(hours: i64) -> SignedDuration {
    SignedDuration::from_hours(hours)
}
