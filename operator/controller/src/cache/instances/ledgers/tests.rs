//! Ledgers of pods and endpoints that start and terminate.

use gaia_api::ledger::LedgerEntry;
use serde_json::{Value, json};

use super::super::pods;
use super::*;
use crate::cache::{NamespaceFacts, Surroundings};

fn parse<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// Service shop/web, with API keys or without.
fn world(keys: bool) -> ClusterCache {
    let mut world = ClusterCache::new(Surroundings {
        operator_namespace: "gaia-system".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        watch_namespaces: vec![],
    });
    world.begin_reading(at(0), None);
    world.apply_namespace("shop", NamespaceFacts { labels: BTreeMap::new(), terminating: false });
    world.apply_trust_domain(parse(json!({
        "metadata": { "name": "gaia", "uid": "td" }, "spec": { "trustDomain": "gaia.local", "namespaceSelector": {},
            "allowedEndpoints": [{ "namespaces": ["shop"], "hosts": ["*.fly.dev"] }] },
    })));
    world.pods_watched(None, Ok(()));
    let workload = json!({ "port": 8443 });
    world.apply_certificate(parse(json!({
        "metadata": { "namespace": "shop", "name": "web", "uid": "c", "generation": 1 },
        "spec": { "trustDomainRef": { "name": "gaia" }, "workload": workload },
    })));
    service(&mut world, keys);
    world
}

fn service(world: &mut ClusterCache, keys: bool) {
    service_at(world, keys, &[]);
}

fn service_at(world: &mut ClusterCache, keys: bool, endpoints: &[&str]) {
    let auth = if keys { json!({ "apiKeysSecretRef": { "name": "keys" } }) } else { json!({}) };
    let generation = 2 * endpoints.len() + usize::from(keys);
    world.apply_service(parse(json!({
        "metadata": { "namespace": "shop", "name": "web", "uid": "s", "generation": generation },
        "spec": { "trustDomainRef": { "name": "gaia" }, "auth": auth, "endpoints": endpoints },
    })));
}

