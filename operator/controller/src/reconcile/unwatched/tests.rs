//! Look-ups of Secrets of users.

use std::time::Duration;

use gaia_api::crd::GaiaService;
use http::{Method, StatusCode};
use serde_json::json;

use super::*;
use crate::reconcile::scripted::{answer, failure, reconciler};

const SECRET: &str = "/api/v1/namespaces/shop/secrets/keys";

/// Kind: a request for each reconcile, which waits for its answer.
#[tokio::test(start_paused = true)]
async fn secrets_of_users_are_looked_up_beside_reconciles_and_the_answer_is_kept() {
    let (reconciler, mut server) = reconciler();
    let reconciler = Arc::new(reconciler);
    let service: GaiaService =
        serde_json::from_value(json!({ "apiVersion": "gaia.dev/v1alpha1", "kind": "GaiaService",
        "metadata": { "namespace": "shop", "name": "web", "uid": "u1", "resourceVersion": "7" },
        "spec": { "trustDomainRef": { "name": "gaia" }, "auth": { "apiKeysSecretRef": { "name": "keys" } } } }))
        .unwrap();
    lock(&reconciler.executor.world).apply_service(service);
    let (key, place) = (ObjectRef::Service("shop".to_owned(), "web".to_owned()), ("shop".to_owned(), "web".to_owned()));
    let worker = tokio::spawn(Arc::clone(&reconciler).look_up_secrets());
    // No response is given, and the reconcile does not wait for one.
    for _ in 0..8 {
        reconciler.look_around(&key).await.unwrap();
    }
    answer(&mut server, Method::GET, SECRET, StatusCode::NOT_FOUND, failure(404, "NotFound")).await;
    let told = reconciler.scheduler.decisions.next().await.unwrap();
    assert_eq!(told, key, "the missing Secret is reported");
    reconciler.scheduler.decisions.done(told, None);
    assert_eq!(lock(&reconciler.executor.world).missing_secrets(&place).len(), 1);
    let wait_and_look = async |seconds| {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        reconciler.look_around(&key).await.unwrap();
        tokio::task::yield_now().await;
        !reconciler.scheduler.lookups.is_quiet()
    };
    assert!(!wait_and_look(7).await, "the answer is kept");
    assert!(wait_and_look(2).await, "for some time");
    let found = json!({ "kind": "PartialObjectMetadata", "metadata": { "namespace": "shop", "name": "keys" } });
    answer(&mut server, Method::GET, SECRET, StatusCode::OK, found).await;
    reconciler.scheduler.decisions.next().await.unwrap();
    assert!(lock(&reconciler.executor.world).missing_secrets(&place).is_empty());
    assert!(!wait_and_look(240).await);
    // No state is kept of a service that is deleted.
    lock(&reconciler.executor.world).remove_service(&place);
    assert!(!lock(&reconciler.executor.world).take_missing_secrets(&place, BTreeSet::new(), BTreeSet::new()));
    reconciler.scheduler.close();
    worker.await.unwrap();
}
