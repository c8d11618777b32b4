//! The operator's routes, and access to them.

use gaia_api::identity::{IDENTITY_PATH, IdentityReport, MAX_REPORT_BYTES};
use gaia_api::ledger::{LEDGER_PATH, LedgerCaller, LedgerReport};
use gaia_api::mount::AuthMode;
use gaia_pki::{Certificate, sha256_hex};
use serde_json::json;

use super::*;

async fn report(service: &Service, operator: &MeshClient) -> IdentityReport {
    let (status, body) = service.get(operator, IDENTITY_PATH).await.unwrap();
    assert_eq!(status, StatusCode::OK, "{body}");
    assert!(body.len() < MAX_REPORT_BYTES);
    serde_json::from_str(&body).unwrap()
}

fn root(platform: &Platform) -> String {
    Certificate::chain_from_pem(platform.bundle().as_bytes()).unwrap()[0].fingerprint()
}

fn hash(files: &MountedFiles, name: &str) -> String {
    sha256_hex(&files[name])
}

#[tokio::test]
async fn the_operator_learns_what_is_in_force_in_either_tls_mode() {
    let platform = Platform::new();
    let operator = platform.client(Some(&platform.operator_leaf()));
    for files in [platform.mount("asset-service"), strict(&platform)] {
        let before = SystemClock.now();
        let service = start(&files).await;
        let report = report(&service, &operator).await;
        let leaf = certificate(&files);
        assert_eq!(report.service.spiffe_id, spiffe_id("asset-service"));
        assert_eq!((report.leaf.serial, report.leaf.fingerprint), (leaf.serial(), leaf.fingerprint()));
        assert_eq!(report.leaf.not_after, leaf.not_after());
        assert_eq!(report.bundle_hash, hash(&files, key::CA_CERT));
        assert_eq!(report.policy_hash, hash(&files, key::POLICY));
        assert_eq!(report.denylist_hash, Some(hash(&files, key::DENYLIST)));
        assert_eq!(report.jwks_kids, [platform.signer().kid()]);
        assert_eq!((report.signing_kid, report.mode), (None, AuthMode::Dual));
        assert!(report.started_at >= before && report.started_at <= SystemClock.now());
        assert_eq!(report.instance.len(), 32);
        assert_eq!(report.connections.len(), 0, "the operator is not among those it asks for");
    }
}

/// A rejected part is reported with the reason, and the others are in use.
#[tokio::test]
async fn refused_api_keys_are_reported_to_the_operator() {
    let platform = Platform::new();
    let operator = platform.client(Some(&platform.operator_leaf()));
    let mut files = platform.mount("asset-service");
    let service = start(&files).await;
    assert!(report(&service, &operator).await.refused.is_empty());
    files.insert(key::API_KEYS, b"{".to_vec());
    let service = start(&files).await;
    let refused = report(&service, &operator).await.refused;
    assert_eq!(refused.keys().collect::<Vec<_>>(), ["api_keys"]);
    assert!(refused["api_keys"].contains("api-keys.json"), "{refused:?}");
}

/// A service with an API key whose text is `secret`.
async fn start_with_key(platform: &Platform) -> Service {
    let mut files = platform.mount("asset-service");
    let key =
        json!({"id": "old", "sha256": sha256_hex(b"secret"), "principal": "p", "state": "active", "shared": true});
    files.insert(key::API_KEYS, json!({ "schemaVersion": 1, "keys": [key] }).to_string().into_bytes());
    start(&files).await
}

