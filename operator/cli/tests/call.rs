//! `gaia token` and `gaia call`, with servers that demand a client certificate.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use gaia_api::{Clock as _, SystemClock};
use jiff::ToSpan as _;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use support::platform::{Platform, leaf};
use support::{Ended, gaia};

/// A server of one service: it answers every request, and keeps what it received.
struct Server {
    address: String,
    received: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(platform: &Platform, name: &str, status: &'static str, body: &'static str) -> Self {
        let (certificate, key) = leaf(&platform.ca, name, platform.now, platform.now + 100.hours());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(platform.ca.root().to_pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let config = Arc::new(config.with_client_cert_verifier(clients).with_single_cert(chain, key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let received = Arc::<Mutex<Vec<String>>>::default();
        let kept = received.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), socket);
                let mut head = vec![];
                let mut chunk = [0; 4096];
                while !head.windows(4).any(|window| window == b"\r\n\r\n") {
                    match stream.read(&mut chunk) {
                        Ok(count) if count > 0 => head.extend_from_slice(&chunk[..count]),
                        _ => break,
                    }
                }
                kept.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
                let length = body.len();
                let answer =
                    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
                let _ = stream.write_all(answer.as_bytes()).and_then(|()| stream.flush());
            }
        });
        Self { address, received }
    }

    fn received(&self) -> String {
        self.received.lock().unwrap().join("\n---\n")
    }
}

const ISSUED: &str = r#"{"access_token":"a-token-of-the-issuer","token_type":"Bearer","expires_in":600}"#;

/// Services `gateway` (the caller), `chat-service` (the target) and `auth-service` (the token issuer).
fn platform() -> Platform {
    // The servers verify by the clock of the machine.
    let platform = Platform::new(SystemClock.now());
    let identity = |name: &str| json!({"namespace": "default", "name": name, "spiffeId": format!("spiffe://gaia.local/ns/default/sa/{name}")});
    let policy = json!({
        "schemaVersion": 1, "service": identity("gateway"), "tlsMode": "Strict", "mode": "Dual", "callers": [],
        "tokens": {"issuer": "gaia-platform", "audience": "gaia-services", "maxTtlSeconds": 3600},
        "tokenIssuer": identity("auth-service"),
    });
    std::fs::write(platform.path().join("gateway/policy.json"), policy.to_string()).unwrap();
    platform
}

fn service(platform: &Platform, name: &str, address: &str, callers: &[&str]) {
    let callers: Vec<_> = callers.iter().map(|caller| json!({"service": caller})).collect();
    platform.put("gaiaservices", "default", name, &json!({
        "apiVersion": "gaia.dev/v1alpha1", "kind": "GaiaService", "metadata": {"namespace": "default", "name": name},
        "spec": {"trustDomainRef": {"name": "gaia"}, "endpoints": [address], "callers": callers},
    }));
}

fn run(platform: &Platform, arguments: &[&str]) -> Ended {
    gaia(&[arguments, &[&platform.option()]].concat())
}

#[test]
fn a_token_is_issued_to_the_certificate_of_the_service_and_printed_alone() {
    let platform = platform();
    let issuer = Server::start(&platform, "auth-service", "200 OK", ISSUED);
    service(&platform, "auth-service", &issuer.address, &[]);
    service(&platform, "gateway", "127.0.0.1:1", &[]);
    service(&platform, "chat-service", "127.0.0.1:1", &["gateway"]);
    let ended = run(&platform, &["token", "--as", "gateway", "--audience", "chat-service", "--scope", "chat:write"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "a-token-of-the-issuer\n"), "{}", ended.stderr);
    assert!(issuer.received().starts_with("POST /internal/service-token"), "{}", issuer.received());
    for unknown in [
        ["--as", "unknown-service", "--audience", "chat-service"],
        ["--as", "gateway", "--audience", "unknown-service"],
    ] {
        let ended = run(&platform, &[&["token"], &unknown[..]].concat());
        assert_eq!((ended.code, ended.stdout.as_str()), (64, ""));
        assert!(ended.stderr.contains("there is no service unknown-service"), "{}", ended.stderr);
    }
}

