//! Calls by way of gateway (`GAIA_GATEWAY_URL`): one set of limits and one audit line for pages and programs.
//!
//! gateway's limits are by the address of the browser. It honours the `X-Forwarded-For` of this service, which its
//! GaiaService declares as a caller with `onBehalfOf`.

use std::future::Future;
use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue};

tokio::task_local! {
    /// The address of the browser whose request is being handled, if known.
    static BROWSER: Option<IpAddr>;
}

/// Handles a request of the browser at this address.
pub(crate) async fn for_browser<T>(address: Option<IpAddr>, handling: impl Future<Output = T>) -> T {
    BROWSER.scope(address, handling).await
}

/// Names the browser whose request is being handled.
pub(crate) fn name_browser(headers: &mut HeaderMap) {
    name(headers, BROWSER.try_with(|address| *address).ok().flatten());
}

/// Names the browser at this address.
pub(crate) fn name(headers: &mut HeaderMap, address: Option<IpAddr>) {
    if let Some(value) = address.and_then(|address| HeaderValue::try_from(address.to_string()).ok()) {
        headers.insert(FORWARDED_FOR, value);
    }
}

/// The service's name, for tokens.
pub(crate) const GATEWAY: &str = "gateway";
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
