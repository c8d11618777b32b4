//! Stands between an operator and the API server, and kills the operator at exactly the n-th change that it asks for.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use gaia_e2e::OperatorProcess;
use http::{Method, Request, Response, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use kube::client::Body;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::net::TcpListener;

/// When the operator dies.
#[derive(Debug, Clone, Copy)]
pub enum Moment {
    /// The API server never sees the request.
    BeforeItIsSent,
    /// The API server has done it, and the operator never hears of it.
    AfterItIsDone,
}

/// A proxy on loopback, plain on the operator's side.
pub struct Proxy {
    pub kubeconfig: PathBuf,
    state: Arc<State>,
}

struct State {
    upstream: Client,
    /// The change at which the operator dies.
    fatal: usize,
    moment: Moment,
    changes: AtomicUsize,
    /// Requests that the API server may still be working on.
    under_way: AtomicUsize,
    victim: Mutex<Option<Arc<OperatorProcess>>>,
}

impl Proxy {
    /// Stands in for the server of a kubeconfig. `fatal` counts from 1.
    pub async fn start(kubeconfig: &Path, dir: &Path, fatal: usize, moment: Moment) -> Self {
        let mut direct = Kubeconfig::read_from(kubeconfig).unwrap();
        let mut config = Config::from_custom_kubeconfig(direct.clone(), &KubeConfigOptions::default()).await.unwrap();
        // Who asks is told by the header that comes with each request.
        config.auth_info = AuthInfo::default();
        config.default_retry = false;
        let state = Arc::new(State {
            upstream: Client::try_from(config).unwrap(),
            fatal,
            moment,
            changes: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            victim: Mutex::new(None),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cluster = direct.clusters[0].cluster.as_mut().unwrap();
        cluster.server = Some(format!("http://{address}"));
        cluster.certificate_authority_data = None;
        let path = dir.join(format!("proxied-{}.kubeconfig", address.port()));
        std::fs::write(&path, serde_yaml_ng::to_string(&direct).unwrap()).unwrap();
        tokio::spawn(serve(listener, Arc::clone(&state)));
        Self { kubeconfig: path, state }
    }

    /// Who is killed.
    pub fn aim_at(&self, victim: &Arc<OperatorProcess>) {
        *self.state.victim.lock().unwrap() = Some(Arc::clone(victim));
    }

    /// How many changes were asked for, up to the fatal one.
    pub fn changes(&self) -> usize {
        self.state.changes.load(Ordering::SeqCst)
    }

    /// Whether the operator was killed, and all that it asked for before is done.
    pub fn has_fired(&self) -> bool {
        self.changes() >= self.state.fatal && self.state.under_way.load(Ordering::SeqCst) == 0
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(move |request| Arc::clone(&state).answer(request));
            // A connection ends when the operator does, in whatever way.
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl State {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let (mut parts, body) = request.into_parts();
        parts.headers.remove(header::HOST);
        let Ok(body) = body.collect().await else { return never().await };
        let request = Request::from_parts(parts, Body::from(body.to_bytes()));
        self.under_way.fetch_add(1, Ordering::SeqCst);
        // In a task of its own: what the API server was asked is done, whether the operator still listens or not.
        let answer = tokio::spawn(async move {
            let answer = self.forward(request).await;
            self.under_way.fetch_sub(1, Ordering::SeqCst);
            answer
        });
        match answer.await {
            Ok(Some(answer)) => Ok(answer),
            _ => never().await,
        }
    }

    /// What the API server answers; nothing if the operator is not to hear of it.
    async fn forward(&self, request: Request<Body>) -> Option<Response<Body>> {
        let number = if is_change(&request) { self.changes.fetch_add(1, Ordering::SeqCst) + 1 } else { 0 };
        if number == self.fatal {
            if matches!(self.moment, Moment::AfterItIsDone) {
                self.upstream.send(request).await.unwrap();
            }
            self.victim.lock().unwrap().take().unwrap().kill9().unwrap();
            return None;
        }
        if self.changes.load(Ordering::SeqCst) >= self.fatal {
            return None;
        }
        match self.upstream.send(request).await {
            Ok(answer) => Some(answer),
            Err(error) => {
                let text = Bytes::from(error.to_string());
                Some(Response::builder().status(502).body(Body::from(text)).unwrap())
            }
        }
    }
}

/// Whether a request asks for a change of what the operator is there for.
fn is_change(request: &Request<Body>) -> bool {
    let path = request.uri().path();
    let reads = [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
    !reads && !path.contains("/leases") && !path.contains("/events")
}

async fn never<T>() -> T {
    std::future::pending().await
}