#[test]
fn a_call_carries_the_token_for_the_service_at_the_address() {
    let platform = platform();
    let issuer = Server::start(&platform, "auth-service", "200 OK", ISSUED);
    let target = Server::start(&platform, "chat-service", "200 OK", "{\"answer\":1}");
    service(&platform, "auth-service", &issuer.address, &[]);
    service(&platform, "gateway", "127.0.0.1:1", &[]);
    service(&platform, "chat-service", &target.address, &["gateway"]);
    let url = format!("https://{}/v1/chat", target.address);
    let ended = run(&platform, &["call", "post", &url, "{\"a\":1}", "--as", "gateway", "-v"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "{\"answer\":1}"), "{}", ended.stderr);
    let received = target.received();
    assert!(received.starts_with("POST /v1/chat") && received.contains("Bearer a-token-of-the-issuer"), "{received}");
    for part in ["POST https://", "token for chat-service", "sa/chat-service", "status: 200"] {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
    assert!(!ended.stderr.contains("a-token-of-the-issuer"), "a token is not printed: {}", ended.stderr);
}

/// Kind: an address that is written in another way gets a call without a token.
#[test]
fn a_service_is_called_by_its_name_or_by_any_name_of_this_machine() {
    let platform = platform();
    let issuer = Server::start(&platform, "auth-service", "200 OK", ISSUED);
    let target = Server::start(&platform, "chat-service", "200 OK", "");
    service(&platform, "auth-service", &issuer.address, &[]);
    service(&platform, "gateway", "127.0.0.1:1", &[]);
    service(&platform, "chat-service", &target.address, &["gateway"]);
    let port = target.address.rsplit(':').next().unwrap();
    for url in ["https://chat-service/v1/chat".to_owned(), format!("https://localhost:{port}/v1/chat")] {
        let ended = run(&platform, &["call", &url, "--as", "gateway", "-v"]);
        assert_eq!(ended.code, 0, "{url}: {}", ended.stderr);
        assert!(ended.stderr.contains("token for chat-service"), "{url}: {}", ended.stderr);
    }
    let unknown = run(&platform, &["call", "https://127.0.0.1:2/", "--as", "gateway"]);
    assert!(
        unknown.stderr.contains("no service has this address") && unknown.stderr.contains("--audience"),
        "{}",
        unknown.stderr
    );
}

#[test]
fn a_server_with_another_identity_gets_no_request() {
    let platform = platform();
    let issuer = Server::start(&platform, "auth-service", "200 OK", ISSUED);
    let imposter = Server::start(&platform, "asset-service", "200 OK", "");
    service(&platform, "auth-service", &issuer.address, &[]);
    service(&platform, "gateway", "127.0.0.1:1", &[]);
    service(&platform, "chat-service", &imposter.address, &["gateway"]);
    let url = format!("https://{}/", imposter.address);
    let ended = run(&platform, &["call", &url, "--as", "gateway"]);
    assert_ne!(ended.code, 0);
    assert!(ended.stderr.contains("sa/chat-service") && ended.stderr.contains("sa/asset-service"), "{}", ended.stderr);
    assert!(!imposter.received().contains("Bearer"), "{}", imposter.received());
}

#[test]
fn refusals_are_2_and_silence_is_3() {
    let platform = platform();
    let issuer = Server::start(&platform, "auth-service", "403 Forbidden", "{}");
    let target = Server::start(&platform, "chat-service", "401 Unauthorized", "");
    service(&platform, "auth-service", &issuer.address, &[]);
    service(&platform, "gateway", "127.0.0.1:1", &[]);
    service(&platform, "chat-service", &target.address, &[]);
    let key = platform.file("key.txt", "a-secret-api-key\n");
    let url = format!("https://{}/", target.address);
    let refused = run(&platform, &["token", "--as", "gateway", "--audience", "chat-service"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("spec.callers of GaiaService chat-service"), "{}", refused.stderr);
    let by_key = run(&platform, &["call", &url, "--as", "gateway", "--api-key-file", &key, "-v"]);
    assert_eq!(by_key.code, 2, "{}", by_key.stderr);
    assert!(target.received().contains("a-secret-api-key") && !by_key.stderr.contains("a-secret-api-key"));
    let silent = run(&platform, &["call", "https://127.0.0.1:1/", "--as", "gateway", "--api-key-file", &key]);
    assert_eq!(silent.code, 3, "{}", silent.stderr);
    for wrong in ["http://127.0.0.1:1/", "127.0.0.1"] {
        assert_eq!(run(&platform, &["call", wrong, "--as", "gateway"]).code, 64, "{wrong}");
    }
}

#[test]
fn key_and_token_are_compared_by_status() {
    let platform = platform();
    let issuer = Server::start(&platform, "auth-service", "200 OK", ISSUED);
    let target = Server::start(&platform, "chat-service", "200 OK", "");
    service(&platform, "auth-service", &issuer.address, &[]);
    service(&platform, "gateway", "127.0.0.1:1", &[]);
    service(&platform, "chat-service", &target.address, &["gateway"]);
    let key = platform.file("key.txt", "a-secret-api-key\n");
    let url = format!("https://{}/", target.address);
    let ended = run(&platform, &["call", &url, "--as", "gateway", "--compare", "--api-key-file", &key]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(ended.stdout, "by API key 200 OK, by token 200 OK: the same\n");
}

#[test]
fn all_pairs_are_tried_and_one_that_is_not_declared() {
    let platform = platform();
    let issuer = Server::start(&platform, "auth-service", "200 OK", ISSUED);
    let target = Server::start(&platform, "chat-service", "200 OK", "{}");
    service(&platform, "auth-service", &issuer.address, &[]);
    service(&platform, "gateway", "127.0.0.1:1", &[]);
    service(&platform, "chat-service", &target.address, &["gateway"]);
    let ended = run(&platform, &["call", "--all-pairs", "-o", "json"]);
    let document: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let pairs = document["pairs"].as_array().unwrap();
    assert_eq!((&pairs[0]["caller"], &pairs[0]["target"]), (&json!("gateway"), &json!("chat-service")));
    assert_eq!((&pairs[0]["isAsExpected"], &pairs[0]["result"]), (&json!(true), &json!("200")));
    // This issuer grants everything, and the pair that is not declared has no directory here.
    assert_eq!(pairs.len(), 2);
    assert_eq!(pairs[1]["isDeclared"], json!(false));
    assert_ne!(ended.code, 0);
}
