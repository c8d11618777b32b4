//! Calls through gateway (`GAIA_GATEWAY_URL`), so that pages and API clients share one set of limits and one audit log.
//!
//! gateway's limits are per browser address. It honours the `X-Forwarded-For` of this service, which its GaiaService
//! declares as a caller with `onBehalfOf`.

use std::future::Future;
use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue};

tokio::task_local! {
    /// The address of the browser whose request is being handled, if known.
    static BROWSER: Option<IpAddr>;
}

/// Runs the handler of a request from the browser at this address.
pub(crate) async fn for_browser<T>(address: Option<IpAddr>, handling: impl Future<Output = T>) -> T {
    BROWSER.scope(address, handling).await
}

/// Adds the address of the current request's browser.
pub(crate) fn name_browser(headers: &mut HeaderMap) {
    name(headers, BROWSER.try_with(|address| *address).ok().flatten());
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
