//! The users of the platform during the migration: an external program with the key, a batch job in the cluster that calls asset-service
//! directly, and a user with a browser.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use axum::body::{Body, Bytes, HttpBody};
use gaia_api::SystemClock;
use gaia_runtime::{Caller, CallsConfig, Hosts, Runtime};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::control_plane::ports;
use crate::five::{Five, NAMESPACE, TRUST_DOMAIN};
use crate::load::{in_words, runtime_config};
use crate::services::{list_instances, mount};
use crate::{ControlPlane, KeptProjection, Projection, ServiceProcess, wait};
use gaia_api::sync::lock;

/// The results of one caller.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Successful answers.
    pub answered: u64,
    /// 401 in an announced brownout.
    pub explained: u64,
    /// 401 at any other time.
    pub unexplained: u64,
    /// Any other answer, or none.
    pub failed: u64,
}

/// All callers, until they are stopped.
pub(super) struct Callers {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
    _batch_stop: oneshot::Sender<()>,
    _batch_mount: KeptProjection,
    batch_key: std::path::PathBuf,
}

struct Shared {
    counts: Mutex<BTreeMap<&'static str, Counts>>,
    refused: Mutex<BTreeSet<String>>,
    problem: Mutex<Option<String>>,
    /// Callers that received deprecation headers.
    told: Mutex<BTreeSet<&'static str>>,
    expects_refusals: AtomicBool,
    over_tls: AtomicBool,
    /// The app's credential.
    app: Mutex<(&'static str, String)>,
    turn: AtomicU64,
}

/// One answer, or the reason why there is none.
type Outcome = Result<(StatusCode, HeaderMap), String>;

impl Callers {
    pub(super) async fn start(plane: &ControlPlane, five: &Five) -> Result<Self> {
        let shared = Arc::new(Shared {
            counts: Mutex::default(),
            refused: Mutex::default(),
            problem: Mutex::default(),
            told: Mutex::default(),
            expects_refusals: AtomicBool::new(false),
            over_tls: AtomicBool::new(false),
            app: Mutex::new(("x-api-key", five.api_key.clone())),
            turn: AtomicU64::new(0),
        });
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let gateways: Vec<SocketAddr> = five.gateways.iter().map(ServiceProcess::edge_address).collect();
        let client = plain_client();
        let app = {
            let (shared, client) = (Arc::clone(&shared), client.clone());
            async move || app_calls(&shared, &client, &gateways).await
        };
        tasks.spawn(call_again_and_again(APP, Arc::clone(&shared), stopped.clone(), app));

        let (batch, batch_stop, batch_mount, batch_key) = batch(plane, five).await?;
        let plain = format!("http://{}/assets", five.assets.mesh_address());
        let tls = format!("https://{}/assets", five.assets.server_name());
        let calls = {
            let shared = Arc::clone(&shared);
            async move || {
                let url = if shared.over_tls.load(Ordering::Relaxed) { &tls } else { &plain };
                batch_calls(&batch, url).await
            }
        };
        tasks.spawn(call_again_and_again(BATCH, Arc::clone(&shared), stopped.clone(), calls));

        let origin = format!("http://{}", five.web.edge_address());
        let mut browser = Browser { client, origin, cookies: BTreeMap::new() };
        browser.sign_in("ada@example.com", super::PASSWORD).await?;
        let browser = Arc::new(tokio::sync::Mutex::new(browser));
        let looks = async move || browser.lock().await.get("/files").await;
        tasks.spawn(call_again_and_again(PERSON, Arc::clone(&shared), stopped, looks));
        Ok(Self { shared, tasks, stop, _batch_stop: batch_stop, _batch_mount: batch_mount, batch_key })
    }

    /// Makes the batch job call over TLS from now on.
    pub(super) fn batch_over_tls(&self) {
        self.shared.over_tls.store(true, Ordering::Relaxed);
    }

    /// Removes the batch job's key.
    pub(super) fn batch_with_tokens(&self) -> Result<()> {
        std::fs::remove_file(&self.batch_key).context("the batch job's key")
    }

