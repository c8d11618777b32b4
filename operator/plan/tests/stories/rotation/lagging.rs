//! `status.lagging`: instances that have not loaded a published part within P.

use super::*;
use gaia_api::crd::{LaggingInstance, PublishedPart};

/// The instances that a status names, and the number of all.
fn lagging(world: &World, resource: &Resource) -> (Vec<LaggingInstance>, Option<i32>) {
    match world.reported(resource) {
        world::Status::Service(status) => (status.lagging.clone(), status.lagging_count),
        world::Status::Certificate(status) => (status.lagging.clone(), status.lagging_count),
        world::Status::Domain(_) => panic!("a TrustDomain has laggards"),
    }
}

fn nothing_lags(world: &World) {
    for resource in [service("auth", "auth-service"), service("shop", "asset-service")] {
        assert_eq!(lagging(world, &resource), (vec![], None), "{resource:?} at {}", world.now);
    }
}

#[test]
fn a_healthy_rotation_names_no_instance() {
    let mut world = fleet();
    for ca in [true, false] {
        ask_to_rotate(&mut world, ca);
        for _ in 0..360 {
            nothing_lags(&world);
            wait(&mut world, 20);
        }
    }
    assert_eq!(
        (world.states(true), world.states(false)),
        ("Removed, Active".to_owned(), "Removed, Active, Published".to_owned())
    );
    world.advance(60 * DAY);
    for _ in 0..60 {
        world.settle();
        nothing_lags(&world);
        world.advance(20);
    }
}

#[test]
fn an_instance_that_loads_nothing_is_named_once_p_has_passed() {
    let mut world = fleet();
    for index in 0..20 {
        world.start(Pod::of("shop", "asset-service", &format!("old-{index:02}")).never_reloads());
    }
    wait(&mut world, 60);
    let p = world.domains[TD].spec.propagation.min_delay.value();
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Active, Published");
    let published = world.ca_ring(TD).unwrap().next().unwrap().published_time.unwrap();
    while world.now.duration_since(published).unsigned_abs() < p {
        assert_eq!(lagging(&world, &service("shop", "asset-service")), (vec![], None), "at {}", world.now);
        wait(&mut world, 10);
    }
    wait(&mut world, 40);
    let (named, count) = lagging(&world, &service("shop", "asset-service"));
    assert_eq!((named.len(), count), (16, Some(20)), "{named:?}");
    let bundle = &world.config_map("shop", "gaia-trust").unwrap().content["ca.crt"];
    let first = &named[0];
    assert_eq!((first.pod.as_str(), first.part), ("old-00", PublishedPart::TrustBundle));
    assert_eq!(first.expected, Some(gaia_pki::sha256_hex(bundle.as_bytes())));
    assert!(first.loaded.is_some() && first.loaded != first.expected, "{first:?}");
    assert!(first.leaf_serial.is_some() && first.leaf_not_after.is_some());
    assert_eq!(first.reason, "Stale: has not loaded the newest ca.crt");
    assert_eq!(lagging(&world, &service("auth", "auth-service")), (vec![], None));
    // The ServiceCertificate of a service does not repeat the list.
    assert_eq!(lagging(&world, &certificate("shop", "asset-service")), (vec![], None));
    let log = world.log.len();
    wait(&mut world, 600);
    assert_eq!(world.done_since(log), [""; 0], "at rest");
    world.pods.retain(|pod| !pod.name.starts_with("old-"));
    wait(&mut world, 60);
    assert_eq!(lagging(&world, &service("shop", "asset-service")), (vec![], None));
    sound(&world);
}

#[test]
fn a_certificate_that_stands_alone_names_who_serves_the_old_one() {
    let mut world = fleet();
    world.create_certificate_of("shop", "web", ServiceCertificateSpec::default());
    world.settle();
    world.start(Pod::of("shop", "web", "web-0").never_reloads());
    wait(&mut world, 600);
    assert_eq!(lagging(&world, &certificate("shop", "web")), (vec![], None));
    world.edit_certificate(&name("shop", "web"), |found| {
        let annotations = found.metadata.annotations.get_or_insert_default();
        annotations.insert(annotation::RENEW_REQUESTED_AT.to_owned(), "now".to_owned());
    });
    world.settle();
    wait(&mut world, 600);
    let (named, count) = lagging(&world, &certificate("shop", "web"));
    assert_eq!((named.len(), count), (1, Some(1)), "{named:?}");
    assert_eq!((named[0].pod.as_str(), named[0].part), ("web-0", PublishedPart::Certificate));
    let stored = world.leaf(world.secret("shop", "web-tls").unwrap()).unwrap().0.fingerprint.clone();
    assert_eq!(named[0].expected.as_ref(), Some(&stored));
    assert!(named[0].loaded.is_some() && named[0].loaded.as_ref() != Some(&stored));
}

