//! The cost of an attack on one service for the clients of the platform: each service runs in a cgroup with the memory limit of its
//! chart and is attacked by one source and by fifty, while twenty users work on all services from other addresses.
//!
//! A new attack is one line in [`ATTACKS`]. The short form runs all attacks on a service at the same time, the long one
//! (`GAIA_E2E_LONG=1`) each of them alone, too.

use std::time::Duration;

use gaia_e2e::tier;

use crate::blast_radius_support::attacks::{Attack, admin, connections, heads, http2, tls};
use crate::blast_radius_support::platform::SERVICES;
use crate::blast_radius_support::{Arena, accounts};

/// Every attack of the suite. One runs from one source address until it is dropped.
const ATTACKS: &[Attack] = &[
    Attack::of_each("silent connections", connections::silent),
    Attack::of_each("connections that are opened and closed", connections::churn),
    Attack::of_each("unfinished heads of 60 KiB", heads::unfinished),
    Attack::of_each("requests with heads of 60 KiB whose bodies do not come", heads::without_body),
    Attack::of_each("unfinished TLS handshake messages", tls::unfinished_handshake),
    Attack::of_each("silent connections of the admin port", admin::silent),
    Attack::of_each("unfinished heads at the admin port", admin::unfinished_heads),
    Attack::of_each("unfinished HTTP/2 header blocks", http2::unfinished_blocks),
    Attack::of_each("HTTP/2 SETTINGS flood", http2::settings),
    Attack::of_each("HTTP/2 PING flood", http2::pings),
    Attack::of_each("HTTP/2 streams whose bodies do not come", http2::streams_without_body),
    Attack::of_each("HTTP/2 windows full of bodies that are not read", http2::full_windows),
    Attack::of_each("HTTP/2 bodies in frames of one byte", http2::small_frames),
    Attack::of_each("HTTP/2 responses that are not read", http2::unread_responses),
    Attack::of_each("TLS handshakes and nothing else", tls::handshakes),
    Attack::of_each("TLS handshakes that are aborted", tls::aborted_handshakes),
    Attack::of_each("TLS records that are no handshake", tls::garbage),
    Attack::of(&["gateway", "auth-service"], "wrong sign-ins", accounts::wrong_sign_ins),
    Attack::of(&["web-service", "auth-service"], "wrong sign-ins on the pages", accounts::wrong_sign_ins_on_pages),
    Attack::of(&["gateway", "auth-service"], "refresh tokens that were never issued", accounts::wrong_refreshes),
    Attack::of(&["gateway", "auth-service"], "expired and forged tokens", accounts::bad_tokens),
    Attack::of(&["gateway", "auth-service"], "many tokens of one account", accounts::many_tokens_of_one_account),
    Attack::of(&["gateway", "auth-service"], "tokens of a mute issuer", accounts::tokens_of_mute_issuer),
    Attack::of(&["auth-service"], "requests of a service without rights", accounts::requests_of_a_service),
    Attack::of(&["gateway", "asset-service"], "uploads that stop", accounts::stalled_uploads),
    Attack::of(&["gateway", "asset-service"], "downloads that are not read", accounts::unread_downloads),
    Attack::of(&["gateway", "chat-service"], "chats that stop", accounts::stalled_chats),
    Attack::of(&["gateway", "chat-service"], "chats that the provider does not answer", accounts::unanswered_chats),
];

/// As many connections as a service accepts, with every buffer of each of them in use.
const EVERY_BUFFER: Attack = Attack::of_each("every buffer in use", http2::every_buffer);

/// Attacks while another server does not read. Each runs alone: the fault stops the work of some users.
const WITH_FAULTS: &[Attack] = &[
    Attack {
        name: "sign-ins while the login server is silent",
        victims: &["auth-service", "gateway"],
        run: accounts::wrong_sign_ins,
        fault: Some(&accounts::SILENT_LOGIN),
    },
    Attack {
        name: "chats while chat-service does not run",
        victims: &["gateway"],
        run: accounts::large_chats,
        fault: Some(&accounts::PAUSED_CHAT),
    },
    Attack {
        name: "uploads while asset-service does not run",
        victims: &["gateway"],
        run: accounts::stalled_uploads,
        fault: Some(&accounts::PAUSED_ASSETS),
    },
    Attack {
        name: "tokens of one account while auth-service does not run",
        victims: &["gateway"],
        run: accounts::many_tokens_of_one_account,
        fault: Some(&accounts::PAUSED_AUTH),
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_on_a_service_costs_no_other_client() {
    let Some(mut arena) = Arena::open().await else { return };
    arena.calm(SHORT).await;
    for victim in SERVICES {
        let all: Vec<&Attack> = ATTACKS.iter().filter(|attack| attack.is_directed_at(victim)).collect();
        for sources in [1, 50] {
            arena.under_attack(victim, &all, sources, SHORT).await;
        }
    }
    for attack in WITH_FAULTS {
        arena.under_attack(attack.victims[0], &[attack], 50, SHORT).await;
    }
    for victim in ["asset-service", "gateway"] {
        arena.under_attack(victim, &[&EVERY_BUFFER], 50, SHORT).await;
    }
    if tier::is_long() {
        for attack in ATTACKS.iter().chain(WITH_FAULTS).chain([&EVERY_BUFFER]) {
            for victim in SERVICES.into_iter().filter(|victim| attack.is_directed_at(victim)) {
                for sources in [1, 50] {
                    arena.under_attack(victim, &[attack], sources, LONG).await;
                }
            }
        }
    }
    arena.calm(SHORT).await;
    arena.assert_unaffected();
}

const SHORT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(4);
