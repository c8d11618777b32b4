//! Calls on behalf of a subject, and calls with an API key.

mod survival;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use axum::Form;
use axum::response::{IntoResponse as _, Response};
use gaia_api::mount::Caller as Declared;
use gaia_auth::Identity;
use gaia_auth::issue::{Actor, DelegatedClaims};
use serde_json::json;

use crate::testing::api_keys;
use crate::tests::*;
use crate::{Caller, CallsConfig, Subject};

/// An auth-service that exchanges every credential for a token.
struct Exchange {
    issued: Arc<AtomicU64>,
    /// The number of received requests.
    asked: Arc<AtomicU64>,
    /// The number of requests to answer with 503 first.
    unavailable: Arc<AtomicUsize>,
    /// Set while it never responds.
    hangs: Arc<AtomicBool>,
    /// Set while it rejects every credential.
    refuses: Arc<AtomicBool>,
    config: CallsConfig,
    /// The request IDs that came with the requests.
    request_ids: Arc<Mutex<Vec<Option<String>>>>,
    serving: JoinHandle<()>,
    _dir: TempDir,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    grant_type: String,
    subject_token: String,
    subject_token_type: String,
    audience: String,
}

async fn exchange(platform: &Platform, life: i64) -> Exchange {
    let dir = tempfile::tempdir().unwrap();
    let _mount = Mount::new(dir.path(), &platform.mount("auth-service"));
    let runtime =
        Runtime::start(config("auth-service", dir.path()), Arc::new(SystemClock), Arc::new(()), |_| ()).await.unwrap();
    let (issued, unavailable) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicUsize::new(0)));
    let asked_for = Arc::new(AtomicU64::new(0));
    let (hangs, refuses) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let signer = Arc::new(platform.signer());
    let request_ids = Arc::<Mutex<Vec<Option<String>>>>::default();
    let answer = {
        let (issued, unavailable) = (Arc::clone(&issued), Arc::clone(&unavailable));
        let asked_for = Arc::clone(&asked_for);
        let (hangs, refuses) = (Arc::clone(&hangs), Arc::clone(&refuses));
        let request_ids = Arc::clone(&request_ids);
        move |headers: HeaderMap, Form(asked): Form<Asked>| async move {
            request_ids.lock().unwrap().push(gaia_auth::request_id(&headers).map(str::to_owned));
            assert_eq!(asked.grant_type, "urn:ietf:params:oauth:grant-type:token-exchange");
            assert_eq!(asked.audience, "asset-service");
            asked_for.fetch_add(1, Ordering::Relaxed);
            if unavailable.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
                return StatusCode::SERVICE_UNAVAILABLE.into_response();
            }
            if hangs.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            if refuses.load(Ordering::Relaxed) {
                return refused();
            }
            let sub = match (asked.subject_token_type.as_str(), asked.subject_token.as_str()) {
                ("urn:ietf:params:oauth:token-type:jwt", name) if is_good(name) => format!("user:supabase:{name}"),
                ("urn:gaia:params:oauth:token-type:api-key", name) if is_good(name) => format!("key:{name}"),
                (_, "ungranted") => return StatusCode::FORBIDDEN.into_response(),
                (_, "early") => return ([("retry-after", "1")], refused()).into_response(),
                _ => return refused(),
            };
            let number = issued.fetch_add(1, Ordering::Relaxed);
            let now = SystemClock.now().as_second();
            let gateway = spiffe_id("gateway").to_string();
            let claims = DelegatedClaims {
                iss: "gaia-platform".to_owned(),
                sub,
                client_id: gateway.clone(),
                act: Actor { sub: gateway },
                service: "gateway".to_owned(),
                aud: spiffe_id("asset-service").to_string(),
                jti: number.to_string(),
                iat: now,
                exp: now + life,
                scope: None,
            };
            axum::Json(
                json!({ "access_token": signer.sign(&claims).unwrap(), "expires_in": life, "token_type": "Bearer" }),
            )
            .into_response()
        }
    };
    let auth_url = format!("https://{}", runtime.mesh_address().unwrap()).parse().unwrap();
    let routes = runtime.routes().route("/internal/token-exchange", Access::Peer, post(answer));
    let serving = tokio::spawn(runtime.serve(routes, std::future::pending()));
    let config = CallsConfig { auth_url: Some(auth_url), api_key_file: None };
    Exchange { request_ids, issued, asked: asked_for, unavailable, hangs, refuses, config, serving, _dir: dir }
}

