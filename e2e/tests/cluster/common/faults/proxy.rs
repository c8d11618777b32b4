//! A proxy between an operator and the API server: kills the operator at a change, or injects faults.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use gaia_e2e::OperatorProcess;
use http::{Request, Response, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use kube::client::Body;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::fault::Fault;
use crate::common::conduct::{Call, Conduct, Verdict};

/// A proxy on loopback, plain on the operator's side.
pub struct Proxy {
    pub kubeconfig: PathBuf,
    state: Arc<State>,
}

struct State {
    upstream: Client,
    life: Mutex<Life>,
    changes: AtomicUsize,
    /// The changes at which the operator was killed.
    deaths: Mutex<Vec<String>>,
    /// Requests that the API server may still be working on.
    under_way: AtomicUsize,
    /// The state of open watches.
    sight: watch::Sender<Sight>,
}

/// The events of watches.
#[derive(Default)]
struct Sight {
    /// Watches of an earlier epoch have ended.
    era: u64,
    /// Watches of this epoch get no events.
    blind_since: Option<u64>,
}

type Answer = Response<AnswerBody>;
type AnswerBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// The operator's present run.
struct Life {
    conduct: Box<dyn Conduct>,
    victim: Option<Arc<OperatorProcess>>,
    /// Its requests are no longer executed.
    is_over: bool,
    /// The number of the run: requests over connections of an earlier one are not executed.
    number: usize,
}

impl Proxy {
    /// Replaces the server of a kubeconfig.
    pub async fn start(kubeconfig: &Path, dir: &Path, conduct: impl Conduct + 'static) -> Self {
        let mut direct = Kubeconfig::read_from(kubeconfig).unwrap();
        let mut config = Config::from_custom_kubeconfig(direct.clone(), &KubeConfigOptions::default()).await.unwrap();
        // The header of each request has the user.
        config.auth_info = AuthInfo::default();
        config.default_retry = false;
        let life = Life { conduct: Box::new(conduct), victim: None, is_over: false, number: 0 };
        let state = Arc::new(State {
            upstream: Client::try_from(config).unwrap(),
            life: Mutex::new(life),
            changes: AtomicUsize::new(0),
            deaths: Mutex::default(),
            under_way: AtomicUsize::new(0),
            sight: watch::Sender::default(),
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

    /// Sets the process to kill.
    pub fn aim_at(&self, victim: &Arc<OperatorProcess>) {
        self.state.life.lock().unwrap().victim = Some(Arc::clone(victim));
    }

    /// Starts the killed operator again.
    pub fn revive(&self) {
        let mut life = self.state.life.lock().unwrap();
        life.number += 1;
        life.is_over = false;
        life.victim.as_ref().unwrap().restart().unwrap();
    }

    /// Later edits follow from now on.
    pub fn forget(&self) {
        self.state.life.lock().unwrap().conduct.forget();
    }

    /// Ends all open watches; their missed events are answered with 410 Gone.
    pub fn forget_watches(&self) {
        self.state.sight.send_modify(|sight| sight.era += 1);
    }

    /// Withholds events from all open watches, until they are ended or released.
    pub fn blind_watches(&self) {
        self.state.sight.send_modify(|sight| sight.blind_since = Some(sight.era));
    }

    /// Delivers the withheld events to all watches.
    pub fn show_watches(&self) {
        self.state.sight.send_modify(|sight| sight.blind_since = None);
    }

    /// Checks that the operator runs; else returns the end of its log.
    pub fn victim(&self) -> String {
        let life = self.state.life.lock().unwrap();
        let operator = life.victim.as_ref().unwrap();
        let runs = if operator.is_running() { "it runs" } else { "it does not run" };
        format!("life {} of the operator: {runs}\n{}", life.number, operator.log_tail())
    }

    /// The number of requested changes, up to the fatal one.
    pub fn changes(&self) -> usize {
        self.state.changes.load(Ordering::SeqCst)
    }

    /// The changes at which the operator was killed.
    pub fn deaths(&self) -> Vec<String> {
        self.state.deaths.lock().unwrap().clone()
    }

    /// True if the operator was killed, and all its earlier requests are finished.
    pub fn has_fired(&self) -> bool {
        self.state.life.lock().unwrap().is_over && self.state.under_way.load(Ordering::SeqCst) == 0
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        let number = state.life.lock().unwrap().number;
        tokio::spawn(async move {
            let service = service_fn(move |request| Arc::clone(&state).answer(number, request));
            // A connection ends when the operator does, in whatever way.
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl State {
    async fn answer(self: Arc<Self>, life: usize, request: Request<Incoming>) -> Result<Answer, Infallible> {
        let (mut parts, body) = request.into_parts();
        parts.headers.remove(header::HOST);
        let Ok(body) = body.collect().await else { return never().await };
        let request = Request::from_parts(parts, Body::from(body.to_bytes()));
        self.under_way.fetch_add(1, Ordering::SeqCst);
        // In a separate task: a request to the API server is completed, whether the operator still listens or not.
        let answer = tokio::spawn(async move {
            let answer = self.forward(life, request).await;
            self.under_way.fetch_sub(1, Ordering::SeqCst);
            answer
        });
        match answer.await {
            Ok(Some(answer)) => Ok(answer),
            _ => never().await,
        }
    }

    /// The API server's answer; none if the operator must not receive it.
    async fn forward(self: &Arc<Self>, life: usize, mut request: Request<Body>) -> Option<Answer> {
        let call = Call::of(&request);
        match self.judge(life, &call)? {
            Verdict::Pass => {}
            Verdict::Refuse(code) => return Some(refusal(code)),
            Verdict::Forget => return Some(Response::new(whole(too_long_ago()))),
            Verdict::Break(fault) => {
                request.headers_mut().remove(header::ACCEPT_ENCODING);
                let answer = self.upstream.send(request).await.ok()?;
                return Some(self.broken(answer, fault, call.is_watch).await);
            }
            Verdict::KillBefore => {
                self.kill(&call);
                return None;
            }
            Verdict::KillAfter => {
                // Without an answer the result is unknown to the proxy, and to the operator too.
                let _ = self.upstream.send(request).await;
                self.kill(&call);
                return None;
            }
        }
        match self.upstream.send(request).await {
            Ok(answer) if call.is_watch => Some(answer.map(|body| watched(body, self.sight.subscribe()))),
            Ok(answer) => Some(answer.map(|body| body.map_err(Into::into).boxed_unsync())),
            Err(error) => Some(Response::builder().status(502).body(whole(error.to_string().into_bytes())).unwrap()),
        }
    }

    /// An answer, or each part of a watch, with a fault around the private keys in it.
    async fn broken(self: &Arc<Self>, answer: Response<Body>, fault: Fault, is_watch: bool) -> Answer {
        let state = Arc::clone(self);
        let break_part = move |part: Bytes| match fault.break_answer(&part, is_watch) {
            Some(broken) => {
                state.life.lock().unwrap().conduct.note_broken(fault);
                Bytes::from(broken)
            }
            None => part,
        };
        let (mut parts, body) = answer.into_parts();
        parts.headers.remove(header::CONTENT_LENGTH);
        if is_watch {
            let stream = watched(body, self.sight.subscribe()).into_data_stream();
            let stream = stream.map_ok(move |part| Frame::data(break_part(part)));
            return Response::from_parts(parts, StreamBody::new(stream).boxed_unsync());
        }
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let broken = break_part(body.clone());
        if fault == Fault::Failure && broken != body {
            parts.status = http::StatusCode::UNPROCESSABLE_ENTITY;
        }
        Response::from_parts(parts, whole(broken.to_vec()))
    }

    /// The treatment of a call; none if its sender counts as killed.
    fn judge(&self, number: usize, call: &Call) -> Option<Verdict> {
        let mut life = self.life.lock().unwrap();
        if life.is_over || life.number != number {
            return None;
        }
        if call.is_change {
            self.changes.fetch_add(1, Ordering::SeqCst);
        }
        let verdict = life.conduct.judge(call);
        life.is_over = matches!(verdict, Verdict::KillBefore | Verdict::KillAfter);
        Some(verdict)
    }

    fn kill(&self, call: &Call) {
        let victim = self.life.lock().unwrap().victim.clone();
        victim.unwrap().kill9().unwrap();
        self.deaths.lock().unwrap().push(format!("{} {}", call.method, call.path));
    }
}

/// A watch, up to its end.
fn watched(body: Body, sight: watch::Receiver<Sight>) -> AnswerBody {
    let begun_in = sight.borrow().era;
    let told = futures::stream::unfold(Some((body.into_data_stream(), sight)), move |watch| async move {
        let (mut told, mut sight) = watch?;
        let mut ended = sight.clone();
        let next = async {
            let _ = sight.wait_for(|now| now.blind_since != Some(begun_in)).await;
            told.next().await
        };
        tokio::select! {
            biased;
            Ok(_) = ended.wait_for(|now| now.era > begun_in) => Some((Ok(Bytes::from(too_long_ago())), None)),
            chunk = next => Some((chunk?, Some((told, sight)))),
        }
    });
    StreamBody::new(told.map_ok(Frame::data).map_err(Into::into)).boxed_unsync()
}

/// The end of a watch with 410 Gone. The line before it may be incomplete.
fn too_long_ago() -> Vec<u8> {
    format!("\n{}\n", serde_json::json!({ "type": "ERROR", "object": status(410) })).into_bytes()
}

/// In the API server's form.
fn refusal(code: u16) -> Answer {
    let answer = Response::builder().status(code).header(header::CONTENT_TYPE, "application/json");
    answer.body(whole(status(code).to_string().into_bytes())).unwrap()
}

fn whole(text: Vec<u8>) -> AnswerBody {
    Full::from(text).map_err(|never| match never {}).boxed_unsync()
}

fn status(code: u16) -> serde_json::Value {
    let reason = match code {
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "a bad day", "reason": reason, "code": code,
    })
}

async fn never<T>() -> T {
    std::future::pending().await
}
