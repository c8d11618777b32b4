//! The keys that an edit of one service queues.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::cache::{NamespaceFacts, Surroundings};

fn parse<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn service(namespace: &str, name: &str, version: usize, spec: &Value) -> GaiaService {
    let mut spec = spec.clone();
    spec["trustDomainRef"] = json!({ "name": "gaia" });
    let meta = json!({ "namespace": namespace, "name": name, "uid": format!("{namespace}-{name}"), "generation": version,
        "resourceVersion": version.to_string() });
    parse(json!({ "metadata": meta, "spec": spec }))
}

/// Services `s0` to `sN` in ten namespaces; each but the first names the one before as its caller.
fn chain(count: usize) -> ClusterCache {
    let mut world = ClusterCache::new(Surroundings {
        operator_namespace: "gaia-system".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        watch_namespaces: vec![],
    });
    world.apply_trust_domain(parse(json!({
        "metadata": { "name": "gaia", "uid": "td" },
        "spec": { "trustDomain": "gaia.local", "namespaceSelector": { "matchLabels": { "env": "prod" } } },
    })));
    for namespace in 0..10 {
        let labels = BTreeMap::from([("env".to_owned(), "prod".to_owned())]);
        world.apply_namespace(&format!("n{namespace}"), NamespaceFacts { labels, terminating: false });
    }
    for n in 0..count {
        world.apply_service(service(&namespace(n), &format!("s{n}"), 1, &names_the_one_before(n)));
    }
    world
}

fn namespace(n: usize) -> String {
    format!("n{}", n % 10)
}

fn names_the_one_before(n: usize) -> Value {
    let callers = n.checked_sub(1).map(|m| json!({ "namespace": namespace(m), "service": format!("s{m}") }));
    json!({ "callers": callers.into_iter().collect::<Vec<_>>() })
}

fn key(n: usize) -> ObjectRef {
    ObjectRef::Service(namespace(n), format!("s{n}"))
}

fn caller_ids(world: &ClusterCache, n: usize) -> Vec<String> {
    let place = (namespace(n), format!("s{n}"));
    let names = |found: &GaiaService| found.spec.service_account_name.clone().unwrap_or_default();
    world.callers_of(&place).into_iter().map(names).collect()
}

fn target_ids(world: &ClusterCache, n: usize) -> Vec<String> {
    let place = (namespace(n), format!("s{n}"));
    let names = |found: &GaiaService| found.spec.service_account_name.clone().unwrap_or_default();
    world.targets_of(&place).into_iter().map(names).collect()
}

/// The kind: planning of every service at each edit.
#[test]
fn an_edit_wakes_only_what_rests_on_it() {
    let mut world = chain(200);
    let mut spec = names_the_one_before(7);
    spec["workload"] = json!({ "port": 9443 });
    let woken = world.apply_service(service(&namespace(7), "s7", 2, &spec));
    assert_eq!(woken, BTreeSet::from([key(7)]), "its identity is the same");
    spec["serviceAccountName"] = json!("robot");
    let woken = world.apply_service(service(&namespace(7), "s7", 3, &spec));
    assert_eq!(woken, BTreeSet::from([key(6), key(7), key(8)]), "its callers, and those that it may call");
    assert_eq!(target_ids(&world, 6), ["robot"]);
    assert_eq!(caller_ids(&world, 8), ["robot"]);
    let dirty = world.take_dirty(crate::cache::Probing::Nobody).domains;
    assert_eq!(dirty, BTreeSet::from(["gaia".to_owned()]), "the grants hold it");

    let woken = world.remove_service(&(namespace(7), "s7".to_owned()));
    assert!([6, 8].iter().all(|n| woken.contains(&key(*n))) && woken.len() <= 4, "{woken:?}");
    assert!(!woken.contains(&key(9)), "{woken:?}");
    assert_eq!((caller_ids(&world, 8), target_ids(&world, 6)), (vec![], vec![]));
    let woken = world.apply_service(service(&namespace(7), "s7", 5, &spec));
    assert!(woken.contains(&key(8)) && woken.len() <= 4, "{woken:?}");

    // The service of that name is not its caller any longer.
    world.apply_service(service(&namespace(8), "s8", 2, &json!({ "callers": [] })));
    spec["serviceAccountName"] = json!("other");
    let woken = world.apply_service(service(&namespace(7), "s7", 6, &spec));
    assert_eq!(woken, BTreeSet::from([key(6), key(7)]));
}

#[test]
fn a_namespace_that_is_selected_wakes_the_services_it_calls() {
    let mut world = chain(20);
    let woken = world.apply_namespace("n3", NamespaceFacts { labels: BTreeMap::new(), terminating: false });
    let expected = [3, 4, 13, 14].map(key);
    assert!(expected.iter().all(|key| woken.contains(key)), "{woken:?}");
    assert_eq!(woken.iter().filter(|key| matches!(key, ObjectRef::Service(..))).count(), 4);
    assert!(world.callers_of(&(namespace(4), "s4".to_owned())).is_empty(), "its namespace is not selected");
}

#[test]
fn nothing_is_kept_of_services_that_are_deleted() {
    let mut world = chain(50);
    for n in 0..50 {
        world.remove_service(&(namespace(n), format!("s{n}")));
    }
    assert!(world.callers.0.is_empty());
}
