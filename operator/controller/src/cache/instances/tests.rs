//! Pods and endpoints against the objects that they use.
#![expect(clippy::needless_pass_by_value, reason = "manifests are written where they are handed over")]

use gaia_api::crd::Acknowledgement;
use gaia_plan::instances::instance::Shown;
use serde_json::{Value, json};

use super::index::NOT_LISTED;
use super::pods;
use super::*;
use crate::cache::{NamespaceFacts, Surroundings};

fn world() -> ClusterCache {
    let mut world = ClusterCache::new(Surroundings {
        operator_namespace: "gaia-system".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        watch_namespaces: vec![],
    });
    for namespace in ["shop", "other"] {
        let labels = BTreeMap::from([("team".to_owned(), namespace.to_owned())]);
        world.apply_namespace(namespace, NamespaceFacts { labels, terminating: false });
    }
    world.apply_trust_domain(parse(json!({
        "metadata": { "name": "gaia", "uid": "td" },
        "spec": { "trustDomain": "gaia.local", "namespaceSelector": { "matchLabels": { "team": "shop" } },
            "allowedEndpoints": [{ "namespaces": ["shop"], "hosts": ["web.fly.dev", "2001:db8::1"] }],
            "tokens": { "issuedBy": { "namespace": "shop", "name": "web" } } },
    })));
    world.pods_watched(None, Ok(()));
    world
}

fn parse<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn certificate(world: &mut ClusterCache, namespace: &str, name: &str, workload: Value) {
    world.apply_certificate(parse(json!({
        "metadata": { "namespace": namespace, "name": name, "uid": format!("c-{name}"), "generation": 1 },
        "spec": { "trustDomainRef": { "name": "gaia" }, "workload": workload },
    })));
}

fn service(world: &mut ClusterCache, name: &str, spec: Value) {
    let mut spec = spec;
    spec["trustDomainRef"] = json!({ "name": "gaia" });
    world.apply_service(parse(json!({
        "metadata": { "namespace": "shop", "name": name, "uid": format!("s-{name}"), "generation": 1 }, "spec": spec,
    })));
}

fn pod(world: &mut ClusterCache, namespace: &str, name: &str, sources: Value) -> BTreeSet<ObjectRef> {
    pod_at(world, (namespace, name), sources, "10.0.0.1")
}

fn pod_at(world: &mut ClusterCache, (namespace, name): (&str, &str), sources: Value, ip: &str) -> BTreeSet<ObjectRef> {
    let place = (namespace.to_owned(), name.to_owned());
    let facts = pods::read(&parse(json!({
        "metadata": { "namespace": namespace, "name": name, "uid": format!("p-{name}") },
        "spec": { "containers": [{ "name": "app" }],
            "volumes": [{ "name": "gaia", "projected": { "sources": sources } }] },
        "status": { "phase": "Running", "podIP": ip },
    })));
    world.apply_pod(&place, facts)
}

fn mounts_all() -> Value {
    json!([{ "secret": { "name": "web-tls" } }, { "configMap": { "name": "gaia-trust" } },
        { "configMap": { "name": "web-auth" } }])
}

fn all(world: &ClusterCache) -> Vec<&Instance> {
    match world.observe_trust_domain("gaia").unwrap().instances {
        Instances::Known(all) => all,
        Instances::Unknown(why) => panic!("{why}"),
    }
}

fn names(world: &ClusterCache) -> Vec<&str> {
    all(world).iter().map(|instance| instance.name.as_str()).collect()
}

