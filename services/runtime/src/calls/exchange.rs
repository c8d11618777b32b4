//! Requests to auth-service: service tokens, and delegated tokens in exchange for a subject's credential.

use std::fmt;
use std::net::IpAddr;

use axum::body::Bytes;
use gaia_auth::{REQUEST_ID_HEADER, sha256_hex};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Limited};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::calls::wire::{API_KEY_TYPE, EXCHANGE_GRANT_TYPE, JWT_TYPE, SERVICE_TOKEN_PATH, TOKEN_EXCHANGE_PATH};
use crate::client::mesh_client::{CallError, MeshClient, loggable_uri};
use crate::client_ip::{name_client, name_known_client, site};

/// The request for a service token.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct TokenRequest<'a> {
    /// The caller's own service name.
    pub service_name: &'a str,
    /// The service to call, `name` or `namespace/name`; none: a broad token of the dual phases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_service: Option<&'a str>,
    /// The scopes, separated by spaces; none: all granted ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<&'a str>,
    /// The validity in seconds; none: that of the TrustDomain. An auth-service of an earlier version refuses the field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
}

/// The credential of a subject that a call is made for. `Debug` does not print it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Subject<'a> {
    /// The token of a user, or a delegated token for a call one hop further.
    Token(&'a str),
    /// An API key.
    ApiKey(&'a str),
}

impl fmt::Debug for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token",
            Self::ApiKey(_) => "ApiKey",
        })
    }
}

/// The party that a call is made for. Budgets are charged to it: to the account, else to the address. `Debug` does not
/// print the credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnBehalf<'a> {
    /// Its credential.
    pub credential: Subject<'a>,
    /// Its subject, if the credential was verified.
    pub account: Option<&'a str>,
    /// Its address, if known.
    pub client: Option<IpAddr>,
    /// The ID of the request, for audit lines; none: that of the call's `X-Request-Id`.
    pub request_id: Option<&'a str>,
}

/// The requester that an entry in a bounded memory is charged to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// An authenticated subject.
    Account(String),
    /// An address, or the network of one site.
    Site(IpAddr),
    /// Not known: all of these share one part.
    Unknown,
}

impl<'a> From<Subject<'a>> for OnBehalf<'a> {
    fn from(credential: Subject<'a>) -> Self {
        Self { credential, account: None, client: None, request_id: None }
    }
}

impl OnBehalf<'_> {
    pub(crate) fn source(&self) -> Source {
        match (self.account, self.client) {
            (Some(account), _) => Source::Account(account.to_owned()),
            (None, Some(client)) => Source::Site(site(client)),
            (None, None) => Source::Unknown,
        }
    }

    /// Returns a copy for a task that is not tied to the request.
    pub(crate) fn to_owned(self) -> OwnedOnBehalf {
        let (text, is_key) = match self.credential {
            Subject::Token(text) => (text, false),
            Subject::ApiKey(text) => (text, true),
        };
        let account = self.account.map(str::to_owned);
        let request_id = self.request_id.map(str::to_owned);
        OwnedOnBehalf { text: Zeroizing::new(text.to_owned()), is_key, account, client: self.client, request_id }
    }
}

/// An [`OnBehalf`] with owned strings.
pub(crate) struct OwnedOnBehalf {
    text: Zeroizing<String>,
    is_key: bool,
    account: Option<String>,
    client: Option<IpAddr>,
    request_id: Option<String>,
}

impl OwnedOnBehalf {
    pub(crate) fn as_ref(&self) -> OnBehalf<'_> {
        let credential = if self.is_key { Subject::ApiKey(&self.text) } else { Subject::Token(&self.text) };
        let (account, request_id) = (self.account.as_deref(), self.request_id.as_deref());
        OnBehalf { credential, account, client: self.client, request_id }
    }
}

/// RFC 8693, section 2.1.
#[derive(Serialize)]
struct ExchangeForm<'a> {
    grant_type: &'static str,
    subject_token: &'a str,
    subject_token_type: &'static str,
    audience: &'a str,
}

/// RFC 6749, section 5.2.
#[derive(Deserialize)]
struct OAuthError {
    error: String,
}

/// A token of auth-service. `Debug` does not print it.
#[derive(Clone, Deserialize)]
pub struct ServiceToken {
    /// The token.
    pub access_token: String,
    /// The validity in seconds.
    pub expires_in: u64,
}

