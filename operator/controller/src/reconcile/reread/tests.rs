//! A status that the API server does not accept, as the object has another version.

use gaia_api::crd::GaiaService;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::*;
use crate::reconcile::scripted::{Handle, answer, failure, reconciler};
use crate::store::KubeStore;

const SERVICE: &str = "/apis/gaia.dev/v1alpha1/namespaces/shop/gaiaservices/web";
const STATUS: &str = "/apis/gaia.dev/v1alpha1/namespaces/shop/gaiaservices/web/status";

fn service(uid: &str, version: &str) -> Value {
    json!({ "apiVersion": "gaia.dev/v1alpha1", "kind": "GaiaService",
        "metadata": { "namespace": "shop", "name": "web", "uid": uid, "resourceVersion": version, "generation": 1 },
        "spec": { "trustDomainRef": { "name": "gaia" } } })
}

async fn known() -> (Reconciler<KubeStore>, Handle, ObjectRef) {
    let (reconciler, handle) = reconciler();
    let known: GaiaService = serde_json::from_value(service("u1", "7")).unwrap();
    lock(&reconciler.executor.world).apply_service(known);
    (reconciler, handle, ObjectRef::Service("shop".to_owned(), "web".to_owned()))
}

/// The kind: a broken watch is restarted after up to 30 s, and each write of a status until then is a 409.
#[tokio::test]
async fn conflict_on_a_status_reads_the_object_and_the_next_report_is_accepted() {
    let (reconciler, mut server, key) = known().await;
    let conflict = failure(409, "Conflict");
    let script = async {
        let planned_on = answer(&mut server, Method::PATCH, STATUS, StatusCode::CONFLICT, conflict).await;
        assert_eq!(planned_on, "7");
        answer(&mut server, Method::GET, SERVICE, StatusCode::OK, service("u1", "9")).await;
    };
    let (ended, ()) = tokio::join!(reconciler.reconcile(&key), script);
    assert!(ended.next.unwrap() <= Instant::now() + MINIMUM_WAIT, "it is planned again at once");
    let script = answer(&mut server, Method::PATCH, STATUS, StatusCode::OK, service("u1", "10"));
    let (_, planned_on) = tokio::join!(reconciler.reconcile(&key), script);
    assert_eq!(planned_on, "9", "the version from the read");
}

/// The kind: an object that is deleted, or has another UID, is written to again and again.
#[tokio::test]
async fn object_that_is_gone_or_replaced_is_removed_and_left_to_its_watch() {
    for (code, found) in [(StatusCode::NOT_FOUND, failure(404, "NotFound")), (StatusCode::OK, service("u2", "9"))] {
        let (reconciler, mut server, key) = known().await;
        let script = async {
            let gone = failure(404, "NotFound");
            answer(&mut server, Method::PATCH, STATUS, StatusCode::NOT_FOUND, gone).await;
            answer(&mut server, Method::GET, SERVICE, code, found).await;
        };
        tokio::join!(reconciler.reconcile(&key), script);
        assert!(lock(&reconciler.executor.world).metadata(&key).is_none());
        assert!(reconciler.reconcile(&key).await.next.is_none(), "nothing is asked again");
    }
}

/// A watch event that arrives while the object is read is newer than the response.
#[tokio::test]
async fn answer_to_a_read_is_dropped_where_the_watch_was_faster() {
    let (reconciler, _, key) = known().await;
    let mut world = lock(&reconciler.executor.world);
    let found: GaiaService = serde_json::from_value(service("u1", "9")).unwrap();
    world.remove_service(&("shop".to_owned(), "web".to_owned()));
    let found = Some(crate::store::Found::Object(crate::store::Reported::Service(Box::new(found))));
    assert!(world.take_found(&key, found, Some("u1")).is_empty());
    assert!(world.metadata(&key).is_none(), "a deleted object stays deleted");
}
