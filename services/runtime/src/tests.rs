//! Services with real TLS on the loopback address.

pub(crate) mod client;
pub(crate) mod server;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::routing::{get, post};
use gaia_api::mount::{Denylist, Policy, TlsMode};
use gaia_api::names::key;
use gaia_api::{Clock, ManualClock, Span, SystemClock};
use gaia_auth::{Access, Principal};
use http::{HeaderMap, Request, StatusCode, header};
use jiff::SignedDuration;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::limits::Limits;
use crate::testing::{
    Mount, MountedFiles, Platform, certificate, config, eventually, get_plain, policy, read, spiffe_id,
};
use crate::{CallError, MeshClient, Routes, Runtime};

mod body;
mod identity;
mod panics;
mod trust;

pub(crate) use self::body::Sent;

/// A running service with `/who` (requires a peer), `/anyone` (requires any principal), `/slow` (responds when
/// released), `/put`, `/shown` (returns the credential of the request) and `/big`.
struct Service {
    mesh: String,
    admin: String,
    mount: Mount,
    slow: Arc<Notify>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
    _dir: TempDir,
}

async fn start(files: &MountedFiles) -> Service {
    start_at(files, Arc::new(SystemClock), "0s").await
}

async fn start_at(files: &MountedFiles, clock: Arc<dyn Clock>, shutdown_delay: &str) -> Service {
    let dir = tempfile::tempdir().unwrap();
    let mount = Mount::new(dir.path(), files);
    let mut config = config("asset-service", dir.path());
    config.shutdown_delay = Span::parse(shutdown_delay).unwrap();
    let runtime = Runtime::start(config, clock, Arc::new(()), |_| ()).await.unwrap();
    serve(runtime, mount, dir)
}

async fn start_within(files: &MountedFiles, limits: Limits) -> Service {
    let dir = tempfile::tempdir().unwrap();
    let mount = Mount::new(dir.path(), files);
    let config = config("asset-service", dir.path());
    let mut runtime = Runtime::start(config, Arc::new(SystemClock), Arc::new(()), |_| ()).await.unwrap();
    runtime.limits = limits;
    serve(runtime, mount, dir)
}

fn serve(runtime: Runtime, mount: Mount, dir: TempDir) -> Service {
    let slow = Arc::new(Notify::new());
    let release = Arc::clone(&slow);
    let shown = async |headers: HeaderMap| headers[header::AUTHORIZATION].to_str().unwrap().to_owned();
    let routes = runtime
        .routes()
        .route("/put", Access::Public, post(async |body: Bytes| body.len().to_string()))
        .route("/token", Access::Scopes(&[]), post(async |_: Principal, body: Bytes| body))
        .route("/shown", Access::Scopes(&[]), get(shown))
        .route("/big", Access::Public, get(async || vec![0; 64 * 1024 * 1024]))
        .route("/who", Access::Peer, get(async |principal: Principal| principal.subject.to_string()))
        .route("/anyone", Access::Scopes(&[]), get(async |principal: Principal| principal.subject.to_string()))
        .route("/slow", Access::Public, get(move || async move { release.notified().await }));
    Service { slow, ..serve_routes(runtime, mount, dir, routes) }
}

/// Like `serve`, with other routes.
fn serve_routes(runtime: Runtime, mount: Mount, dir: TempDir, routes: Routes) -> Service {
    let mesh = format!("https://{}", runtime.mesh_address().unwrap());
    let admin = format!("http://{}", runtime.admin_address().unwrap());
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(runtime.serve(routes, async { drop(stopped.await) }));
    Service { mesh, admin, mount, slow: Arc::default(), stop: Some(stop), serving, _dir: dir }
}

impl Service {
    async fn get(&self, client: &MeshClient, path: &str) -> Result<(StatusCode, String), CallError> {
        let request = Request::get(format!("{}{path}", self.mesh)).body(Body::empty()).unwrap();
        let (status, body) = read(client.request(request).await?).await;
        Ok((status, String::from_utf8(body).unwrap()))
    }

    async fn health(&self, client: &MeshClient) -> Value {
        serde_json::from_str(&self.get(client, "/health").await.unwrap().1).unwrap()
    }

    async fn metric(&self, line: &str) -> bool {
        get_plain(&format!("{}/metrics", self.admin)).await.1.lines().any(|found| found == line)
    }

    async fn readyz(&self) -> StatusCode {
        get_plain(&format!("{}/readyz", self.admin)).await.0
    }

    /// Opens a separate connection.
    async fn connect(&self, platform: &Platform, leaf: &MountedFiles) -> TlsStream<TcpStream> {
        self.connect_with(platform.client_config(Some(leaf))).await
    }

    async fn connect_with(&self, config: rustls::ClientConfig) -> TlsStream<TcpStream> {
        let tls = TlsConnector::from(Arc::new(config));
        let tcp = self.connect_plain().await;
        tls.connect(ServerName::try_from("127.0.0.1").unwrap(), tcp).await.unwrap()
    }

