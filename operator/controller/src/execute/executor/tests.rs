//! The executor against a scripted API server: each request is checked, each response is scripted.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use gaia_api::ManualClock;
use gaia_api::crd::{RestartKind, reason};
use gaia_plan::instances::instance::Target;
use gaia_plan::object::{ObjectChange, ObjectKey, OwnerRef, Version};
use gaia_plan::{Action, Event};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::{Executor, Outcome};
use crate::cache::{ClusterCache, Surroundings, lock};
use crate::execute::ca_cache::Signers;
use crate::store::error::ErrorClass;
use crate::store::{KubeStore, ObjectRef};

type Handle = tower_test::mock::Handle<Request<Body>, Response<Body>>;

/// An executor, and the API server it talks to.
fn scripted() -> (Executor<KubeStore>, Handle) {
    let (service, handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let surroundings = Surroundings {
        operator_namespace: "gaia-system".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        watch_namespaces: vec![],
    };
    let executor = Executor {
        store: KubeStore::new(Client::new(service, "default")),
        world: Arc::new(Mutex::new(ClusterCache::new(surroundings))),
        clock: Arc::new(ManualClock::new("2026-01-01T00:00:00Z".parse().unwrap())),
        signers: Signers::default(),
    };
    (executor, handle)
}

/// Expects one request and answers it.
async fn answer(handle: &mut Handle, method: Method, path: &str, code: StatusCode, body: Value) -> Value {
    let (request, send) = handle.next_request().await.expect("a request");
    assert_eq!((request.method(), request.uri().path()), (&method, path));
    let sent = request.into_body().collect().await.unwrap().to_bytes();
    let response = Response::builder().status(code).body(Body::from(serde_json::to_vec(&body).unwrap())).unwrap();
    send.send_response(response);
    serde_json::from_slice(&sent).unwrap_or(Value::Null)
}

fn failure(code: u16, reason: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": "scripted" })
}

fn write(on: Option<Version>) -> Action {
    let mut change = ObjectChange::nothing(ObjectKey::config_map("shop", "gaia-trust"), on);
    change.data.insert("ca.crt".to_owned(), Some("PEM".to_owned()));
    Action::Write(Box::new(change))
}

fn version() -> Version {
    Version { uid: "u1".to_owned(), resource_version: "7".to_owned() }
}

fn config_map() -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": { "ca.crt": "PEM" },
        "metadata": { "namespace": "shop", "name": "gaia-trust", "uid": "u1", "resourceVersion": "8"} })
}

fn domain() -> ObjectRef {
    ObjectRef::TrustDomain("gaia".to_owned())
}

const MAPS: &str = "/api/v1/namespaces/shop/configmaps";
const MAP: &str = "/api/v1/namespaces/shop/configmaps/gaia-trust";

#[tokio::test]
async fn the_first_write_is_a_post_without_a_get_before_it() {
    let (executor, mut server) = scripted();
    let (outcome, sent) = tokio::join!(
        async { executor.execute(&domain(), &write(None)).await.unwrap() },
        answer(&mut server, Method::POST, MAPS, StatusCode::CREATED, config_map())
    );
    assert_eq!(outcome, Outcome::Done(BTreeSet::new()));
    assert_eq!(sent["data"], json!({ "ca.crt": "PEM" }));
    let key = ObjectKey::config_map("shop", "gaia-trust");
    assert_eq!(lock(&executor.world).version(&key).map(|version| version.resource_version), Some("8".to_owned()));
}

#[tokio::test]
async fn a_patch_names_the_state_it_was_planned_on() {
    let (executor, mut server) = scripted();
    let (_, sent) = tokio::join!(
        async { executor.execute(&domain(), &write(Some(version()))).await.unwrap() },
        answer(&mut server, Method::PATCH, MAP, StatusCode::OK, config_map())
    );
    assert_eq!(sent["metadata"], json!({ "uid": "u1", "resourceVersion": "7" }));
}

/// A key in `binaryData` once made the repair a no-op that was repeated.
#[tokio::test]
async fn repair_of_a_config_map_removes_the_same_keys_from_binary_data() {
    let (executor, mut server) = scripted();
    let mut change = ObjectChange::nothing(ObjectKey::config_map("shop", "gaia-trust"), Some(version()));
    change.data.insert("ca.crt".to_owned(), Some("PEM".to_owned()));
    change.data.insert("extra".to_owned(), None);
    let action = Action::Write(Box::new(change));
    let (_, sent) = tokio::join!(
        async { executor.execute(&domain(), &action).await.unwrap() },
        answer(&mut server, Method::PATCH, MAP, StatusCode::OK, config_map())
    );
    assert_eq!(sent["data"], json!({ "ca.crt": "PEM", "extra": null }));
    assert_eq!(sent["binaryData"], json!({ "ca.crt": null, "extra": null }));
}

