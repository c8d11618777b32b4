//! The ingress listener, in plain HTTP or with a certificate of its own.

use gaia_api::identity::IDENTITY_PATH;
use gaia_auth::issue::ServiceClaims;
use gaia_pki::{KeySpec, PrivateKey, sha256_hex};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use serde_json::json;

use crate::EdgeConfig;
use crate::tests::*;

/// A service with `/who`, and on its ingress listener `/edge` (any credential), `/put` and `/host`.
struct EdgeService {
    service: Service,
    address: String,
}

async fn start_edge(files: &MountedFiles, tls: Option<&std::path::Path>, limits: Limits) -> EdgeService {
    start_edge_idle(files, tls, limits, None).await
}

async fn start_edge_idle(
    files: &MountedFiles,
    tls: Option<&std::path::Path>,
    limits: Limits,
    edge_idle_timeout: Option<Span>,
) -> EdgeService {
    let dir = tempfile::tempdir().unwrap();
    let mount = Mount::new(dir.path(), files);
    let config = config("asset-service", dir.path());
    let mut runtime = Runtime::start(config, Arc::new(SystemClock), Arc::new(()), |_| ()).await.unwrap();
    runtime.limits = limits;
    let loopback = Some("127.0.0.1:0".parse().unwrap());
    let edge_config =
        EdgeConfig { edge_address: loopback, edge_tls_dir: tls.map(std::path::Path::to_owned), edge_idle_timeout };
    let edge = runtime.edge(&edge_config, 8666).await.unwrap();
    let address = edge.address().unwrap().to_string();
    let who = async |principal: Principal| principal.subject.to_string();
    let host = async |headers: HeaderMap| headers[header::HOST].to_str().unwrap().to_owned();
    let edge_routes = runtime
        .routes()
        .route("/edge", Access::Scopes(&[]), get(who))
        .route("/put", Access::Public, post(async |body: Bytes| body.len().to_string()))
        .route("/host", Access::Public, get(host));
    let routes = runtime.routes().route("/who", Access::Peer, get(who));
    let mesh = format!("https://{}", runtime.mesh_address().unwrap());
    let admin = format!("http://{}", runtime.admin_address().unwrap());
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(runtime.serve_with_edge(routes, edge, edge_routes, async { drop(stopped.await) }));
    let service = Service { mesh, admin, mount, slow: Arc::default(), stop: Some(stop), serving, _dir: dir };
    EdgeService { service, address }
}

/// A public CA, and a certificate issued by it for 127.0.0.1.
struct Public {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

fn key_pair() -> KeyPair {
    KeyPair::from_pem(&PrivateKey::generate(KeySpec::Ecdsa256).unwrap().to_pem()).unwrap()
}

impl Public {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = key_pair();
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), root }
    }

    fn certificate(&self) -> MountedFiles {
        let (params, key) = (CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap(), key_pair());
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let pem = [(key::TLS_CERT, leaf.pem()), (key::TLS_KEY, key.serialize_pem())];
        pem.map(|(name, text)| (name, text.into_bytes())).into()
    }

    /// The TLS configuration of a browser.
    fn config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    /// Returns the served certificate.
    async fn served(&self, edge: &EdgeService) -> Option<String> {
        let tls = TlsConnector::from(Arc::new(self.config()));
        let tcp = TcpStream::connect(&edge.address).await.unwrap();
        let stream = tls.connect(ServerName::try_from("127.0.0.1").unwrap(), tcp).await.ok()?;
        Some(sha256_hex(&stream.get_ref().1.peer_certificates().unwrap()[0]))
    }
}

