//! The addresses of the API server, which endpoints may not name unless `cidrs` allow them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client};
use tokio::time::timeout;

use crate::cache::{SharedCache, lock};
use crate::schedule::scheduler::Scheduler;

/// Looks the addresses up, now and every ten minutes. Those once found are kept: without the EndpointSlice, which lists
/// every server, each `GET /api` names only the one that answers.
pub(crate) async fn watch_addresses(client: Client, world: SharedCache, scheduler: Scheduler) {
    let mut known = BTreeSet::new();
    loop {
        known.extend(own_address());
        known.extend(advertised(&client).await);
        known.extend(published(&client).await);
        while known.len() > MOST {
            known.pop_last();
        }
        let keys = lock(&world).set_api_server(known.clone());
        scheduler.push(&world, keys);
        tokio::time::sleep(INTERVAL).await;
    }
}

/// The address of the Service of the API server, as every container has it.
fn own_address() -> Option<IpAddr> {
    std::env::var("KUBERNETES_SERVICE_HOST").ok()?.parse().ok()
}

/// The addresses that the API server itself names (`GET /api`, which every authenticated client may read).
async fn advertised(client: &Client) -> Vec<IpAddr> {
    let Ok(Ok(versions)) = timeout(ANSWERED_WITHIN, client.list_core_api_versions()).await else {
        tracing::debug!("the API server did not name its addresses");
        return vec![];
    };
    let named = versions.server_address_by_client_cidrs.into_iter().map(|entry| entry.server_address);
    named.filter_map(|address| parse(&address)).collect()
}

/// The addresses of all API servers, as they publish them for their Service.
async fn published(client: &Client) -> Vec<IpAddr> {
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), "default");
    let Ok(Ok(Some(slice))) = timeout(ANSWERED_WITHIN, slices.get_opt("kubernetes")).await else {
        tracing::debug!("EndpointSlice default/kubernetes cannot be read");
        return vec![];
    };
    listed(&slice)
}

fn listed(slice: &EndpointSlice) -> Vec<IpAddr> {
    let addresses = slice.endpoints.iter().flatten().flat_map(|endpoint| &endpoint.addresses);
    addresses.filter_map(|address| parse(address)).collect()
}

/// An address with or without a port.
fn parse(address: &str) -> Option<IpAddr> {
    address.parse::<SocketAddr>().map(|address| address.ip()).or_else(|_| address.parse()).ok()
}

const INTERVAL: Duration = Duration::from_secs(600);
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
/// API servers of a cluster.
const MOST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_of_the_endpoint_slice_is_listed() {
        let slice = serde_json::json!({
            "addressType": "IPv4",
            "endpoints": [{ "addresses": ["10.0.0.1"] }, { "addresses": ["10.0.0.2"], "conditions": { "ready": false } }],
        });
        let servers = ["10.0.0.1", "10.0.0.2"].map(|address| address.parse::<IpAddr>().unwrap());
        assert_eq!(listed(&serde_json::from_value(slice).unwrap()), servers);
    }

    #[test]
    fn addresses_are_read_with_and_without_a_port() {
        assert_eq!(parse("10.1.2.3:6443"), "10.1.2.3".parse().ok());
        assert_eq!(parse("[2001:db8::1]:6443"), "2001:db8::1".parse().ok());
        assert_eq!(parse("10.1.2.3"), "10.1.2.3".parse().ok());
        assert_eq!(parse("api.example.com:6443"), None);
    }
}
