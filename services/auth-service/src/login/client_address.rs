//! Where a user is who signs in through a service.

use std::net::IpAddr;

use gaia_runtime::client_ip::{CLIENT_IP_HEADER, site};
use http::HeaderMap;

/// The address that a declared caller names in `X-Gaia-Client-IP`, as far as limits tell addresses apart: of IPv6 the /64
/// that one customer has. Whatever is no single address is none.
pub(super) fn of(headers: &HeaderMap) -> Option<IpAddr> {
    let mut values = headers.get_all(CLIENT_IP_HEADER).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    Some(site(value.to_str().ok()?.trim().parse::<IpAddr>().ok()?.to_canonical()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn one_address_is_taken_and_nothing_else() {
        let headers = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CLIENT_IP_HEADER, HeaderValue::from_static(value));
            }
            headers
        };
        let taken = |values: &[&'static str]| of(&headers(values)).map(|address| address.to_string());
        assert_eq!(taken(&["192.0.2.7"]).as_deref(), Some("192.0.2.7"));
        assert_eq!(taken(&["::ffff:192.0.2.7"]).as_deref(), Some("192.0.2.7"));
        assert_eq!(taken(&["2001:db8:1:2:3:4:5:6"]).as_deref(), Some("2001:db8:1:2::"));
        for values in [&[][..], &["192.0.2.7", "192.0.2.8"], &["192.0.2.7, 192.0.2.8"], &["localhost"]] {
            assert_eq!(taken(values), None, "{values:?}");
        }
    }
}