#[tokio::test]
async fn the_operator_learns_who_still_uses_which_key() {
    let platform = Platform::new();
    let service = start_with_key(&platform).await;
    let gateway = platform.client(Some(&platform.leaf("gateway")));
    for client in [&gateway, &platform.client(None)] {
        let request = Request::get(format!("{}/anyone", service.mesh)).header("x-api-key", "secret");
        let request = request.header("user-agent", "curl/8.5.0").body(Body::empty()).unwrap();
        assert_eq!(read(client.request(request).await.unwrap()).await, (StatusCode::OK, b"key:old".to_vec()));
    }
    let operator = platform.client(Some(&platform.operator_leaf()));
    let (status, body) = service.get(&operator, LEDGER_PATH).await.unwrap();
    assert_eq!(status, StatusCode::OK);
    let ledger: LedgerReport = serde_json::from_str(&body).unwrap();
    assert_eq!(ledger.instance, report(&service, &operator).await.instance);
    let callers: Vec<_> = ledger.entries.iter().map(|entry| (entry.key.as_str(), &entry.caller)).collect();
    let address = Some([127, 0, 0, 1].into());
    let stranger = LedgerCaller::Unknown { address, user_agent: Some("curl".into()), route: "/anyone".into() };
    assert_eq!(callers, [("old", &LedgerCaller::Peer { spiffe_id: spiffe_id("gateway") }), ("old", &stranger)]);
    assert_eq!(service.get(&gateway, LEDGER_PATH).await.unwrap().0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_key_is_in_use_also_where_there_is_nothing() {
    let platform = Platform::new();
    let service = start_with_key(&platform).await;
    let client = platform.client(Some(&platform.leaf("gateway")));
    for request in [Request::get(format!("{}/nothing", service.mesh)), Request::delete(format!("{}/who", service.mesh))]
    {
        let request = request.header("x-api-key", "secret").body(Body::empty()).unwrap();
        assert!(client.request(request).await.unwrap().status().is_client_error());
    }
    let line = r#"gaia_auth_requests_total{credential="api_key",transport="mtls",mode="Dual",result="accepted",reason="",route="unmatched"} 2"#;
    let metrics = get_plain(&format!("{}/metrics", service.admin)).await.1;
    assert!(metrics.contains(line), "{metrics}");
    let operator = platform.client(Some(&platform.operator_leaf()));
    let ledger: LedgerReport = serde_json::from_str(&service.get(&operator, LEDGER_PATH).await.unwrap().1).unwrap();
    assert_eq!(ledger.entries.len(), 1);
}

#[tokio::test]
async fn every_process_has_a_name_of_its_own() {
    let platform = Platform::new();
    let operator = platform.client(Some(&platform.operator_leaf()));
    let files = platform.mount("asset-service");
    let (first, second) = (start(&files).await, start(&files).await);
    assert_ne!(report(&first, &operator).await.instance, report(&second, &operator).await.instance);
}

#[tokio::test]
async fn for_everybody_else_there_is_nothing_there() {
    let platform = Platform::new();
    let service = start(&platform.mount("asset-service")).await;
    let now = SystemClock.now();
    let hour = SignedDuration::from_hours(1);
    let lookalike = platform.leaf_for("spiffe://gaia.local/ns/gaia/sa/operator", now - hour, now + hour);
    for leaf in [None, Some(platform.leaf("gateway")), Some(platform.leaf("asset-service")), Some(lookalike)] {
        let client = platform.client(leaf.as_ref());
        let answer = service.get(&client, IDENTITY_PATH).await.unwrap();
        assert_eq!(answer.0, StatusCode::NOT_FOUND);
        assert_eq!(answer, service.get(&client, "/nothing").await.unwrap());
    }
    let elsewhere = platform.leaf_for("spiffe://other.local/gaia/operator", now - hour, now + hour);
    // Neither certificate verifies, so the connection has no peer.
    for leaf in [elsewhere, Platform::new().operator_leaf()] {
        let answer = service.get(&platform.client(Some(&leaf)), IDENTITY_PATH).await.unwrap();
        assert_eq!(answer.0, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn the_operator_is_served_nothing_else_and_counts_as_no_caller() {
    let platform = Platform::new();
    let service = start(&platform.mount("asset-service")).await;
    let operator = platform.client(Some(&platform.operator_leaf()));
    for path in ["/who", "/health", "/nothing"] {
        assert_eq!(service.get(&operator, path).await.unwrap().0, StatusCode::NOT_FOUND, "{path}");
    }
    report(&service, &operator).await;
    let metrics = get_plain(&format!("{}/metrics", service.admin)).await.1;
    assert!(!metrics.contains("gaia_auth_requests_total{"), "{metrics}");
}

#[tokio::test]
async fn a_refused_part_is_reported_as_the_one_that_stays_in_use() {
    let platform = Platform::new();
    let good = platform.mount("asset-service");
    let mut service = start(&good).await;
    let operator = platform.client(Some(&platform.operator_leaf()));
    let before = report(&service, &operator).await;
    let mut bad = good.clone();
    for name in [key::CA_CERT, key::DENYLIST, key::POLICY, key::JWKS] {
        bad.insert(name, b"garbage".to_vec());
    }
    service.mount.swap(&bad);
    eventually("all are refused", async || service.metric(r#"gaia_mount_refused{part="jwks"} 1"#).await).await;
    eventually("all are reported", async || report(&service, &operator).await.refused.len() == 4).await;
    assert_eq!(IdentityReport { refused: before.refused.clone(), ..report(&service, &operator).await }, before);

    let mut new = good;
    new.extend(platform.leaf("asset-service"));
    let denylist = Denylist { jtis: vec!["j".to_owned()], ..Denylist::empty() };
    new.insert(key::DENYLIST, serde_json::to_vec(&denylist).unwrap());
    service.mount.swap(&new);
    eventually("the new leaf is reported", async || {
        report(&service, &operator).await.leaf.fingerprint == certificate(&new).fingerprint()
    })
    .await;
    let after = report(&service, &operator).await;
    assert_eq!(after.denylist_hash, Some(hash(&new, key::DENYLIST)));
    assert_eq!((after.instance, after.started_at), (before.instance, before.started_at));
}

#[tokio::test]
async fn open_connections_are_counted_by_the_root_they_lead_to_and_no_longer_than_they_last() {
    let (platform, old) = (Platform::new(), Platform::new());
    let mut files = platform.mount("asset-service");
    files.insert(key::CA_CERT, format!("{}{}", old.bundle(), platform.bundle()).into_bytes());
    let service = start(&files).await;
    let operator = platform.client(Some(&platform.operator_leaf()));
    let counted = async || {
        let connections = report(&service, &operator).await.connections;
        let of = |platform| connections.get(&root(platform)).copied().unwrap_or_default();
        (of(&platform), of(&old), connections.len())
    };
    let first = service.connect(&platform, &platform.leaf("gateway")).await;
    let second = service.connect(&platform, &platform.leaf("chat-service")).await;
    let of_old = service.connect(&platform, &old.leaf("gateway")).await;
    eventually("all three are counted", async || counted().await == (2, 1, 2)).await;
    drop(first);
    eventually("one has gone", async || counted().await == (1, 1, 2)).await;
    drop(of_old);
    eventually("the old root has none left", async || counted().await == (1, 0, 1)).await;
    drop(second);
    eventually("there are none", async || counted().await == (0, 0, 0)).await;
}
