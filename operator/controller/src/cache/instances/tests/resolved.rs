//! Endpoints that are names: each address is an instance, and a balancer is none.

use super::*;

const NAME: &str = "web.fly.dev:443";

fn named_service() -> (ClusterCache, InstanceKey) {
    let mut world = world();
    certificate(&mut world, "shop", "web", json!({ "port": 8443 }));
    service(&mut world, "web", json!({ "endpoints": [NAME] }));
    let key = key("shop/web/web.fly.dev:443");
    (world, key)
}

fn key(uid: &str) -> InstanceKey {
    InstanceKey { trust_domain: "gaia".to_owned(), namespace: "shop".to_owned(), uid: uid.to_owned() }
}

fn answer(last: &[u8]) -> BTreeSet<IpAddr> {
    last.iter().map(|last| IpAddr::from([203, 0, 113, *last])).collect()
}

fn probe(fingerprint: &str) -> Probe {
    let seen = Shown { fingerprint: fingerprint.to_owned(), is_verified: true, report: Err("404".to_owned()) };
    Probe { at: Timestamp::UNIX_EPOCH, seen: Ok(seen) }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// One instance of three does not acknowledge for all.
#[test]
fn each_address_of_a_name_is_an_instance() {
    let (mut world, name) = named_service();
    assert_eq!(names(&world), [NAME], "until it is resolved, the name is an instance that was not probed");
    world.take_dirty(Probing::Leader);
    world.take_answer(&name, &answer(&[1, 2, 3]));
    let expected = [1, 2, 3].map(|last| format!("{NAME} (203.0.113.{last})"));
    assert_eq!(names(&world), expected);
    let probed = world.take_dirty(Probing::Leader).probes;
    assert_eq!(probed.len(), 3, "{probed:?}");
    let first = key("shop/web/web.fly.dev:443/203.0.113.1");
    world.take_probe(&first, probe("f0"), None);
    assert_eq!(all(&world).iter().filter(|instance| instance.probe.is_some()).count(), 1);

    // An answer with some of the addresses terminates no instance, and the probe results are kept.
    world.take_answer(&first, &answer(&[2]));
    service(&mut world, "web", json!({ "endpoints": [NAME], "rotationWave": 1 }));
    assert_eq!(names(&world).len(), 3);
    assert!(all(&world)[0].probe.is_some());
    // An address that is in no answer and refuses connections terminates after minDelay.
    let delay = 180;
    world.take_vacancy(&first, true, at(0));
    world.take_vacancy(&first, true, at(delay - 1));
    assert_eq!(names(&world).len(), 3);
    world.take_vacancy(&first, true, at(delay));
    assert_eq!(names(&world), expected[1..]);

    service(&mut world, "web", json!({ "endpoints": [] }));
    assert!(names(&world).is_empty() && world.instances.resolved.is_empty(), "no state is kept of a deleted endpoint");
}

#[test]
fn an_address_that_is_not_allowed_excludes_the_whole_name() {
    let (mut world, name) = named_service();
    world.take_answer(&name, &answer(&[1, 2]));
    let second = key("shop/web/web.fly.dev:443/203.0.113.2");
    world.exclude_endpoint(&second, Exclusion::Address);
    assert_eq!((names(&world).len(), exclusions(&world)), (0, vec![(NAME.to_owned(), Exclusion::Address)]));
    let keys = world.take_answer(&name, &answer(&[1]));
    assert!(keys.contains(&ObjectRef::Service("shop".to_owned(), "web".to_owned())), "its warning is removed");
    assert_eq!((names(&world).len(), exclusions(&world).len()), (1, 0));
}

#[test]
fn an_address_whose_instances_change_is_a_balancer_and_proves_nothing() {
    let (mut world, name) = named_service();
    world.take_answer(&name, &answer(&[1]));
    let only = key("shop/web/web.fly.dev:443/203.0.113.1");
    for renewed in ["a", "a", "b", "b", "c"] {
        world.take_probe(&only, probe(renewed), None);
        assert_eq!(exclusions(&world), [], "a leaf that is replaced does not return");
    }
    world.take_probe(&only, probe("a"), None);
    assert_eq!((names(&world).len(), exclusions(&world)), (0, vec![(NAME.to_owned(), Exclusion::Balancer)]));
    world.take_answer(&name, &answer(&[1]));
    world.take_probe(&name, probe("a"), None);
    service(&mut world, "web", json!({ "endpoints": [NAME], "rotationWave": 1 }));
    assert_eq!(exclusions(&world)[0].1, Exclusion::Balancer, "neither an answer nor an edit makes it an instance");
}