fn is_good(name: &str) -> bool {
    !name.starts_with("bad") && name != "early" && name != "ungranted"
}

fn refused() -> Response {
    (StatusCode::BAD_REQUEST, axum::Json(json!({ "error": "invalid_grant", "title": "Bad Request" }))).into_response()
}

/// asset-service, which accepts delegated tokens from gateway and one API key.
fn target(platform: &Platform, jtis: &[&str]) -> MountedFiles {
    let mut files = platform.mount("asset-service");
    let gateway = Declared { spiffe_id: spiffe_id("gateway"), scopes: vec![], on_behalf_of: true };
    let policy = Policy { callers: vec![gateway], ..policy("asset-service") };
    files.insert(key::POLICY, serde_json::to_vec(&policy).unwrap());
    let denylist = Denylist { jtis: jtis.iter().map(|&jti| jti.to_owned()).collect(), ..Denylist::empty() };
    files.insert(key::DENYLIST, serde_json::to_vec(&denylist).unwrap());
    files.insert(key::API_KEYS, api_keys(&[("legacy", KEY, &[])]));
    files
}

struct Gateway {
    caller: Caller,
    mount: Mount,
    generations: tokio::sync::watch::Receiver<Option<Arc<crate::CredentialsSnapshot>>>,
    serving: JoinHandle<()>,
    dir: TempDir,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn gateway(files: &MountedFiles, calls: &CallsConfig) -> Gateway {
    let dir = tempfile::tempdir().unwrap();
    let mount = Mount::new(&dir.path().join("mount"), files);
    let config = config("gateway", &dir.path().join("mount"));
    let calls = CallsConfig { api_key_file: Some(dir.path().join("api-key")), ..calls.clone() };
    let runtime = Runtime::start(config, Arc::new(SystemClock), Arc::new(()), |_| ()).await.unwrap();
    let (caller, generations, routes) = (runtime.caller(&calls), runtime.generations(), runtime.routes());
    let serving = tokio::spawn(runtime.serve(routes, std::future::pending()));
    Gateway { caller, mount, generations, serving, dir }
}

impl Gateway {
    /// Returns the subject that the service sees.
    async fn ask(&self, subject: Subject<'_>, service: &Service) -> Result<(StatusCode, String), CallError> {
        let request = Request::get(format!("{}/anyone", service.mesh)).body(Bytes::new()).unwrap();
        let (status, body) = read(self.caller.call_for(subject, "asset-service", request).await?).await;
        Ok((status, String::from_utf8(body).unwrap()))
    }

    /// Returns the token that the service receives on behalf of Ann.
    async fn shown(&self, service: &Service) -> Result<String, CallError> {
        let request = Request::get(format!("{}/shown", service.mesh)).body(Bytes::new()).unwrap();
        let (status, body) = read(self.caller.call_for(Subject::Token("ann"), "asset-service", request).await?).await;
        assert_eq!(status, StatusCode::OK);
        Ok(String::from_utf8(body).unwrap())
    }

    async fn stream(&self, subject: Subject<'_>, service: &Service) -> StatusCode {
        let body = Body::from_stream(futures::stream::iter([Ok::<_, std::io::Error>("said")]));
        let request = Request::post(format!("{}/token", service.mesh)).body(body).unwrap();
        self.caller.call_streaming_for(subject, "asset-service", request).await.unwrap().status()
    }

