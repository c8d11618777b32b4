//! What is in front of every route: nobody has asked yet who it is.

use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use gaia_auth::{Connection, REQUEST_ID_HEADER, problem};
use gaia_runtime::client_ip::{client_ip, site};
use gaia_runtime::rate::{Limit, retry_after, when_to_retry};
use http::header::{
    ACCEPT, ACCEPT_LANGUAGE, ACCEPT_RANGES, AUTHORIZATION, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, ETAG, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LINK,
    RANGE, RETRY_AFTER, UPGRADE, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use ipnet::IpNet;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::metrics::Metrics;
use crate::path::check_path;

/// What the front works with.
pub(crate) struct Front {
    pub(crate) ids: RequestIds,
    pub(crate) trusted_proxies: Vec<IpNet>,
    pub(crate) per_ip: Option<Limit>,
    pub(crate) metrics: Metrics,
}

/// Names for requests: no two of one platform have the same.
#[derive(Debug)]
pub(crate) struct RequestIds {
    instance: u64,
    next: AtomicU64,
}

impl RequestIds {
    /// `instance` is random, to tell the processes apart.
    pub(crate) fn new(instance: u64) -> Self {
        Self { instance, next: AtomicU64::new(0) }
    }

    fn next(&self) -> String {
        format!("{:016x}-{:x}", self.instance, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Front")
    }
}

/// Puts the front before the routes: a name for the request and a look at its path; then CORS, as a preflight carries no
/// credentials; then what is not served, and how often one address may ask.
pub(crate) fn before(routes: Router, front: Arc<Front>, cors: Option<CorsLayer>) -> Router {
    let routes = routes.layer(from_fn_with_state(Arc::clone(&front), admit));
    let routes = match cors {
        Some(cors) => routes.layer(cors),
        None => routes,
    };
    routes.layer(from_fn_with_state(front, receive))
}

/// CORS for these origins; none where there are none.
pub(crate) fn cors(origins: Vec<HeaderValue>, with_credentials: bool) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let headers = [
        ACCEPT,
        ACCEPT_LANGUAGE,
        AUTHORIZATION,
        CONTENT_TYPE,
        IF_MATCH,
        IF_MODIFIED_SINCE,
        IF_NONE_MATCH,
        IF_RANGE,
        IF_UNMODIFIED_SINCE,
        RANGE,
        X_API_KEY,
    ];
    let exposed = [
        ACCEPT_RANGES,
        CONTENT_DISPOSITION,
        CONTENT_LENGTH,
        CONTENT_RANGE,
        ETAG,
        LINK,
        RETRY_AFTER,
        WWW_AUTHENTICATE,
        REQUEST_ID_HEADER,
        HeaderName::from_static("deprecation"),
        HeaderName::from_static("sunset"),
    ];
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers(headers)
        .expose_headers(exposed)
        .max_age(PREFLIGHT_AGE);
    Some(cors.allow_credentials(with_credentials))
}

/// Names the request, finds out where it comes from, and refuses a path that could be read in two ways.
async fn receive(State(front): State<Arc<Front>>, mut request: Request, next: Next) -> Response {
    let id = front.ids.next();
    let id = HeaderValue::try_from(id).ok();
    let headers = request.headers_mut();
    headers.remove(REQUEST_ID_HEADER);
    if let Some(id) = &id {
        headers.insert(REQUEST_ID_HEADER, id.clone());
    }
    locate(&front.trusted_proxies, &mut request);
    let mut response = match check_path(request.uri().path()) {
        Ok(()) => next.run(request).await,
        Err(error) => {
            front.metrics.refused("path");
            tracing::info!(%error, "request refused: its path could be read in two ways");
            problem(StatusCode::BAD_REQUEST, "The path of this request is not allowed.")
        }
    };
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID_HEADER, id);
    }
    response
}

/// Makes the client's address the one that the request is known by from here on.
fn locate(trusted: &[IpNet], request: &mut Request) {
    let Some(connection) = request.extensions().get::<Arc<Connection>>() else { return };
    let Some(on_the_wire) = connection.address else { return };
    let client = client_ip(on_the_wire, request.headers(), trusted);
    if client != on_the_wire {
        let connection = Connection { address: Some(client), ..Connection::clone(connection) };
        request.extensions_mut().insert(Arc::new(connection));
    }
}

/// Turns away what is not spoken here, and who asks too often.
async fn admit(State(front): State<Arc<Front>>, request: Request, next: Next) -> Response {
    if let Some(protocol) = not_spoken(request.headers()) {
        front.metrics.refused(protocol);
        return problem(StatusCode::NOT_IMPLEMENTED, "WebSocket and gRPC are not spoken here.");
    }
    match too_many(front.per_ip.as_ref(), &site(address(&request)), "ip_rate", &front.metrics) {
        Some(refused) => refused,
        None => next.run(request).await,
    }
}

/// The protocol of a request, if it is one that cannot be passed on.
fn not_spoken(headers: &HeaderMap) -> Option<&'static str> {
    let has = |name: &HeaderName, is_it: &dyn Fn(&str) -> bool| {
        headers.get_all(name).iter().any(|value| value.to_str().is_ok_and(|value| is_it(&value.to_ascii_lowercase())))
    };
    if has(&UPGRADE, &|value| value.contains("websocket")) {
        Some("websocket")
    } else if has(&CONTENT_TYPE, &|value| value.starts_with("application/grpc")) {
        Some("grpc")
    } else {
        None
    }
}

/// The client's address. Without a listener that says so nothing is known.
pub(crate) fn address(request: &Request) -> IpAddr {
    let connection = request.extensions().get::<Arc<Connection>>();
    connection.and_then(|connection| connection.address).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

/// Counts a request of `asker`, and gives the answer if there were too many: they are counted under `reason`.
pub(crate) fn too_many(
    limit: Option<&Limit>,
    asker: &impl Hash,
    reason: &'static str,
    metrics: &Metrics,
) -> Option<Response> {
    let wait = limit?.check(asker).err()?;
    metrics.refused(reason);
    let refused = problem(StatusCode::TOO_MANY_REQUESTS, "Too many requests.");
    Some(when_to_retry(refused, Some(retry_after(wait))))
}

const X_API_KEY: HeaderName = gaia_auth::API_KEY_HEADER;
const PREFLIGHT_AGE: Duration = Duration::from_secs(600);