/// The pods of shop/asset-service: one that reloads, one that does not, and one that reports nothing.
fn enforcing() -> World {
    let mut world = fleet();
    let pod = |name: &str| Pod::of("shop", "asset-service", name).enforcing("asset-service");
    world.start(pod("new"));
    world.start(pod("old").never_reloads());
    world.start(pod("mute").never_reloads().seen_by(Sight::Handshake));
    wait(&mut world, 600);
    nothing_lags(&world);
    world
}

/// Kind: a file that instances enforce, and whose older text in an instance no status shows.
#[rstest]
#[case::denylist(PublishedPart::Denylist, "gaia-trust", "denylist.json")]
#[case::policy(PublishedPart::Policy, "asset-service-auth", "policy.json")]
fn an_instance_with_an_older_file_is_named_once_p_has_passed(
    #[case] part: PublishedPart,
    #[case] map: &str,
    #[case] file: &str,
) {
    let mut world = enforcing();
    let p = world.domains[TD].spec.propagation.min_delay.value();
    let before = world.config_map("shop", map).unwrap().content[file].clone();
    let edited = world.now;
    if part == PublishedPart::Denylist {
        world.edit_domain(TD, |found| found.spec.revoked.jtis = vec!["leaked".to_owned()]);
    } else {
        world.edit_service(&name("shop", "asset-service"), |found| {
            found.spec.callers =
                vec![CallerSpec { service: "web".to_owned(), namespace: None, scopes: vec![], on_behalf_of: false }];
        });
    }
    world.settle();
    let after = world.config_map("shop", map).unwrap().content[file].clone();
    assert_ne!(before, after);
    while world.now.duration_since(edited).unsigned_abs() < p {
        nothing_lags(&world);
        wait(&mut world, 10);
    }
    wait(&mut world, 60);
    let (named, count) = lagging(&world, &service("shop", "asset-service"));
    assert_eq!((named.len(), count), (1, Some(1)), "{named:?}");
    let found = &named[0];
    let hash = |text: &str| Some(gaia_pki::sha256_hex(text.as_bytes()));
    assert_eq!((found.pod.as_str(), found.part), ("old", part));
    assert_eq!((found.expected.clone(), found.loaded.clone()), (hash(&after), hash(&before)));
    assert_eq!(found.reason, format!("Stale: has not loaded the newest {file}"));
    let log = world.log.len();
    wait(&mut world, 600);
    assert_eq!(world.done_since(log), [""; 0], "at rest");
    world.restart("old");
    wait(&mut world, 60);
    nothing_lags(&world);
    sound(&world);
}

/// Kind: an upgrade. An earlier version dated no file, and nothing is written for that alone.
#[test]
fn a_file_without_a_date_is_compared_and_not_written_for_it() {
    let mut world = enforcing();
    world.edit_domain(TD, |found| found.spec.revoked.jtis = vec!["leaked".to_owned()]);
    world.settle();
    for (namespace, map) in [("shop", "gaia-trust"), ("auth", "gaia-trust"), ("shop", "asset-service-auth")] {
        let stored = world.objects.get_mut(&ObjectKey::config_map(namespace, map)).unwrap();
        stored.facts.annotations.retain(|name, _| !name.ends_with("-published-at"));
    }
    let log = world.log.len();
    wait(&mut world, 600);
    assert_eq!(world.done_since(log), [""; 0]);
    let (named, _) = lagging(&world, &service("shop", "asset-service"));
    assert_eq!((named.len(), named[0].part), (1, PublishedPart::Denylist), "{named:?}");
    sound(&world);
}

/// Kind: a tenant's annotation. It may hide or show what lags in its own namespace, and changes nothing else.
#[rstest]
#[case("9999-12-31T23:59:59Z")]
#[case("nonsense")]
fn a_date_that_a_tenant_wrote_delays_nothing(#[case] date: &str) {
    let mut world = enforcing();
    let stored = world.objects.get_mut(&ObjectKey::config_map("shop", "gaia-trust")).unwrap();
    stored.facts.annotations.insert(annotation::DENYLIST_PUBLISHED_AT.to_owned(), date.to_owned());
    wait(&mut world, 60);
    world.edit_domain(TD, |found| found.spec.revoked.jtis = vec!["leaked".to_owned()]);
    world.settle();
    let map = world.config_map("shop", "gaia-trust").unwrap();
    assert!(map.content["denylist.json"].contains("leaked"));
    assert_ne!(map.facts.annotations[annotation::DENYLIST_PUBLISHED_AT], date);
    sound(&world);
}
