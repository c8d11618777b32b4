//! End-to-end tests of gateway: real TLS to the upstreams, and raw requests at the ingress listener.

mod limits;
mod mesh;
mod paths;
mod smuggling;
mod streams;
mod upstream;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{AppendHeaders, IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Form, Json, Router};
use clap::Parser as _;
use gaia_api::mount::{ApiKeyRules, Caller, Deprecation, Policy, TokenRules, UserTokenIssuer, UserTokens};
use gaia_api::names::key;
use gaia_api::{Clock as _, SystemClock};
use gaia_auth::issue::{Actor, DelegatedClaims, ServiceClaims, Signer};
use gaia_auth::testing::Issuer;
use gaia_auth::{Access, Principal};
use gaia_runtime::Runtime;
use gaia_runtime::testing::{
    Mount, MountedFiles, Platform, api_keys, config, eventually, get_plain, policy, spiffe_id,
};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::{Config, Gateway};

/// A gateway with stand-ins for auth-service, asset-service and chat-service that record received requests.
struct Scene {
    edge: SocketAddr,
    mesh: SocketAddr,
    admin: SocketAddr,
    platform: Platform,
    issuer: Arc<Issuer>,
    behind: Arc<Behind>,
    _dirs: Vec<TempDir>,
}

/// State of the stand-ins.
#[derive(Default)]
struct Behind {
    seen: Mutex<Vec<Seen>>,
    exchanged: AtomicU64,
    /// The client that auth-service received with each exchange.
    clients: Mutex<Vec<String>>,
    /// Services by the text of their tokens.
    of_services: Mutex<HashMap<String, String>>,
    is_away: AtomicBool,
    /// Set while auth-service refuses to exchange credentials.
    refuses_credentials: AtomicBool,
}

/// A request received by an upstream.
#[derive(Clone, Debug)]
struct Seen {
    subject: String,
    method: String,
    uri: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// A response received by the client.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(':'));
        fields.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

impl Scene {
    async fn open(flags: &[&str]) -> Self {
        let platform = Platform::new();
        let issuer = Arc::new(Issuer::new(TokenRules {
            issuer: "outside".into(),
            audience: "authenticated".into(),
            max_ttl_seconds: 3600,
        }));
        let behind = Arc::new(Behind::default());
        let (auth, auth_dir) = auth_service(&platform, &behind).await;
        let (assets, assets_dir) = service("asset-service", &platform, &behind).await;
        let (chat, chat_dir) = service("chat-service", &platform, &behind).await;
        let mut all = owned(flags);
        for (flag, address) in [("--upstream-asset-service", assets), ("--upstream-chat-service", chat)] {
            if !flags.contains(&flag) {
                all.extend([flag.to_owned(), format!("https://{address}")]);
            }
        }
        let ([edge, mesh, admin], dir) = gateway(&platform, &issuer, &format!("https://{auth}"), &all).await;
        let _dirs = vec![auth_dir, assets_dir, chat_dir, dir];
        let scene = Self { edge, mesh, admin, platform, issuer, behind, _dirs };
        let known = async || scene.get("/assets", &scene.as_user()).await.status == 200;
        eventually("the keys of the users' issuer are there", known).await;
        scene.seen();
        scene.behind.exchanged.store(0, Ordering::Relaxed);
        scene
    }

    /// Returns the header with a user token.
    fn as_user(&self) -> String {
        let token = self.issuer.user_token(&users("http://127.0.0.1"), USER, SystemClock.now());
        format!("Authorization: Bearer {token}")
    }

    /// Sends these bytes, and reads until the gateway closes the connection.
    async fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut tcp = TcpStream::connect(self.edge).await.unwrap();
        // The gateway may already have refused the request.
        let _ = tcp.write_all(bytes.as_ref()).await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, tcp.read_to_end(&mut answer)).await.expect("it closes");
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn send(&self, method: &str, target: &str, headers: &[&str], body: &str) -> Answer {
        let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        let length = body.len();
        let text = self
            .raw(format!(
                "{method} {target} HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\nContent-Length: {length}\r\n{lines}\r\n{body}"
            ))
            .await;
        parse(&text)
    }

    async fn get(&self, target: &str, header: &str) -> Answer {
        let lines: &[&str] = if header.is_empty() { &[] } else { &[header] };
        self.send("GET", target, lines, "").await
    }

    /// Returns the requests received by upstreams since the last call.
    fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.behind.seen.lock().unwrap())
    }

    async fn has_metric(&self, line: &str) -> bool {
        get_plain(&format!("http://{}/metrics", self.admin)).await.1.lines().any(|found| found == line)
    }
}

