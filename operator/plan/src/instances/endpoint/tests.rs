use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn list(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn entry(hosts: &[&str], cidrs: &[&str]) -> AllowedEndpoint {
    AllowedEndpoint { namespaces: list(&["shop"]), hosts: list(hosts), cidrs: list(cidrs) }
}

fn api_server() -> BTreeSet<IpAddr> {
    BTreeSet::from(["203.0.113.9".parse().unwrap(), "2001:db8::9".parse().unwrap()])
}

/// The decision before resolution, for a namespace.
fn excluded(namespace: &str, endpoint: &str, allowed: &[AllowedEndpoint]) -> Option<Exclusion> {
    let Some(endpoint) = Endpoint::parse(endpoint) else { return Some(Exclusion::Invalid) };
    exclusion(&endpoint.host, &grants(namespace, &endpoint.host, allowed), &api_server())
}

#[rstest]
#[case("web.fly.dev:443", Some(("web.fly.dev", 443)))]
#[case("Web.Fly.Dev.:443", Some(("web.fly.dev", 443)))]
#[case("10.0.0.1:65535", Some(("10.0.0.1", 65_535)))]
#[case("[2001:db8::1]:8443", Some(("2001:db8::1", 8443)))]
#[case::mapped("[::ffff:127.0.0.1]:80", Some(("127.0.0.1", 80)))]
#[case::port_zero("web:0", None)]
#[case::port_too_high("web:65536", None)]
#[case::no_port("web", None)]
#[case::no_host(":80", None)]
#[case::bare_ipv6("2001:db8::1:80", None)]
#[case::number("2130706433:80", None)]
#[case::short_address("127.1:80", None)]
#[case::hexadecimal("0x7f.0x1:80", None)]
#[case::octal("0177.0.0.01:80", None)]
#[case::empty_label("web..dev:80", None)]
#[case::zone("[fe80::1%eth0]:80", None)]
fn endpoints_are_a_host_and_a_port(#[case] text: &str, #[case] expected: Option<(&str, u16)>) {
    let found = Endpoint::parse(text).map(|found| (found.host.to_string(), found.port));
    assert_eq!(found, expected.map(|(host, port)| (host.to_owned(), port)));
}

#[rstest]
#[case::nothing_is_listed("web.example.com:443", &[], Some(Exclusion::NotListed))]
#[case::exact("web.example.com:443", &[entry(&["web.example.com"], &[])], None)]
#[case::case_does_not_matter("WEB.example.com.:443", &[entry(&["web.example.com"], &[])], None)]
#[case::one_label("web.example.com:443", &[entry(&["*.example.com"], &[])], None)]
#[case::two_labels("a.web.example.com:443", &[entry(&["*.example.com"], &[])], Some(Exclusion::NotListed))]
#[case::suffix("webexample.com:443", &[entry(&["*.example.com"], &[])], Some(Exclusion::NotListed))]
#[case::the_parent("example.com:443", &[entry(&["*.example.com"], &[])], Some(Exclusion::NotListed))]
#[case::name_needs_a_host("web.example.com:443", &[entry(&[], &["0.0.0.0/0"])], Some(Exclusion::NotListed))]
#[case::address_by_network("10.1.2.3:443", &[entry(&[], &["10.0.0.0/8"])], None)]
#[case::address_beside_network("11.1.2.3:443", &[entry(&[], &["10.0.0.0/8"])], Some(Exclusion::Address))]
#[case::address_by_host("192.0.2.1:443", &[entry(&["192.0.2.1"], &[])], None)]
#[case::another_spelling("[::ffff:192.0.2.1]:443", &[entry(&["192.0.2.1"], &[])], None)]
#[case::ipv6_by_host("[2001:DB8:0::1]:443", &[entry(&["2001:db8::1"], &[])], None)]
#[case::loopback_by_host("127.0.0.1:443", &[entry(&["127.0.0.1"], &[])], Some(Exclusion::Address))]
#[case::loopback_by_network("127.0.0.1:443", &[entry(&[], &["127.0.0.0/8"])], None)]
#[case::mapped_loopback("[::ffff:127.0.0.1]:443", &[entry(&["127.0.0.1"], &[])], Some(Exclusion::Address))]
#[case::api_server("203.0.113.9:443", &[entry(&["203.0.113.9"], &[])], Some(Exclusion::Address))]
#[case::api_server_by_network("203.0.113.9:443", &[entry(&[], &["203.0.113.0/24"])], None)]
#[case::host_and_network("10.1.2.3:443", &[entry(&["10.1.2.3"], &["192.0.2.0/24"])], Some(Exclusion::Address))]
#[case::an_empty_entry("10.1.2.3:443", &[entry(&[], &[])], Some(Exclusion::NotListed))]
#[case::second_entry("10.1.2.3:443", &[entry(&["10.1.2.3"], &["192.0.2.0/24"]), entry(&[], &["10.0.0.0/8"])], None)]
fn entries_of_the_trust_domain_decide(
    #[case] endpoint: &str,
    #[case] allowed: &[AllowedEndpoint],
    #[case] expected: Option<Exclusion>,
) {
    assert_eq!(excluded("shop", endpoint, allowed), expected);
    assert_eq!(excluded("other", endpoint, allowed), Some(Exclusion::NotListed), "of another namespace");
}

#[rstest]
#[case("127.0.0.1")]
#[case("127.255.255.254")]
#[case("0.0.0.0")]
#[case("0.1.2.3")]
#[case("169.254.169.254")]
#[case("224.0.0.1")]
#[case("255.255.255.255")]
#[case("203.0.113.9")]
#[case("2001:db8::9")]
#[case("::1")]
#[case("::")]
#[case("fe80::1")]
#[case("ff02::1")]
#[case::compatible("::127.0.0.1")]
#[case::nat64("64:ff9b::169.254.169.254")]
#[case::six_to_four("2002:7f00:1::")]
fn internal_addresses_need_a_network_in_any_spelling(#[case] address: &str) {
    let address: IpAddr = address.parse().unwrap();
    let mut spellings = vec![address];
    if let IpAddr::V4(v4) = address {
        spellings.push(v4.to_ipv6_mapped().into());
        spellings.push(v4.to_ipv6_compatible().into());
    }
    for spelling in spellings {
        assert!(!admits(&[entry(&["web.example.com"], &[])], spelling, &api_server()), "{spelling}");
    }
    let network = format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 });
    assert!(admits(&[entry(&["web.example.com"], &[&network])], address, &api_server()));
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from),
        any::<[u8; 4]>().prop_map(|v4| Ipv4Addr::from(v4).to_ipv6_mapped().into()),
        Just(IpAddr::from([127, 0, 0, 1])),
        Just(IpAddr::from([203, 0, 113, 9])),
        Just(IpAddr::from([169, 254, 0, 1])),
    ]
}

