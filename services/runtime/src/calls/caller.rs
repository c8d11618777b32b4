//! Calls to other services with this service's certificate, and a token per target or per subject and target.

use std::path::PathBuf;
use std::sync::Arc;

use axum::body::{Body, Bytes, HttpBody as _};
use gaia_auth::{API_KEY_HEADER, request_id};
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};

use crate::calls::exchange::OnBehalf;
use crate::calls::tokens::{Issuer, Tokens, Wanted};
use crate::client::mesh_client::{CallError, MeshClient, loggable_uri};
use crate::client::pool::AnswerBody;
use crate::client::target::Targets;
use crate::config::RuntimeConfig;
use crate::credentials::key_file::KeyFile;
use crate::credentials::snapshot::{CredentialsSnapshot, SnapshotReceiver};

/// Calls other services with the current credentials snapshot; certificate and connections belong to the same one.
/// Tokens stay in use after a change of the snapshot that does not revoke them.
///
/// While the file in `GAIA_API_KEY_FILE` exists and is not empty, every call carries its API key instead of a token.
/// This supports platforms that still use one shared key.
#[derive(Debug, Clone)]
pub struct Caller {
    generations: SnapshotReceiver,
    targets: Targets,
    auth_url: Uri,
    key_file: Option<KeyFile>,
    plain: MeshClient,
    tokens: Arc<Tokens>,
}

/// Configuration of services that call others.
#[derive(Debug, Clone, clap::Args)]
pub struct CallsConfig {
    /// Base URL of auth-service for tokens: https and no path [default: port 8443 of auth-service.NAMESPACE.svc, with
    /// its own namespace]
    #[arg(long, env = "GAIA_AUTH_URL", value_parser = parse_https)]
    pub auth_url: Option<Uri>,
    /// A file with an API key for calls to other services; while it exists, it is used instead of tokens
    #[arg(long, env = "GAIA_API_KEY_FILE")]
    pub api_key_file: Option<PathBuf>,
}

impl Caller {
    pub(crate) fn new(
        generations: SnapshotReceiver,
        auth_url: Uri,
        config: &CallsConfig,
        RuntimeConfig { hosts, targets, .. }: &RuntimeConfig,
    ) -> Self {
        let key_file = config.api_key_file.clone().map(KeyFile::new);
        let (targets, plain) = (targets.clone(), MeshClient::plain(hosts.clone()));
        Self { generations, targets, auth_url, key_file, plain, tokens: Arc::default() }
    }

    /// Returns true if calls currently use the API key of `GAIA_API_KEY_FILE`.
    #[must_use]
    pub fn uses_api_key(&self) -> bool {
        self.api_key().is_some()
    }

    /// Calls a target service, `name` or `namespace/name`, at the request's URI. If the target rejects the token (401
    /// `invalid_token`), the request is retried once with a new one.
    ///
    /// # Errors
    /// [`CallError::NotReady`] before the first snapshot; [`CallError`] if auth-service issues no token, or the target
    /// does not respond.
    pub async fn call(&self, target: &str, request: Request<Bytes>) -> Result<Response<AnswerBody>, CallError> {
        self.send(Wanted { target, subject: None }, request).await
    }

    /// Like [`Caller::call`], on behalf of a subject: with a token that auth-service issues in exchange for the
    /// subject's credential.
    ///
    /// # Errors
    /// As [`Caller::call`], and [`CallError::SubjectRefused`] if the credential is rejected.
    pub async fn call_for(
        &self,
        subject: impl Into<OnBehalf<'_>>,
        target: &str,
        request: Request<Bytes>,
    ) -> Result<Response<AnswerBody>, CallError> {
        self.send(Wanted { target, subject: Some(subject.into()) }, request).await
    }

    /// Like [`Caller::call`], with a streamed body. It cannot be retried: if the target rejects the token, its response
    /// is returned, and the next call gets a new token.
    ///
    /// # Errors
    /// As [`Caller::call`].
    pub async fn call_streaming(
        &self,
        target: &str,
        request: Request<Body>,
    ) -> Result<Response<AnswerBody>, CallError> {
        self.stream(Wanted { target, subject: None }, request).await
    }

    /// Like [`Caller::call_streaming`], on behalf of a subject.
    ///
    /// # Errors
    /// As [`Caller::call_for`].
    pub async fn call_streaming_for(
        &self,
        subject: impl Into<OnBehalf<'_>>,
        target: &str,
        request: Request<Body>,
    ) -> Result<Response<AnswerBody>, CallError> {
        self.stream(Wanted { target, subject: Some(subject.into()) }, request).await
    }

    /// Calls a target with the API key of `GAIA_API_KEY_FILE`, never with a token; `None` while there is no key.
    ///
    /// # Errors
    /// [`CallError`] if the key is malformed or the target does not respond.
    pub async fn call_by_key(
        &self,
        target: &str,
        request: Request<Body>,
    ) -> Option<Result<Response<AnswerBody>, CallError>> {
        let key = self.api_key()?;
        let client = self.client(self.targets.get(target), request.uri());
        Some(async { client?.request(with_key(&key, request)?).await }.await)
    }

    /// Calls a target with the credential already in the request.
    ///
    /// # Errors
    /// [`CallError::NotReady`] before the first snapshot; [`CallError`] if the target does not respond.
    pub async fn call_as_is(&self, target: &str, request: Request<Body>) -> Result<Response<AnswerBody>, CallError> {
        self.client(self.targets.get(target), request.uri())?.request(request).await
    }

