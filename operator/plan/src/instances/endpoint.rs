//! Endpoints of GaiaServices: which of them the operator may dial, and at which addresses.
//!
//! `spec.endpoints` of a GaiaService is a tenant's; `spec.allowedEndpoints` of its TrustDomain decides whether the
//! operator dials it. An endpoint that is not dialled is no instance: rotations count its service by time alone.

mod addresses;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gaia_api::crd::AllowedEndpoint;

pub use self::addresses::{Addresses, MAX_ADDRESSES};
use crate::rules::name_policy::{contains, covers};

/// `host:port` of `spec.endpoints`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its host.
    pub host: Host,
    /// Its port, never 0.
    pub port: u16,
}

/// The host of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An IP address; an IPv4-mapped IPv6 address as the IPv4 address.
    Address(IpAddr),
    /// A DNS name in lower case, without a final dot.
    Name(String),
}

/// The reason why an endpoint does not count as an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exclusion {
    /// It is no host and port.
    Invalid,
    /// `spec.allowedEndpoints` has no entry for its namespace and host.
    NotListed,
    /// It has, or its name resolves to, an address that is not allowed.
    Address,
    /// Several instances answer in turn at one address.
    Balancer,
}

/// An endpoint that is no instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excluded<'a> {
    /// As `spec.endpoints` has it.
    pub endpoint: &'a str,
    /// The reason.
    pub why: Exclusion,
}

impl Endpoint {
    /// Parses `host:port`, where an IPv6 address is in brackets; none: it is no host and port.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        Some(Self { host: Host::parse(host)?, port })
    }
}

impl Host {
    fn parse(text: &str) -> Option<Self> {
        if let Some(inside) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return inside.parse::<Ipv6Addr>().ok().map(|address| Self::Address(canonical(address.into())));
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Some(Self::Address(address.into()));
        }
        let name = text.to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        is_dns_name(name).then(|| Self::Name(name.to_owned()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl Exclusion {
    /// The cause, for the evidence on callers that such an endpoint cannot give.
    #[must_use]
    pub fn cause(self) -> &'static str {
        match self {
            Self::Invalid => "it is not a host and port",
            Self::Balancer => "several instances answer at one address",
            Self::NotListed | Self::Address => "spec.allowedEndpoints of the TrustDomain does not allow it",
        }
    }
}

/// The entries of `spec.allowedEndpoints` that are about a namespace and a host.
#[must_use]
pub fn grants(namespace: &str, host: &Host, allowed: &[AllowedEndpoint]) -> Vec<AllowedEndpoint> {
    let matches = |entry: &&AllowedEndpoint| {
        let is_named = match host {
            Host::Address(_) if entry.hosts.is_empty() => !entry.cidrs.is_empty(),
            Host::Address(address) => {
                entry.hosts.iter().any(|listed| listed.parse::<IpAddr>().is_ok_and(|l| canonical(l) == *address))
            }
            Host::Name(name) => entry.hosts.iter().any(|listed| listed == name || covers(listed, name)),
        };
        is_named && entry.namespaces.iter().any(|listed| listed == namespace)
    };
    allowed.iter().filter(matches).cloned().collect()
}

/// The reason why an endpoint is not dialled, as far as it is known before its name is resolved. `grants`: the entries
/// for its host. `api_server`: the addresses of the API server.
#[must_use]
pub fn exclusion(host: &Host, grants: &[AllowedEndpoint], api_server: &BTreeSet<IpAddr>) -> Option<Exclusion> {
    match host {
        _ if grants.is_empty() => Some(Exclusion::NotListed),
        Host::Address(address) if !admits(grants, *address, api_server) => Some(Exclusion::Address),
        Host::Address(_) | Host::Name(_) => None,
    }
}

/// Returns true if an address may be dialled for an endpoint. `grants`: the entries for its host. With `cidrs` the
/// address must be inside one of them; without, it must not be in one of the operator's own networks.
#[must_use]
pub fn admits(grants: &[AllowedEndpoint], address: IpAddr, api_server: &BTreeSet<IpAddr>) -> bool {
    let address = canonical(address);
    grants.iter().any(|grant| match grant.cidrs.as_slice() {
        [] => !is_internal(address, api_server),
        cidrs => cidrs.iter().any(|cidr| contains(cidr, address)),
    })
}

/// Returns true if an address leads to the operator's own host, its links or the API server, in any notation.
fn is_internal(address: IpAddr, api_server: &BTreeSet<IpAddr>) -> bool {
    let is_own = match address {
        IpAddr::V4(v4) => {
            v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast() || v4.octets()[0] == 0
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unicast_link_local()
                || embedded(v6).is_some_and(|v4| is_internal(v4.into(), api_server))
        }
    };
    is_own || api_server.iter().any(|own| canonical(*own) == address)
}

/// The IPv4 address that a translator finds in an IPv6 address: IPv4-compatible (RFC 4291, 2.5.5.1), NAT64 (RFC 6052)
/// and 6to4 (RFC 3056).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match address.segments() {
        [0, 0, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            v4(high, low)
        }
        _ => None,
    }
}

/// An IPv4-mapped IPv6 address as the IPv4 address that is dialled for it.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Returns true for a DNS host name. A name whose last label is a number is none: resolvers read it as an address
/// (`127.1`, `0x7f000001`).
fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_number = last.chars().all(|c| c.is_ascii_digit()) || last.starts_with("0x");
    name.len() <= 253 && name.split('.').all(is_label) && !is_number
}

/// The reason of every failed probe of an endpoint. Distinct reasons would tell a tenant which ports answer on other
/// networks.
pub const NO_ANSWER: &str = "no verified answer from the endpoint";

#[cfg(test)]
mod tests;