/// A repair of the operator's owner reference keeps those of others, and does not claim `controller`.
#[tokio::test]
async fn a_repaired_owner_reference_leaves_those_of_others_as_they_are() {
    let (executor, mut server) = scripted();
    let owner = |api: &str, kind: &str, uid: &str, controller: Value| {
        let mut owner = json!({ "apiVersion": api, "kind": kind, "name": "x", "uid": uid });
        if !controller.is_null() {
            owner["controller"] = controller;
        }
        owner
    };
    let theirs = owner("apps/v1", "Deployment", "d1", json!(true));
    let also_theirs = owner("example.com/v1", "App", "a1", Value::Null);
    for (present, wanted) in [
        (
            vec![theirs.clone(), owner("gaia.dev/v1alpha1", "GaiaService", "old", json!(true)), also_theirs.clone()],
            vec![theirs, also_theirs.clone(), owner("gaia.dev/v1alpha1", "GaiaService", "new", Value::Null)],
        ),
        (vec![also_theirs.clone()], vec![also_theirs, owner("gaia.dev/v1alpha1", "GaiaService", "new", json!(true))]),
    ] {
        let mut change = ObjectChange::nothing(ObjectKey::config_map("shop", "gaia-trust"), Some(version()));
        let ours = OwnerRef { kind: "GaiaService".to_owned(), name: "x".to_owned(), uid: "new".to_owned() };
        change.owners = Some(vec![ours]);
        let action = Action::Write(Box::new(change));
        let script = async {
            let meta = json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {
                "namespace": "shop", "name": "gaia-trust", "uid": "u1", "resourceVersion": "7", "ownerReferences": present } });
            answer(&mut server, Method::GET, MAP, StatusCode::OK, meta).await;
            answer(&mut server, Method::PATCH, MAP, StatusCode::OK, config_map()).await
        };
        let (_, sent) = tokio::join!(async { executor.execute(&domain(), &action).await.unwrap() }, script);
        assert_eq!(sent["metadata"]["ownerReferences"], json!(wanted));
    }
}

#[tokio::test]
async fn a_foreign_object_in_the_way_is_known_by_its_metadata_alone_and_left_as_it_is() {
    let (executor, mut server) = scripted();
    let script = async {
        answer(&mut server, Method::POST, MAPS, StatusCode::CONFLICT, failure(409, "AlreadyExists")).await;
        let meta = json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": { "namespace": "shop", "name": "gaia-trust", "uid": "u1", "resourceVersion": "8" } });
        let (request, send) = server.next_request().await.expect("a request");
        let accept = request.headers().get("accept").unwrap().to_str().unwrap().to_owned();
        assert!(request.method() == Method::GET && accept.contains("as=PartialObjectMetadata"), "{accept}");
        send.send_response(Response::new(Body::from(serde_json::to_vec(&meta).unwrap())));
    };
    let (outcome, ()) = tokio::join!(async { executor.execute(&domain(), &write(None)).await.unwrap() }, script);
    assert!(matches!(outcome, Outcome::Replan(_)));
    assert_eq!(lock(&executor.world).foreign_of(&domain()), [ObjectKey::config_map("shop", "gaia-trust")]);
}

#[tokio::test]
async fn an_object_of_ours_that_lost_its_label_is_read_and_known_again() {
    let (executor, mut server) = scripted();
    let script = async {
        answer(&mut server, Method::POST, MAPS, StatusCode::CONFLICT, failure(409, "AlreadyExists")).await;
        let meta = json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {
            "namespace": "shop", "name": "gaia-trust", "uid": "u1", "annotations": { "gaia.dev/ca-epoch": "1" } } });
        answer(&mut server, Method::GET, MAP, StatusCode::OK, meta).await;
        answer(&mut server, Method::GET, MAP, StatusCode::OK, config_map()).await;
    };
    let (outcome, ()) = tokio::join!(async { executor.execute(&domain(), &write(None)).await.unwrap() }, script);
    assert!(matches!(outcome, Outcome::Replan(_)));
    assert!(lock(&executor.world).version(&ObjectKey::config_map("shop", "gaia-trust")).is_some());
}

