//! Single calls.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use gaia_plan::object::Version;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::Resource;
use super::json::LARGEST_OBJECT;
use super::object::parse;
use crate::api_server::text::without_keys;

/// The reason why a call failed, without text of the client library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CallError {
    /// The API server refused it. `message` is the server's, without anything that could be key material.
    Refused { code: u16, reason: String, message: String },
    /// The connection failed.
    Connection(String),
    /// The answer is not what the API documents.
    Answer(String),
    /// No answer within that many seconds.
    Timeout(u64),
    /// The request cannot be sent: there is no object of such a name.
    InvalidName,
    /// The request cannot be sent: it has no JSON form.
    Request,
}

impl CallError {
    /// The HTTP status, if there was an answer.
    pub(crate) fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { code, message, .. } => write!(f, "{message} (HTTP {code})"),
            Self::Connection(why) => write!(f, "the connection to the API server failed: {why}"),
            Self::Answer(why) => write!(f, "the response of the API server cannot be read: {why}"),
            Self::Timeout(seconds) => write!(f, "no response within {seconds} s"),
            Self::InvalidName => f.write_str("the name is not a valid object name"),
            Self::Request => f.write_str("the request has no JSON form"),
        }
    }
}

/// The API server, under the operator's rights.
#[derive(Clone)]
pub(crate) struct ApiServer {
    client: Client,
}

/// The body of a response; wiped when it is dropped.
pub(crate) type Answer = Zeroizing<Vec<u8>>;

impl ApiServer {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Reads an object; none: it does not exist.
    pub(crate) async fn get(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<Answer>, CallError> {
        let path = resource.object(namespace, name)?;
        found(self.call(request(Method::GET, path)?).await)
    }

    /// Reads only the metadata of an object; none: it does not exist.
    pub(crate) async fn get_metadata(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<Answer>, CallError> {
        let mut request = request(Method::GET, resource.object(namespace, name)?)?;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static(METADATA_ONLY));
        found(self.call(request).await)
    }

    pub(crate) async fn create(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        object: &impl Serialize,
    ) -> Result<Answer, CallError> {
        let path = resource.collection(namespace)?;
        self.call(with_body(Method::POST, &path, JSON, object)?).await
    }

    pub(crate) async fn replace(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        name: &str,
        object: &impl Serialize,
    ) -> Result<Answer, CallError> {
        let path = resource.object(namespace, name)?;
        self.call(with_body(Method::PUT, &path, JSON, object)?).await
    }

    /// Merges a patch (RFC 7396) into an object, or into one of its subresources.
    pub(crate) async fn patch(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        name: &str,
        subresource: Option<&str>,
        patch: &Value,
    ) -> Result<Answer, CallError> {
        let mut path = resource.object(namespace, name)?;
        if let Some(subresource) = subresource {
            path = format!("{path}/{subresource}");
        }
        self.call(with_body(Method::PATCH, &path, MERGE_PATCH, patch)?).await
    }

    /// Merges a patch into the metadata of an object and reads only the metadata of the response.
    pub(crate) async fn patch_metadata(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        name: &str,
        patch: &Value,
    ) -> Result<Answer, CallError> {
        let mut request = with_body(Method::PATCH, &resource.object(namespace, name)?, MERGE_PATCH, patch)?;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static(METADATA_ONLY));
        self.call(request).await
    }

    /// Deletes an object, if it still has that version.
    pub(crate) async fn delete(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        name: &str,
        on: &Version,
    ) -> Result<(), CallError> {
        let options = json!({ "apiVersion": "v1", "kind": "DeleteOptions",
            "preconditions": { "uid": on.uid, "resourceVersion": on.resource_version } });
        let path = resource.object(namespace, name)?;
        self.call(with_body(Method::DELETE, &path, JSON, &options)?).await.map(drop)
    }

    async fn call(&self, request: Request<Body>) -> Result<Answer, CallError> {
        let response = self.send(request).await?;
        whole_body(response).await
    }

