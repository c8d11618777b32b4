//! Plans that are carried out on a store that refuses writes in some namespaces.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use gaia_plan::instances::instance::Target;
use gaia_plan::object::{ObjectChange, Version};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::*;
use crate::reconcile::scripted::with_store;
use crate::store::error::StoreError;
use crate::store::{Found, Reported, Stored};

/// Refuses writes by namespace: `quota` for a local cause, `webhook` for another, `raced` because each write is too
/// late.
#[derive(Default)]
struct Refusing {
    written: Mutex<Vec<String>>,
}

impl Refusing {
    fn answer(&self, key: &ObjectKey) -> Result<Stored, StoreError> {
        let (verb, object) = ("create", key.to_string());
        match key.namespace.as_str() {
            "quota" => Err(StoreError::InNamespace { verb, key: object, cause: "ResourceQuota x".to_owned() }),
            "webhook" => Err(StoreError::Transient { verb, key: object, message: "no answer".to_owned() }),
            "raced" => Err(StoreError::Conflict { key: object, message: String::new() }),
            _ => {
                self.written.lock().unwrap().push(key.namespace.clone());
                Ok(map_in(&key.namespace))
            }
        }
    }
}

impl Store for Refusing {
    async fn create(&self, object: Stored) -> Result<Stored, StoreError> {
        self.answer(&object.key())
    }

    async fn patch(&self, key: &ObjectKey, _: &Version, _: Value) -> Result<Stored, StoreError> {
        self.answer(key)
    }

    async fn replace(&self, _: Secret, _: &Version) -> Result<Stored, StoreError> {
        unreachable!("no ring is written")
    }

    async fn nudge(&self, _: &str, _: &str, _: &str, _: &str) -> Result<(), StoreError> {
        unreachable!("no pod is nudged")
    }

    async fn restart(&self, _: &Target, _: &str) -> Result<(), StoreError> {
        unreachable!("no workload is restarted")
    }

    async fn delete(&self, _: &ObjectKey, _: &Version) -> Result<(), StoreError> {
        Ok(())
    }

    async fn get(&self, key: &ObjectKey) -> Result<Option<Stored>, StoreError> {
        Ok(Some(map_in(&key.namespace)))
    }

    async fn get_metadata(&self, _: &ObjectKey) -> Result<Option<ObjectMeta>, StoreError> {
        unreachable!("nothing is foreign")
    }

    async fn get_resource(&self, _: &ObjectRef) -> Result<Option<Found>, StoreError> {
        unreachable!("no status is reported")
    }

    async fn patch_status(&self, _: &ObjectRef, _: &Version, _: Value) -> Result<Reported, StoreError> {
        unreachable!("no status is reported")
    }
}

fn map_in(namespace: &str) -> Stored {
    let metadata = ObjectMeta {
        namespace: Some(namespace.to_owned()),
        name: Some("gaia-trust".to_owned()),
        uid: Some("u".to_owned()),
        resource_version: Some("7".to_owned()),
        ..ObjectMeta::default()
    };
    Stored::ConfigMap(ConfigMap { metadata, ..ConfigMap::default() })
}

fn reconciler() -> Reconciler<Refusing> {
    with_store(Refusing::default())
}

/// Writes of the trust ConfigMap in these namespaces.
fn planned(namespaces: &[&str]) -> Planned {
    let version = Version { uid: "u".to_owned(), resource_version: "7".to_owned() };
    let write = |namespace: &&str| {
        let object = ObjectKey::config_map(namespace, "gaia-trust");
        let data = BTreeMap::from([("ca.crt".to_owned(), Some("PEM".to_owned()))]);
        Action::Write(Box::new(ObjectChange { data, ..ObjectChange::nothing(object, Some(version.clone())) }))
    };
    Planned {
        actions: namespaces.iter().map(write).collect(),
        status: Value::Null,
        reported: Value::Null,
        version: version.clone(),
        generation: Some(1),
        next_check: Timestamp::MAX,
        rollout: None,
        has_unasked: false,
        is_early: false,
        served_until: None,
        recorded: None,
        cut: vec![],
    }
}

fn refused(reconciler: &Reconciler<Refusing>, namespace: &str) -> Option<bool> {
    let all = BTreeSet::from([namespace.to_owned()]);
    let refused = lock(&reconciler.executor.world).refused_in(&all);
    refused.into_values().next().map(|refusal| refusal.is_local)
}

/// Kind: a conflict in the first namespace ended the whole plan, and a refusal in one delayed the next plan for all.
#[tokio::test]
async fn refusals_and_conflicts_in_some_namespaces_delay_no_other() {
    let (reconciler, domain) = (reconciler(), ObjectRef::TrustDomain("gaia".to_owned()));
    reconciler.act(&domain, &planned(&["raced", "quota", "webhook", "shop"])).await.unwrap();
    assert_eq!(*reconciler.executor.store.written.lock().unwrap(), ["shop"]);
    assert!(lock(&reconciler.executor.world).failures.is_empty(), "the TrustDomain itself does not wait");
    let found = ["raced", "quota", "webhook", "shop"].map(|namespace| refused(&reconciler, namespace));
    assert_eq!(found, [None, Some(true), Some(false), None]);
}

#[tokio::test]
async fn writer_that_is_always_faster_counts_as_a_cause_in_its_namespace() {
    let (reconciler, domain) = (reconciler(), ObjectRef::TrustDomain("gaia".to_owned()));
    for _ in 0..8 {
        assert_eq!(refused(&reconciler, "raced"), None);
        reconciler.act(&domain, &planned(&["raced"])).await.unwrap();
    }
    assert_eq!(refused(&reconciler, "raced"), Some(true));
}

#[tokio::test]
async fn refusal_is_forgotten_once_the_object_is_written() {
    let (reconciler, domain) = (reconciler(), ObjectRef::TrustDomain("gaia".to_owned()));
    let object = ObjectKey::config_map("shop", "gaia-trust");
    let now = reconciler.executor.clock.now();
    lock(&reconciler.executor.world).note_refusal(&domain, &object, "full".to_owned(), true, now);
    assert_eq!(refused(&reconciler, "shop"), Some(true));
    reconciler.act(&domain, &planned(&["shop"])).await.unwrap();
    assert_eq!(refused(&reconciler, "shop"), None);
}