    /// Makes the app sign its users in, through gateway, and send their token, which is returned.
    pub(super) async fn app_signs_in(&self, five: &Five) -> Result<String> {
        let url = format!("http://{}/auth/login", five.gateways[0].edge_address());
        let body = json!({ "email": "ada@example.com", "password": super::PASSWORD }).to_string();
        let request = Request::post(url).header(header::CONTENT_TYPE, "application/json").body(Body::from(body))?;
        let answer = plain_client().request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        ensure!(status == StatusCode::OK, "signing in through gateway: {status} {}", String::from_utf8_lossy(&body));
        let session: Value = serde_json::from_slice(&body)?;
        let token = session["access_token"].as_str().context("no access_token")?;
        *lock(&self.shared.app) = ("authorization", format!("Bearer {token}"));
        Ok(token.to_owned())
    }

    /// Sets whether 401s are expected from now on.
    pub(super) fn expect_refusals(&self, expected: bool) {
        self.shared.expects_refusals.store(expected, Ordering::Relaxed);
    }

    /// The callers that were refused in an announced brownout.
    pub(super) fn refused(&self) -> BTreeSet<String> {
        lock(&self.shared.refused).clone()
    }

    /// True if both users of the key received deprecation headers.
    pub(super) fn was_told_of_the_end(&self) -> bool {
        let told = lock(&self.shared.told);
        told.contains(APP) && told.contains(BATCH)
    }

    /// The lowest number of successful answers of a caller.
    pub(super) fn answered(&self) -> u64 {
        let counts = lock(&self.shared.counts);
        if counts.len() < 3 { 0 } else { counts.values().map(|counts| counts.answered).min().unwrap_or(0) }
    }

    /// The first request with an unexpected result.
    pub(super) fn problem(&self) -> Option<String> {
        lock(&self.shared.problem).clone()
    }

    pub(super) async fn stop(mut self) -> Vec<(&'static str, Counts)> {
        let _ = self.stop.send(true);
        while self.tasks.join_next().await.is_some() {}
        lock(&self.shared.counts).iter().map(|(who, counts)| (*who, *counts)).collect()
    }
}

async fn call_again_and_again(
    who: &'static str,
    shared: Arc<Shared>,
    mut stopped: watch::Receiver<bool>,
    call: impl AsyncFn() -> Outcome,
) {
    let mut interval = tokio::time::interval(EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
        let outcome =
            tokio::time::timeout(TIMEOUT, call()).await.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        shared.note(who, outcome);
    }
}

impl Shared {
    fn note(&self, who: &'static str, outcome: Outcome) {
        let expects = self.expects_refusals.load(Ordering::Relaxed);
        let mut counts = lock(&self.counts);
        let counts = counts.entry(who).or_default();
        match outcome {
            Ok((status, headers)) if status.is_success() => {
                counts.answered += 1;
                if headers.contains_key("deprecation") && headers.contains_key("sunset") {
                    lock(&self.told).insert(who);
                }
            }
            Ok((StatusCode::UNAUTHORIZED, headers)) if expects && headers.contains_key(header::RETRY_AFTER) => {
                counts.explained += 1;
                lock(&self.refused).insert(who.to_owned());
            }
            Ok((status, _)) => {
                let count =
                    if status == StatusCode::UNAUTHORIZED { &mut counts.unexplained } else { &mut counts.failed };
                *count += 1;
                self.problem(format!("{who} was answered {status}"));
            }
            Err(error) => {
                counts.failed += 1;
                self.problem(format!("{who} got no answer: {error}"));
            }
        }
    }

