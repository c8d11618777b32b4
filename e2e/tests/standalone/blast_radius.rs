//! The cost of an attack on one service for its other clients: each service runs in a cgroup with the memory limit of its chart and
//! is attacked by one source and by fifty, while twenty users work from other addresses.
//!
//! A new attack is one line in [`ATTACKS`]. The short form runs all attacks at the same time, the long one
//! (`GAIA_E2E_LONG=1`) each of them alone, too.

use std::time::Duration;

use gaia_e2e::tier;
use rstest::rstest;

use crate::blast_radius_support::attacks::{Attack, admin, connections, heads, http2, tls};
use crate::blast_radius_support::{Victim, under_attack};

/// Every attack of the suite. One runs from one source address until it is dropped.
const ATTACKS: &[Attack] = &[
    Attack { name: "silent connections", run: connections::silent },
    Attack { name: "connections that are opened and closed", run: connections::churn },
    Attack { name: "unfinished heads of 60 KiB", run: heads::unfinished },
    Attack { name: "requests with heads of 60 KiB whose bodies do not come", run: heads::without_body },
    Attack { name: "unfinished TLS handshake messages", run: tls::unfinished_handshake },
    Attack { name: "silent connections of the admin port", run: admin::silent },
    Attack { name: "unfinished heads at the admin port", run: admin::unfinished_heads },
    Attack { name: "unfinished HTTP/2 header blocks", run: http2::unfinished_blocks },
    Attack { name: "HTTP/2 SETTINGS flood", run: http2::settings },
    Attack { name: "HTTP/2 PING flood", run: http2::pings },
    Attack { name: "HTTP/2 streams whose bodies do not come", run: http2::streams_without_body },
];

#[rstest]
#[case("gateway")]
#[case("auth-service")]
#[case("asset-service")]
#[case("chat-service")]
#[case("web-service")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attack_costs_no_other_client(#[case] service: &str) {
    let Some(victim) = Victim::start(service).await else { return };
    let all: Vec<&Attack> = ATTACKS.iter().collect();
    for sources in [1, 50] {
        under_attack(&victim, &all, sources, SHORT).await;
    }
    if tier::is_long() {
        for attack in ATTACKS {
            for sources in [1, 50] {
                under_attack(&victim, &[attack], sources, LONG).await;
            }
        }
    }
}

const SHORT: Duration = Duration::from_secs(3);
const LONG: Duration = Duration::from_secs(10);
