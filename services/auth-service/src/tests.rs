//! End-to-end tests of auth-service over real mTLS.

mod audit;
mod exchange;
mod refusals;

use std::sync::Arc;

use axum::body::Body;
use gaia_api::identity::IdentityReport;
use gaia_api::mount::{DeniedSubject, Denylist};
use gaia_api::names::key;
use gaia_api::{Clock as _, SystemClock};
use gaia_auth::Denied;
use gaia_auth::tokens::{KeySet, TokenRules};
use gaia_auth::{PeerIdentity, Reason, Scopes};
use gaia_runtime::testing::{
    Mount, MountedFiles, Platform, certificate, config, eventually, get_plain, grants, read, spiffe_id,
};
use gaia_runtime::{CallError, MeshClient, TokenRequest};
use http::{Request, StatusCode, Uri};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{AuthService, Config};

struct Service {
    platform: Platform,
    url: Uri,
    admin: String,
    mount: Mount,
    files: MountedFiles,
    _dir: TempDir,
}

async fn start() -> Service {
    let platform = Platform::new();
    let mut files = platform.mount("auth-service");
    files.insert(key::JWT_SIGNING_KEY, platform.signing_key().into_bytes());
    let services = ["auth-service", "gateway", "asset-service", "chat-service"];
    files.insert(key::GRANTS, grants(&services, &[("gateway", "asset-service", &["assets:read", "assets:write"])]));
    start_with(platform, files).await
}

async fn start_with(platform: Platform, files: MountedFiles) -> Service {
    let dir = tempfile::tempdir().unwrap();
    let mount = Mount::new(dir.path(), &files);
    let config = Config { runtime: config("auth-service", dir.path()), login_forwards_address: false };
    let service = AuthService::start(config, Arc::new(SystemClock)).await.unwrap();
    let url = format!("https://{}", service.runtime.mesh_address().unwrap()).parse().unwrap();
    let admin = format!("http://{}", service.runtime.admin_address().unwrap());
    tokio::spawn(service.serve(std::future::pending()));
    Service { platform, url, admin, mount, files, _dir: dir }
}

impl Service {
    async fn post(&self, client: &MeshClient, body: &Value) -> (StatusCode, Value, http::HeaderMap) {
        let uri = format!("{}internal/service-token", self.url);
        let request =
            Request::post(uri).header("x-request-id", exchange::REQUEST_ID).body(Body::from(body.to_string()));
        let response = client.request(request.unwrap()).await.unwrap();
        let headers = response.headers().clone();
        let (status, body) = read(response).await;
        (status, serde_json::from_slice(&body).unwrap(), headers)
    }

    fn deny(&mut self, denylist: &Denylist) {
        self.files.insert(key::DENYLIST, serde_json::to_vec(denylist).unwrap());
        self.mount.swap(&self.files);
    }

    /// Returns the report for the operator.
    async fn report(&self) -> IdentityReport {
        let uri = format!("{}.well-known/gaia/identity", self.url);
        let operator = self.platform.client(Some(&self.platform.operator_leaf()));
        let (status, body) =
            read(operator.request(Request::get(uri).body(Body::empty()).unwrap()).await.unwrap()).await;
        assert_eq!(status, StatusCode::OK);
        serde_json::from_slice(&body).unwrap()
    }

    async fn jwks(&self) -> Vec<u8> {
        let uri = format!("{}.well-known/jwks.json", self.url);
        let request = Request::get(uri).body(Body::empty()).unwrap();
        let (status, body) = read(self.platform.client(None).request(request).await.unwrap()).await;
        assert_eq!(status, StatusCode::OK);
        body
    }
}

#[tokio::test]
async fn a_service_gets_a_token_that_its_target_accepts_from_it_alone() {
    let service = start().await;
    let leaf = service.platform.leaf("gateway");
    let client = service.platform.client(Some(&leaf));
    let wanted = TokenRequest {
        service_name: "gateway",
        target_service: Some("shop/asset-service"),
        scope: Some("assets:read other"),
        expires_in: None,
    };
    let token = client.service_token(&service.url, &wanted).await.unwrap();
    assert_eq!(token.expires_in, 900);

    let keys = KeySet::parse(&service.jwks().await).unwrap();
    let denied = Denied::default();
    let rules = |own| TokenRules {
        keys: &keys,
        issuer: "gaia-platform",
        own,
        broad_audience: Some("gaia-services"),
        max_ttl_seconds: 3600,
        denied: &denied,
    };
    let certificate = certificate(&leaf);
    let peer = PeerIdentity {
        spiffe_id: spiffe_id("gateway"),
        fingerprint: certificate.fingerprint(),
        serial: certificate.serial().into(),
        not_after: certificate.not_after(),
    };
    let now = SystemClock.now();
    let (asset_service, chat_service) = (spiffe_id("asset-service"), spiffe_id("chat-service"));
    let accepted = rules(&asset_service).verify(&token.access_token, Some(&peer), now).unwrap();
    assert_eq!(accepted.scopes, Scopes::from_list(&["assets:read".to_owned()]));
    let elsewhere = rules(&chat_service).verify(&token.access_token, Some(&peer), now).unwrap_err();
    assert_eq!(elsewhere.reason, Reason::AudienceWrong);
    let thief = PeerIdentity { spiffe_id: spiffe_id("chat-service"), ..peer };
    let stolen = rules(&asset_service).verify(&token.access_token, Some(&thief), now).unwrap_err();
    assert_eq!(stolen.reason, Reason::PeerDiffers);
    assert!(!format!("{token:?}").contains(&token.access_token));
}