#[test]
fn a_pod_is_matched_whichever_comes_first() {
    for pod_first in [true, false] {
        let mut world = world();
        if pod_first {
            pod(&mut world, "shop", "web-x", mounts_all());
        }
        certificate(
            &mut world,
            "shop",
            "web",
            json!({ "port": 8443, "acknowledgement": "BestEffort",
            "restartTargets": [{ "kind": "Deployment", "name": "web" }] }),
        );
        service(&mut world, "web", json!({ "rotationWave": 3 }));
        if !pod_first {
            pod(&mut world, "shop", "web-x", mounts_all());
        }
        let [web] = all(&world)[..] else { panic!("one pod") };
        assert_eq!(web.uses.len(), 3);
        assert_eq!((web.acknowledgement, web.wave), (Acknowledgement::BestEffort, 3));
        assert_eq!(web.restart_targets.iter().map(ToString::to_string).collect::<Vec<_>>(), ["Deployment shop/web"]);
        assert!(web.can_be_probed && web.reloads);
    }
}

#[test]
fn a_pod_that_only_mounts_the_trust_counts_and_has_no_port() {
    let mut world = world();
    certificate(&mut world, "shop", "web", json!({ "port": 8443 }));
    pod(&mut world, "shop", "verifier", json!([{ "configMap": { "name": "gaia-trust" } }]));
    pod(&mut world, "shop", "stranger", json!([{ "configMap": { "name": "settings-trust" } }]));
    assert_eq!(names(&world), ["verifier"]);
    assert!(!all(&world)[0].can_be_probed);
    let Instances::Known(of_leaf) = world.instances_using("gaia", "shop", "web-tls") else { panic!() };
    assert!(of_leaf.is_empty());
}

#[test]
fn only_pods_in_granted_namespaces_count() {
    let mut world = world();
    certificate(&mut world, "other", "web", json!({ "port": 8443 }));
    pod(&mut world, "other", "web-x", mounts_all());
    assert!(all(&world).is_empty());
    assert!(!world.has_unasked(&ObjectRef::TrustDomain("gaia".to_owned())), "no prober will take it");
    certificate(&mut world, "shop", "web", json!({ "port": 8443 }));
    pod(&mut world, "shop", "web-y", mounts_all());
    assert_eq!(names(&world), ["web-y"]);
}

#[test]
fn a_pod_goes_with_its_end_and_with_what_it_used() {
    let mut world = world();
    certificate(&mut world, "shop", "web", json!({ "port": 8443 }));
    let tls = json!([{ "secret": { "name": "web-tls" } }]);
    let keys = pod(&mut world, "shop", "web-x", tls.clone());
    assert_eq!(keys, BTreeSet::from([ObjectRef::Certificate("shop".to_owned(), "web".to_owned())]));
    assert!(pod(&mut world, "shop", "web-x", tls.clone()).is_empty(), "nothing has changed");
    world.apply_pod(&("shop".to_owned(), "web-x".to_owned()), None);
    assert!(all(&world).is_empty());
    pod(&mut world, "shop", "web-x", tls);
    assert_eq!(names(&world), ["web-x"]);
    world.remove_certificate(&("shop".to_owned(), "web".to_owned()));
    assert!(all(&world).is_empty());
    assert!(world.instances.found.is_empty());
}

#[test]
fn endpoints_of_a_service_are_instances_of_everything_it_uses() {
    let mut world = world();
    certificate(&mut world, "shop", "web", json!({ "port": 8443 }));
    service(&mut world, "web", json!({ "endpoints": ["web.fly.dev:443", "[2001:db8::1]:8443"] }));
    assert_eq!(names(&world), ["[2001:db8::1]:8443", "web.fly.dev:443"]);
    let issuer = ObjectKey::secret("shop", "gaia-token-signer");
    assert!(all(&world).iter().all(|endpoint| endpoint.uses.contains(&issuer)));
    let Instances::Known(of_leaf) = world.instances_using("gaia", "shop", "web-tls") else { panic!() };
    assert_eq!(of_leaf.len(), 2);
    service(&mut world, "web", json!({ "endpoints": ["web.fly.dev:443"] }));
    assert_eq!(names(&world), ["web.fly.dev:443"]);
    world.remove_service(&("shop".to_owned(), "web".to_owned()));
    assert!(all(&world).is_empty());
}

