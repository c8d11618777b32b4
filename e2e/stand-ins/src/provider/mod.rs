//! A provider of chat completions for chat-service: real HTTP, OpenAI's protocol, and on request every fault
//! of such a provider.
//!
//! It echoes: to `tell me more` it answers `You said: tell me more`, word by word if a stream was requested. A last
//! message that begins with `!` requests a [`Behaviour`]. Its requests are recorded, so that a test can check which data
//! reached it.

mod answer;
mod behaviour;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use gaia_api::sync::lock;

pub use behaviour::Behaviour;

use answer::{Question, error};

/// Options of a provider.
#[derive(Clone, Debug)]
pub struct ProviderOptions {
    /// Listening address; port 0: any free port.
    pub address: SocketAddr,
    /// The accepted key.
    pub key: String,
    /// The pause between two words of a stream.
    pub pause: Duration,
}

impl Default for ProviderOptions {
    /// Any port on loopback, [`KEY`], and no pause.
    fn default() -> Self {
        Self { address: ([127, 0, 0, 1], 0).into(), key: KEY.to_owned(), pause: Duration::ZERO }
    }
}

/// A running provider. Dropping it stops it.
#[derive(Debug)]
pub struct Provider {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<std::io::Result<()>>,
}

/// One request that reached the provider.
#[derive(Clone, Debug)]
pub struct Received {
    /// Method and path.
    pub what: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

#[derive(Debug)]
struct Shared {
    key: Mutex<String>,
    pause: Duration,
    received: Mutex<Vec<Received>>,
    open_answers: AtomicUsize,
}

impl Provider {
    /// Starts a provider in this process.
    ///
    /// # Errors
    /// If the address is in use.
    pub async fn start(options: ProviderOptions) -> Result<Self> {
        let ProviderOptions { address, key, pause } = options;
        let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            key: Mutex::new(key),
            pause,
            received: Mutex::default(),
            open_answers: AtomicUsize::new(0),
        });
        let app = Router::new()
            .route("/v1/chat/completions", post(chat))
            .route("/v1/models", get(models))
            .fallback(nothing_here)
            .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
            .with_state(Arc::clone(&shared));
        let serving = tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(Self { address, shared, serving })
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL that its clients are configured with.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Accepts only this key from now on.
    pub fn set_key(&self, key: &str) {
        key.clone_into(&mut lock(&self.shared.key));
    }

    /// Every request so far.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        lock(&self.shared.received).clone()
    }

    /// The number of open answers: an answer ends when its client disconnects.
    #[must_use]
    pub fn open_answers(&self) -> usize {
        self.shared.open_answers.load(Ordering::Relaxed)
    }

    /// Serves until something fails.
    ///
    /// # Errors
    /// If the listener failed.
    pub async fn run(mut self) -> Result<()> {
        Ok((&mut self.serving).await??)
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Shared {
    /// Records a request; a request without the right key is answered already.
    fn admit(&self, what: &str, headers: &HeaderMap, body: &Bytes) -> Option<Response> {
        let received = Received { what: what.to_owned(), headers: headers.clone(), body: body.clone() };
        lock(&self.received).push(received);
        let expected = format!("Bearer {}", lock(&self.key));
        let shown = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        (shown != Some(expected.as_bytes())).then(unauthorized)
    }
}

async fn chat(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    if let Some(refused) = shared.admit("POST /v1/chat/completions", &headers, &body) {
        return refused;
    }
    let question: Question = match serde_json::from_slice(&body) {
        Ok(question) => question,
        Err(wrong) => return error(StatusCode::BAD_REQUEST, "invalid_request_error", &wrong.to_string()),
    };
    let under_way = UnderWay::new(shared);
    let pause = under_way.0.pause;
    match question.behaviour() {
        Behaviour::Unauthorized => unauthorized(),
        Behaviour::RateLimited { retry_after } => {
            let mut response = error(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", "Rate limit reached.");
            response.headers_mut().insert(header::RETRY_AFTER, retry_after.into());
            response
        }
        Behaviour::Refusal { status } => {
            let mut response = error(status, "refused", "This was not what you wanted to hear.");
            if status.is_redirection() {
                response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/v1/models"));
            }
            response
        }
        Behaviour::LateFirstByte { seconds } => {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            question.answer(pause, under_way)
        }
        _ => question.answer(pause, under_way),
    }
}

async fn models(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    if let Some(refused) = shared.admit("GET /v1/models", &headers, &Bytes::new()) {
        return refused;
    }
    let models = json!([{ "id": MODEL, "object": "model", "created": 0, "owned_by": "gaia-e2e" }]);
    answer::json(StatusCode::OK, &json!({ "object": "list", "data": models }))
}

async fn nothing_here() -> Response {
    error(StatusCode::NOT_FOUND, "not_found", "There is nothing here.")
}

fn unauthorized() -> Response {
    error(StatusCode::UNAUTHORIZED, "invalid_api_key", "Incorrect API key provided.")
}

/// An open answer.
#[derive(Debug)]
struct UnderWay(Arc<Shared>);

impl UnderWay {
    fn new(shared: Arc<Shared>) -> Self {
        shared.open_answers.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.open_answers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The default key of a provider.
pub const KEY: &str = "sk-gaia-e2e-provider";
/// The one model it lists; it accepts any.
pub const MODEL: &str = "echo-1";
const MAX_REQUEST_BYTES: usize = 16 * 1024 * 1024;

#[cfg(test)]
mod tests;
