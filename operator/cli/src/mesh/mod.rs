//! Calls as a service: with its leaf and a token, to servers that are identified by SPIFFE ID.

mod presented;
mod verifier;

use std::sync::Arc;

use axum::body::{Body, Bytes};
use gaia_api::crd::GaiaService;
use gaia_api::mount::{self, Policy};
use gaia_api::names::key;
use gaia_pki::Certificate;
use gaia_runtime::{CallError, Hosts, MeshClient, ServiceToken, TokenRequest};
use http::uri::Authority;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use rustls::ClientConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub(crate) use self::presented::Presented;
pub(crate) use self::verifier::Peer;
use self::verifier::{Expected, ServerIdentity};
use crate::Failure;
use crate::source::directory::{cannot_read, read_bounded};
use crate::source::{Directory, Listed, Source};

/// The services of a platform, and their addresses.
pub(crate) struct Platform {
    directory: Directory,
    pub(crate) services: Vec<GaiaService>,
}

/// A service that calls.
pub(crate) struct Caller {
    name: String,
    policy: Policy,
    anchors: Vec<Certificate>,
    config: ClientConfig,
}

/// A response.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
    /// The server.
    pub(crate) peer: Option<Peer>,
}

impl Platform {
    /// The services of a source.
    pub(crate) async fn load(source: Option<Source>) -> Result<Self, Failure> {
        let Some(source) = source else {
            return Err(Failure::usage("the platform is not named").next("add --dir certs, for a directory"));
        };
        let Listed { objects, .. } = source.list::<GaiaService>().await?;
        let Source::Directory(directory) = source;
        Ok(Self { directory, services: objects })
    }

    /// A service by its name.
    pub(crate) fn service(&self, name: &str) -> Result<&GaiaService, Failure> {
        self.services.iter().find(|service| service.metadata.name.as_deref() == Some(name)).ok_or_else(|| {
            let known: Vec<&str> = self.services.iter().filter_map(|it| it.metadata.name.as_deref()).collect();
            Failure::usage(format!("{}: there is no service {name}", self.directory.path().display()))
                .next(format!("name one of {}", known.join(", ")))
        })
    }

    /// The first address of a service, as `host:port`.
    pub(crate) fn address(&self, name: &str) -> Result<&str, Failure> {
        let service = self.service(name)?;
        service.spec.endpoints.first().map(String::as_str).ok_or_else(|| {
            Failure::usage(format!("GaiaService {name}: spec.endpoints is empty, so its address is not known"))
                .next("add its address to spec.endpoints, or name the URL")
        })
    }

    /// The name of the service at an address: an entry of its `spec.endpoints`, or its name.
    pub(crate) fn service_at(&self, uri: &Uri) -> Option<&str> {
        let authority = uri.authority()?;
        let is_it = |service: &&GaiaService| {
            service.spec.endpoints.iter().any(|endpoint| is_same_address(endpoint, authority))
                || service.metadata.name.as_deref() == Some(authority.host())
        };
        self.services.iter().find(is_it)?.metadata.name.as_deref()
    }

    /// The URL to connect to: a service's name without a port is replaced by its first address.
    pub(crate) fn located(&self, uri: Uri) -> Result<Uri, Failure> {
        let service = self.service_at(&uri).filter(|name| uri.port().is_none() && uri.host() == Some(*name));
        let Some(name) = service else { return Ok(uri) };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        parse_uri(&format!("https://{}{path}", self.address(name)?))
    }

    /// The SPIFFE ID of a service, in the domain of `caller`.
    pub(crate) fn identity(&self, name: &str, caller: &Caller) -> Result<String, Failure> {
        let service = self.service(name)?;
        let namespace = service.metadata.namespace.as_deref().unwrap_or("default");
        let account = service.spec.service_account_name.as_deref().unwrap_or(name);
        let domain = caller.policy.service.spiffe_id.trust_domain();
        Ok(gaia_api::SpiffeId::workload(domain, namespace, account).as_str().to_owned())
    }