#[test]
fn pods_that_may_not_be_watched_are_unknown_and_never_none() {
    let mut world = world();
    certificate(&mut world, "shop", "web", json!({ "port": 8443 }));
    let unknown = |world: &ClusterCache| match world.observe_trust_domain("gaia").unwrap().instances {
        Instances::Unknown(why) => Some(why.to_owned()),
        Instances::Known(_) => None,
    };
    assert_eq!(unknown(&world), None);
    let keys = world.pods_watched(None, Err("forbidden".to_owned()));
    assert_eq!(keys.len(), 2, "the TrustDomain and the certificate: {keys:?}");
    assert_eq!(unknown(&world).as_deref(), Some("forbidden"));
    assert!(matches!(world.instances_using("gaia", "shop", "web-tls"), Instances::Unknown("forbidden")));

    // Of watches by namespace, the one that matters decides.
    let mut scoped = self::world();
    scoped.instances.watches = BTreeMap::from([(Some("other".to_owned()), Ok(()))]);
    certificate(&mut scoped, "shop", "web", json!({ "port": 8443 }));
    assert_eq!(unknown(&scoped).as_deref(), Some(NOT_LISTED));
    scoped.pods_watched(Some("shop"), Ok(()));
    assert_eq!(unknown(&scoped), None);
}

#[test]
fn who_is_new_moves_or_restarts_is_probed_and_only_what_was_seen_counts() {
    let mut world = world();
    certificate(&mut world, "shop", "web", json!({ "port": 8443 }));
    pod(&mut world, "shop", "web-x", mounts_all());
    let key = InstanceKey { trust_domain: "gaia".to_owned(), namespace: "shop".to_owned(), uid: "p-web-x".to_owned() };
    assert_eq!(world.take_dirty(Probing::Nobody).probes, BTreeSet::new());
    let dirty = world.take_dirty(Probing::Leader);
    assert_eq!(dirty.probes, BTreeSet::from([key.clone()]));
    let certificate_key = ObjectRef::Certificate("shop".to_owned(), "web".to_owned());
    assert!(world.has_unasked(&certificate_key));

    let at = |second: i64| Timestamp::from_second(second).unwrap();
    let seen = || Ok(Shown { fingerprint: "f0".to_owned(), is_verified: true, report: Err("404".to_owned()) });
    let keys = world.take_probe(&key, Probe { at: at(1), seen: seen() }, Some(at(100)));
    assert_eq!(keys, BTreeSet::from([certificate_key.clone()]));
    assert!(!world.has_unasked(&certificate_key));
    assert_eq!(world.take_dirty(Probing::Leader).domains, BTreeSet::from(["gaia".to_owned()]));
    assert_eq!(world.served_until(&("shop".to_owned(), "web".to_owned())), Some(at(100)));
    let keys = world.take_probe(&key, Probe { at: at(2), seen: seen() }, Some(at(100)));
    assert!(keys.is_empty() && world.take_dirty(Probing::Leader).domains.is_empty(), "the probe result is unchanged");

    // A change of the certificate's spec keeps the probe results.
    certificate(&mut world, "shop", "web", json!({ "port": 9443 }));
    assert_eq!(all(&world)[0].probe.as_ref().unwrap().at, at(2));
    assert_eq!(world.take_dirty(Probing::Leader).probes, BTreeSet::from([key.clone()]), "another port");
    world.apply_pod(&("shop".to_owned(), "web-x".to_owned()), None);
    assert_eq!(world.is_behind(&key), None);
}

#[test]
fn pods_of_one_workload_share_what_they_refer_to() {
    let mut world = world();
    for name in ["web-a", "web-b", "web-c"] {
        pod(&mut world, "shop", name, mounts_all());
    }
    assert_eq!(world.instances.shapes.len(), 1);
    for name in ["web-a", "web-b", "web-c"] {
        world.apply_pod(&("shop".to_owned(), name.to_owned()), None);
    }
    assert!(world.instances.shapes.is_empty() && world.instances.users.is_empty());
}

