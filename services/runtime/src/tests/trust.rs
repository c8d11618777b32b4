//! Effects on open and new connections when peers are no longer trusted.

use tokio::time::Instant;

use super::*;

const REQUEST: &[u8] = b"GET /who HTTP/1.1\r\nhost: x\r\n\r\n";

async fn ask(stream: &mut TlsStream<TcpStream>) -> std::io::Result<String> {
    stream.write_all(REQUEST).await?;
    let mut answer = [0; 1024];
    let bytes = stream.read(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer[..bytes]).into_owned())
}

/// Returns the time until the other side closes an idle connection.
async fn closed(stream: &mut TlsStream<TcpStream>) -> Duration {
    let start = Instant::now();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut [0; 1024])).await;
    assert!(!read.expect("it is closed").is_ok_and(|bytes| bytes > 0), "nothing was asked");
    start.elapsed()
}

pub(super) fn revoked(leaf: &MountedFiles) -> Vec<u8> {
    let denylist = Denylist { leaves: vec![certificate(leaf).fingerprint()], ..Denylist::empty() };
    serde_json::to_vec(&denylist).unwrap()
}

#[tokio::test]
async fn a_removed_root_goes_at_once_and_takes_open_connections_with_it() {
    let (platform, old) = (Platform::new(), Platform::new());
    let mut files = platform.mount("asset-service");
    files.insert(key::CA_CERT, format!("{}{}", platform.bundle(), old.bundle()).into_bytes());
    let mut service = start(&files).await;
    let leaf = old.leaf("gateway");
    let mut doomed = service.connect(&platform, &leaf).await;
    let mut fine = service.connect(&platform, &platform.leaf("gateway")).await;
    for stream in [&mut doomed, &mut fine] {
        assert!(ask(stream).await.unwrap().starts_with("HTTP/1.1 200"));
    }
    files.insert(key::CA_CERT, platform.bundle().into_bytes());
    service.mount.swap(&files);
    assert!(closed(&mut doomed).await < Duration::from_secs(5));
    assert_eq!(service.get(&platform.client(Some(&leaf)), "/who").await.unwrap().0, StatusCode::UNAUTHORIZED);
    assert!(ask(&mut fine).await.unwrap().starts_with("HTTP/1.1 200"), "the other one is not affected");
}

