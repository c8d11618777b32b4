//! Calls under a service's own identity: the source of its tokens, and the handling of rejected ones.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::Json;
use axum::response::IntoResponse as _;
use gaia_auth::issue::{ServiceClaims, Signer};
use serde_json::json;

use crate::tests::*;
use crate::{Caller, CallsConfig};

/// An auth-service that issues tokens for asset-service to every caller.
struct Auth {
    issued: Arc<AtomicU64>,
    /// Set while it is unavailable.
    is_away: Arc<std::sync::atomic::AtomicBool>,
    config: CallsConfig,
    serving: JoinHandle<()>,
    _dir: TempDir,
}

impl Drop for Auth {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn token(signer: &Signer, life: i64, number: u64) -> String {
    let now = SystemClock.now().as_second();
    let claims = ServiceClaims {
        iss: "gaia-platform".to_owned(),
        sub: spiffe_id("gateway").to_string(),
        client_id: spiffe_id("gateway").to_string(),
        service: "gateway".to_owned(),
        aud: spiffe_id("asset-service").to_string(),
        jti: number.to_string(),
        iat: now,
        exp: now + life,
        scope: None,
    };
    signer.sign(&claims).unwrap()
}

async fn auth(platform: &Platform, life: i64) -> Auth {
    let dir = tempfile::tempdir().unwrap();
    let _mount = Mount::new(dir.path(), &platform.mount("auth-service"));
    let config = config("auth-service", dir.path());
    let runtime = Runtime::start(config, Arc::new(SystemClock), Arc::new(()), |_| ()).await.unwrap();
    let (issued, is_away) = (Arc::new(AtomicU64::new(0)), Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let signer = Arc::new(platform.signer());
    let answer = {
        let (issued, is_away) = (Arc::clone(&issued), Arc::clone(&is_away));
        move |Json(asked): Json<Value>| async move {
            assert_eq!(asked, json!({ "service_name": "gateway", "target_service": "asset-service" }));
            if is_away.load(Ordering::Relaxed) {
                return StatusCode::SERVICE_UNAVAILABLE.into_response();
            }
            let number = issued.fetch_add(1, Ordering::Relaxed);
            Json(json!({ "access_token": token(&signer, life, number), "expires_in": life })).into_response()
        }
    };
    let auth_url = format!("https://{}", runtime.mesh_address().unwrap()).parse().unwrap();
    let routes = runtime.routes().route("/internal/service-token", Access::Peer, post(answer));
    let serving = tokio::spawn(runtime.serve(routes, std::future::pending()));
    Auth { issued, is_away, config: CallsConfig { auth_url: Some(auth_url), api_key_file: None }, serving, _dir: dir }
}

/// The calling service.
struct Gateway {
    caller: Caller,
    mount: Mount,
    generations: tokio::sync::watch::Receiver<Option<Arc<crate::CredentialsSnapshot>>>,
    serving: JoinHandle<()>,
    _dir: TempDir,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn gateway(files: &MountedFiles, auth: &Auth) -> Gateway {
    let dir = tempfile::tempdir().unwrap();
    let mount = Mount::new(dir.path(), files);
    let config = config("gateway", dir.path());
    let runtime = Runtime::start(config, Arc::new(SystemClock), Arc::new(()), |_| ()).await.unwrap();
    let (caller, generations, routes) = (runtime.caller(&auth.config), runtime.generations(), runtime.routes());
    let serving = tokio::spawn(runtime.serve(routes, std::future::pending()));
    Gateway { caller, mount, generations, serving, _dir: dir }
}

impl Gateway {
    async fn call(&self, service: &Service) -> Result<(StatusCode, Vec<u8>), CallError> {
        let request = Request::post(format!("{}/token", service.mesh)).body(Bytes::from_static(b"said")).unwrap();
        Ok(read(self.caller.call("asset-service", request).await?).await)
    }

    async fn stream(&self, service: &Service) -> StatusCode {
        let body = Body::from_stream(futures::stream::iter([Ok::<_, std::io::Error>("said")]));
        let request = Request::post(format!("{}/token", service.mesh)).body(body).unwrap();
        self.caller.call_streaming("asset-service", request).await.unwrap().status()
    }
}

fn said() -> (StatusCode, Vec<u8>) {
    (StatusCode::OK, b"said".to_vec())
}

fn denying(platform: &Platform, jtis: &[&str]) -> MountedFiles {
    let mut files = platform.mount("asset-service");
    let denylist = Denylist { jtis: jtis.iter().map(|&jti| jti.to_owned()).collect(), ..Denylist::empty() };
    files.insert(key::DENYLIST, serde_json::to_vec(&denylist).unwrap());
    files
}

#[tokio::test]
async fn one_token_does_for_many_calls_and_is_asked_for_once_however_many_wait() {
    let platform = Platform::new();
    let service = start(&platform.mount("asset-service")).await;
    let auth = auth(&platform, 900).await;
    let gateway = gateway(&platform.mount("gateway"), &auth).await;
    let answers = futures::future::join_all((0..20).map(|_| gateway.call(&service))).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap() == said()));
    assert_eq!(gateway.stream(&service).await, StatusCode::OK);
    assert_eq!(auth.issued.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_token_is_renewed_at_half_its_life_while_calls_go_on_with_it() {
    let platform = Platform::new();
    let service = start(&platform.mount("asset-service")).await;
    let auth = auth(&platform, 4).await;
    let gateway = gateway(&platform.mount("gateway"), &auth).await;
    assert_eq!(gateway.call(&service).await.unwrap(), said());
    let began = tokio::time::Instant::now();
    eventually("it is renewed", async || {
        assert_eq!(gateway.call(&service).await.unwrap(), said());
        auth.issued.load(Ordering::Relaxed) == 2
    })
    .await;
    let took = began.elapsed();
    assert!((Duration::from_millis(1500)..Duration::from_millis(3900)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn while_auth_service_is_away_calls_go_on_with_the_token_there_is() {
    let platform = Platform::new();
    let service = start(&platform.mount("asset-service")).await;
    let auth = auth(&platform, 2).await;
    let gateway = gateway(&platform.mount("gateway"), &auth).await;
    assert_eq!(gateway.call(&service).await.unwrap(), said());
    auth.is_away.store(true, Ordering::Relaxed);
    let began = tokio::time::Instant::now();
    while began.elapsed() < Duration::from_millis(1500) {
        assert_eq!(gateway.call(&service).await.unwrap(), said());
    }
    eventually("it has ended", async || gateway.call(&service).await.is_err()).await;
    let error = gateway.call(&service).await.unwrap_err().to_string();
    assert!(error.contains("503"), "{error}");
    auth.is_away.store(false, Ordering::Relaxed);
    assert_eq!(gateway.call(&service).await.unwrap(), said());
}

#[tokio::test]
async fn a_refused_token_is_replaced_and_the_call_repeated_once() {
    let platform = Platform::new();
    let mut service = start(&denying(&platform, &["0"])).await;
    let auth = auth(&platform, 900).await;
    let gateway = gateway(&platform.mount("gateway"), &auth).await;
    assert_eq!(gateway.call(&service).await.unwrap(), said(), "the second one is taken");
    assert_eq!(auth.issued.load(Ordering::Relaxed), 2);

    service.mount.swap(&denying(&platform, &["0", "1", "2", "3"]));
    eventually("the second is refused too", async || gateway.call(&service).await.unwrap() != said()).await;
    assert_eq!(auth.issued.load(Ordering::Relaxed), 3, "one further request only");
    assert_eq!(gateway.call(&service).await.unwrap().0, StatusCode::UNAUTHORIZED);
    assert_eq!(gateway.call(&service).await.unwrap(), said(), "the fifth one is taken");
}

#[tokio::test]
async fn a_streamed_body_is_not_sent_twice_but_the_next_call_has_a_new_token() {
    let platform = Platform::new();
    let service = start(&denying(&platform, &["0"])).await;
    let auth = auth(&platform, 900).await;
    let gateway = gateway(&platform.mount("gateway"), &auth).await;
    assert_eq!(gateway.stream(&service).await, StatusCode::UNAUTHORIZED);
    assert_eq!(gateway.stream(&service).await, StatusCode::OK);
}

#[tokio::test]
async fn without_another_token_the_refusal_is_the_answer() {
    let platform = Platform::new();
    let service = start(&denying(&platform, &["0"])).await;
    let auth = auth(&platform, 900).await;
    let gateway = gateway(&platform.mount("gateway"), &auth).await;
    assert_eq!(gateway.stream(&service).await, StatusCode::UNAUTHORIZED);
    assert_eq!(gateway.stream(&service).await, StatusCode::OK);
    auth.is_away.store(true, Ordering::Relaxed);
    let other = start(&denying(&platform, &["1"])).await;
    assert_eq!(gateway.call(&other).await.unwrap().0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn tokens_outlive_their_generation() {
    let platform = Platform::new();
    let service = start(&platform.mount("asset-service")).await;
    let auth = auth(&platform, 900).await;
    let mut files = platform.mount("gateway");
    let mut gateway = gateway(&files, &auth).await;
    assert_eq!(gateway.call(&service).await.unwrap(), said());
    files.extend(platform.leaf("gateway"));
    let before = gateway.generations.borrow_and_update().clone().unwrap();
    gateway.mount.swap(&files);
    gateway.generations.changed().await.unwrap();
    assert!(!Arc::ptr_eq(&before, gateway.generations.borrow().as_ref().unwrap()));
    assert_eq!(gateway.call(&service).await.unwrap(), said());
    assert_eq!(auth.issued.load(Ordering::Relaxed), 1, "the token is bound to the SPIFFE ID, not to the leaf");
}

#[tokio::test]
async fn before_the_first_certificate_there_is_nothing_to_call_with() {
    let platform = Platform::new();
    let service = start(&platform.mount("asset-service")).await;
    let auth = auth(&platform, 900).await;
    let gateway = gateway(&MountedFiles::new(), &auth).await;
    assert!(matches!(gateway.call(&service).await, Err(CallError::NotReady)));
}