#[test]
fn a_service_is_found_by_the_address_of_its_pods_as_long_as_they_have_it() {
    let mut world = world();
    for name in ["web", "api"] {
        service(&mut world, name, json!({}));
    }
    let enforces = |name: &str| json!([{ "configMap": { "name": format!("{name}-auth") } }]);
    let at = |world: &ClusterCache, ip: &str| world.service_at(ip.parse().unwrap()).map(|place| place.1.clone());
    pod_at(&mut world, ("shop", "web-x"), enforces("web"), "10.0.0.1");
    assert_eq!((at(&world, "10.0.0.1").as_deref(), at(&world, "10.0.0.2")), (Some("web"), None));
    pod_at(&mut world, ("shop", "web-x"), enforces("web"), "10.0.0.2");
    assert_eq!((at(&world, "10.0.0.1"), at(&world, "10.0.0.2").as_deref()), (None, Some("web")));
    // Two on the network of one node: the first by name.
    pod_at(&mut world, ("shop", "api-x"), enforces("api"), "10.0.0.2");
    assert_eq!(at(&world, "10.0.0.2").as_deref(), Some("api"));
    world.apply_pod(&("shop".to_owned(), "api-x".to_owned()), None);
    assert_eq!(at(&world, "10.0.0.2").as_deref(), Some("web"));
    world.apply_pod(&("shop".to_owned(), "web-x".to_owned()), None);
    assert!(world.instances.addresses.is_empty());
}

#[test]
fn a_pod_that_was_nudged_is_known_to_be_before_its_watch_says_so() {
    let mut world = world();
    certificate(&mut world, "shop", "web", json!({}));
    pod(&mut world, "shop", "web-1", mounts_all());
    let place = ("shop".to_owned(), "web-1".to_owned());
    let nudged = |world: &ClusterCache| -> Vec<Option<String>> {
        let granted = BTreeSet::from(["shop".to_owned()]);
        world.instances_of("gaia", &granted).iter().map(|instance| instance.nudged.clone()).collect()
    };
    assert_eq!(nudged(&world), [None]);
    let _ = world.record_nudge(&place, "another", "1");
    assert_eq!(nudged(&world), [None], "a pod of that name from before");
    let _ = world.record_nudge(&place, "p-web-1", "1");
    assert_eq!(nudged(&world), [Some("1".to_owned())]);
}

fn allow(world: &mut ClusterCache, allowed: Value) -> BTreeSet<ObjectRef> {
    let generation = world.trust_domain("gaia").unwrap().metadata.generation.unwrap_or_default() + 1;
    world.apply_trust_domain(parse(json!({
        "metadata": { "name": "gaia", "uid": "td", "generation": generation },
        "spec": { "trustDomain": "gaia.local", "namespaceSelector": { "matchLabels": { "team": "shop" } },
            "allowedEndpoints": allowed },
    })))
}

fn exclusions(world: &ClusterCache) -> Vec<(String, Exclusion)> {
    let place = ("shop".to_owned(), "web".to_owned());
    let excluded = world.excluded_endpoints(&world.services[&place], &place);
    excluded.into_iter().map(|found| (found.endpoint.to_owned(), found.why)).collect()
}

