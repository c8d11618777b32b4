//! Calls through gateway (`GAIA_GATEWAY_URL`), so that pages and API clients share one set of limits and one audit log.
//!
//! gateway's limits are per browser address. It honours the `X-Forwarded-For` of this service, which its GaiaService
//! declares as a caller with `onBehalfOf`.

use std::future::Future;
use std::net::IpAddr;

use gaia_auth::REQUEST_ID_HEADER;
use gaia_runtime::client_ip::name_client;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::site::Client;

tokio::task_local! {
    /// The client of the request that is being handled.
    static CLIENT: Client;
}

/// Runs the handler of a request of this client.
pub(crate) async fn for_client<T>(client: Client, handling: impl Future<Output = T>) -> T {
    CLIENT.scope(client, handling).await
}

/// Adds the address of the current request's browser, for gateway also in the header that its limits use.
pub(crate) fn name_browser(headers: &mut HeaderMap, is_gateway: bool) {
    let address = CLIENT.try_with(|client| client.address).ok().flatten();
    name_client(headers, address);
    if is_gateway {
        name(headers, address);
    }
}

/// Adds the ID of the current request, so that audit lines of all services have the same one.
pub(crate) fn name_request(headers: &mut HeaderMap) {
    let id = CLIENT.try_with(Client::request_id).ok().flatten();
    if let Some(id) = id.and_then(|id| HeaderValue::try_from(id).ok()) {
        headers.insert(REQUEST_ID_HEADER, id);
    }
}

/// Adds this browser address.
pub(crate) fn name(headers: &mut HeaderMap, address: Option<IpAddr>) {
    if let Some(value) = address.and_then(|address| HeaderValue::try_from(address.to_string()).ok()) {
        headers.insert(FORWARDED_FOR, value);
    }
}

/// The service name of gateway, for tokens.
pub(crate) const GATEWAY: &str = "gateway";
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