    /// Opens a connection without TLS.
    async fn connect_plain(&self) -> TcpStream {
        TcpStream::connect(self.mesh.strip_prefix("https://").unwrap()).await.unwrap()
    }

    async fn served_leaf(&self, platform: &Platform, leaf: &MountedFiles) -> String {
        let stream = self.connect(platform, leaf).await;
        let chain = stream.get_ref().1.peer_certificates().unwrap();
        gaia_pki::Certificate::from_der(&chain[0]).unwrap().fingerprint()
    }
}

fn strict(platform: &Platform) -> MountedFiles {
    let mut files = platform.mount("asset-service");
    let policy = Policy { tls_mode: TlsMode::Strict, ..policy("asset-service") };
    files.insert(key::POLICY, serde_json::to_vec(&policy).unwrap());
    files
}

#[tokio::test]
async fn the_right_peer_is_served_and_known_by_its_certificate() {
    let platform = Platform::new();
    let service = start(&platform.mount("asset-service")).await;
    let client = platform.client(Some(&platform.leaf("gateway")));
    let answer = service.get(&client, "/who").await.unwrap();
    assert_eq!(answer, (StatusCode::OK, spiffe_id("gateway").to_string()));
    let health = service.health(&client).await;
    assert_eq!(health["status"], "healthy");
    assert_eq!(health["certificates"]["days_until_expiry"], 0);
    assert!(
        health["certificates"]["ca_cert_expires"].as_str() > health["certificates"]["service_cert_expires"].as_str()
    );
}

