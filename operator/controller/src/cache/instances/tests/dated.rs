//! `policy.json` and `denylist.json`: instances that have loaded an older text.

use gaia_plan::object::ObjectFacts;

use super::*;

fn probe(policy: &str) -> Probe {
    let report =
        serde_json::from_value(json!({ "schemaVersion": 1, "instance": "i", "startedAt": "2026-01-01T00:00:00Z",
        "service": { "spiffeId": "spiffe://gaia.local/ns/shop/sa/web", "namespace": "shop", "name": "web" },
        "leaf": { "serial": "01", "fingerprint": "f0", "notAfter": "2026-04-01T00:00:00Z" },
        "bundleHash": "b0", "jwksKids": [], "policyHash": policy, "mode": "Dual" }));
    let seen = Shown { fingerprint: "f0".to_owned(), is_verified: true, report: Ok(report.unwrap()) };
    Probe { at: Timestamp::UNIX_EPOCH, seen: Ok(seen) }
}

/// The ConfigMap arrives with that content.
fn arrives(
    world: &mut ClusterCache,
    (namespace, name): (&str, &str),
    file: &str,
    hash: &str,
    version: &str,
) -> BTreeSet<ObjectRef> {
    let facts = ObjectFacts {
        uid: name.to_owned(),
        resource_version: version.to_owned(),
        data: BTreeMap::from([(file.to_owned(), hash.to_owned())]),
        ..ObjectFacts::default()
    };
    world.apply_config_map((namespace.to_owned(), name.to_owned()), facts, None)
}

/// Kind: an instance with an older file that is only asked once an hour, and a status that stays for an hour after it has
/// loaded the new one.
#[test]
fn instances_are_probed_until_they_report_the_policy_in_the_config_map() {
    let mut world = world();
    certificate(&mut world, "shop", "web", json!({ "port": 8443 }));
    service(&mut world, "web", json!({}));
    pod(&mut world, "shop", "web-x", mounts_all());
    let key = InstanceKey { trust_domain: "gaia".to_owned(), namespace: "shop".to_owned(), uid: "p-web-x".to_owned() };
    let service_key = ObjectRef::Service("shop".to_owned(), "web".to_owned());
    arrives(&mut world, ("shop", "web-auth"), "policy.json", "p1", "1");
    world.take_probe(&key, probe("p1"), None);
    world.take_dirty(Probing::Leader);
    assert_eq!(world.is_behind(&key), Some(false));

    arrives(&mut world, ("shop", "web-auth"), "policy.json", "p2", "2");
    assert_eq!(world.take_dirty(Probing::Leader).probes, BTreeSet::from([key.clone()]));
    assert_eq!(world.is_behind(&key), Some(true));
    assert!(
        world.take_probe(&key, probe("p2"), None).contains(&service_key),
        "its lagging instances are counted again"
    );
    assert_eq!(world.is_behind(&key), Some(false));
    arrives(&mut world, ("shop", "web-auth"), "policy.json", "p2", "3");
    assert!(world.take_dirty(Probing::Leader).probes.is_empty(), "the same text");
}

#[test]
fn another_denylist_in_a_namespace_is_compared_by_its_services_alone() {
    let mut world = world();
    for namespace in ["shop", "other"] {
        certificate(&mut world, namespace, "web", json!({ "port": 8443 }));
    }
    let of_shop = ObjectRef::Certificate("shop".to_owned(), "web".to_owned());
    let domain = ObjectRef::TrustDomain("gaia".to_owned());
    let keys = arrives(&mut world, ("shop", "gaia-trust"), "denylist.json", "d1", "1");
    assert_eq!(keys, BTreeSet::from([domain.clone(), of_shop]));
    let keys = arrives(&mut world, ("shop", "gaia-trust"), "denylist.json", "d1", "2");
    assert_eq!(keys, BTreeSet::from([domain]), "the same text");
}