fn parse(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

fn owned(flags: &[&str]) -> Vec<String> {
    flags.iter().map(|&flag| flag.to_owned()).collect()
}

fn users(url: &str) -> UserTokenIssuer {
    UserTokenIssuer {
        name: "supabase".into(),
        issuer: "https://project.example/auth/v1".into(),
        profile: gaia_api::mount::UserTokenProfile::Supabase,
        verification: gaia_api::mount::UserTokenVerification::JWKS,
        jwks_url: Some(format!("{url}/jwks.json")),
        audiences: vec![],
        algorithms: vec![],
        required_claims: Default::default(),
        client_ids: vec![],
        ca_bundle: None,
        max_ttl_seconds: None,
    }
}

async fn gateway(
    platform: &Platform,
    issuer: &Arc<Issuer>,
    auth: &str,
    flags: &[String],
) -> ([SocketAddr; 3], TempDir) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let jwks = format!("http://{}", listener.local_addr().unwrap());
    let keys = issuer.jwks();
    let app = Router::new().route("/jwks.json", get(async move || keys));
    tokio::spawn(async move { axum::serve(listener, app).await });

    let mut files = platform.mount("gateway");
    files.insert(
        key::API_KEYS,
        api_keys(&[("mobile", KEY, &[]), ("reader", "reader-key-reader-key", &["assets:read"])]),
    );
    let since = SystemClock.now();
    let callers = [("web-service", true), ("batch", false)];
    let callers =
        callers.map(|(name, on_behalf_of)| Caller { spiffe_id: spiffe_id(name), scopes: vec![], on_behalf_of });
    let policy = Policy {
        callers: callers.into(),
        user_tokens: UserTokens { issuers: vec![users(&jwks)], scopes: vec![] },
        api_keys: ApiKeyRules {
            deprecation: Some(Deprecation { since, sunset: None, guide: None }),
            ..ApiKeyRules::default()
        },
        ..policy("gateway")
    };
    files.insert(key::POLICY, serde_json::to_vec(&policy).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let _ = Mount::new(dir.path(), &files);
    let arguments = ["gateway", "--service-name", "gateway", "--auth-url", auth, "--edge-address", "127.0.0.1:0"];
    let mut parsed = Config::try_parse_from(owned(&arguments).iter().chain(flags)).unwrap();
    parsed.runtime = config("gateway", dir.path());
    let gateway = Gateway::start(parsed, Arc::new(SystemClock)).await.unwrap();
    let (mesh, admin) = (gateway.runtime.mesh_address().unwrap(), gateway.runtime.admin_address().unwrap());
    let edge = gateway.edge_address().unwrap();
    tokio::spawn(gateway.serve(std::future::pending()));
    ([edge, mesh, admin], dir)
}

/// The mounted files of a service that accepts delegated tokens from gateway.
fn behind_gateway(service: &str, platform: &Platform) -> MountedFiles {
    let mut files = platform.mount(service);
    let gateway = Caller { spiffe_id: spiffe_id("gateway"), scopes: vec![], on_behalf_of: true };
    let policy = Policy { callers: vec![gateway], ..policy(service) };
    files.insert(key::POLICY, serde_json::to_vec(&policy).unwrap());
    files.insert(key::API_KEYS, api_keys(&[("mobile", KEY, &[])]));
    files
}

/// Starts an upstream that records requests and responds as the query says.
async fn service(name: &'static str, platform: &Platform, behind: &Arc<Behind>) -> (SocketAddr, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let _ = Mount::new(dir.path(), &behind_gateway(name, platform));
    let runtime = Runtime::start(config(name, dir.path()), Arc::new(SystemClock), Arc::new(()), |_| ()).await.unwrap();
    let address = runtime.mesh_address().unwrap();
    let mut routes = runtime.routes();
    for path in ["/assets", "/assets/{*path}", "/chat"] {
        let behind = Arc::clone(behind);
        let known = async move |principal: Principal, request: Request| {
            tell(&behind, &principal.subject.to_string(), request).await
        };
        routes = routes.route(path, Access::Scopes(&[]), however(known));
    }
    // Routes that must never be reachable through gateway.
    for path in ["/internal/{*path}", "/.well-known/{*path}", "/metrics"] {
        let behind = Arc::clone(behind);
        routes = routes.route(
            path,
            Access::Public,
            however(async move |request: Request| tell(&behind, "nobody", request).await),
        );
    }
    tokio::spawn(runtime.serve(routes, std::future::pending()));
    (address, dir)
}

fn however<H, T>(handler: H) -> MethodRouter
where
    H: axum::handler::Handler<T, ()>,
    T: 'static,
{
    get(handler.clone()).put(handler.clone()).delete(handler.clone()).post(handler)
}

/// Records a request and responds to it.
async fn tell(behind: &Behind, subject: &str, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let how = parts.uri.query().unwrap_or_default().to_owned();
    let note = |body: &[u8]| {
        behind.seen.lock().unwrap().push(Seen {
            subject: subject.to_owned(),
            method: parts.method.to_string(),
            uri: parts.uri.to_string(),
            headers: parts.headers.clone(),
            body: body.to_vec(),
        });
    };
    match how.as_str() {
        "never" => std::future::pending().await,
        "slow" => tokio::time::sleep(Duration::from_millis(1500)).await,
        "events" => {
            note(b"");
            return ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(streams::events()))
                .into_response();
        }
        "headers" => {
            note(b"");
            let internal = [("set-cookie", "a=b"), ("x-gaia-instance", "i"), ("server", "s"), ("deprecation", "@1")];
            let headers = internal.into_iter().chain([("etag", "\"1\""), ("sunset", "of the gateway's key")]);
            let headers = AppendHeaders(headers.collect::<Vec<_>>());
            return (headers, "said").into_response();
        }
        "unwelcome" => {
            note(b"");
            let challenge = r#"Bearer realm="gaia", error="invalid_token""#;
            return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)]).into_response();
        }
        _ => {}
    }
    let Ok(body) = axum::body::to_bytes(body, usize::MAX).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    note(&body);
    match how.as_str() {
        "forbidden" => StatusCode::FORBIDDEN.into_response(),
        _ => format!("{subject} {} {}", parts.method, body.len()).into_response(),
    }
}