proptest! {
    /// Every value that the schema accepts is parsed or is no endpoint, and is never dialled without an entry.
    #[test]
    fn no_endpoint_is_allowed_by_default(
        text in r"(\[[0-9a-fA-F:.]{1,40}\]|[A-Za-z0-9.-]{1,40}):[0-9]{1,5}", namespace in "[a-z]{1,8}"
    ) {
        prop_assert!(excluded(&namespace, &text, &[]).is_some());
    }

    /// A mapped spelling never decides, and networks alone decide where there are some.
    #[test]
    fn addresses_are_decided_by_what_is_dialled(address in any_address(), bits in 0u32..=32, net in any::<[u8; 4]>()) {
        let cidr = format!("{}/{bits}", Ipv4Addr::from(net));
        for grant in [entry(&["a.example.com"], &[]), entry(&["a.example.com"], &[&cidr])] {
            let decided = admits(std::slice::from_ref(&grant), address, &api_server());
            prop_assert_eq!(decided, admits(std::slice::from_ref(&grant), address.to_canonical(), &api_server()));
            let is_inside = match address.to_canonical() {
                IpAddr::V4(v4) => {
                    let mask = if bits == 0 { 0 } else { u32::MAX << (32 - bits) };
                    v4.to_bits() & mask == Ipv4Addr::from(net).to_bits() & mask
                }
                IpAddr::V6(_) => false,
            };
            if grant.cidrs.is_empty() {
                let canonical = address.to_canonical();
                let is_internal = canonical.is_loopback() || canonical.is_unspecified() || canonical.is_multicast()
                    || api_server().contains(&canonical);
                prop_assert!(!(decided && is_internal));
            } else {
                prop_assert_eq!(decided, is_inside);
            }
        }
    }

    /// An entry allows the hosts that it names and no other.
    #[test]
    fn more_entries_never_allow_another_host(name in "[a-z]{1,5}(\\.[a-z]{1,5}){1,3}", host in "(\\*\\.)?[a-z]{1,5}(\\.[a-z]{1,5}){1,3}") {
        let found = excluded("shop", &format!("{name}:443"), &[entry(&[&host], &[])]);
        let covered = host.strip_prefix("*.").is_some_and(|parent| name.split_once('.').is_some_and(|(_, p)| p == parent));
        prop_assert_eq!(found.is_none(), host == name || covered);
    }
}