    /// The answer, once its head is there; an error if it is one.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Response<Body>, CallError> {
        let response = self.client.send(request).await.map_err(|error| CallError::Connection(connection(&error)))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status().as_u16();
        let body = whole_body(response).await.unwrap_or_default();
        Err(refused(code, &body))
    }
}

/// A GET of a path with its query.
pub(super) fn request(method: Method, path: String) -> Result<Request<Body>, CallError> {
    build(method, path, None, Body::empty())
}

fn with_body(
    method: Method,
    path: &str,
    kind: &'static str,
    body: &impl Serialize,
) -> Result<Request<Body>, CallError> {
    let body = serde_json::to_vec(body).map_err(|_| CallError::Request)?;
    let query = if method == Method::DELETE { "" } else { FIELD_MANAGER };
    build(method, format!("{path}{query}"), Some(kind), Body::from(body))
}

fn build(method: Method, path: String, kind: Option<&'static str>, body: Body) -> Result<Request<Body>, CallError> {
    let mut builder = Request::builder()
        .method(method)
        .uri(path)
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, HeaderValue::from_static(JSON));
    if let Some(kind) = kind {
        builder = builder.header(CONTENT_TYPE, kind);
    }
    builder.body(body).map_err(|_| CallError::InvalidName)
}

fn found(answer: Result<Answer, CallError>) -> Result<Option<Answer>, CallError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.code() == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn whole_body(response: Response<Body>) -> Result<Answer, CallError> {
    let mut body = response.into_body();
    let mut answer = Zeroizing::new(vec![]);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| CallError::Connection(body_error(&error)))?;
        let Some(data) = frame.data_ref() else { continue };
        if answer.len() + data.len() > LARGEST_OBJECT {
            return Err(CallError::Answer("it is too large".to_owned()));
        }
        answer.extend_from_slice(data);
    }
    Ok(answer)
}

/// The relevant fields of a `Status`.
#[derive(Deserialize, Default)]
struct Status {
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

/// An error of the API server, out of the `Status` in a body.
pub(super) fn refused(code: u16, body: &[u8]) -> CallError {
    let status: Status = parse(body).unwrap_or_default();
    let message = status.message.filter(|message| !message.is_empty());
    CallError::Refused {
        code,
        reason: status.reason.map(|reason| without_keys(&reason)).unwrap_or_default(),
        message: message.map_or_else(|| "the API server refuses it without a reason".to_owned(), |m| without_keys(&m)),
    }
}

/// The cause of a connection error, without any text of the client library.
fn connection(error: &kube::Error) -> String {
    match error {
        kube::Error::Auth(_) => "cannot get the credentials of the kubeconfig".to_owned(),
        error => cause(error.source()).unwrap_or_else(|| "it could not be opened, or broke".to_owned()),
    }
}

pub(super) fn body_error(error: &kube::Error) -> String {
    cause(error.source()).unwrap_or_else(|| "it broke before the response was complete".to_owned())
}

/// The cause of a connection error: the kind of I/O error, or the TLS error.
fn cause(error: Option<&(dyn std::error::Error + 'static)>) -> Option<String> {
    let mut next = error;
    let mut found = None;
    for _ in 0..DEEPEST_CAUSE {
        let Some(error) = next else { break };
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(format!("TLS: {}", without_keys(&error.to_string())));
        }
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            found = Some(error.kind().to_string());
            if let Some(inner) = error.get_ref() {
                next = Some(inner);
                continue;
            }
        }
        next = error.source();
    }
    found
}

/// Waits no longer than that for an answer.
pub(crate) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    tokio::time::timeout(limit, call).await.unwrap_or(Err(CallError::Timeout(limit.as_secs())))
}

const JSON: &str = "application/json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
/// Field manager and user agent are the operator's, whatever the client library's defaults are.
const FIELD_MANAGER: &str = "?fieldManager=gaia-operator";
const AGENT: &str = concat!("gaia-operator/", env!("CARGO_PKG_VERSION"));
const DEEPEST_CAUSE: usize = 16;