    fn key_file(&self) -> std::path::PathBuf {
        self.dir.path().join("api-key")
    }
}

fn ok(subject: &Identity) -> (StatusCode, String) {
    (StatusCode::OK, subject.to_string())
}

fn user(name: &str) -> Identity {
    Identity::User { issuer: "supabase".to_owned(), sub: name.to_owned() }
}

#[tokio::test]
async fn each_subject_has_a_token_of_its_own_which_is_asked_for_once_however_many_wait() {
    let platform = Platform::new();
    let service = start(&target(&platform, &[])).await;
    let auth = exchange(&platform, 300).await;
    let gateway = gateway(&platform.mount("gateway"), &auth.config).await;
    let answers = futures::future::join_all((0..20).map(|_| gateway.ask(Subject::Token("ann"), &service))).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap() == ok(&user("ann"))));
    assert_eq!(auth.issued.load(Ordering::Relaxed), 1);
    assert_eq!(gateway.ask(Subject::Token("bob"), &service).await.unwrap(), ok(&user("bob")));
    let key = ok(&Identity::Key("mobile".to_owned()));
    assert_eq!(gateway.ask(Subject::ApiKey("mobile"), &service).await.unwrap(), key);
    assert_eq!(gateway.stream(Subject::Token("ann"), &service).await, StatusCode::OK);
    assert_eq!(auth.issued.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_credential_that_auth_service_does_not_take_is_told_apart_from_its_being_away() {
    let platform = Platform::new();
    let service = start(&target(&platform, &[])).await;
    let auth = exchange(&platform, 300).await;
    let gateway = gateway(&platform.mount("gateway"), &auth.config).await;
    for bad in [Subject::Token("bad"), Subject::ApiKey("bad")] {
        let error = gateway.ask(bad, &service).await.unwrap_err();
        assert!(matches!(error, CallError::SubjectRefused { .. }), "{error}");
        assert!(!format!("{error:?} {bad:?}").contains("bad"), "no credential is printed");
    }
    auth.unavailable.store(1, Ordering::Relaxed);
    let error = gateway.ask(Subject::Token("ann"), &service).await.unwrap_err();
    assert!(matches!(error, CallError::Refused { status: StatusCode::SERVICE_UNAVAILABLE, .. }), "{error}");
    assert_eq!(gateway.ask(Subject::Token("ann"), &service).await.unwrap(), ok(&user("ann")));
}

#[tokio::test]
async fn who_waited_while_it_was_asked_in_vain_does_not_ask_again() {
    let platform = Platform::new();
    let service = start(&target(&platform, &[])).await;
    let auth = exchange(&platform, 300).await;
    let gateway = gateway(&platform.mount("gateway"), &auth.config).await;
    auth.unavailable.store(3, Ordering::Relaxed);
    let answers = futures::future::join_all((0..20).map(|_| gateway.ask(Subject::Token("ann"), &service))).await;
    assert!(answers.into_iter().filter(Result::is_err).count() >= 18, "those that waited share one answer");
    assert!(auth.unavailable.load(Ordering::Relaxed) > 0, "it was asked once or twice, not twenty times");
}

#[tokio::test]
async fn a_refused_delegated_token_is_replaced_and_the_call_repeated_once() {
    let platform = Platform::new();
    let service = start(&target(&platform, &["0"])).await;
    let auth = exchange(&platform, 300).await;
    let gateway = gateway(&platform.mount("gateway"), &auth.config).await;
    assert_eq!(gateway.ask(Subject::Token("ann"), &service).await.unwrap(), ok(&user("ann")));
    assert_eq!(auth.issued.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn the_first_call_past_half_of_a_delegated_tokens_life_has_a_new_one_already() {
    let platform = Platform::new();
    let service = start(&target(&platform, &[])).await;
    let auth = exchange(&platform, 6).await;
    let gateway = gateway(&platform.mount("gateway"), &auth.config).await;
    let first = gateway.shown(&service).await.unwrap();
    assert_eq!(gateway.shown(&service).await.unwrap(), first);
    tokio::time::sleep(HALF_OF_SIX_SECONDS).await;
    let shown = futures::future::join_all((0..20).map(|_| gateway.shown(&service))).await;
    let shown: BTreeSet<String> = shown.into_iter().map(Result::unwrap).collect();
    assert!(shown.len() == 1 && !shown.contains(&first), "all have the one that was asked for once");
    assert_eq!(auth.issued.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn past_half_of_its_life_a_delegated_token_does_while_auth_service_is_away() {
    let platform = Platform::new();
    let service = start(&target(&platform, &[])).await;
    let auth = exchange(&platform, 6).await;
    let gateway = gateway(&platform.mount("gateway"), &auth.config).await;
    let first = gateway.shown(&service).await.unwrap();
    tokio::time::sleep(HALF_OF_SIX_SECONDS).await;
    auth.unavailable.store(20, Ordering::Relaxed);
    for _ in 0..20 {
        assert_eq!(gateway.shown(&service).await.unwrap(), first);
    }
    assert_eq!(auth.unavailable.load(Ordering::Relaxed), 19, "it is not asked with every call");
    let over = async || !matches!(gateway.shown(&service).await, Ok(shown) if shown == first);
    eventually("that token has ended", over).await;
}

#[tokio::test]
async fn an_auth_service_that_says_nothing_does_not_hold_up_calls_that_have_a_token() {
    let platform = Platform::new();
    let service = start(&target(&platform, &[])).await;
    let auth = exchange(&platform, 10).await;
    let gateway = gateway(&platform.mount("gateway"), &auth.config).await;
    let first = gateway.shown(&service).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5100)).await;
    auth.hangs.store(true, Ordering::Relaxed);
    assert_eq!(gateway.shown(&service).await.unwrap(), first);
}

#[tokio::test]
async fn who_is_refused_past_half_of_the_tokens_life_is_called_for_no_more() {
    let platform = Platform::new();
    let service = start(&target(&platform, &[])).await;
    let auth = exchange(&platform, 6).await;
    let gateway = gateway(&platform.mount("gateway"), &auth.config).await;
    gateway.shown(&service).await.unwrap();
    tokio::time::sleep(HALF_OF_SIX_SECONDS).await;
    auth.refuses.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        let error = gateway.shown(&service).await.unwrap_err();
        assert!(matches!(error, CallError::SubjectRefused { .. }), "{error}");
    }
    auth.refuses.store(false, Ordering::Relaxed);
    eventually("the refusal is forgotten", async || gateway.shown(&service).await.is_ok()).await;
}

#[tokio::test]
async fn while_the_file_of_the_api_key_is_there_it_takes_the_place_of_every_token() {
    let platform = Platform::new();
    let service = start(&target(&platform, &[])).await;
    let auth = exchange(&platform, 300).await;
    let gateway = gateway(&platform.mount("gateway"), &auth.config).await;
    std::fs::write(gateway.key_file(), format!("{KEY}\n")).unwrap();
    let legacy = ok(&Identity::Key("legacy".to_owned()));
    assert_eq!(gateway.ask(Subject::Token("ann"), &service).await.unwrap(), legacy);
    assert_eq!(gateway.stream(Subject::Token("ann"), &service).await, StatusCode::OK);
    assert_eq!(auth.issued.load(Ordering::Relaxed), 0);
    std::fs::remove_file(gateway.key_file()).unwrap();
    let moved = async || gateway.ask(Subject::Token("ann"), &service).await.unwrap() == ok(&user("ann"));
    eventually("the caller has moved, without a restart", moved).await;
}

#[tokio::test]
async fn without_certificates_a_key_is_sent_over_plain_http_and_a_token_never() {
    let platform = Platform::new();
    let mut service = start(&target(&platform, &[])).await;
    service.mesh = service.mesh.replace("https://", "http://");
    let auth = exchange(&platform, 300).await;
    let gateway = gateway(&MountedFiles::new(), &auth.config).await;
    let error = gateway.ask(Subject::Token("ann"), &service).await.unwrap_err();
    assert!(matches!(error, CallError::Unprotected { .. }), "{error}");
    std::fs::write(gateway.key_file(), KEY).unwrap();
    let legacy = ok(&Identity::Key("legacy".to_owned()));
    let reached = async || gateway.ask(Subject::Token("ann"), &service).await.is_ok_and(|answer| answer == legacy);
    eventually("the key is seen", reached).await;
    assert_eq!(gateway.stream(Subject::ApiKey("theirs"), &service).await, StatusCode::OK);
}

const HALF_OF_SIX_SECONDS: Duration = Duration::from_millis(3100);
const KEY: &str = "an-old-shared-key-that-everybody-knows";
