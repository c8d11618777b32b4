//! Forwarding of one request to its upstream.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{Extension, Request, State};
use axum::response::Response;
use gaia_api::Clock;
use gaia_auth::audit::Origin;
use gaia_auth::{
    Authenticator, Connection, Credential, ExtractedCredentials, Identity, Principal, REQUEST_ID_HEADER, Reason,
    Refusal, audit_line, problem, request_id,
};
use gaia_runtime::client_ip::{KNOWN_CLIENT_HEADER, name_client, name_known_client, site};
use gaia_runtime::rate::{Limit, when_to_retry};
use gaia_runtime::{AnswerBody, CallError, Caller, OnBehalf, Share, ShareExhausted, Shares, Subject};
use http::{Method, StatusCode, Uri, header};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, sleep_until};

use crate::body::{Answer, Progress, Upload, UploadError, UploadState};
use crate::front::{address, too_many};
use crate::headers::{for_client, for_upstream};
use crate::metrics::Metrics;
use crate::refusals::Refusals;
use crate::routes::SIGN_IN;

/// State shared by all routes.
pub(crate) struct ForwardContext {
    pub(crate) caller: Caller,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) per_account: Option<Limit>,
    pub(crate) per_sign_in: Option<Limit>,
    /// Counts requests for existing sessions separately: password guessing does not use up their limit.
    pub(crate) per_refresh: Option<Limit>,
    pub(crate) metrics: Metrics,
    pub(crate) refusals: Arc<Refusals>,
    pub(crate) authenticator: Arc<Authenticator>,
}

/// The requester of a request in progress: an account, else an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Requester {
    Account(String),
    Address(Option<IpAddr>),
}

/// The upstream of one route.
#[derive(Clone)]
pub(crate) struct Upstream {
    pub(crate) context: Arc<ForwardContext>,
    /// Service name and audience of the tokens issued for it.
    pub(crate) name: &'static str,
    /// Base URL of the upstream.
    pub(crate) url: Uri,
    /// Timeout for the response headers.
    pub(crate) timeout: Duration,
    /// Maximum request body size.
    pub(crate) max_body_bytes: u64,
    /// Requests in progress, in units of [`UNIT_BYTES`]. The upstream counts all of them as one source.
    pub(crate) in_progress: Shares<Requester>,
}

impl ForwardContext {
    /// Returns the client name set by an authenticated peer that may carry identities; the header is ignored from other
    /// callers.
    fn known_client(&self, request: &Request) -> Option<String> {
        let connection = request.extensions().get::<Arc<Connection>>()?;
        let peer = connection.peer.as_ref().filter(|peer| self.authenticator.may_carry(peer));
        let name = request.headers().get(KNOWN_CLIENT_HEADER)?.to_str().ok()?;
        peer.map(|_| name.to_owned())
    }

    /// Returns true if a mesh peer may present this credential. An API key of another owner is a carried identity and
    /// needs the permission to carry; gaia-auth has already checked tokens.
    fn may_present(&self, principal: &Principal, request: &Request) -> bool {
        let connection = request.extensions().get::<Arc<Connection>>();
        match connection.and_then(|connection| connection.peer.as_ref()) {
            Some(peer) if principal.credential == Credential::ApiKey => {
                principal.subject == Identity::Service(peer.spiffe_id.clone()) || self.authenticator.may_carry(peer)
            }
            _ => true,
        }
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("name", &self.name).field("url", &self.url).finish_non_exhaustive()
    }
}

/// Reason why a request was not forwarded or got no response.
#[derive(Debug)]
enum Failure {
    /// The requester has used its share of the requests in progress.
    Share,
    TooLarge,
    BodyBroken,
    Timeout,
    Uri,
    Call(CallError),
    /// The upstream rejected the gateway's own credentials.
    CredentialsRejected,
}