fn pod(world: &mut ClusterCache, ends: bool) {
    let sources = json!([{ "secret": { "name": "web-tls" } }, { "configMap": { "name": "web-auth" } }]);
    let mut meta = json!({ "namespace": "shop", "name": "web-x", "uid": "p" });
    if ends {
        meta["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    let started = json!({ "running": { "startedAt": "2026-01-01T00:00:00Z" } });
    let container =
        json!({ "name": "app", "image": "i", "imageID": "i", "ready": true, "restartCount": 0, "state": started });
    let facts = pods::read(&parse(json!({
        "metadata": meta,
        "spec": { "containers": [{ "name": "app" }],
            "volumes": [{ "name": "gaia", "projected": { "sources": sources } }] },
        "status": { "phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [container] },
    })));
    world.apply_pod(&place(), facts);
}

fn place() -> Place {
    ("shop".to_owned(), "web-x".to_owned())
}

fn key() -> InstanceKey {
    InstanceKey { trust_domain: "gaia".to_owned(), namespace: "shop".to_owned(), uid: "p".to_owned() }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + second).unwrap()
}

fn report(callers: Vec<LedgerCaller>) -> LedgerReport {
    let date = jiff::civil::date(2026, 1, 1);
    let entry = |caller| LedgerEntry { key: "app".to_owned(), caller, date };
    let entries = callers.into_iter().map(entry).collect();
    LedgerReport { schema_version: 1, instance: "process".to_owned(), started_at: at(0), entries, plain: Some(vec![]) }
}

fn web() -> BTreeSet<ObjectRef> {
    BTreeSet::from([ObjectRef::Service("shop".to_owned(), "web".to_owned())])
}

fn watch(world: &ClusterCache) -> Watch<'_> {
    let service = ("shop".to_owned(), "web".to_owned());
    world.watch_of(world.services.get(&service).unwrap(), &service).unwrap()
}

#[test]
fn the_ledger_of_a_service_with_keys_is_read_every_minute_and_every_other_second_before_its_end() {
    let mut world = world(false);
    pod(&mut world, false);
    assert_eq!(world.ledger_interval(&key()), None);
    let _ = world.take_dirty(crate::cache::Probing::Leader);
    service(&mut world, true);
    let dirty = world.take_dirty(crate::cache::Probing::Leader);
    assert!(dirty.probes.contains(&key()), "its uses so far are read at once");
    assert_eq!(world.ledger_interval(&key()), Some(Duration::from_secs(60)));
    pod(&mut world, true);
    assert!(world.take_dirty(crate::cache::Probing::Leader).probes.contains(&key()), "its final uses are read, too");
    assert_eq!(world.ledger_interval(&key()), Some(Duration::from_secs(2)));
}

#[test]
fn only_what_is_new_is_news() {
    let mut world = world(true);
    pod(&mut world, false);
    assert_eq!(world.take_ledger(&key(), Ok(report(vec![])), at(1)), web());
    assert!(world.take_ledger(&key(), Ok(report(vec![])), at(61)).is_empty());
    assert_eq!(watch(&world).instances[0].read.unwrap().0, at(61), "but it was read");
    assert_eq!(world.take_ledger(&key(), Err("404".to_owned()), at(121)), web());
    assert!(world.take_ledger(&key(), Err("timed out".to_owned()), at(181)).is_empty());
    assert_eq!(watch(&world).instances[0].failing, Some((at(121), "timed out")));
    assert_eq!(world.take_ledger(&key(), Ok(report(vec![])), at(241)), web());
    assert_eq!(world.take_ledger(&key(), Ok(report(vec![LedgerCaller::Others])), at(301)), web());
}

#[test]
fn a_pod_that_nobody_can_read_is_one_that_is_not_read_since_it_runs() {
    let mut world = world(true);
    world.apply_certificate(parse(json!({
        "metadata": { "namespace": "shop", "name": "web", "uid": "c", "generation": 2 },
        "spec": { "trustDomainRef": { "name": "gaia" } },
    })));
    pod(&mut world, false);
    let instance = &watch(&world).instances[0];
    assert!(instance.serves && instance.read.is_none());
    assert_eq!(instance.failing, Some((at(0), "no port to read it from")));
}

#[test]
fn a_report_that_nobody_should_write_down_is_none() {
    let unknown = |user_agent: &str, route: &str| LedgerCaller::Unknown {
        address: None,
        user_agent: Some(user_agent.to_owned()),
        route: route.to_owned(),
    };
    let mut world = world(true);
    pod(&mut world, false);
    let mut take = |report: LedgerReport| {
        world.take_ledger(&key(), Ok(report), at(1));
        watch(&world).instances[0].read.is_some_and(|(_, read)| !read.entries.is_empty())
    };
    let with = |change: &dyn Fn(&mut LedgerReport)| {
        let mut report = report(vec![unknown("curl", "/orders")]);
        change(&mut report);
        report
    };
    assert!(!take(with(&|report| report.entries[0].key = "k".repeat(129))));
    assert!(!take(with(&|report| report.entries[0].key = "\u{1b}[2J".to_owned())));
    assert!(!take(with(&|report| report.entries[0].caller = unknown("\u{1b}[2J", "/orders"))));
    assert!(!take(with(&|report| report.entries[0].caller = unknown("curl", &"x".repeat(513)))));
    assert!(!take(with(&|report| report.entries[0].date = jiff::civil::date(2026, 1, 3))));
    assert!(take(with(&|report| report.entries[0].date = jiff::civil::date(2026, 1, 2))), "clocks differ");
}

#[test]
fn the_last_words_of_a_pod_outlive_it_until_they_are_written_down() {
    let mut world = world(true);
    pod(&mut world, false);
    world.take_ledger(&key(), Ok(report(vec![])), at(1));
    assert!(!watch(&world).instances[0].has_said_its_last);
    pod(&mut world, true);
    world.take_ledger(&key(), Ok(report(vec![LedgerCaller::Others])), at(2));
    assert!(watch(&world).instances[0].has_said_its_last);
    world.apply_pod(&place(), None);
    let heard = world.heard();
    let watch_of_it = watch(&world);
    assert!(watch_of_it.instances.is_empty() && watch_of_it.unread.is_none());
    assert_eq!(watch_of_it.last_words, [&report(vec![LedgerCaller::Others])]);
    let service = ("shop".to_owned(), "web".to_owned());
    world.forget_recorded(&service, heard - 1);
    assert_eq!(watch(&world).last_words.len(), 1, "more reports were collected since");
    world.forget_recorded(&service, heard);
    assert!(watch(&world).last_words.is_empty());
}

#[test]
fn a_pod_that_was_never_read_is_missed_when_it_goes_if_it_ran_and_keys_were_there() {
    for keys in [true, false] {
        let mut world = world(keys);
        pod(&mut world, false);
        world.apply_pod(&place(), None);
        assert_eq!(watch(&world).unread.is_some(), keys);
    }
}

#[test]
fn an_endpoint_that_was_never_read_is_missed_when_it_is_taken_away() {
    let mut world = world(true);
    service_at(&mut world, true, &["web.fly.dev:443"]);
    assert_eq!(watch(&world).instances.len(), 1);
    service(&mut world, true);
    assert_eq!(watch(&world).unread, Some("web.fly.dev:443"));
}

#[test]
fn what_is_heard_of_one_service_does_not_keep_what_was_written_of_another() {
    let mut world = world(true);
    pod(&mut world, false);
    world.apply_pod(&place(), None);
    let heard = world.heard();
    world.readings.hear_of(&("shop".to_owned(), "orders".to_owned()));
    world.forget_recorded(&("shop".to_owned(), "web".to_owned()), heard);
    assert_eq!(watch(&world).unread, None);
}

#[test]
fn a_caller_is_known_by_the_address_of_its_pod() {
    let mut world = world(true);
    pod(&mut world, false);
    let unknown = |address: [u8; 4]| LedgerCaller::Unknown {
        address: Some(address.into()),
        user_agent: None,
        route: "/a".to_owned(),
    };
    world.take_ledger(&key(), Ok(report(vec![unknown([10, 0, 0, 1]), unknown([10, 0, 0, 2])])), at(1));
    let watch = watch(&world);
    let callers: Vec<String> =
        watch.instances[0].read.unwrap().1.entries.iter().map(|entry| entry.caller.to_string()).collect();
    assert_eq!(callers, ["shop/web, by its address", "10.0.0.2 on /a"]);
}

#[test]
fn pods_that_are_not_known_are_told_with_since_when() {
    let mut world = world(true);
    assert_eq!((watch(&world).unknown, watch(&world).blind), (None, None));
    world.pods_watched(None, Err("broken".to_owned()));
    let from = watch(&world).blind.unwrap();
    assert_eq!((watch(&world).unknown, from.1), (Some("broken"), None));
    assert!(from.0 >= at(0));
    world.pods_watched(None, Err("still broken".to_owned()));
    assert_eq!(watch(&world).blind, Some(from));
    world.pods_watched(None, Ok(()));
    let over = watch(&world).blind.unwrap();
    assert!(over.0 == from.0 && over.1.is_some() && watch(&world).unknown.is_none());
}