    fn problem(&self, what: String) {
        lock(&self.problem).get_or_insert(what);
    }
}

/// One request of the app to a gateway; if it refuses the connection, to the other, as a load balancer does.
async fn app_calls(shared: &Shared, client: &PlainClient, gateways: &[SocketAddr]) -> Outcome {
    let (name, value) = lock(&shared.app).clone();
    let turn = usize::try_from(shared.turn.fetch_add(1, Ordering::Relaxed)).unwrap_or(0);
    let mut last = Err("there is no gateway".to_owned());
    for attempt in 0..gateways.len() {
        let gateway = gateways[(turn + attempt) % gateways.len()];
        let request = Request::get(format!("http://{gateway}/assets")).header(name, &value).body(Body::empty());
        match client.request(request.map_err(|error| error.to_string())?).await {
            Ok(answer) => return read(answer).await,
            Err(error) if error.is_connect() => last = Err(error.to_string()),
            Err(error) => return Err(in_words(&error)),
        }
    }
    last
}

async fn batch_calls(batch: &Caller, url: &str) -> Outcome {
    let request = Request::get(url).body(Bytes::new()).map_err(|error| error.to_string())?;
    let answer = batch.call("asset-service", request).await.map_err(|error| in_words(&error))?;
    read(answer).await
}

async fn read<B>(answer: http::Response<B>) -> Outcome
where
    B: HttpBody,
    B::Error: std::error::Error + 'static,
{
    let (status, headers) = (answer.status(), answer.headers().clone());
    answer.into_body().collect().await.map_err(|error| in_words(&error))?;
    Ok((status, headers))
}

/// A service in this process with the key in a file of its own.
async fn batch(
    plane: &ControlPlane,
    five: &Five,
) -> Result<(Caller, oneshot::Sender<()>, KeptProjection, std::path::PathBuf)> {
    let service = json!({
        "apiVersion": "gaia.dev/v1alpha1", "kind": "GaiaService",
        "metadata": { "name": BATCH, "namespace": NAMESPACE },
        "spec": { "trustDomainRef": { "name": TRUST_DOMAIN } },
    });
    plane.apply(&service.to_string()).await?;
    let home = plane.dir().join("platform").join(BATCH);
    std::fs::create_dir_all(&home)?;
    let client = plane.admin().await?;
    let mounted = Projection::new(client.clone(), NAMESPACE, home.join("gaia"), mount(BATCH, TRUST_DOMAIN));
    wait::until("the files of the batch job are there", SOON, || mounted.sync_once()).await?;
    let key = home.join("api-key");
    std::fs::write(&key, &five.api_key)?;
    let hosts = [&five.assets, &five.auth].map(|service| (service.server_name().to_owned(), service.mesh_address()));
    let [port]: [u16; 1] = ports::free()?;
    let mut config = runtime_config(BATCH, mounted.dir(), ([127, 0, 0, 1], port).into());
    config.hosts = hosts.into_iter().collect::<Hosts>();
    let runtime = Runtime::start(config, Arc::new(SystemClock), Arc::new(()), |_| ()).await?;
    let auth_url = format!("https://{}", five.auth.server_name()).parse()?;
    let caller = runtime.caller(&CallsConfig { auth_url: Some(auth_url), api_key_file: Some(key.clone()) });
    list_instances(&client, NAMESPACE, BATCH, &[runtime.mesh_address()?]).await?;
    let routes = runtime.routes();
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(runtime.serve(routes, async { drop(stopped.await) }));
    Ok((caller, stop, mounted.keep(), key))
}

/// A browser, with the functions needed here.
struct Browser {
    client: PlainClient,
    origin: String,
    cookies: BTreeMap<String, String>,
}

impl Browser {
    async fn sign_in(&mut self, email: &str, password: &str) -> Result<()> {
        let form = format!("email={}&password={}", email.replace('@', "%40"), password.replace(' ', "+"));
        let answer = self.send(Method::POST, "/sign-in", form).await.map_err(anyhow::Error::msg)?;
        ensure!(answer.0.is_redirection(), "signing in at web-service: {}", answer.0);
        ensure!(!self.cookies.is_empty(), "signing in set no cookie");
        Ok(())
    }

    async fn get(&mut self, path: &str) -> Outcome {
        self.send(Method::GET, path, String::new()).await
    }

    async fn send(&mut self, method: Method, path: &str, form: String) -> Outcome {
        let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.origin));
        request = request.header(header::ORIGIN, &self.origin);
        if !cookies.is_empty() {
            request = request.header(header::COOKIE, cookies.join("; "));
        }
        if !form.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        let request = request.body(Body::from(form)).map_err(|error| error.to_string())?;
        let answer = self.client.request(request).await;
        let outcome = match answer {
            Ok(answer) => read(answer).await?,
            // There is one web-service: while it restarts, a browser retries.
            Err(error) if error.is_connect() => return Box::pin(self.again(path)).await,
            Err(error) => return Err(in_words(&error)),
        };
        for cookie in outcome.1.get_all(header::SET_COOKIE) {
            let pair = cookie.to_str().ok().and_then(|text| text.split(';').next()?.split_once('='));
            if let Some((name, value)) = pair {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        Ok(outcome)
    }

    async fn again(&mut self, path: &str) -> Outcome {
        tokio::time::sleep(EVERY).await;
        self.get(path).await
    }
}

type PlainClient = Client<HttpConnector, Body>;

fn plain_client() -> PlainClient {
    // No connection is kept: one that the server is just closing would look like a failure.
    Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http()
}

const APP: &str = "app";
pub(super) const BATCH: &str = "batch-job";
const PERSON: &str = "person";
const EVERY: Duration = Duration::from_millis(50);
const TIMEOUT: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_secs(60);
