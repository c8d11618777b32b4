//! Upgrades: the objects that an earlier operator wrote, recorded in `fixtures/recorded`. A tightened rule warns about them and
//! never stops what they serve.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use gaia_api::crd::{GaiaService, ServiceCertificate, TrustDomain, condition};
use gaia_api::names::key;
use gaia_pki::Ca;
use gaia_plan::keyring::transition::Step;
use gaia_plan::object::ObjectKey;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::*;
use crate::api_server::Reading;
use crate::api_server::object::read;
use crate::cache::{SharedCache, Surroundings};
use crate::execute::issue;
use crate::watch::{NamespaceView, Watched};

const OBJECTS: &str = include_str!("../../fixtures/recorded/objects.jsonl");
const RECORDED_AT: &str = "2026-11-30T15:12:11Z";

fn recorded_at() -> Timestamp {
    RECORDED_AT.parse().unwrap()
}

fn objects() -> impl Iterator<Item = Value> {
    OBJECTS.lines().map(|line| serde_json::from_str(line).unwrap())
}

/// Takes in an object as a watch does.
fn apply<K: Watched + DeserializeOwned>(object: &Value, world: &SharedCache) {
    let raw = Zeroizing::new(serde_json::to_vec(object).unwrap());
    let Reading::Object(read) = read::<K>(raw).unwrap() else { unreachable!("unreadable: {}", object["metadata"]) };
    let _ = read.apply(world);
}

/// The cache of an operator that starts on the recorded objects.
fn world() -> SharedCache {
    let [operator_namespace, cluster_domain] = ["gaia-system", "cluster.local"].map(str::to_owned);
    let world = ClusterCache::new(Surroundings { operator_namespace, cluster_domain, watch_namespaces: vec![] });
    let world = Arc::new(Mutex::new(world));
    for object in objects() {
        match object["kind"].as_str().unwrap() {
            "Namespace" => apply::<NamespaceView>(&object, &world),
            "TrustDomain" => apply::<TrustDomain>(&object, &world),
            "GaiaService" => apply::<GaiaService>(&object, &world),
            "ServiceCertificate" => apply::<ServiceCertificate>(&object, &world),
            "Secret" if object["metadata"]["labels"].is_null() => {}
            "Secret" => apply::<Secret>(&object, &world),
            "ConfigMap" => apply::<ConfigMap>(&object, &world),
            other => unreachable!("{other}"),
        }
    }
    for domain in ["corporate", "partner"] {
        let ca = issue::examine(&external_ca(domain), &format!("{domain}.example"), recorded_at());
        lock(&world).set_external_ca(domain, Ok(ca));
    }
    world
}

/// The CA in the user's Secret of a TrustDomain.
fn external_ca(domain: &str) -> Ca {
    let secret = objects().find(|object| object["metadata"]["name"] == format!("{domain}-ca")).unwrap();
    let secret: Secret = serde_json::from_value(secret).unwrap();
    let data = secret.data.unwrap();
    let private = std::str::from_utf8(&data[key::TLS_KEY].0).unwrap();
    let roots = data.get(key::CA_CERT).map(|roots| roots.0.as_slice());
    Ca::from_pem(&data[key::TLS_CERT].0, private, roots, recorded_at()).unwrap()
}

/// The plans of all recorded custom resources, TrustDomains first as their rollout state is part of the others' plans.
fn plans(world: &SharedCache, now: Timestamp) -> Vec<(ObjectRef, Planned)> {
    let mut keys = lock(world).all_keys();
    keys.sort_by_key(|key| (!matches!(key, ObjectRef::TrustDomain(_)), key.clone()));
    let plan_one = |key: ObjectRef| {
        let planned = plan(&lock(world), &key, now);
        let mut planned = planned.unwrap_or_else(|| unreachable!("{key} is held"));
        if let (ObjectRef::TrustDomain(name), Some(rollout)) = (&key, planned.rollout.take()) {
            let _ = lock(world).set_rollout(name, rollout);
        }
        (key, planned)
    };
    keys.into_iter().map(plan_one).collect()
}