#[tokio::test]
async fn a_removed_root_goes_even_while_the_own_leaf_still_chains_to_it() {
    let (old, new) = (Platform::new(), Platform::new());
    let mut files = old.mount("asset-service");
    files.insert(key::CA_CERT, format!("{}{}", old.bundle(), new.bundle()).into_bytes());
    let mut service = start(&files).await;
    // These clients trust both CAs, so that only the trust of the service matters.
    let mut doomed = service.connect(&old, &old.leaf("gateway")).await;
    let mut fine = service.connect(&old, &new.leaf("gateway")).await;
    for stream in [&mut doomed, &mut fine] {
        assert!(ask(stream).await.unwrap().starts_with("HTTP/1.1 200"));
    }
    files.insert(key::CA_CERT, new.bundle().into_bytes());
    service.mount.swap(&files);
    assert!(closed(&mut doomed).await < Duration::from_secs(5));
    assert!(service.metric(r#"gaia_mount_refused{part="leaf"} 1"#).await);
    assert!(service.metric(r#"gaia_mount_refused{part="bundle"} 0"#).await);
    let leaf = old.leaf("gateway");
    let answer = service.get(&old.client(Some(&leaf)), "/who").await.unwrap();
    assert_eq!(answer.0, StatusCode::UNAUTHORIZED, "a leaf of the old root is no peer");
    assert!(ask(&mut fine).await.unwrap().starts_with("HTTP/1.1 200"));
    assert_eq!(service.get(&old.client(Some(&new.leaf("gateway"))), "/who").await.unwrap().0, StatusCode::OK);
    assert_eq!(service.readyz().await, StatusCode::OK);

    files.extend(new.leaf("asset-service"));
    service.mount.swap(&files);
    let client = new.client(Some(&new.leaf("gateway")));
    eventually("the leaf of the new root is served", async || service.get(&client, "/who").await.is_ok()).await;
}

#[tokio::test]
async fn a_revoked_leaf_is_refused_in_the_handshake_and_its_connections_are_closed() {
    let platform = Platform::new();
    let mut files = platform.mount("asset-service");
    let mut service = start(&files).await;
    let (stolen, fresh) = (platform.leaf("gateway"), platform.leaf("gateway"));
    let mut doomed = service.connect(&platform, &stolen).await;
    let mut fine = service.connect(&platform, &fresh).await;
    for stream in [&mut doomed, &mut fine] {
        assert!(ask(stream).await.unwrap().starts_with("HTTP/1.1 200"));
    }
    files.insert(key::DENYLIST, revoked(&stolen));
    service.mount.swap(&files);
    assert!(closed(&mut doomed).await < Duration::from_secs(5));
    assert!(service.get(&platform.client(Some(&stolen)), "/health").await.is_err());
    assert!(service.metric(r#"gaia_tls_handshake_failures_total{reason="revoked_client_certificate"} 1"#).await);
    assert!(ask(&mut fine).await.unwrap().starts_with("HTTP/1.1 200"));
}

/// Kind: a leaked CA whose root stays in the bundle.
#[tokio::test]
async fn a_denied_issuer_is_refused_in_the_handshake_and_its_connections_are_closed() {
    let (platform, leaked) = (Platform::new(), Platform::new());
    let mut files = platform.mount("asset-service");
    files.insert(key::CA_CERT, format!("{}{}", platform.bundle(), leaked.bundle()).into_bytes());
    let mut service = start(&files).await;
    let (stolen, fresh) = (leaked.leaf("gateway"), platform.leaf("gateway"));
    let mut doomed = service.connect(&platform, &stolen).await;
    let mut fine = service.connect(&platform, &fresh).await;
    for stream in [&mut doomed, &mut fine] {
        assert!(ask(stream).await.unwrap().starts_with("HTTP/1.1 200"));
    }
    let root = gaia_pki::Certificate::chain_from_pem(leaked.bundle().as_bytes()).unwrap().remove(0);
    let denylist = Denylist { issuers: vec![root.public_key().fingerprint()], ..Denylist::empty() };
    files.insert(key::DENYLIST, serde_json::to_vec(&denylist).unwrap());
    service.mount.swap(&files);
    assert!(closed(&mut doomed).await < Duration::from_secs(5));
    assert!(service.get(&platform.client(Some(&stolen)), "/health").await.is_err());
    assert!(ask(&mut fine).await.unwrap().starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_peer_whose_leaf_has_ended_is_refused_on_the_connection_it_has() {
    let platform = Platform::new();
    let now = SystemClock.now();
    let clock = Arc::new(ManualClock::new(now));
    let service = start_at(&platform.mount("asset-service"), Arc::<ManualClock>::clone(&clock), "0s").await;
    let hour = SignedDuration::from_hours(1);
    let leaf = platform.leaf_for(spiffe_id("gateway").as_str(), now - hour, now + hour);
    let mut stream = service.connect(&platform, &leaf).await;
    assert!(ask(&mut stream).await.unwrap().starts_with("HTTP/1.1 200"));
    clock.set(now + hour * 2);
    assert!(ask(&mut stream).await.unwrap().starts_with("HTTP/1.1 401"));
}

#[tokio::test]
async fn who_came_without_a_certificate_has_to_go_when_one_is_needed() {
    let platform = Platform::new();
    let mut service = start(&platform.mount("asset-service")).await;
    let mut stream = service.connect_with(platform.client_config(None)).await;
    assert!(ask(&mut stream).await.unwrap().starts_with("HTTP/1.1 401"));
    service.mount.swap(&strict(&platform));
    assert!(closed(&mut stream).await < Duration::from_secs(5));
}

#[tokio::test]
async fn a_new_leaf_of_ones_own_leaves_open_connections_alone() {
    let platform = Platform::new();
    let mut files = platform.mount("asset-service");
    let mut service = start(&files).await;
    let peer = platform.leaf("gateway");
    let mut stream = service.connect(&platform, &peer).await;
    assert!(ask(&mut stream).await.unwrap().starts_with("HTTP/1.1 200"));
    files.extend(platform.leaf("asset-service"));
    service.mount.swap(&files);
    let expected = certificate(&files).fingerprint();
    eventually("the new leaf is served", async || service.served_leaf(&platform, &peer).await == expected).await;
    assert!(ask(&mut stream).await.unwrap().starts_with("HTTP/1.1 200"));
}