/// Starts an auth-service that accepts every credential and the sign-in of `ann@example.com`.
async fn auth_service(platform: &Platform, behind: &Arc<Behind>) -> (SocketAddr, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let _ = Mount::new(dir.path(), &behind_gateway("auth-service", platform));
    let config = config("auth-service", dir.path());
    let runtime = Runtime::start(config, Arc::new(SystemClock), Arc::new(()), |_| ()).await.unwrap();
    let address = runtime.mesh_address().unwrap();
    let signer: Arc<Signer> = Arc::new(platform.signer());
    let exchange = {
        let (behind, signer) = (Arc::clone(behind), Arc::clone(&signer));
        async move |headers: HeaderMap, Form(form): Form<Vec<(String, String)>>| {
            let client = headers.get("x-gaia-client-ip").map_or("", |client| client.to_str().unwrap());
            behind.clients.lock().unwrap().push(client.to_owned());
            exchange(&behind, &signer, &form)
        }
    };
    let service_token = async move |Json(asked): Json<Value>| own_token(&signer, &asked);
    let behind = Arc::clone(behind);
    let login = async move |principal: Principal, request: Request| {
        let is_ann = tell(&behind, &principal.subject.to_string(), request).await.status().is_success()
            && behind.seen.lock().unwrap().last().is_some_and(|seen| seen.body == br#"{"email":"ann@example.com"}"#);
        if is_ann {
            ([("set-cookie", "session=1")], Json(json!({ "access_token": "a" }))).into_response()
        } else {
            (StatusCode::UNAUTHORIZED, Json(json!({ "code": "invalid_credentials" }))).into_response()
        }
    };
    let routes = runtime
        .routes()
        .route("/internal/token-exchange", Access::Peer, post(exchange))
        .route("/internal/service-token", Access::Peer, post(service_token))
        .route("/auth/login", Access::Scopes(&[]), post(login));
    tokio::spawn(runtime.serve(routes, std::future::pending()));
    (address, dir)
}

fn exchange(behind: &Behind, signer: &Signer, form: &[(String, String)]) -> Response {
    if behind.is_away.load(Ordering::Relaxed) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if behind.refuses_credentials.load(Ordering::Relaxed) {
        return (StatusCode::BAD_REQUEST, axum::Json(serde_json::json!({ "error": "invalid_grant" }))).into_response();
    }
    let field = |name: &str| form.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value.as_str());
    let number = behind.exchanged.fetch_add(1, Ordering::Relaxed);
    let sub = if field("subject_token_type").ends_with("api-key") {
        assert!([KEY, "reader-key-reader-key"].contains(&field("subject_token")));
        "key:mobile".to_owned()
    } else if let Some(service) = behind.of_services.lock().unwrap().get(field("subject_token")) {
        service.clone()
    } else {
        format!("user:supabase:{USER}")
    };
    let now = SystemClock.now().as_second();
    let gateway = spiffe_id("gateway").to_string();
    let claims = DelegatedClaims {
        iss: "gaia-platform".to_owned(),
        sub,
        client_id: gateway.clone(),
        act: Actor { sub: gateway },
        service: "gateway".to_owned(),
        aud: spiffe_id(field("audience")).to_string(),
        jti: number.to_string(),
        iat: now,
        exp: now + 300,
        scope: None,
    };
    Json(json!({ "access_token": signer.sign(&claims).unwrap(), "expires_in": 300 })).into_response()
}

fn own_token(signer: &Signer, asked: &Value) -> Json<Value> {
    let now = SystemClock.now().as_second();
    let gateway = spiffe_id("gateway").to_string();
    let claims = ServiceClaims {
        iss: "gaia-platform".to_owned(),
        sub: gateway.clone(),
        client_id: gateway,
        service: "gateway".to_owned(),
        aud: spiffe_id(asked["target_service"].as_str().unwrap()).to_string(),
        jti: "own".to_owned(),
        iat: now,
        exp: now + 300,
        scope: None,
    };
    Json(json!({ "access_token": signer.sign(&claims).unwrap(), "expires_in": 300 }))
}

const USER: &str = "3fa85f64-5717-4562-b3fc-2c963f66afa6";
const KEY: &str = "gk_test_mobile_0123456789abcdef";
const AS_KEY: &str = "X-API-Key: gk_test_mobile_0123456789abcdef";
const PATIENCE: Duration = Duration::from_secs(60);
