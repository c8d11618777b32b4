//! Reconcilers for tests: against a scripted API server, and with another store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use gaia_api::ManualClock;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::Reconciler;
use crate::cache::{ClusterCache, Surroundings};
use crate::execute::ca_cache::Signers;
use crate::execute::executor::Executor;
use crate::observability::events::Events;
use crate::observability::metrics::Metrics;
use crate::schedule::scheduler::Scheduler;
use crate::store::KubeStore;

pub(super) type Handle = tower_test::mock::Handle<Request<Body>, Response<Body>>;

pub(super) fn reconciler() -> (Reconciler<KubeStore>, Handle) {
    let (service, handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    (with_store(KubeStore::new(Client::new(service, "default"))), handle)
}

/// A reconciler with an empty cluster snapshot whose Events are discarded.
pub(crate) fn with_store<S>(store: S) -> Reconciler<S> {
    let (nowhere, _) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let clock = Arc::new(ManualClock::new("2026-01-01T00:00:00Z".parse().unwrap()));
    let metrics = Metrics::new();
    let (events, _) = Events::start(Client::new(nowhere, "default"), "test".to_owned(), clock.clone(), metrics.clone());
    let [operator_namespace, cluster_domain] = ["gaia-system", "cluster.local"].map(str::to_owned);
    let world = ClusterCache::new(Surroundings { operator_namespace, cluster_domain, watch_namespaces: vec![] });
    let executor = Executor { store, world: Arc::new(Mutex::new(world)), clock, signers: Signers::default() };
    Reconciler {
        executor: Arc::new(executor),
        scheduler: Scheduler::new(0),
        events,
        metrics,
        reported: Mutex::new(HashMap::new()),
        unread: Mutex::default(),
    }
}

pub(super) fn failure(code: u16, reason: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": "scripted" })
}

/// Expects one request and answers it; returns the resource version that it names.
pub(super) async fn answer(handle: &mut Handle, method: Method, path: &str, code: StatusCode, body: Value) -> Value {
    let (request, send) = handle.next_request().await.expect("a request");
    assert_eq!((request.method(), request.uri().path()), (&method, path));
    let sent = request.into_body().collect().await.unwrap().to_bytes();
    send.send_response(Response::builder().status(code).body(Body::from(serde_json::to_vec(&body).unwrap())).unwrap());
    serde_json::from_slice::<Value>(&sent).unwrap_or(Value::Null)["metadata"]["resourceVersion"].clone()
}
