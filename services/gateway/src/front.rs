//! Middleware that runs before authentication: request IDs, path checks, CORS and per-address limits.

use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use gaia_auth::{Authenticator, Connection, Listener, REQUEST_ID_HEADER, Transport, problem};
use gaia_runtime::client_ip::{client_ip, site};
use gaia_runtime::rate::{Limit, retry_after, when_to_retry};
use http::header::{
    ACCEPT, ACCEPT_LANGUAGE, ACCEPT_RANGES, AUTHORIZATION, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, ETAG, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LINK,
    RANGE, RETRY_AFTER, STRICT_TRANSPORT_SECURITY, UPGRADE, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use ipnet::IpNet;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::path::{PathError, check_path};
use crate::refusals::Refusals;

/// State of the middleware. Both listeners share it, so the limits count requests of both.
pub(crate) struct Front {
    pub(crate) ids: RequestIds,
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// Decides which mesh peers may name the client that they call for.
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) per_ip: Option<Limit>,
    pub(crate) refusals: Arc<Refusals>,
}

/// Generator of request IDs that are unique within a platform.
#[derive(Debug)]
pub(crate) struct RequestIds {
    instance: u64,
    next: AtomicU64,
}

impl RequestIds {
    /// `instance` is a random number that distinguishes processes.
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

/// Adds the middleware in this order: request ID and path check; CORS, because preflight requests carry no credentials;
/// then unsupported protocols and the limit per address.
pub(crate) fn before(routes: Router, front: Arc<Front>, cors: Option<CorsLayer>) -> Router {
    let routes = routes.layer(from_fn_with_state(Arc::clone(&front), admit));
    let routes = match cors {
        Some(cors) => routes.layer(cors),
        None => routes,
    };
    routes.layer(from_fn_with_state(front, receive))
}

/// Returns the CORS layer for these origins, or `None` if there are none.
pub(crate) fn cors(
    origins: Vec<HeaderValue>,
    more_headers: Vec<HeaderName>,
    with_credentials: bool,
) -> Option<CorsLayer> {
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
        .allow_headers(headers.into_iter().chain(more_headers).collect::<Vec<_>>())
        .expose_headers(exposed)
        .max_age(PREFLIGHT_AGE);
    Some(cors.allow_credentials(with_credentials))
}

/// Sets the request ID and the client address, and refuses ambiguous paths.
async fn receive(State(front): State<Arc<Front>>, mut request: Request, next: Next) -> Response {
    let id = front.ids.next();
    let id = HeaderValue::try_from(id).ok();
    let headers = request.headers_mut();
    headers.remove(REQUEST_ID_HEADER);
    if let Some(id) = &id {
        headers.insert(REQUEST_ID_HEADER, id.clone());
    }
    locate(&front, &mut request);
    let is_own_tls = request
        .extensions()
        .get::<Arc<Connection>>()
        .is_some_and(|connection| (connection.listener, connection.transport) == (Listener::Ingress, Transport::Tls));
    if let Err(error) = check_path(request.uri().path()) {
        // The refusal is sent behind the CORS layer so that a page can read it. CORS would answer a preflight itself.
        request.extensions_mut().insert(error);
        if request.method() == Method::OPTIONS {
            *request.method_mut() = Method::GET;
        }
    }
    let mut response = next.run(request).await;
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID_HEADER, id);
    }
    if is_own_tls {
        response.headers_mut().insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    response
}

/// Sets the client address of the request. If the mesh peer may carry identities, the address comes from
/// `X-Forwarded-For`, because the peer's own address is shared by all its clients and must not be counted as one.
fn locate(front: &Front, request: &mut Request) {
    let Some(connection) = request.extensions().get::<Arc<Connection>>() else { return };
    let Some(on_the_wire) = connection.address else { return };
    let client = match (connection.listener, &connection.peer) {
        (Listener::Ingress, _) => Some(client_ip(on_the_wire, request.headers(), &front.trusted_proxies)),
        (Listener::Mesh, Some(peer)) if front.authenticator.may_carry(peer) => {
            let peer_and_proxies: Vec<IpNet> =
                [on_the_wire.to_canonical().into()].into_iter().chain(front.trusted_proxies.iter().copied()).collect();
            let named = client_ip(on_the_wire, request.headers(), &peer_and_proxies);
            (named != on_the_wire.to_canonical()).then_some(named)
        }
        (Listener::Mesh, _) => Some(on_the_wire),
    };
    if client != Some(on_the_wire) {
        let connection = Connection { address: client, ..Connection::clone(connection) };
        request.extensions_mut().insert(Arc::new(connection));
    }
}

/// Refuses clients that send too many requests, then paths and protocols that are not served. A refused path counts
/// too: otherwise a flood of them would cost its sender nothing.
async fn admit(State(front): State<Arc<Front>>, request: Request, next: Next) -> Response {
    // Without an address, the carrier did not name the client; then only the account limit applies.
    let refused = address(&request).and_then(|client| too_many(front.per_ip.as_ref(), &site(client)));
    if let Some(refused) = refused {
        front.refusals.record(address(&request), request.headers(), "ip_rate");
        return refused;
    }
    if let Some(error) = request.extensions().get::<PathError>() {
        front.refusals.record(address(&request), request.headers(), "path");
        tracing::debug!(%error, "request refused: ambiguous path");
        return problem(StatusCode::BAD_REQUEST, "The path of this request is not allowed.");
    }
    if let Some(protocol) = not_spoken(request.headers()) {
        front.refusals.record(address(&request), request.headers(), protocol);
        return problem(StatusCode::NOT_IMPLEMENTED, "WebSocket and gRPC are not supported.");
    }
    next.run(request).await
}

/// Returns the name of the request's protocol if it cannot be forwarded.
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

/// Returns the client address, if it is known.
pub(crate) fn address(request: &Request) -> Option<IpAddr> {
    request.extensions().get::<Arc<Connection>>()?.address
}

/// Counts a request of `asker`. Returns the 429 response if the limit is exceeded.
pub(crate) fn too_many(limit: Option<&Limit>, asker: &impl Hash) -> Option<Response> {
    let wait = limit?.check(asker).err()?;
    let refused = problem(StatusCode::TOO_MANY_REQUESTS, "Too many requests.");
    Some(when_to_retry(refused, Some(retry_after(wait))))
}

const X_API_KEY: HeaderName = gaia_auth::API_KEY_HEADER;
const PREFLIGHT_AGE: Duration = Duration::from_secs(600);
