//! A stand-in for asset-service with answers that a test controls.
#![allow(unreachable_pub, reason = "a module of a test program")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use gaia_api::SystemClock;
use gaia_auth::Access;
use gaia_e2e::load::runtime_config;
use gaia_runtime::Runtime;
use serde_json::json;
use tokio::task::JoinHandle;

/// A server with the leaf of asset-service that stores objects for any client with a token.
pub struct StandIn {
    pub address: SocketAddr,
    serving: JoinHandle<()>,
}

#[derive(Clone)]
struct Objects {
    is_refused: Arc<dyn Fn(&str) -> bool + Send + Sync>,
    kept: Arc<Mutex<BTreeMap<String, Bytes>>>,
}

impl StandIn {
    /// On the mounted directory of asset-service. Tokens are refused if `is_refused` returns true.
    pub async fn start(dir: &Path, is_refused: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        let config = runtime_config("asset-service", dir, ([127, 0, 0, 1], 0).into());
        let runtime = Runtime::start(config, Arc::new(SystemClock), Arc::new(()), |_| ()).await.unwrap();
        let address = runtime.mesh_address().unwrap();
        let objects = Objects { is_refused: Arc::new(is_refused), kept: Arc::default() };
        let routes = ["/assets", "/assets/{*path}"].into_iter().fold(runtime.routes(), |routes, path| {
            routes.route(path, Access::Public, get(answer).put(answer).delete(answer).with_state(objects.clone()))
        });
        Self { address, serving: tokio::spawn(runtime.serve(routes, std::future::pending())) }
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(State(objects): State<Objects>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    match token {
        Some(token) if !(objects.is_refused)(token) => objects.answer(&method, uri.path(), body),
        _ => {
            let challenge = r#"Bearer realm="gaia", error="invalid_token""#;
            (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)]).into_response()
        }
    }
}

impl Objects {
    fn answer(&self, method: &Method, path: &str, body: Bytes) -> Response {
        let mut kept = self.kept.lock().unwrap();
        let path = path.trim_start_matches("/assets").trim_start_matches('/');
        match *method {
            Method::PUT => {
                kept.insert(path.to_owned(), body);
                StatusCode::CREATED.into_response()
            }
            Method::GET if path.is_empty() => {
                let assets: Vec<_> = kept.keys().map(|path| json!({ "path": path })).collect();
                json!({ "assets": assets }).to_string().into_response()
            }
            Method::GET => kept.get(path).cloned().unwrap_or_default().into_response(),
            _ => {
                kept.remove(path);
                StatusCode::NO_CONTENT.into_response()
            }
        }
    }
}
