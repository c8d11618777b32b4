//! auth-service in front of a login server: the e2e one, or the one that `GAIA_E2E_GOTRUE_URL` names.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use gaia_api::mount::{Policy, UserTokenIssuer, UserTokens};
use gaia_api::names::key;
use gaia_api::{Clock as _, SystemClock};
use gaia_auth_service::{AuthService, Config};
use gaia_runtime::testing::{Mount, MountedFiles, Platform, config, grants, policy, read};
use gaia_runtime::{MeshClient, TokenRequest, external};
use gaia_stand_ins::gotrue::{GoTrue, GoTrueOptions};
use http::{HeaderMap, Request, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The login server.
pub(crate) struct Project {
    pub(crate) url: String,
    pub(crate) key: String,
    pub(crate) issuer: Value,
}

impl Project {
    pub(crate) fn of(gotrue: &GoTrue) -> Self {
        let (url, key) = (gotrue.base_url().to_owned(), gotrue.anon_key().to_owned());
        Self { url, key, issuer: gotrue.issuer_entry("supabase") }
    }

    /// The one that is configured by hand. `GAIA_E2E_GOTRUE_KEY` is its public key, where it needs one. A project that
    /// publishes no key verifies its tokens itself.
    async fn given() -> Option<Self> {
        let url = std::env::var("GAIA_E2E_GOTRUE_URL").ok()?.trim_end_matches('/').to_owned();
        let key = std::env::var("GAIA_E2E_GOTRUE_KEY").unwrap_or_default();
        let jwks_url = format!("{url}/.well-known/jwks.json");
        let published = external::send(Request::get(&jwks_url).body(Bytes::new()).unwrap(), None).await.unwrap();
        let published: Value = serde_json::from_slice(&published.body).unwrap_or_default();
        let has_keys = published["keys"].as_array().is_some_and(|keys| !keys.is_empty());
        let issuer = if has_keys {
            json!({ "name": "supabase", "issuer": url, "verification": "JWKS", "jwksURL": jwks_url })
        } else {
            json!({ "name": "supabase", "issuer": url, "verification": "Remote" })
        };
        Some(Self { url, key, issuer })
    }

    /// Signs up a user with a new address.
    pub(crate) async fn new_user(&self, password: &str) -> String {
        let email = format!("user-{}@example.com", SystemClock.now().as_nanosecond());
        let body = json!({ "email": email, "password": password });
        let request = Request::post(format!("{}/signup", self.url))
            .header("content-type", "application/json")
            .header("apikey", &self.key)
            .body(Bytes::from(body.to_string()))
            .unwrap();
        let answer = external::send(request, None).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{}", String::from_utf8_lossy(&answer.body));
        email
    }
}

/// auth-service, and `gateway`, which calls it.
pub(crate) struct World {
    pub(crate) project: Project,
    pub(crate) platform: Platform,
    pub(crate) url: String,
    pub(crate) gateway: MeshClient,
    pub(crate) token: String,
    _mount: Mount,
    _dir: TempDir,
}

impl World {
    /// With the login server that is configured, else with the e2e one.
    pub(crate) async fn open() -> (Self, Option<GoTrue>) {
        match Project::given().await {
            Some(project) => (Self::with(project).await, None),
            None => {
                let (world, gotrue) = Self::own(GoTrueOptions::default()).await;
                (world, Some(gotrue))
            }
        }
    }

    /// With the e2e one and injected faults.
    pub(crate) async fn own(options: GoTrueOptions) -> (Self, GoTrue) {
        let gotrue = GoTrue::start(options).await.unwrap();
        (Self::with(Project::of(&gotrue)).await, gotrue)
    }

    pub(crate) async fn with(project: Project) -> Self {
        let issuer: UserTokenIssuer = serde_json::from_value(project.issuer.clone()).unwrap();
        Self::with_issuers(project, vec![issuer]).await
    }

    /// With the e2e one, which gets the addresses of users.
    pub(crate) async fn forwarding(options: GoTrueOptions) -> (Self, GoTrue) {
        let gotrue = GoTrue::start(options).await.unwrap();
        let project = Project::of(&gotrue);
        let issuer: UserTokenIssuer = serde_json::from_value(project.issuer.clone()).unwrap();
        (Self::start(project, vec![issuer], true).await, gotrue)
    }

    pub(crate) async fn with_issuers(project: Project, issuers: Vec<UserTokenIssuer>) -> Self {
        Self::start(project, issuers, false).await
    }

    async fn start(project: Project, issuers: Vec<UserTokenIssuer>, login_forwards_address: bool) -> Self {
        let platform = Platform::new();
        let mut files: MountedFiles = platform.mount("auth-service");
        let user_tokens = UserTokens { issuers, scopes: vec![] };
        let policy = Policy { user_tokens, ..policy("auth-service") };
        files.insert(key::POLICY, serde_json::to_vec(&policy).unwrap());
        files.insert("issuer-supabase.key", format!("{}\n", project.key).into_bytes());
        files.insert(key::JWT_SIGNING_KEY, platform.signing_key().into_bytes());
        let services = ["auth-service", "gateway", "asset-service", "web-service"];
        let pairs: [(&str, &str, &[&str]); 3] = [
            ("gateway", "asset-service", &["assets:read"]),
            ("gateway", "auth-service", &[]),
            ("web-service", "auth-service", &[]),
        ];
        files.insert(key::GRANTS, grants(&services, &pairs));
        let dir = tempfile::tempdir().unwrap();
        let mount = Mount::new(dir.path(), &files);
        let config = Config { runtime: config("auth-service", dir.path()), login_forwards_address };
        let service = AuthService::start(config, Arc::new(SystemClock)).await.unwrap();
        let url = format!("https://{}", service.runtime.mesh_address().unwrap());
        tokio::spawn(service.serve(std::future::pending()));
        let (gateway, token) = caller(&platform, &url, "gateway").await;
        Self { project, platform, url, gateway, token, _mount: mount, _dir: dir }
    }

    /// Another caller, and its token for auth-service.
    pub(crate) async fn caller(&self, name: &str) -> (MeshClient, String) {
        caller(&self.platform, &self.url, name).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        let (status, body, _) = self.post_from(None, path, body).await;
        (status, body)
    }

    /// For a user with that address, as the gateway names it.
    pub(crate) async fn post_from(
        &self,
        address: Option<&str>,
        path: &str,
        body: &Value,
    ) -> (StatusCode, Value, HeaderMap) {
        let mut request = Request::post(format!("{}{path}", self.url))
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {}", self.token));
        if let Some(address) = address {
            request = request.header("x-gaia-client-ip", address);
        }
        let request = request.body(Body::from(body.to_string())).unwrap();
        answer(self.gateway.request(request).await.unwrap()).await
    }

    pub(crate) async fn sign_in(&self, email: &str, password: &str) -> Value {
        let (status, session) = self.post("/auth/login", &json!({ "email": email, "password": password })).await;
        assert_eq!(status, StatusCode::OK, "{session}");
        session
    }

    pub(crate) async fn refresh(&self, refresh_token: &Value) -> (StatusCode, Value) {
        self.post("/auth/refresh", &json!({ "refresh_token": refresh_token })).await
    }

    /// Exchanges a user's token, as the gateway does for each call it passes on.
    pub(crate) async fn exchange(&self, token: &str) -> (StatusCode, Value) {
        let fields = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("subject_token", token),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
            ("audience", "asset-service"),
        ];
        // Nothing in them needs to be escaped.
        let form = fields.map(|(name, value)| format!("{name}={value}")).join("&");
        let request = Request::post(format!("{}/internal/token-exchange", self.url))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Body::from(form))
            .unwrap();
        let (status, body, _) = answer(self.gateway.request(request).await.unwrap()).await;
        (status, body)
    }
}

async fn caller(platform: &Platform, url: &str, name: &str) -> (MeshClient, String) {
    let client = platform.client(Some(&platform.leaf(name)));
    let wanted =
        TokenRequest { service_name: name, target_service: Some("auth-service"), scope: None, expires_in: None };
    let token = client.service_token(&url.parse().unwrap(), &wanted).await.unwrap().access_token;
    (client, token)
}

pub(crate) async fn answer<B>(response: http::Response<B>) -> (StatusCode, Value, HeaderMap)
where
    B: hyper::body::Body,
    B::Error: std::fmt::Debug,
{
    let headers = response.headers().clone();
    let (status, body) = read(response).await;
    (status, serde_json::from_slice(&body).unwrap_or_default(), headers)
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}