#[tokio::test]
async fn an_answer_is_not_cached_and_a_refusal_says_no_more_than_its_status() {
    let service = start().await;
    let client = service.platform.client(Some(&service.platform.leaf("gateway")));
    let (status, body, headers) = service.post(&client, &json!({ "service_name": "gateway" })).await;
    assert_eq!((status, body["token_type"].as_str()), (StatusCode::OK, Some("Bearer")));
    assert_eq!(headers["cache-control"], "no-store");
    let mut messages = Vec::new();
    for (request, expected) in [
        (json!({ "service_name": "chat-service" }), StatusCode::FORBIDDEN),
        (json!({ "service_name": "gateway", "target_service": "chat-service" }), StatusCode::FORBIDDEN),
        (json!({ "service_name": "gateway", "target_service": "nobody" }), StatusCode::FORBIDDEN),
        (json!({ "service": "gateway" }), StatusCode::BAD_REQUEST),
        (json!({ "service_name": "x".repeat(9000) }), StatusCode::BAD_REQUEST),
    ] {
        let (status, body, _) = service.post(&client, &request).await;
        assert_eq!(status, expected);
        messages.push(body["detail"].clone());
    }
    assert_eq!(messages[0], messages[1]);
    assert_eq!(messages[1], messages[2]);
    let metrics = get_plain(&format!("{}/metrics", service.admin)).await.1;
    assert!(metrics.contains(r#"gaia_token_issued_total{kind="service",result="issued",reason=""} 1"#), "{metrics}");
    assert!(metrics.contains(r#"reason="not_its_name"} 1"#), "{metrics}");
}

#[tokio::test]
async fn without_a_client_certificate_there_is_no_token_whatever_else_is_shown() {
    let service = start().await;
    let (status, body, headers) =
        service.post(&service.platform.client(None), &json!({ "service_name": "gateway" })).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(headers.contains_key("www-authenticate"));
    assert_eq!(body["detail"], "This request requires valid credentials.");
    let stranger = Platform::new();
    let client = service.platform.client(Some(&stranger.leaf("gateway")));
    let wanted = TokenRequest { service_name: "gateway", target_service: None, scope: None, expires_in: None };
    // In Permissive a certificate of another CA does not fail the handshake, but is not a peer.
    let refused = client.service_token(&service.url, &wanted).await;
    assert!(matches!(refused, Err(CallError::Refused { status: StatusCode::UNAUTHORIZED, .. })), "{refused:?}");
}

#[tokio::test]
async fn a_signing_key_that_is_not_published_is_refused_and_the_old_one_goes_on_signing() {
    let mut service = start().await;
    let client = service.platform.client(Some(&service.platform.leaf("gateway")));
    let unpublished = Platform::new();
    service.files.insert(key::JWT_SIGNING_KEY, unpublished.signing_key().into_bytes());
    service.mount.swap(&service.files);
    let metrics = format!("{}/metrics", service.admin);
    eventually("the key is refused", async || {
        get_plain(&metrics).await.1.contains(r#"gaia_mount_refused{part="signer"} 1"#)
    })
    .await;
    let kid = |token: &Value| {
        let header = token["access_token"].as_str().unwrap().split('.').next().unwrap().to_owned();
        let jwk = format!("{header}.e30.AAAA");
        gaia_auth::tokens::Unverified::parse(&jwk).unwrap().kid
    };
    let (_, token, _) = service.post(&client, &json!({ "service_name": "gateway" })).await;
    assert_eq!(kid(&token), service.platform.signer().kid());
    assert_eq!(service.report().await.signing_kid.as_deref(), Some(service.platform.signer().kid()));

    // The key is loaded once it is published next to the old one.
    let (old, new): (Value, Value) =
        (serde_json::from_str(&service.platform.jwks()).unwrap(), serde_json::from_str(&unpublished.jwks()).unwrap());
    service.files.insert(key::JWKS, json!({ "keys": [old["keys"][0], new["keys"][0]] }).to_string().into_bytes());
    service.mount.swap(&service.files);
    eventually("the new key signs", async || {
        kid(&service.post(&client, &json!({ "service_name": "gateway" })).await.1) == unpublished.signer().kid()
    })
    .await;
    assert_eq!(service.report().await.signing_kid.as_deref(), Some(unpublished.signer().kid()));
}

#[tokio::test]
async fn a_revoked_signing_key_signs_nothing_and_another_takes_its_place() {
    let mut service = start().await;
    let client = service.platform.client(Some(&service.platform.leaf("gateway")));
    let request = json!({ "service_name": "gateway" });
    let (old, next) = (service.platform.signer(), Platform::new());
    let jwks = json!({ "keys": [old.jwk(), next.signer().jwk()] }).to_string().into_bytes();
    service.files.insert(key::JWKS, jwks);
    service.deny(&Denylist { kids: vec![old.kid().to_owned()], ..Denylist::empty() });
    eventually("nothing is signed", async || {
        service.post(&client, &request).await.0 == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    assert_eq!(service.report().await.signing_kid, None);

    service.files.insert(key::JWT_SIGNING_KEY, next.signing_key().into_bytes());
    service.mount.swap(&service.files);
    eventually("the other key signs", async || service.post(&client, &request).await.0 == StatusCode::OK).await;
    assert_eq!(service.report().await.signing_kid.as_deref(), Some(next.signer().kid()));
}

#[tokio::test]
async fn a_signing_key_that_is_no_longer_published_signs_nothing() {
    let mut service = start().await;
    let client = service.platform.client(Some(&service.platform.leaf("gateway")));
    let request = json!({ "service_name": "gateway" });
    assert_eq!(service.post(&client, &request).await.0, StatusCode::OK);
    service.files.insert(key::JWKS, Platform::new().jwks().into_bytes());
    service.mount.swap(&service.files);
    eventually("nothing is signed", async || {
        service.post(&client, &request).await.0 == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    assert_eq!(service.report().await.signing_kid, None);
}

#[tokio::test]
async fn a_revoked_subject_gets_no_token_until_its_time_and_others_do() {
    let mut service = start().await;
    let gateway = service.platform.client(Some(&service.platform.leaf("gateway")));
    let chat = service.platform.client(Some(&service.platform.leaf("chat-service")));
    let not_before = SystemClock.now() + jiff::SignedDuration::from_hours(1);
    let subject = DeniedSubject { sub: spiffe_id("gateway").to_string(), not_before };
    service.deny(&Denylist { subjects: vec![subject], ..Denylist::empty() });
    eventually("it gets no token", async || {
        service.post(&gateway, &json!({ "service_name": "gateway" })).await.0 == StatusCode::FORBIDDEN
    })
    .await;
    assert_eq!(service.post(&chat, &json!({ "service_name": "chat-service" })).await.0, StatusCode::OK);
    let metrics = get_plain(&format!("{}/metrics", service.admin)).await.1;
    assert!(metrics.contains(r#"reason="subject_revoked"} 1"#), "{metrics}");
}

#[tokio::test]
async fn a_revoked_leaf_gets_no_token_but_the_next_leaf_of_the_same_service_does() {
    let mut service = start().await;
    let (stolen, fresh) = (service.platform.leaf("gateway"), service.platform.leaf("gateway"));
    let wanted = TokenRequest { service_name: "gateway", target_service: None, scope: None, expires_in: None };
    let thief = service.platform.client(Some(&stolen));
    assert!(thief.service_token(&service.url, &wanted).await.is_ok());
    service.deny(&Denylist { leaves: vec![certificate(&stolen).fingerprint()], ..Denylist::empty() });
    eventually("it gets no token", async || thief.service_token(&service.url, &wanted).await.is_err()).await;
    // Neither on the existing connection nor on a new one.
    let again = service.platform.client(Some(&stolen)).service_token(&service.url, &wanted).await;
    assert!(matches!(again, Err(CallError::Failed { .. })), "{again:?}");
    assert!(service.platform.client(Some(&fresh)).service_token(&service.url, &wanted).await.is_ok());
}

#[tokio::test]
async fn without_a_signing_key_the_service_is_there_and_says_503() {
    let platform = Platform::new();
    let files = platform.mount("auth-service");
    let service = start_with(platform, files).await;
    let client = service.platform.client(Some(&service.platform.leaf("gateway")));
    let (status, _, _) = service.post(&client, &json!({ "service_name": "gateway" })).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(get_plain(&format!("{}/readyz", service.admin)).await.0, StatusCode::OK);
}