/// Forwards a request of an authenticated principal.
pub(crate) async fn forward_authenticated(
    State(upstream): State<Upstream>,
    Extension(principal): Extension<Principal>,
    request: Request,
) -> Response {
    let ForwardContext { per_account, refusals, clock, .. } = &*upstream.context;
    if let Some(refused) = too_many(per_account.as_ref(), &principal.subject) {
        refusals.record(address(&request), request.headers(), "account_rate");
        return refused;
    }
    if !upstream.context.may_present(&principal, &request) {
        refusals.record(address(&request), request.headers(), "not_a_carrier");
        return Refusal::from(Reason::DelegationNotAllowed).response();
    }
    let expires = principal.time_left(clock.now()).map(|left| Instant::now() + left);
    let client = address(&request);
    let (parts, body) = request.into_parts();
    let presented = ExtractedCredentials::find(&parts.headers).unwrap_or_default();
    let credential = match principal.credential {
        Credential::ApiKey => presented.api_key.map(Subject::ApiKey),
        _ => presented.token.map(Subject::Token),
    };
    // An authenticated principal always presented one of the two.
    let Some(credential) = credential else { return Refusal::from(Reason::NoCredential).response() };
    let account = principal.subject.to_string();
    let subject = OnBehalf { credential, account: Some(&account), client, request_id: None };
    upstream.pass_on(Asked { subject: Some(subject), client: None, known: None, parts: &parts }, body, expires).await
}

/// Forwards a request without authentication, under the gateway's own identity: the sign-in routes.
pub(crate) async fn forward_public(State(upstream): State<Upstream>, request: Request) -> Response {
    let client = address(&request);
    let ForwardContext { per_sign_in, per_refresh, refusals, .. } = &*upstream.context;
    let known = upstream.context.known_client(&request);
    let (parts, body) = request.into_parts();
    let (limit, reason) = match parts.uri.path() {
        SIGN_IN => (per_sign_in, "sign_in_rate"),
        _ => (per_refresh, "refresh_rate"),
    };
    let asked = Asked { subject: None, client, known: known.as_deref(), parts: &parts };
    let response = match too_many(limit.as_ref(), &client.map(site)) {
        Some(refused) => {
            refusals.record(client, &parts.headers, reason);
            return refused;
        }
        None => upstream.pass_on(asked, body, None).await,
    };
    // These routes are public, so gaia-auth writes no audit line for them.
    audit_line!(
        Origin::new(client, request_id(&parts.headers)),
        event = "request",
        result = if response.status().is_success() { "accepted" } else { "refused" },
        status = response.status().as_u16(),
        route = parts.uri.path(),
    );
    response
}

/// Writes the audit line for a refused token exchange. The line of the request itself records that this gateway
/// accepted the credential.
fn audit_refused_exchange(upstream: &str, asked: &Asked<'_>) {
    let subject = asked.subject.as_ref();
    audit_line!(
        Origin::new(subject.and_then(|subject| subject.client), request_id(&asked.parts.headers)),
        event = "exchange",
        result = "refused",
        reason = Reason::IssuerRefused.as_str(),
        upstream,
        sub = subject.and_then(|subject| subject.account),
    );
}

/// Request metadata for the upstream call.
#[derive(Clone, Copy)]
struct Asked<'a> {
    /// The credential to exchange; none on public routes.
    subject: Option<OnBehalf<'a>>,
    /// The client address, if the upstream needs it to count sign-in attempts.
    client: Option<IpAddr>,
    /// The client name set by an authenticated carrier.
    known: Option<&'a str>,
    parts: &'a http::request::Parts,
}

impl Asked<'_> {
    fn requester(&self) -> Requester {
        match self.subject.and_then(|subject| subject.account) {
            Some(account) => Requester::Account(account.to_owned()),
            None => Requester::Address(self.client.map(site)),
        }
    }
}

impl Upstream {
    async fn pass_on(&self, asked: Asked<'_>, body: Body, expires: Option<Instant>) -> Response {
        let response = match self.ask(asked, body).await {
            Ok((answer, share)) => self.answer(answer, share, expires),
            Err(failure) => {
                match failure {
                    Failure::Call(CallError::SubjectRefused { .. }) => audit_refused_exchange(self.name, &asked),
                    Failure::Share => {
                        let client = asked.subject.map_or(asked.client, |subject| subject.client);
                        self.context.refusals.record(client, &asked.parts.headers, "in_progress");
                    }
                    _ => {}
                }
                self.failed(&failure)
            }
        };
        self.context.metrics.forwarded(self.name, response.status());
        response
    }