#[tokio::test]
async fn a_conflict_is_answered_by_reading_the_object_anew() {
    let (executor, mut server) = scripted();
    let script = async {
        answer(&mut server, Method::PATCH, MAP, StatusCode::CONFLICT, failure(409, "Conflict")).await;
        answer(&mut server, Method::GET, MAP, StatusCode::OK, config_map()).await;
    };
    let (outcome, ()) =
        tokio::join!(async { executor.execute(&domain(), &write(Some(version()))).await.unwrap() }, script);
    assert!(matches!(outcome, Outcome::Replan(_)));
}

#[tokio::test]
async fn an_object_that_is_gone_is_forgotten() {
    let (executor, mut server) = scripted();
    let script = async {
        answer(&mut server, Method::PATCH, MAP, StatusCode::NOT_FOUND, failure(404, "NotFound")).await;
        answer(&mut server, Method::GET, MAP, StatusCode::NOT_FOUND, failure(404, "NotFound")).await;
    };
    let (outcome, ()) =
        tokio::join!(async { executor.execute(&domain(), &write(Some(version()))).await.unwrap() }, script);
    assert!(matches!(outcome, Outcome::Replan(_)));
    assert!(lock(&executor.world).version(&ObjectKey::config_map("shop", "gaia-trust")).is_none());
}

#[tokio::test]
async fn what_the_server_refuses_and_what_passes_by_itself_are_told_apart() {
    for (code, reason, class) in [
        (403, "Forbidden", ErrorClass::UserInput),
        (422, "Invalid", ErrorClass::UserInput),
        (429, "TooManyRequests", ErrorClass::Transient),
        (503, "ServiceUnavailable", ErrorClass::Transient),
    ] {
        let (executor, mut server) = scripted();
        let (status, action) = (StatusCode::from_u16(code).unwrap(), write(None));
        let (outcome, _) = tokio::join!(
            async { executor.execute(&domain(), &action).await },
            answer(&mut server, Method::POST, MAPS, status, failure(code, reason))
        );
        assert_eq!(outcome.unwrap_err().class(), class, "{code}");
    }
}

#[tokio::test]
async fn a_deletion_carries_both_preconditions() {
    let (executor, mut server) = scripted();
    let action = Action::Delete { key: ObjectKey::config_map("shop", "gaia-trust"), version: version() };
    let (outcome, sent) = tokio::join!(
        async { executor.execute(&domain(), &action).await.unwrap() },
        answer(
            &mut server,
            Method::DELETE,
            MAP,
            StatusCode::OK,
            json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" })
        )
    );
    assert_eq!(outcome, Outcome::Done(BTreeSet::new()));
    assert_eq!(sent["preconditions"], json!({ "uid": "u1", "resourceVersion": "7" }));
}

#[tokio::test]
async fn a_pod_or_workload_that_is_gone_or_may_not_be_touched_holds_nothing_up() {
    let target = Target { namespace: "shop".to_owned(), kind: RestartKind::Deployment, name: "orders".to_owned() };
    let event = Event::new(reason::WORKLOAD_RESTARTED, "restarted".to_owned());
    let restart = Action::RestartWorkload { target, value: "now".to_owned(), event };
    let [namespace, pod, uid, value] = ["shop", "orders-1", "u1", "now"].map(str::to_owned);
    let nudge = Action::Nudge { namespace, pod, uid, value };
    for (action, path) in [
        (nudge, "/api/v1/namespaces/shop/pods/orders-1"),
        (restart, "/apis/apps/v1/namespaces/shop/deployments/orders"),
    ] {
        for (code, reason, skipped) in [
            (404, "NotFound", true),
            (409, "Conflict", true),
            (403, "Forbidden", true),
            (503, "ServiceUnavailable", false),
        ] {
            let (executor, mut server) = scripted();
            let (outcome, _) = tokio::join!(
                async { executor.execute(&domain(), &action).await },
                answer(&mut server, Method::PATCH, path, StatusCode::from_u16(code).unwrap(), failure(code, reason))
            );
            assert_eq!(outcome.is_ok_and(|outcome| outcome == Outcome::Skipped), skipped, "{action}: {code}");
            // What another writer prevented is planned again.
            let is_recorded = skipped && code != 409 && matches!(action, Action::RestartWorkload { .. });
            assert_eq!(!lock(&executor.world).restarted.is_empty(), is_recorded, "{action}: {code}");
        }
    }
}