    /// Loads the credentials of a service.
    pub(crate) fn caller(&self, name: &str) -> Result<Caller, Failure> {
        self.service(name)?;
        let folder = self.directory.path().join(name);
        let read = |file: &str| {
            let path = folder.join(file);
            read_bounded(&path).map_err(|error| cannot_read(&path, &error))
        };
        let wrong = |file: &str, error: &dyn std::fmt::Display| {
            Failure::failing(format!("{}: {error}", folder.join(file).display()))
                .next("gaia check --dir names the cause")
        };
        let policy = mount::read(key::POLICY, &read(key::POLICY)?).map_err(|error| wrong(key::POLICY, &error))?;
        let anchors = Certificate::chain_from_pem(&read(key::CA_CERT)?).map_err(|error| wrong(key::CA_CERT, &error))?;
        let chain = CertificateDer::pem_slice_iter(&read(key::TLS_CERT)?).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| wrong(key::TLS_CERT, &error))?;
        let private = PrivateKeyDer::from_pem_slice(&read(key::TLS_KEY)?);
        // The error of the parser could quote the key.
        let private = private.map_err(|_| wrong(key::TLS_KEY, &"it is not a private key in PEM"))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let config = config.map_err(|error| Failure::bug(error.to_string()))?;
        let verifier = Arc::new(ServerIdentity::new(anchors.clone(), None, provider));
        let config = config.dangerous().with_custom_certificate_verifier(verifier);
        let config = config.with_client_auth_cert(chain, private).map_err(|error| wrong(key::TLS_CERT, &error))?;
        Ok(Caller { name: name.to_owned(), policy, anchors, config })
    }
}

impl Caller {
    /// A client that connects to a server with that SPIFFE ID only; none: any server of the platform.
    fn client(&self, expected: Option<String>) -> (MeshClient, Arc<ServerIdentity>) {
        let provider = Arc::clone(self.config.crypto_provider());
        let verifier = Arc::new(ServerIdentity::new(self.anchors.clone(), expected.map(Expected), provider));
        let mut config = self.config.clone();
        config.dangerous().set_certificate_verifier(Arc::clone(&verifier) as Arc<_>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        (MeshClient::new(config, Hosts::default()), verifier)
    }

    /// Requests a token for calls to `audience`.
    pub(crate) async fn token(
        &self,
        platform: &Platform,
        audience: &str,
        scope: Option<&str>,
        url: Option<&Uri>,
    ) -> Result<ServiceToken, Failure> {
        let issuer = self.policy.token_issuer.as_ref().ok_or_else(|| {
            Failure::usage(format!("policy.json of {} names no token issuer", self.name))
                .next("set spec.tokens.issuedBy of the TrustDomain")
        })?;
        let uri = match url {
            Some(url) => url.clone(),
            None => parse_uri(&format!("https://{}", platform.address(&issuer.name)?))?,
        };
        let (client, _) = self.client(Some(issuer.spiffe_id.as_str().to_owned()));
        let request =
            TokenRequest { service_name: &self.name, target_service: Some(audience), scope, expires_in: None };
        client.service_token(&uri, &request).await.map_err(|error| match error {
            CallError::Refused { status, .. } => {
                Failure::failing(format!("{} refused a token of {} for {audience}: {status}", issuer.name, self.name))
                    .next(format!("declare {} in spec.callers of GaiaService {audience}", self.name))
            }
            other => not_called(&other),
        })
    }

    /// Makes one request.
    pub(crate) async fn call(
        &self,
        method: Method,
        uri: Uri,
        headers: HeaderMap,
        body: String,
        expected: Option<String>,
    ) -> Result<Answer, Failure> {
        let (client, verifier) = self.client(expected);
        let mut request = Request::new(if body.is_empty() { Body::empty() } else { Body::from(body) });
        *request.method_mut() = method;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers;
        let answer = client.request(request).await.map_err(|error| not_called(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_BODY_BYTES).collect().await;
        let body = body.map_err(|error| Failure::unknown(format!("{uri}: the response was cut off: {error}")))?;
        Ok(Answer { status, body: body.to_bytes(), peer: verifier.peer() })
    }
}

/// Returns true if both are one address; the names of this machine are one host.
fn is_same_address(endpoint: &str, authority: &Authority) -> bool {
    let Ok(endpoint) = endpoint.parse::<Authority>() else { return false };
    let is_local = |host: &str| matches!(host, "localhost" | "127.0.0.1" | "[::1]");
    endpoint.port_u16() == authority.port_u16()
        && (endpoint.host() == authority.host() || is_local(endpoint.host()) && is_local(authority.host()))
}

/// Parses an absolute `https` URL.
pub(crate) fn parse_uri(text: &str) -> Result<Uri, Failure> {
    let uri = text.parse::<Uri>().ok().filter(|uri| uri.scheme_str() == Some("https") && uri.host().is_some());
    uri.ok_or_else(|| {
        Failure::usage(format!("{text:?} is not an https URL"))
            .next("write https://HOST:PORT/PATH, as https://localhost:8443/health")
    })
}

fn not_called(error: &CallError) -> Failure {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    match error {
        CallError::WrongServer { .. } | CallError::Refused { .. } => Failure::failing(text),
        _ => Failure::unknown(text).next("check that the service runs, and its address in spec.endpoints"),
    }
}

const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;
