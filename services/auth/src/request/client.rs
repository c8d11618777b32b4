//! The user's client, as the calling service describes it.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName};

use crate::principal::site;

/// The user's client, as a permitted caller describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Client {
    /// The address in `X-Gaia-Client-IP`.
    pub address: Option<IpAddr>,
    /// The name in `X-Gaia-Known-Client` of a client that the caller has authenticated.
    pub known: Option<String>,
}

impl Client {
    /// Reads the headers of a permitted caller. A header that is repeated or malformed counts as absent.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let address = single(headers, &CLIENT_IP_HEADER).and_then(|text| text.parse::<IpAddr>().ok());
        let known = single(headers, &KNOWN_CLIENT_HEADER).filter(|text| is_name(text));
        Self { address: address.map(|address| address.to_canonical()), known: known.map(str::to_owned) }
    }

    /// Returns the part of the address that limits are counted by: for IPv6 the /64 network of one customer.
    #[must_use]
    pub fn site(&self) -> Option<IpAddr> {
        self.address.map(site)
    }
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    Some(value.to_str().ok()?.trim())
}

fn is_name(text: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// The header in which a declared caller names the address of its client. The gateway drops it from outside.
pub const CLIENT_IP_HEADER: HeaderName = HeaderName::from_static("x-gaia-client-ip");
/// The header in which a declared caller names a client that it has authenticated. The gateway drops it from outside.
pub const KNOWN_CLIENT_HEADER: HeaderName = HeaderName::from_static("x-gaia-known-client");
const MAX_NAME_BYTES: usize = 128;

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn client(name: &HeaderName, values: &[&'static str]) -> Client {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, HeaderValue::from_static(value));
        }
        Client::of(&headers)
    }

    #[test]
    fn one_address_is_accepted_and_nothing_else() {
        let site = |values: &[&'static str]| client(&CLIENT_IP_HEADER, values).site().map(|site| site.to_string());
        assert_eq!(site(&["192.0.2.7"]).as_deref(), Some("192.0.2.7"));
        assert_eq!(site(&["::ffff:192.0.2.7"]).as_deref(), Some("192.0.2.7"));
        assert_eq!(site(&["2001:db8:1:2:3:4:5:6"]).as_deref(), Some("2001:db8:1:2::"));
        for values in [&[][..], &["192.0.2.7", "192.0.2.8"], &["192.0.2.7, 192.0.2.8"], &["localhost"]] {
            assert_eq!(site(values), None, "{values:?}");
        }
    }

    #[test]
    fn one_plain_name_is_accepted_and_nothing_else() {
        let known = |values: &[&'static str]| client(&KNOWN_CLIENT_HEADER, values).known;
        assert_eq!(known(&["0d6a-4a5c"]).as_deref(), Some("0d6a-4a5c"));
        for values in [&[][..], &["a", "b"], &["a b"], &[""], &["a,b"]] {
            assert_eq!(known(values), None, "{values:?}");
        }
    }
}