impl fmt::Debug for ServiceToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceToken").field("expires_in", &self.expires_in).finish_non_exhaustive()
    }
}

impl MeshClient {
    /// Requests a service token from auth-service.
    ///
    /// # Errors
    /// [`CallError`] if it does not respond, refuses, or sends an unexpected response.
    pub async fn service_token(&self, auth_url: &Uri, wanted: &TokenRequest<'_>) -> Result<ServiceToken, CallError> {
        let body = serde_json::to_vec(wanted).map_err(|error| CallError::failed(auth_url, error))?;
        let asked = self.ask(auth_url, SERVICE_TOKEN_PATH, "application/json", None, body).await?;
        token(auth_url, asked.status, &asked.body)
    }

    /// Requests a delegated token from auth-service, to call `target` (`name` or `namespace/name`) on behalf of
    /// `subject`.
    ///
    /// # Errors
    /// [`CallError::SubjectRefused`] if the credential is rejected; [`CallError`] if auth-service does not respond,
    /// refuses for another reason, or sends an unexpected response.
    pub async fn exchange(
        &self,
        auth_url: &Uri,
        subject: impl Into<OnBehalf<'_>>,
        target: &str,
    ) -> Result<ServiceToken, CallError> {
        let subject = subject.into();
        let (subject_token, subject_token_type) = match subject.credential {
            Subject::Token(token) => (token, JWT_TYPE),
            Subject::ApiKey(key) => (key, API_KEY_TYPE),
        };
        let form =
            ExchangeForm { grant_type: EXCHANGE_GRANT_TYPE, subject_token, subject_token_type, audience: target };
        let body = serde_urlencoded::to_string(&form).map_err(|error| CallError::failed(auth_url, error))?;
        let content_type = "application/x-www-form-urlencoded";
        let Asked { status, headers, body } =
            self.ask(auth_url, TOKEN_EXCHANGE_PATH, content_type, Some(subject), body.into_bytes()).await?;
        let error = serde_json::from_slice::<OAuthError>(&body).map(|answer| answer.error).unwrap_or_default();
        if status == StatusCode::BAD_REQUEST && SUBJECT_ERRORS.contains(&error.as_str()) {
            // With `Retry-After` a retry may succeed, for example for a key that auth-service has not loaded yet.
            let is_definitive = !headers.contains_key(header::RETRY_AFTER);
            return Err(CallError::SubjectRefused { target: target.to_owned(), is_definitive });
        }
        token(auth_url, status, &body)
    }

    async fn ask(
        &self,
        auth_url: &Uri,
        path: &str,
        content_type: &'static str,
        subject: Option<OnBehalf<'_>>,
        body: Vec<u8>,
    ) -> Result<Asked, CallError> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}{path}", auth_url.to_string().trim_end_matches('/')))
            .header(header::CONTENT_TYPE, content_type)
            .body(Bytes::from(body))
            .map_err(|error| CallError::failed(auth_url, error))?;
        let account = subject.and_then(|subject| subject.account).map(|account| sha256_hex(account.as_bytes()));
        name_client(request.headers_mut(), subject.and_then(|subject| subject.client));
        name_known_client(request.headers_mut(), account.as_deref());
        let id = subject.and_then(|subject| subject.request_id);
        if let Some(id) = id.and_then(|id| HeaderValue::from_str(id).ok()) {
            request.headers_mut().insert(REQUEST_ID_HEADER, id);
        }
        let response = self.send_with_retry(request).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = Limited::new(response.into_body(), MAX_TOKEN_ANSWER_BYTES).collect().await;
        Ok(Asked { status, headers, body: body.map_err(|error| CallError::failed(auth_url, error))?.to_bytes() })
    }
}

/// A response of auth-service.
struct Asked {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

fn token(auth_url: &Uri, status: StatusCode, body: &[u8]) -> Result<ServiceToken, CallError> {
    if status != StatusCode::OK {
        return Err(CallError::Refused { uri: loggable_uri(auth_url), status });
    }
    // The parser's message could contain the token.
    serde_json::from_slice(body).map_err(|_| CallError::NoToken)
}

/// Error codes for an invalid `subject_token` (RFC 8693, section 2.2.2, and RFC 6749).
const SUBJECT_ERRORS: [&str; 2] = ["invalid_request", "invalid_grant"];
const MAX_TOKEN_ANSWER_BYTES: usize = 16 * 1024;