    async fn send(&self, wanted: Wanted<'_>, request: Request<Bytes>) -> Result<Response<AnswerBody>, CallError> {
        let request_id = request_id(request.headers()).map(str::to_owned);
        let wanted = wanted.of_request(self.targets.get(wanted.target), request_id.as_deref());
        let target = wanted.target;
        if let Some(key) = self.api_key() {
            return self.client(target, request.uri())?.send_with_retry(with_key(&key, request)?).await;
        }
        check_protected(request.uri())?;
        let (generation, token) = self.token(wanted, None).await?;
        let answer = generation.client(target).send_with_retry(with_token(&token, request.clone())?).await?;
        if !is_token_refused(&answer) {
            return Ok(answer);
        }
        tracing::info!(target, "the target rejected a token; requesting a new one");
        match self.token(wanted, Some(&token)).await {
            Ok((generation, token)) => generation.client(target).send_with_retry(with_token(&token, request)?).await,
            Err(error) => {
                tracing::warn!(target, %error, "failed to get a new token");
                Ok(answer)
            }
        }
    }

    async fn stream(&self, wanted: Wanted<'_>, request: Request<Body>) -> Result<Response<AnswerBody>, CallError> {
        if request.body().is_end_stream() {
            return self.send(wanted, request.map(|_| Bytes::new())).await;
        }
        let request_id = request_id(request.headers()).map(str::to_owned);
        let wanted = wanted.of_request(self.targets.get(wanted.target), request_id.as_deref());
        if let Some(key) = self.api_key() {
            return self.client(wanted.target, request.uri())?.request(with_key(&key, request)?).await;
        }
        check_protected(request.uri())?;
        let (generation, token) = self.token(wanted, None).await?;
        let answer = generation.client(wanted.target).request(with_token(&token, request)?).await?;
        if is_token_refused(&answer) {
            self.tokens.forget(&generation, wanted, &token).await;
        }
        Ok(answer)
    }

    fn api_key(&self) -> Option<Arc<str>> {
        self.key_file.as_ref()?.key()
    }

    /// Returns the client for a target at a URI; only plain HTTP works without a snapshot.
    fn client(&self, target: &str, uri: &Uri) -> Result<MeshClient, CallError> {
        if uri.scheme() == Some(&Scheme::HTTP) { Ok(self.plain.clone()) } else { Ok(self.generation()?.client(target)) }
    }

    fn generation(&self) -> Result<Arc<CredentialsSnapshot>, CallError> {
        self.generations.borrow().clone().ok_or(CallError::NotReady)
    }

    async fn token(
        &self,
        wanted: Wanted<'_>,
        refused: Option<&str>,
    ) -> Result<(Arc<CredentialsSnapshot>, Arc<str>), CallError> {
        let generation = self.generation()?;
        let target = self.targets.token_issuer(generation.policy());
        let issuer = Issuer { generation: &generation, target: &target, auth_url: &self.auth_url };
        let token = self.tokens.get(issuer, wanted, refused).await?;
        Ok((generation, token))
    }
}

/// Returns true if a response rejects the token as gaia-auth does; a new token may be accepted.
fn is_token_refused<B>(answer: &Response<B>) -> bool {
    let names_it = |headers: &HeaderMap| {
        let mut challenges = headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        challenges.any(|challenge| challenge.contains(r#"error="invalid_token""#))
    };
    answer.status() == StatusCode::UNAUTHORIZED && names_it(answer.headers())
}

/// Parses the base URL of another service: a scheme, a host, an optional port, and no path.
///
/// # Errors
/// The expected form.
pub fn parse_upstream(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
    let is_base = uri.scheme().is_some_and(|scheme| [Scheme::HTTP, Scheme::HTTPS].contains(scheme))
        && uri.host().is_some_and(|host| !host.is_empty())
        && uri.query().is_none()
        && !uri.authority().is_some_and(|authority| authority.as_str().contains('@'))
        && uri.path() == "/";
    if is_base { Ok(uri) } else { Err("must be https://host, https://host:port or the same with http".to_owned()) }
}

/// Sets the token as the only credential of the request.
fn with_token<B>(token: &str, request: Request<B>) -> Result<Request<B>, CallError> {
    let value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| CallError::NoToken)?;
    Ok(with(header::AUTHORIZATION, value, request))
}

/// Sets the API key as the only credential of the request.
fn with_key<B>(key: &str, request: Request<B>) -> Result<Request<B>, CallError> {
    let value = HeaderValue::try_from(key).map_err(|_| CallError::BadKey)?;
    Ok(with(API_KEY_HEADER, value, request))
}

fn with<B>(name: HeaderName, mut value: HeaderValue, mut request: Request<B>) -> Request<B> {
    value.set_sensitive(true);
    let headers = request.headers_mut();
    headers.remove(header::AUTHORIZATION);
    headers.remove(API_KEY_HEADER);
    headers.insert(name, value);
    request
}

fn check_protected(uri: &Uri) -> Result<(), CallError> {
    if uri.scheme() == Some(&Scheme::HTTP) { Err(CallError::Unprotected { uri: loggable_uri(uri) }) } else { Ok(()) }
}

/// Parses the base URL of a service that is called over https only.
///
/// # Errors
/// The expected form.
pub fn parse_https(text: &str) -> Result<Uri, String> {
    parse_upstream(text)
        .ok()
        .filter(|uri| uri.scheme() == Some(&Scheme::HTTPS))
        .ok_or_else(|| "must be https://host or https://host:port".to_owned())
}
