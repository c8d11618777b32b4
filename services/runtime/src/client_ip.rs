//! The client address of a request, derived from trusted sources only.

use std::net::IpAddr;

pub use gaia_auth::{CLIENT_IP_HEADER, KNOWN_CLIENT_HEADER, site};
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

/// Returns the address of the client: the peer address, or, while that is a trusted proxy, the previous hop in
/// `X-Forwarded-For`. Entries before an untrusted address are ignored.
#[must_use]
pub fn client_ip(on_the_wire: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|net| net.contains(&address));
    let mut client = on_the_wire.to_canonical();
    if trusted.is_empty() {
        return client;
    }
    let lines: Vec<&str> = headers.get_all(&FORWARDED_FOR).iter().map(|line| line.to_str().unwrap_or("")).collect();
    let mut hops = lines.iter().rev().flat_map(|line| line.rsplit(','));
    while is_trusted(client) {
        // A trusted proxy wrote something other than an address, so the last known address is used.
        let Some(hop) = hops.next().and_then(parse) else { break };
        client = hop;
    }
    client
}

/// Adds the client address, if known, for limits of the called service.
pub fn name_client(headers: &mut HeaderMap, client: Option<IpAddr>) {
    if let Some(client) = client.and_then(|client| HeaderValue::try_from(client.to_string()).ok()) {
        headers.insert(CLIENT_IP_HEADER, client);
    }
}

/// Adds the name of a client that this service has authenticated: a sealed session, or a browser that has signed in to
/// the same account before. The called service counts its requests separately.
pub fn name_known_client(headers: &mut HeaderMap, id: Option<&str>) {
    if let Some(id) = id.and_then(|id| HeaderValue::from_str(id).ok()) {
        headers.insert(KNOWN_CLIENT_HEADER, id);
    }
}

/// Parses a network: a CIDR, or a single address.
///
/// # Errors
/// The expected form.
pub fn parse_network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let single = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse::<IpNet>().or_else(|_| single()).map_err(|_| "must be a CIDR, such as 10.0.0.0/8".to_owned())
}

/// Parses an address with an optional port, as proxies write it.
fn parse(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    let address = match hop.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0.parse().ok()?,
        None => match hop.parse() {
            Ok(address) => address,
            Err(_) => hop.rsplit_once(':')?.0.parse().ok()?,
        },
    };
    Some(IpAddr::to_canonical(&address))
}

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(on_the_wire: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, line.parse().unwrap());
        }
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap()).into();
        client_ip(on_the_wire.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed_and_only_about_whom_they_speak_for() {
        for (on_the_wire, lines, client) in [
            ("203.0.113.9", &[][..], "203.0.113.9"),
            // A client that claims to be another one.
            ("203.0.113.9", &["127.0.0.1"], "203.0.113.9"),
            ("10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("::ffff:10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["127.0.0.1, 203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["127.0.0.1", "203.0.113.9, 10.0.0.2"], "203.0.113.9"),
            ("10.0.0.1", &["203.0.113.9:4711"], "203.0.113.9"),
            ("10.0.0.1", &["[2001:db8::1]:4711"], "2001:db8::1"),
            ("fd00::1", &["2001:db8::1"], "2001:db8::1"),
            ("10.0.0.1", &["nonsense"], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9, nonsense, 10.0.0.3"], "10.0.0.3"),
            ("10.0.0.1", &["10.0.0.2, 10.0.0.3"], "10.0.0.2"),
            ("10.0.0.1", &[], "10.0.0.1"),
        ] {
            assert_eq!(asked(on_the_wire, lines), client, "{on_the_wire} {lines:?}");
        }
    }

    #[test]
    fn a_proxy_is_a_network_or_an_address() {
        assert_eq!(parse_network("10.0.0.0/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(parse_network("::1").unwrap().to_string(), "::1/128");
        assert!(parse_network("proxy.example").is_err());
    }

    #[test]
    fn a_site_is_an_address_or_what_one_household_has_of_them() {
        let site = |text: &str| super::site(text.parse().unwrap()).to_string();
        assert_eq!(site("203.0.113.9"), "203.0.113.9");
        assert_eq!(site("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }

    proptest! {
        #[test]
        fn whatever_an_untrusted_client_says_it_is_known_by_its_address(line in "[0-9a-f:., \\[\\]]{0,40}") {
            prop_assert_eq!(asked("203.0.113.9", &[&line]), "203.0.113.9");
        }
    }
}