#[test]
fn endpoint_that_is_not_allowed_is_no_instance_and_is_not_probed() {
    let mut world = world();
    certificate(&mut world, "shop", "web", json!({ "port": 8443 }));
    let listed = ["web.fly.dev:443", "web.example.com:443", "127.0.0.1:9", "[2001:db8::1]:0"];
    service(&mut world, "web", json!({ "endpoints": listed }));
    assert_eq!(names(&world), ["web.fly.dev:443"]);
    let expected = [
        ("web.example.com:443", Exclusion::NotListed),
        ("127.0.0.1:9", Exclusion::NotListed),
        ("[2001:db8::1]:0", Exclusion::Invalid),
    ];
    let expected = expected.map(|(endpoint, why)| (endpoint.to_owned(), why));
    assert_eq!(exclusions(&world), expected);
    let probed = world.take_dirty(Probing::Leader).probes;
    assert_eq!(probed.iter().map(|key| key.uid.as_str()).collect::<Vec<_>>(), ["shop/web/web.fly.dev:443"]);
    let Instances::Known(of_leaf) = world.instances_using("gaia", "shop", "web-tls") else { panic!() };
    assert_eq!(of_leaf.len(), 1);

    let keys = allow(&mut world, json!([{ "namespaces": ["shop"], "cidrs": ["127.0.0.0/8"] }]));
    assert!(keys.contains(&ObjectRef::Service("shop".to_owned(), "web".to_owned())));
    assert_eq!(names(&world), ["127.0.0.1:9"]);
    assert!(exclusions(&world).iter().all(|(endpoint, _)| endpoint != "127.0.0.1:9"));
    let probed = world.take_dirty(Probing::Leader).probes;
    assert_eq!(probed.iter().map(|key| key.uid.as_str()).collect::<Vec<_>>(), ["shop/web/127.0.0.1:9"]);
}

/// A probe that began under an earlier rule, and one that found an address that is not allowed.
#[test]
fn what_was_seen_of_an_endpoint_counts_only_while_it_is_allowed() {
    let mut world = world();
    certificate(&mut world, "shop", "web", json!({ "port": 8443 }));
    service(&mut world, "web", json!({ "endpoints": ["web.fly.dev:443"] }));
    let uid = "shop/web/web.fly.dev:443".to_owned();
    let key = InstanceKey { trust_domain: "gaia".to_owned(), namespace: "shop".to_owned(), uid };
    let probe = || {
        let seen = Shown { fingerprint: "f0".to_owned(), is_verified: true, report: Err("404".to_owned()) };
        Probe { at: Timestamp::UNIX_EPOCH, seen: Ok(seen) }
    };
    let service_key = ObjectRef::Service("shop".to_owned(), "web".to_owned());
    world.take_probe(&key, probe(), None);
    assert!(all(&world)[0].probe.is_some());

    let keys = world.exclude_endpoint(&key, Exclusion::Address);
    assert!(keys.contains(&service_key));
    assert_eq!((names(&world).len(), exclusions(&world)[0].1), (0, Exclusion::Address));
    assert!(world.exclude_endpoint(&key, Exclusion::Address).is_empty(), "nothing has changed");
    assert!(!world.has_unasked(&ObjectRef::TrustDomain("gaia".to_owned())));
    service(&mut world, "web", json!({ "endpoints": ["web.fly.dev:443"], "rotationWave": 1 }));
    assert_eq!(names(&world).len(), 0, "another edit does not make it an instance");
    assert!(world.take_probe(&key, probe(), None).contains(&service_key));
    assert_eq!((names(&world).len(), exclusions(&world).len()), (1, 0), "its address has changed");

    allow(&mut world, json!([]));
    assert!(world.take_probe(&key, probe(), None).is_empty());
    assert_eq!((names(&world).len(), exclusions(&world)[0].1), (0, Exclusion::NotListed));
    allow(&mut world, json!([{ "namespaces": ["shop"], "hosts": ["web.fly.dev"] }]));
    assert!(all(&world)[0].probe.is_none(), "an earlier probe is no evidence");
}

#[test]
fn endpoint_with_an_address_of_the_api_server_needs_a_network() {
    let mut world = world();
    certificate(&mut world, "shop", "web", json!({ "port": 8443 }));
    service(&mut world, "web", json!({ "endpoints": ["[2001:db8::1]:8443"] }));
    assert_eq!(names(&world).len(), 1);
    let address: IpAddr = "2001:db8::1".parse().unwrap();
    assert!(!world.set_api_server(BTreeSet::from([address])).is_empty());
    assert_eq!((names(&world).len(), exclusions(&world)[0].1), (0, Exclusion::Address));
    allow(&mut world, json!([{ "namespaces": ["shop"], "cidrs": ["2001:db8::/32"] }]));
    assert_eq!(names(&world).len(), 1);
}

mod dated;
mod resolved;