/// Whether an action re-issues, deletes, or changes key material.
fn disturbs(action: &Action) -> bool {
    match action {
        Action::Transition(transition) => transition.steps != [Step::AddEpochKey],
        Action::Write(_) | Action::PatchCertificate { .. } => false,
        Action::CreateRing(_)
        | Action::Restore(_)
        | Action::Nudge { .. }
        | Action::RestartWorkload { .. }
        | Action::WriteSigner(_)
        | Action::IssueLeaf(_)
        | Action::CreateCertificate(_)
        | Action::Delete { .. } => true,
    }
}

fn condition_of<'a>(status: &'a Value, type_: &str) -> Option<&'a Value> {
    status["conditions"].as_array()?.iter().find(|condition| condition["type"] == type_)
}

/// Kind: a rule that is tightened for new objects stops objects that were accepted before.
#[test]
fn recorded_objects_are_not_reissued_refused_or_deleted() {
    let world = world();
    let plans = plans(&world, recorded_at());
    assert_eq!(plans.len(), 32, "every recorded custom resource has a plan");
    for (key, planned) in &plans {
        let disturbing: Vec<String> =
            planned.actions.iter().filter(|action| disturbs(action)).map(ToString::to_string).collect();
        assert_eq!(disturbing, [""; 0], "{key}");
        let stalled = condition_of(&planned.status, condition::STALLED).unwrap();
        assert_eq!(stalled["status"], "False", "{key}: {stalled:#}");
        // The policy files get new fields, and a status is written only once its plan has no action.
        if planned.actions.is_empty() || !matches!(key, ObjectRef::Service(..)) {
            let ready = condition_of(&planned.status, condition::READY).unwrap();
            assert_eq!(ready["status"], "True", "{key}: {ready:#}");
        }
    }
}

/// The warnings are those of the rules that were tightened since, so that a new one is noticed here.
#[test]
fn recorded_objects_that_break_newer_rules_have_warnings() {
    let plans = plans(&world(), recorded_at());
    let mut warnings = BTreeSet::new();
    for (key, planned) in &plans {
        for found in planned.status["conditions"].as_array().unwrap() {
            let type_ = found["type"].as_str().unwrap();
            // The reason of a warning is its type.
            if condition_of(&planned.reported, type_).is_none() && found["reason"] == type_ {
                warnings.insert(format!("{key}: {type_}"));
            }
        }
    }
    let expected = [
        "GaiaService shop/payments: CallerNotFound",
        "GaiaService shop/payments: EndpointNotAllowed",
        "ServiceCertificate com/google: AmbiguousNames",
        "ServiceCertificate office/ledger: AmbiguousNames",
        "ServiceCertificate office/reader: AmbiguousNames",
        "ServiceCertificate shop/courier: AmbiguousNames",
        "ServiceCertificate shop/frozen: AmbiguousNames",
        "ServiceCertificate shop/keys-only: AmbiguousNames",
        "ServiceCertificate shop/localhost: AmbiguousNames",
        "ServiceCertificate shop/orders: AmbiguousNames",
        "ServiceCertificate shop/payments: AmbiguousNames",
        "ServiceCertificate shop/worker: AmbiguousNames",
        "TrustDomain corporate: CANotStrict",
        "TrustDomain yearly: LifetimesTooTight",
    ];
    assert_eq!(warnings.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[test]
fn recorded_leaf_is_renewed_when_it_is_due() {
    let world = world();
    let renewed = |after: SignedDuration| -> Vec<String> {
        let plans = plans(&world, recorded_at() + after);
        let issued = plans.iter().flat_map(|(_, planned)| &planned.actions);
        let issued = issued.filter(|action| matches!(action, Action::IssueLeaf(_)));
        issued.filter_map(Action::object).map(ToString::to_string).collect()
    };
    assert_eq!(renewed(SignedDuration::from_hours(1)), [""; 0]);
    assert_eq!(renewed(SignedDuration::from_hours(5)), [ObjectKey::secret("shop", "courier-tls").to_string()]);
}