#[tokio::test]
async fn permissive_lets_a_client_in_without_a_certificate_but_tells_it_nothing() {
    let platform = Platform::new();
    let service = start(&platform.mount("asset-service")).await;
    let client = platform.client(None);
    assert_eq!(service.health(&client).await, serde_json::json!({ "status": "healthy" }));
    assert_eq!(service.get(&client, "/who").await.unwrap().0, StatusCode::UNAUTHORIZED);
    assert_eq!(service.get(&client, "/nothing").await.unwrap().0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn strict_refuses_whoever_has_no_certificate() {
    let platform = Platform::new();
    let service = start(&strict(&platform)).await;
    assert!(service.get(&platform.client(None), "/health").await.is_err());
    assert!(service.get(&platform.client(Some(&platform.leaf("gateway"))), "/health").await.is_ok());
    assert!(service.metric(r#"gaia_tls_handshake_failures_total{reason="no_client_certificate"} 1"#).await);
}

#[tokio::test]
async fn a_client_refuses_a_server_of_another_ca_or_name() {
    let (platform, other) = (Platform::new(), Platform::new());
    let service = start(&platform.mount("asset-service")).await;
    assert!(service.get(&other.client(None), "/health").await.is_err());
    let address = service.mesh.replace("127.0.0.1", "127.0.0.2");
    let request = Request::get(format!("{address}/health")).body(Body::empty()).unwrap();
    assert!(platform.client(None).request(request).await.is_err());
    let request = Request::get(service.mesh.replace("https", "http")).body(Body::empty()).unwrap();
    assert!(platform.client(None).request(request).await.is_err(), "never without TLS");
}

#[tokio::test]
async fn a_new_leaf_is_served_without_a_restart_and_no_request_fails() {
    let platform = Platform::new();
    let mut files = platform.mount("asset-service");
    let mut service = start(&files).await;
    let client_leaf = platform.leaf("gateway");
    let client = platform.client(Some(&client_leaf));
    assert_eq!(service.served_leaf(&platform, &client_leaf).await, certificate(&files).fingerprint());
    files.extend(platform.leaf("asset-service"));
    service.mount.swap(&files);
    let expected = certificate(&files).fingerprint();
    eventually("the new leaf is served", async || {
        assert_eq!(service.get(&client, "/who").await.unwrap().0, StatusCode::OK);
        service.served_leaf(&platform, &client_leaf).await == expected
    })
    .await;
}

#[tokio::test]
async fn each_bad_part_is_refused_alone_and_the_old_one_goes_on_working() {
    let platform = Platform::new();
    let good = platform.mount("asset-service");
    let mut service = start(&good).await;
    let client_leaf = platform.leaf("gateway");
    let client = platform.client(Some(&client_leaf));
    let foreign_key = platform.leaf("asset-service").remove(key::TLS_KEY).unwrap();
    let foreign_leaf = platform.leaf("chat-service").remove(key::TLS_CERT).unwrap();
    let foreign_policy = serde_json::to_vec(&policy("chat-service")).unwrap();
    let newer = br#"{"schemaVersion":2,"leaves":[],"kids":[],"jtis":[],"subjects":[]}"#;
    for (part, file, content) in [
        ("bundle", key::CA_CERT, &b"garbage"[..]),
        ("bundle", key::CA_CERT, b""),
        ("bundle", key::CA_CERT, good[key::TLS_CERT].as_slice()),
        ("leaf", key::TLS_KEY, foreign_key.as_slice()),
        ("leaf", key::TLS_CERT, foreign_leaf.as_slice()),
        ("jwks", key::JWKS, b"{\"keys\":[]}"),
        ("denylist", key::DENYLIST, newer),
        ("policy", key::POLICY, b"{}"),
        ("policy", key::POLICY, foreign_policy.as_slice()),
        ("api_keys", key::API_KEYS, b"[]"),
    ] {
        let mut bad = good.clone();
        bad.insert(file, content.to_vec());
        service.mount.swap(&bad);
        let refused = format!("gaia_mount_refused{{part=\"{part}\"}} 1");
        eventually("the part is refused", async || service.metric(&refused).await).await;
        assert_eq!(service.get(&client, "/who").await.unwrap().0, StatusCode::OK, "{part}");
        assert_eq!(service.served_leaf(&platform, &client_leaf).await, certificate(&good).fingerprint());
        assert_eq!(service.readyz().await, StatusCode::OK, "a rejected {part} does not affect service");
        service.mount.swap(&good);
        let taken = format!("gaia_mount_refused{{part=\"{part}\"}} 0");
        eventually("it recovers without a restart", async || service.metric(&taken).await).await;
    }
}

#[tokio::test]
async fn without_material_a_service_waits_and_is_not_ready() {
    let platform = Platform::new();
    let mut service = start(&MountedFiles::new()).await;
    assert_eq!(service.readyz().await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(get_plain(&format!("{}/livez", service.admin)).await.0, StatusCode::OK);
    assert!(service.get(&platform.client(None), "/health").await.is_err());
    service.mount.swap(&platform.mount("asset-service"));
    eventually("it is ready", async || service.readyz().await == StatusCode::OK).await;
    assert!(service.get(&platform.client(None), "/health").await.is_ok());
}

#[tokio::test]
async fn a_plain_directory_is_reloaded_too() {
    let platform = Platform::new();
    let dir = tempfile::tempdir().unwrap();
    let write = |files: &MountedFiles| {
        for (name, content) in files {
            fs::write(dir.path().join(name), content).unwrap();
        }
    };
    write(&platform.mount("asset-service"));
    let config = config("asset-service", dir.path());
    let runtime = Runtime::start(config, Arc::new(SystemClock), Arc::new(()), |_| ()).await.unwrap();
    let mut generations = runtime.generations();
    let routes = runtime.routes();
    let serving = tokio::spawn(runtime.serve(routes, std::future::pending()));
    let first = generations.borrow_and_update().clone().unwrap();
    write(&platform.leaf("asset-service"));
    eventually("the new leaf is taken", async || {
        let newest = generations.borrow_and_update().clone().unwrap();
        newest.parts.leaf.certificate != first.parts.leaf.certificate
    })
    .await;
    serving.abort();
}

#[tokio::test]
async fn a_change_is_seen_long_before_the_next_look() {
    let platform = Platform::new();
    let mut files = platform.mount("asset-service");
    let dir = tempfile::tempdir().unwrap();
    let mount = Mount::new(dir.path(), &files);
    let mut config = config("asset-service", dir.path());
    config.reload_interval = Span::parse("1h").unwrap();
    let runtime = Runtime::start(config, Arc::new(SystemClock), Arc::new(()), |_| ()).await.unwrap();
    let mut service = serve(runtime, mount, dir);
    let peer = platform.leaf("gateway");
    for _ in 0..3 {
        files.extend(platform.leaf("asset-service"));
        let expected = certificate(&files).fingerprint();
        // The change must be found by a later check, not by the initial load.
        assert_ne!(service.served_leaf(&platform, &peer).await, expected);
        service.mount.swap(&files);
        eventually("it is seen", async || service.served_leaf(&platform, &peer).await == expected).await;
    }
}

#[tokio::test]
async fn a_leaf_from_the_future_is_loaded_when_its_time_comes_and_an_expired_one_is_shown_in_readyz() {
    let platform = Platform::new();
    let now = SystemClock.now();
    let hour = SignedDuration::from_hours(1);
    let clock = Arc::new(ManualClock::new(now));
    let mut files = platform.mount("asset-service");
    files.extend(platform.leaf_for(spiffe_id("asset-service").as_str(), now + hour, now + hour * 3));
    let service = start_at(&files, Arc::<ManualClock>::clone(&clock), "0s").await;
    assert_eq!(service.readyz().await, StatusCode::SERVICE_UNAVAILABLE);
    clock.set(now + hour * 2);
    eventually("the leaf is taken", async || service.readyz().await == StatusCode::OK).await;
    let readyz = async || get_plain(&format!("{}/readyz", service.admin)).await;
    assert_eq!(readyz().await, (StatusCode::OK, "ok\n".to_owned()));
    clock.set(now + hour * 4);
    let (status, body) = readyz().await;
    assert_eq!(status, StatusCode::OK, "all replicas have the same leaf");
    let expected = format!("ok\nwarning: the TLS certificate (tls.crt) expired at {}", certificate(&files).not_after());
    assert!(body.starts_with(&expected), "{body}");
}