/// Returns the response to a user's request with these headers.
async fn ask(client: &MeshClient, url: String, headers: &[(&str, &str)]) -> (StatusCode, String) {
    let mut request = Request::get(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (status, body) = read(client.request(request.body(Body::empty()).unwrap()).await.unwrap()).await;
    (status, String::from_utf8(body).unwrap())
}

fn with_key(platform: &Platform) -> MountedFiles {
    let record = json!({
        "id": "mobile", "sha256": sha256_hex(KEY.as_bytes()), "principal": "key:mobile", "scopes": [],
        "state": "active", "shared": true,
    });
    let mut files = platform.mount("asset-service");
    files.insert(key::API_KEYS, json!({ "schemaVersion": 1, "keys": [record] }).to_string().into_bytes());
    files
}

fn platform_token(platform: &Platform) -> String {
    let now = SystemClock.now().as_second();
    let gateway = spiffe_id("gateway").to_string();
    let claims = ServiceClaims {
        iss: "gaia-platform".to_owned(),
        sub: gateway.clone(),
        client_id: gateway,
        service: "gateway".to_owned(),
        aud: spiffe_id("asset-service").to_string(),
        jti: "1".to_owned(),
        iat: now,
        exp: now + 900,
        scope: None,
    };
    format!("Bearer {}", platform.signer().sign(&claims).unwrap())
}

#[tokio::test]
async fn behind_an_ingress_the_edge_is_plain_http_with_routes_of_its_own() {
    let platform = Platform::new();
    let edge = start_edge(&with_key(&platform), None, Limits::default()).await;
    let url = |path: &str| format!("http://{}{path}", edge.address);
    assert_eq!(get_plain(&url("/health")).await, (StatusCode::OK, r#"{"status":"healthy"}"#.to_owned()));
    for path in ["/who", "/metrics", "/readyz", IDENTITY_PATH] {
        assert_eq!(get_plain(&url(path)).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(get_plain(&url("/edge")).await.0, StatusCode::UNAUTHORIZED);
    let client = platform.client(Some(&platform.leaf("gateway")));
    assert_eq!(edge.service.get(&client, "/edge").await.unwrap().0, StatusCode::NOT_FOUND);
    assert!(
        TlsConnector::from(Arc::new(platform.client_config(None)))
            .connect(ServerName::try_from("127.0.0.1").unwrap(), TcpStream::connect(&edge.address).await.unwrap())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn with_a_certificate_of_its_own_it_shows_that_one_and_takes_keys_but_no_platform_token() {
    let (platform, public) = (Platform::new(), Public::new());
    let dir = tempfile::tempdir().unwrap();
    let _tls = Mount::new(dir.path(), &public.certificate());
    let edge = start_edge(&with_key(&platform), Some(dir.path()), Limits::default()).await;
    let url = |path: &str| format!("https://{}{path}", edge.address);
    for protocol in [&b"h2"[..], b"http/1.1"] {
        let mut config = public.config();
        config.alpn_protocols = vec![protocol.to_vec()];
        let client = MeshClient::new(config, crate::Hosts::default());
        let by_key = [("x-api-key", KEY)];
        assert_eq!(ask(&client, url("/health"), &by_key).await.1, r#"{"status":"healthy"}"#);
        assert_eq!(ask(&client, url("/edge"), &by_key).await.0, StatusCode::OK);
        let token = platform_token(&platform);
        assert_eq!(ask(&client, url("/edge"), &[("authorization", &token)]).await.0, StatusCode::UNAUTHORIZED);
    }
    // A platform certificate does not create a peer here, because the listener does not request one.
    let mut config = platform.client_config(Some(&platform.leaf("gateway")));
    assert!(
        MeshClient::new(config.clone(), crate::Hosts::default())
            .request(Request::get(url("/health")).body(Body::empty()).unwrap())
            .await
            .is_err(),
        "it does not show the platform's leaf"
    );
    let mut roots = RootCertStore::empty();
    roots.add(public.root.clone()).unwrap();
    config.dangerous().set_certificate_verifier(
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider())).build().unwrap(),
    );
    let client = MeshClient::new(config, crate::Hosts::default());
    let token = platform_token(&platform);
    assert_eq!(ask(&client, url("/edge"), &[("authorization", &token)]).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn whichever_version_a_browser_speaks_the_handler_sees_the_host_it_asked_for() {
    let (platform, public) = (Platform::new(), Public::new());
    let dir = tempfile::tempdir().unwrap();
    let _tls = Mount::new(dir.path(), &public.certificate());
    let edge = start_edge(&platform.mount("asset-service"), Some(dir.path()), Limits::default()).await;
    let url = format!("https://{}/host", edge.address);
    let client = |protocol: &[u8]| {
        let mut config = public.config();
        config.alpn_protocols = vec![protocol.to_vec()];
        MeshClient::new(config, crate::Hosts::default())
    };
    for protocol in [&b"h2"[..], b"http/1.1"] {
        let seen = ask(&client(protocol), url.clone(), &[]).await;
        assert_eq!(seen, (StatusCode::OK, edge.address.clone()));
    }
    let h2 = client(b"h2");
    assert_eq!(ask(&h2, url.clone(), &[("host", &edge.address)]).await, (StatusCode::OK, edge.address.clone()));
    let (status, told) = ask(&h2, url, &[("host", "shop.example")]).await;
    assert!(status == StatusCode::BAD_REQUEST && told.contains(r#""status":400"#), "{status} {told}");
}

#[tokio::test]
async fn a_new_certificate_is_served_without_a_restart_and_a_bad_one_or_the_platforms_leaf_is_not() {
    let (platform, public) = (Platform::new(), Public::new());
    let dir = tempfile::tempdir().unwrap();
    let mut tls = Mount::new(dir.path(), &platform.leaf("asset-service"));
    let edge = start_edge(&platform.mount("asset-service"), Some(dir.path()), Limits::default()).await;
    assert_eq!(public.served(&edge).await, None);
    assert!(edge.service.metric(r#"gaia_mount_refused{part="edge_leaf"} 1"#).await);
    assert_eq!(edge.service.readyz().await, StatusCode::OK, "the service stays up");
    let (first, second) = (public.certificate(), public.certificate());
    let fingerprint = |files: &MountedFiles| Some(certificate(files).fingerprint());
    tls.swap(&first);
    eventually("it is served", async || public.served(&edge).await == fingerprint(&first)).await;
    let mut mixed = second.clone();
    mixed.insert(key::TLS_KEY, first[key::TLS_KEY].clone());
    for bad in [mixed, platform.leaf("asset-service"), MountedFiles::new()] {
        tls.swap(&bad);
        eventually("it is refused", async || edge.service.metric(r#"gaia_mount_refused{part="edge_leaf"} 1"#).await)
            .await;
        assert_eq!(public.served(&edge).await, fingerprint(&first));
        tls.swap(&first);
        eventually("it is valid again", async || {
            edge.service.metric(r#"gaia_mount_refused{part="edge_leaf"} 0"#).await
        })
        .await;
    }
    tls.swap(&second);
    eventually("the next one is served", async || public.served(&edge).await == fingerprint(&second)).await;
}

#[tokio::test]
async fn slow_users_are_let_go_and_a_stop_drains_the_edge_too() {
    let platform = Platform::new();
    let second = Duration::from_secs(1);
    let limits = Limits { first_request: second, slack: second, ..Limits::default() };
    let mut edge = start_edge(&platform.mount("asset-service"), None, limits).await;
    let mut silent = TcpStream::connect(&edge.address).await.unwrap();
    silent.write_all(b"GET /edge HTTP/1.1\r\n").await.unwrap();
    assert_eq!(silent.read(&mut [0; 64]).await.unwrap_or_default(), 0, "it was closed");
    let mut slow = TcpStream::connect(&edge.address).await.unwrap();
    slow.write_all(b"POST /put HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nx").await.unwrap();
    let mut answer = String::new();
    let _ = slow.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");

    let mut under_way = TcpStream::connect(&edge.address).await.unwrap();
    under_way.write_all(b"POST /put HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nx").await.unwrap();
    edge.service.stop.take().unwrap().send(()).unwrap();
    eventually("it takes no new user", async || TcpStream::connect(&edge.address).await.is_err()).await;
    under_way.write_all(b"y").await.unwrap();
    let mut answer = String::new();
    under_way.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n2"), "{answer}");
    edge.service.serving.await.unwrap();
}

const KEY: &str = "an-old-shared-key-that-everybody-knows";

/// Returns the time until an HTTP/1 connection of the ingress listener is closed after a response.
async fn idle_time(edge_idle_timeout: Option<Span>) -> Duration {
    let platform = Platform::new();
    let edge = start_edge_idle(&platform.mount("asset-service"), None, Limits::default(), edge_idle_timeout).await;
    let mut tcp = TcpStream::connect(&edge.address).await.unwrap();
    tcp.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = vec![0; 1024];
    assert!(tcp.read(&mut answer).await.unwrap() > 0);
    let began = tokio::time::Instant::now();
    while tcp.read(&mut answer).await.unwrap_or_default() > 0 {}
    began.elapsed()
}

#[tokio::test]
async fn an_idle_connection_stays_open_for_75_s_or_as_long_as_configured() {
    assert_eq!(EdgeConfig::default().idle_timeout(), Duration::from_secs(75));
    let idle = idle_time(Some(Span::parse("1500ms").unwrap())).await;
    assert!((Duration::from_millis(1300)..Duration::from_secs(8)).contains(&idle), "{idle:?}");
}

#[tokio::test]
async fn a_head_that_is_begun_and_not_ended_is_cut_off_before_an_idle_connection_is() {
    let platform = Platform::new();
    let limits = Limits { head: Duration::from_millis(300), ..Limits::default() };
    let edge = start_edge(&platform.mount("asset-service"), None, limits).await;
    let mut tcp = TcpStream::connect(&edge.address).await.unwrap();
    tcp.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = vec![0; 1024];
    assert!(tcp.read(&mut answer).await.unwrap() > 0);
    tcp.write_all(b"GET /health HTTP/1.1\r\nhost").await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), tcp.read(&mut answer)).await;
    assert_eq!(ended.unwrap().unwrap_or_default(), 0);
}