    /// The share ends with the response.
    async fn ask(
        &self,
        asked: Asked<'_>,
        body: Body,
    ) -> Result<(http::Response<AnswerBody>, Share<Requester>), Failure> {
        let is_buffered = body.size_hint().upper().is_some_and(|bytes| bytes <= MAX_HELD_BYTES);
        let units = if is_buffered { 1 } else { UPLOAD_UNITS };
        let share = self.in_progress.hold(asked.requester(), units).map_err(|ShareExhausted| Failure::Share)?;
        Ok((self.send(asked, body, is_buffered).await?, share))
    }

    async fn send(
        &self,
        asked: Asked<'_>,
        body: Body,
        is_buffered: bool,
    ) -> Result<http::Response<AnswerBody>, Failure> {
        let Asked { subject, client, known, parts } = asked;
        let mut request = http::Request::new(());
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = self.uri(&parts.uri)?;
        *request.headers_mut() = for_upstream(&parts.headers, parts.headers.get(REQUEST_ID_HEADER));
        name_client(request.headers_mut(), client);
        name_known_client(request.headers_mut(), known);
        if body.size_hint().lower() > self.max_body_bytes {
            return Err(Failure::TooLarge);
        }
        // Small bodies are buffered, so that the request can be retried.
        if is_buffered {
            let body = Upload::new(body, self.max_body_bytes, Progress::new()).collect().await;
            let body = body.map_err(|error| match error {
                UploadError::TooLarge => Failure::TooLarge,
                UploadError::Broken(_) => Failure::BodyBroken,
            })?;
            return self.send_with_retry(subject, request.map(|()| body.to_bytes())).await;
        }
        let progress = Progress::new();
        let body = Body::new(Upload::new(body, self.max_body_bytes, Arc::clone(&progress)));
        let (caller, request) = (&self.context.caller, request.map(|()| body));
        let calling = async {
            match subject {
                Some(subject) => caller.call_streaming_for(subject, self.name, request).await,
                None => caller.call_streaming(self.name, request).await,
            }
        };
        let answer = within(self.timeout, || progress.last(), calling).await?;
        answer.map_err(|error| match progress.state() {
            UploadState::InProgress => Failure::Call(error),
            UploadState::TooLarge => Failure::TooLarge,
            UploadState::Broken => Failure::BodyBroken,
        })
    }

    /// Sends a buffered request, and retries it once if it was never sent or its method is idempotent.
    async fn send_with_retry(
        &self,
        subject: Option<OnBehalf<'_>>,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<AnswerBody>, Failure> {
        let began = Instant::now();
        let is_idempotent = matches!(*request.method(), Method::GET | Method::HEAD | Method::PUT | Method::DELETE);
        let call = async |request| match subject {
            Some(subject) => self.context.caller.call_for(subject, self.name, request).await,
            None => self.context.caller.call(self.name, request).await,
        };
        let calling = async {
            match call(request.clone()).await {
                Err(error) if error.was_never_sent() || is_idempotent && matches!(error, CallError::Failed { .. }) => {
                    self.context.metrics.retried(self.name);
                    tracing::info!(upstream = self.name, %error, "no response from the upstream; retrying once");
                    call(request).await
                }
                settled => settled,
            }
        };
        within(self.timeout, || began, calling).await?.map_err(Failure::Call)
    }

    /// Builds the upstream URI from the base URL and the unchanged path; the path is not joined, resolved or
    /// re-encoded.
    fn uri(&self, asked: &Uri) -> Result<Uri, Failure> {
        let mut parts = self.url.clone().into_parts();
        parts.path_and_query = asked.path_and_query().cloned();
        Uri::from_parts(parts).map_err(|_| Failure::Uri)
    }

