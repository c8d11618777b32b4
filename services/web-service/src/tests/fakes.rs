//! Stand-ins for auth-service, asset-service and chat-service on real mTLS listeners.

mod chat;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Json;
use axum::body::Body;
use axum::extract::{Path as UrlPath, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use gaia_api::mount::{Denylist, UserTokenIssuer, UserTokenProfile, UserTokenVerification};
use gaia_api::names::key;
use gaia_api::{Clock, ManualClock, SystemClock};
use gaia_auth::Access;
use gaia_auth::testing::Issuer;
use gaia_runtime::rate::when_to_retry;
use gaia_runtime::testing::{self, Mount, Platform, policy};
use gaia_runtime::{CallsConfig, EdgeConfig, Routes, Runtime};
use http::header::{CONTENT_TYPE, COOKIE, HeaderMap};
use http::{StatusCode, Uri};
use http_body_util::BodyExt as _;
use jiff::SignedDuration;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

pub(super) use super::browser::Browser;
use crate::{Config, WebService};

pub(super) const EMAIL: &str = "ada@example.com";
pub(super) const PASSWORD: &str = "correct horse";
pub(super) const USER: &str = "0d6a4a5c-2f7b-4d0a-9a38-5f0f3b2f9c11";
pub(super) const OTHER_EMAIL: &str = "bob@example.com";
pub(super) const OTHER_USER: &str = "7c1f2b3e-1d2c-4b5a-8f6e-9a0b1c2d3e4f";
pub(super) const API_KEY: &str = "gk_test_shared";
pub(super) const KEYS: &str = "b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkbzE=\n";

/// State of the stand-ins, and the requests they received.
pub(super) struct Behind {
    state: Mutex<BehindState>,
    /// While closed, refreshes wait.
    pub(super) gate: Semaphore,
}

pub(super) struct BehindState {
    /// A fixed response of auth-service to all sign-in requests.
    pub(super) login_answer: Option<(u16, &'static str)>,
    /// Whether services accept users' tokens, or only the API key.
    pub(super) takes_tokens: bool,
    /// A user whose tokens are always refused.
    pub(super) not_taken: Option<&'static str>,
    /// Signs users' tokens, for tests in which web-service verifies them.
    signer: Option<Issuer>,
    /// Users by their tokens.
    users: BTreeMap<String, &'static str>,
    /// Refreshes requested and completed.
    pub(super) asked: usize,
    pub(super) refreshes: usize,
    pub(super) logouts: Vec<String>,
    pub(super) proofs: Vec<Value>,
    /// Client addresses received with sign-ins.
    pub(super) clients: Vec<String>,
    /// Action and authenticated client ID received with each sign-in request.
    pub(super) known: Vec<(&'static str, String)>,
    /// IDs of users received by the services, per request.
    pub(super) users_named: Vec<String>,
    /// Browser addresses received by gateway, per request.
    pub(super) browsers: Vec<String>,
    /// IDs of these requests.
    pub(super) request_ids: Vec<String>,
    /// The enabled providers.
    pub(super) offered: Vec<&'static str>,
    pub(super) credentials: Vec<&'static str>,
    pub(super) files: BTreeMap<String, Vec<u8>>,
    /// Credentials received with list requests.
    pub(super) lists: Vec<String>,
    pub(super) chats: Vec<Value>,
    /// The response of chat-service: a status and, for a success, a text.
    pub(super) chat_answer: (u16, &'static str),
    pub(super) token_bytes: usize,
    generation: usize,
}

impl Behind {
    pub(super) fn state(&self) -> MutexGuard<'_, BehindState> {
        self.state.lock().unwrap()
    }

    fn session(&self, user: &'static str, email: &str) -> Response {
        let mut state = self.state();
        state.generation += 1;
        let (number, padding) = (state.generation, "x".repeat(state.token_bytes));
        let issued = SystemClock.now() - SignedDuration::from_secs(10);
        let token = match &state.signer {
            Some(signer) => signer.user_token(&issuer(), user, issued),
            None => format!("user-token-{number}{padding}"),
        };
        state.users.insert(token.clone(), user);
        let session = json!({
            "access_token": token,
            "token_type": "bearer",
            "expires_in": 3600,
            "refresh_token": format!("refresh-{number}"),
            "user": { "id": user, "email": email },
        });
        Json(session).into_response()
    }

    /// Authenticates a caller by its credential, or returns the status of the refusal.
    fn judge(&self, headers: &HeaderMap) -> Result<(), StatusCode> {
        let token = headers.get("authorization").map(|value| value.to_str().unwrap().trim_start_matches("Bearer "));
        let key = headers.get("x-api-key").is_some_and(|value| value == API_KEY);
        assert!(!(token.is_some() && key), "both credentials at once");
        assert!(headers.get(COOKIE).is_none(), "cookies are not sent to services");
        let mut state = self.state();
        state.browsers.push(text_of(headers, "x-forwarded-for"));
        state.request_ids.push(text_of(headers, "x-request-id"));
        state.users_named.push(text_of(headers, "x-gaia-known-client"));
        state.credentials.push(if token.is_some() { "token" } else { "key" });
        let user = token.and_then(|token| state.users.get(token).copied());
        let is_taken = state.takes_tokens && user.is_some() && user != state.not_taken;
        if is_taken || key {
            return Ok(());
        }
        Err(StatusCode::UNAUTHORIZED)
    }
}

fn text_of(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned()
}

fn note(behind: &Behind, action: &'static str, headers: &HeaderMap) {
    let mut state = behind.state();
    state.known.push((action, text_of(headers, "x-gaia-known-client")));
    state.browsers.push(text_of(headers, "x-forwarded-for"));
    state.request_ids.push(text_of(headers, "x-request-id"));
}

fn refused(answer: (u16, &'static str)) -> Response {
    // Like auth-service: also failures about the user have a challenge.
    let challenge = [("www-authenticate", "Bearer realm=\"gaia\"")];
    let status = StatusCode::from_u16(answer.0).unwrap();
    let response = (status, challenge, Json(json!({ "code": answer.1 }))).into_response();
    when_to_retry(response, (status == StatusCode::TOO_MANY_REQUESTS).then_some(17))
}

fn auth_routes(routes: Routes, behind: &Arc<Behind>) -> Routes {
    let token = || async { Json(json!({ "access_token": "web's-own-token", "expires_in": 900 })) };
    let login = |State(behind): State<Arc<Behind>>, headers: HeaderMap, Json(body): Json<Value>| async move {
        let own = headers.get("authorization").is_some_and(|value| value == "Bearer web's-own-token");
        let by_key = headers.get("x-api-key").is_some_and(|value| value == API_KEY);
        assert_ne!(own, by_key, "one credential, and it is this service's");
        if own && !behind.state().takes_tokens {
            let challenge = [("www-authenticate", "Bearer realm=\"gaia\"")];
            return (StatusCode::UNAUTHORIZED, challenge).into_response();
        }
        let client = headers.get("x-gaia-client-ip").map_or("", |value| value.to_str().unwrap());
        behind.state().clients.push(client.to_owned());
        note(&behind, "login", &headers);
        behind.state().proofs.push(body.clone());
        let answer = behind.state().login_answer;
        let is_good = body["password"] == PASSWORD || body["auth_code"] == "good-code";
        match answer {
            Some(answer) => refused(answer),
            None if is_good && body["email"] == OTHER_EMAIL => behind.session(OTHER_USER, OTHER_EMAIL),
            None if is_good => behind.session(USER, EMAIL),
            None => refused((401, "invalid_credentials")),
        }
    };
    let refresh = |State(behind): State<Arc<Behind>>, headers: HeaderMap, Json(body): Json<Value>| async move {
        note(&behind, "refresh", &headers);
        behind.state().asked += 1;
        drop(behind.gate.acquire().await.unwrap());
        behind.state().refreshes += 1;
        let (answer, newest) = {
            let state = behind.state();
            (state.login_answer, format!("refresh-{}", state.generation))
        };
        match answer {
            Some(answer) => refused(answer),
            None if body["refresh_token"] == newest => behind.session(USER, EMAIL),
            None => refused((401, "session_ended")),
        }
    };
    let methods = |State(behind): State<Arc<Behind>>| async move {
        Json(json!({ "password": true, "providers": behind.state().offered }))
    };
    let logout = |State(behind): State<Arc<Behind>>, headers: HeaderMap, Json(body): Json<Value>| async move {
        note(&behind, "logout", &headers);
        behind.state().logouts.push(body["access_token"].as_str().unwrap().to_owned());
        StatusCode::NO_CONTENT
    };
    routes
        .route("/internal/service-token", Access::Peer, post(token))
        .route("/auth/login", Access::Peer, post(login).with_state(Arc::clone(behind)))
        .route("/auth/refresh", Access::Peer, post(refresh).with_state(Arc::clone(behind)))
        .route("/auth/methods", Access::Peer, get(methods).with_state(Arc::clone(behind)))
        .route("/auth/logout", Access::Peer, post(logout).with_state(Arc::clone(behind)))
}

fn asset_routes(routes: Routes, behind: &Arc<Behind>) -> Routes {
    let list = |State(behind): State<Arc<Behind>>, RawQuery(query): RawQuery, headers: HeaderMap| async move {
        behind.judge(&headers)?;
        let mut state = behind.state();
        state.lists.extend(query);
        let assets = state
            .files
            .iter()
            .map(|(path, content)| json!({ "path": path, "size": content.len(), "modified": "2026-01-01T00:00:00Z" }));
        Ok::<_, StatusCode>(Json(json!({ "assets": assets.collect::<Vec<_>>(), "has_more": false })))
    };
    let one = |State(behind): State<Arc<Behind>>, UrlPath(path): UrlPath<String>, headers: HeaderMap| async move {
        behind.judge(&headers)?;
        let found = behind.state().files.get(&path).cloned();
        let page = [(CONTENT_TYPE, "text/html"), (http::header::CONTENT_DISPOSITION, "attachment; filename*=UTF-8''x")];
        found.map(|content| (page, content)).ok_or(StatusCode::NOT_FOUND)
    };
    let upload = |State(behind): State<Arc<Behind>>, UrlPath(path): UrlPath<String>, headers: HeaderMap, body: Body| async move {
        behind.judge(&headers)?;
        let content = body.collect().await.map_err(|_| StatusCode::BAD_REQUEST)?;
        if path.contains('\\') {
            return Err(StatusCode::BAD_REQUEST);
        }
        if path == "one-too-many" {
            return Err(StatusCode::INSUFFICIENT_STORAGE);
        }
        behind.state().files.insert(path, content.to_bytes().to_vec());
        Ok::<_, StatusCode>(StatusCode::CREATED)
    };
    let remove = |State(behind): State<Arc<Behind>>, UrlPath(path): UrlPath<String>, headers: HeaderMap| async move {
        behind.judge(&headers)?;
        let removed = behind.state().files.remove(&path);
        removed.map(|_| StatusCode::NO_CONTENT).ok_or(StatusCode::NOT_FOUND)
    };
    routes
        .route("/assets", Access::Peer, get(list).with_state(Arc::clone(behind)))
        .route("/assets/{*path}", Access::Peer, get(one).with_state(Arc::clone(behind)))
        .route("/assets/{*path}", Access::Peer, put(upload).with_state(Arc::clone(behind)))
        .route("/assets/{*path}", Access::Peer, delete(remove).with_state(Arc::clone(behind)))
}

/// A running web-service and its stand-ins.
pub(super) struct Scene {
    pub(super) behind: Arc<Behind>,
    pub(super) clock: Arc<ManualClock>,
    pub(super) origin: String,
    pub(super) admin: String,
    pub(super) dir: TempDir,
}

impl Scene {
    pub(super) async fn begin() -> Self {
        Self::begin_with(|_| {}).await
    }

    /// Starts with an API key, and with tokens that web-service can verify itself.
    pub(super) async fn with_key(change: impl FnOnce(&mut Setup)) -> Self {
        let signer = Issuer::new(policy("web-service").tokens);
        let keys_at = publish(signer.jwks()).await;
        Self::begin_with(|setup| {
            setup.api_key = Some(API_KEY);
            setup.signer = Some(signer);
            setup.issuers[0].jwks_url = Some(keys_at);
            change(setup);
        })
        .await
    }

    pub(super) async fn begin_with(change: impl FnOnce(&mut Setup)) -> Self {
        let platform = Platform::new();
        let dir = tempfile::tempdir().unwrap();
        let behind = Arc::new(Behind {
            state: Mutex::new(BehindState {
                login_answer: None,
                takes_tokens: true,
                not_taken: None,
                signer: None,
                users: BTreeMap::new(),
                asked: 0,
                refreshes: 0,
                logouts: Vec::new(),
                proofs: Vec::new(),
                clients: Vec::new(),
                known: Vec::new(),
                users_named: Vec::new(),
                browsers: Vec::new(),
                request_ids: Vec::new(),
                offered: vec!["github"],
                credentials: Vec::new(),
                files: BTreeMap::new(),
                lists: Vec::new(),
                chats: Vec::new(),
                chat_answer: (200, "All <b>at once</b>"),
                token_bytes: 0,
                generation: 0,
            }),
            gate: Semaphore::new(1),
        });
        let (auth, assets, chat) = tokio::join!(
            serve(&platform, dir.path(), "auth-service", &behind, auth_routes),
            serve(&platform, dir.path(), "asset-service", &behind, asset_routes),
            serve(&platform, dir.path(), "chat-service", &behind, chat::routes),
        );
        let mut setup = Setup {
            user_scopes: vec![],
            issuers: vec![issuer()],
            api_key: None,
            signer: None,
            denylist: Denylist::empty(),
            has_gateway: false,
            config: Config {
                runtime: testing::config("web-service", &dir.path().join("web-service")),
                edge: EdgeConfig {
                    edge_address: Some(([127, 0, 0, 1], 0).into()),
                    edge_tls_dir: None,
                    edge_idle_timeout: None,
                },
                calls: CallsConfig { auth_url: Some(auth), api_key_file: Some(dir.path().join("api-key")) },
                gateway_url: None,
                upstream_asset_service: Some(assets),
                upstream_chat_service: Some(chat),
                upstream_auth_service: None,
                trusted_proxies: Vec::new(),
                session_keys_file: dir.path().join("keys"),
                public_url: None,
                sign_in_providers: vec!["github".to_owned()],
            },
        };
        change(&mut setup);
        if setup.has_gateway {
            let gateway = serve(&platform, dir.path(), "gateway", &behind, chat::gateway_routes).await;
            // Other services are not called.
            let nowhere = Some(Uri::from_static("https://127.0.0.1:1"));
            setup.config.gateway_url = Some(gateway);
            setup.config.upstream_asset_service.clone_from(&nowhere);
            setup.config.upstream_chat_service = nowhere;
        }
        behind.state().signer = setup.signer;
        std::fs::write(dir.path().join("keys"), KEYS).unwrap();
        if let Some(api_key) = setup.api_key {
            std::fs::write(dir.path().join("api-key"), api_key).unwrap();
        }
        let mut files = platform.mount("web-service");
        let mut policy = policy("web-service");
        policy.user_tokens.issuers = setup.issuers;
        policy.user_tokens.scopes = setup.user_scopes;
        files.insert(key::POLICY, serde_json::to_vec(&policy).unwrap());
        files.insert(key::DENYLIST, serde_json::to_vec(&setup.denylist).unwrap());
        let _ = Mount::new(&dir.path().join("web-service"), &files);
        let clock = Arc::new(ManualClock::new(SystemClock.now()));
        let web = WebService::start(setup.config, Arc::clone(&clock) as Arc<dyn Clock>).await.unwrap();
        let origin = format!("http://{}", web.edge.address().unwrap());
        let admin = format!("http://{}", web.runtime.admin_address().unwrap());
        tokio::spawn(web.serve(std::future::pending()));
        Self { behind, clock, origin, admin, dir }
    }

    pub(super) fn browser(&self) -> Browser {
        Browser { origin: self.origin.clone(), cookies: BTreeMap::new() }
    }

    /// Returns a browser with a signed-in user.
    pub(super) async fn signed_in(&self) -> Browser {
        self.signed_in_as(EMAIL).await
    }

    pub(super) async fn signed_in_as(&self, email: &str) -> Browser {
        let mut browser = self.browser();
        let answer = browser.post_form("/sign-in", &[("email", email), ("password", PASSWORD)]).await;
        assert_eq!((answer.status, answer.location()), (StatusCode::SEE_OTHER, "/"), "{}", answer.body);
        browser
    }

    /// Lets the access tokens of all sessions expire.
    pub(super) fn an_hour_later(&self) {
        self.clock.set(self.clock.now() + SignedDuration::from_secs(3601));
    }
}

pub(super) struct Setup {
    /// Scopes of users in the policy of this service; empty: all.
    pub(super) user_scopes: Vec<String>,
    pub(super) issuers: Vec<UserTokenIssuer>,
    pub(super) api_key: Option<&'static str>,
    pub(super) signer: Option<Issuer>,
    pub(super) denylist: Denylist,
    /// Whether it calls through gateway.
    pub(super) has_gateway: bool,
    pub(super) config: Config,
}

/// Starts a server for these keys, and returns its URL.
async fn publish(keys: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/jwks", listener.local_addr().unwrap());
    let app = axum::Router::new().route("/jwks", get(async move || keys));
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

pub(super) fn issuer() -> UserTokenIssuer {
    UserTokenIssuer {
        name: "supabase".to_owned(),
        issuer: "https://project.example/auth/v1".to_owned(),
        profile: UserTokenProfile::Supabase,
        verification: UserTokenVerification::JWKS,
        jwks_url: Some("http://127.0.0.1:9/jwks".to_owned()),
        audiences: vec![],
        algorithms: vec![],
        required_claims: BTreeMap::new(),
        client_ids: vec![],
        ca_bundle: None,
        max_ttl_seconds: None,
    }
}

async fn serve(
    platform: &Platform,
    dir: &Path,
    name: &str,
    behind: &Arc<Behind>,
    routes: fn(Routes, &Arc<Behind>) -> Routes,
) -> Uri {
    let dir = dir.join(name);
    let _ = Mount::new(&dir, &platform.mount(name));
    let clock = Arc::new(SystemClock);
    let runtime = Runtime::start(testing::config(name, &dir), clock, Arc::new(()), |_| ()).await.unwrap();
    let url = format!("https://{}", runtime.mesh_address().unwrap());
    let routes = routes(runtime.routes(), behind);
    tokio::spawn(runtime.serve(routes, std::future::pending()));
    url.parse().unwrap()
}