    fn answer(
        &self,
        answer: http::Response<AnswerBody>,
        share: Share<Requester>,
        expires: Option<Instant>,
    ) -> Response {
        // A 401 with a challenge rejects the gateway's own token or API key. A 401 without one concerns input of the
        // client, such as a password.
        if answer.status() == StatusCode::UNAUTHORIZED && answer.headers().contains_key(header::WWW_AUTHENTICATE) {
            return self.failed(&Failure::CredentialsRejected);
        }
        let content_type = answer.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_stream = content_type.is_some_and(|value| value.starts_with("text/event-stream"));
        let (status, headers) = (answer.status(), for_client(answer.headers()));
        let body = Answer::new(answer.into_body(), share, expires.filter(|_| is_stream));
        let mut response = Response::new(Body::new(body));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }

    fn failed(&self, failure: &Failure) -> Response {
        let upstream = self.name;
        match failure {
            Failure::Share => {
                let busy = "Too many requests of this client are in progress.";
                return when_to_retry(problem(StatusCode::SERVICE_UNAVAILABLE, busy), Some(1));
            }
            Failure::TooLarge => return problem(StatusCode::PAYLOAD_TOO_LARGE, "The request is too large."),
            Failure::BodyBroken => {
                return problem(StatusCode::BAD_REQUEST, "The body of this request is incomplete or malformed.");
            }
            Failure::Uri => return problem(StatusCode::BAD_REQUEST, "The path of this request is not allowed."),
            Failure::Call(CallError::SubjectRefused { .. }) => {
                tracing::info!(upstream, "auth-service rejected a credential that this service accepted");
                return Refusal::from(Reason::IssuerRefused).response();
            }
            Failure::Call(error) => tracing::warn!(upstream, %error, "failed to forward a request"),
            Failure::Timeout => tracing::warn!(upstream, "no response within the time limit"),
            Failure::CredentialsRejected => {
                tracing::warn!(upstream, "the upstream rejected the credentials of this gateway");
            }
        }
        let not_now = |status, detail| when_to_retry(problem(status, detail), Some(1));
        match failure {
            Failure::Timeout => problem(StatusCode::GATEWAY_TIMEOUT, "The upstream service did not respond in time."),
            Failure::Call(CallError::Refused { status, .. }) => match *status {
                StatusCode::FORBIDDEN => problem(StatusCode::FORBIDDEN, "This caller is not permitted to do this."),
                StatusCode::TOO_MANY_REQUESTS => not_now(StatusCode::TOO_MANY_REQUESTS, "Too many requests."),
                _ => not_now(StatusCode::SERVICE_UNAVAILABLE, NO_TOKEN_NOW),
            },
            Failure::Call(CallError::AuthUnavailable { .. }) => not_now(StatusCode::SERVICE_UNAVAILABLE, NO_TOKEN_NOW),
            Failure::Call(CallError::NotReady) => {
                not_now(StatusCode::SERVICE_UNAVAILABLE, "This gateway is not ready yet. Try again later.")
            }
            _ => not_now(StatusCode::BAD_GATEWAY, "The upstream service is unreachable."),
        }
    }
}

/// Waits for a response, at most `timeout` after the last transferred frame of the request.
async fn within<T>(
    timeout: Duration,
    last: impl Fn() -> Instant,
    calling: impl Future<Output = T>,
) -> Result<T, Failure> {
    let mut calling = std::pin::pin!(calling);
    loop {
        let end = last() + timeout;
        tokio::select! {
            answer = calling.as_mut() => return Ok(answer),
            () = sleep_until(end) => if last() + timeout <= end {
                return Err(Failure::Timeout);
            },
        }
    }
}

const NO_TOKEN_NOW: &str = "Temporarily unable to authorize the upstream request.";
/// Maximum size of a request body that is buffered for a retry.
/// The memory that one unit of [`Upstream::in_progress`] stands for: what an upstream reserves for a response.
pub(crate) const UNIT_BYTES: usize = 16 * 1024;
/// Units of a request whose body is not buffered: an upstream reserves 64 KiB for it.
const UPLOAD_UNITS: usize = 5;
const MAX_HELD_BYTES: u64 = 64 * 1024;
