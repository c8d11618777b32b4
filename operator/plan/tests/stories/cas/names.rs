//! Names with another meaning, and certificates that are not valid yet or whose CA cannot be read.

use super::*;

const COM: &str = "com";

/// A TrustDomain for all namespaces, one of which is named `com`.
fn everywhere() -> World {
    let mut world = World::new();
    world.namespaces.insert(COM.to_owned(), std::collections::BTreeMap::new());
    let spec = TrustDomainSpec { namespace_selector: Some(NamespaceSelector::default()), ..plain_domain() };
    world.create_domain(TD, spec);
    world
}

fn dns(world: &World, name: &str) -> Vec<String> {
    let stored = world.secret(COM, &format!("{name}-tls")).unwrap();
    world.leaf(stored).unwrap().0.dns.clone()
}

fn grant(world: &mut World, names: &[&str]) {
    let granted = AllowedNames {
        namespaces: vec![COM.to_owned()],
        dns_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ip_ranges: vec![],
    };
    world.edit_domain(TD, |found| found.spec.allowed_names = vec![granted.clone()]);
    world.settle();
}

/// Kind: a warning that follows from the name of the namespace alone, for every service in it.
#[test]
fn a_public_name_that_the_namespace_makes_is_left_out_without_a_warning() {
    let mut world = everywhere();
    world.create_certificate_of(COM, "google", ServiceCertificateSpec::default());
    world.create_certificate_of("shop", "web", ServiceCertificateSpec::default());
    world.create_certificate_of("shop", "localhost", ServiceCertificateSpec::default());
    world.settle();
    assert_eq!(dns(&world, "google"), ["google", "google.com.svc", "google.com.svc.cluster.local"]);
    let stored = world.secret("shop", "web-tls").unwrap();
    assert_eq!(world.leaf(stored).unwrap().0.dns, ["web", "web.shop.svc", "web.shop.svc.cluster.local"]);
    for certificate in [certificate(COM, "google"), certificate("shop", "web")] {
        says(&world, &certificate, "NamesLeftOut", "", "");
        says(&world, &certificate, "AmbiguousNames", "", "");
        says(&world, &certificate, "Ready", "True", "Ready");
    }
    // The name of the service itself is the user's choice.
    let message = says(&world, &certificate("shop", "localhost"), "NamesLeftOut", "True", "NamesLeftOut");
    assert!(message.starts_with("localhost is left out of the certificate"), "{message}");
    sound(&world);
}

/// A tightened rule never stops what runs: a leaf that has the name, as main issued it, keeps it through renewals.
#[test]
fn a_stored_certificate_keeps_its_public_name_with_a_warning() {
    let mut world = quiet(everywhere());
    grant(&mut world, &["*.com"]);
    world.create_certificate_of(COM, "google", ServiceCertificateSpec::default());
    world.settle();
    let before = dns(&world, "google");
    assert!(before.contains(&"google.com".to_owned()));
    let issued = world.log.len();
    world.edit_domain(TD, |found| found.spec.allowed_names = vec![]);
    world.settle();
    assert!(!world.done_since(issued).iter().any(|done| done.contains("certificate for")), "not issued again for it");
    let message = says(&world, &certificate(COM, "google"), "AmbiguousNames", "True", "AmbiguousNames");
    assert!(message.contains("google-tls") && message.contains("google.com"), "{message}");
    world.advance(100 * DAY);
    world.settle();
    assert_eq!(dns(&world, "google"), before, "renewed with the name");
    // A user who wants it removed deletes the Secret.
    world.remove(&ObjectKey::secret(COM, "google-tls"));
    world.settle();
    assert!(!dns(&world, "google").contains(&"google.com".to_owned()));
    says(&world, &certificate(COM, "google"), "AmbiguousNames", "", "");
    sound(&world);
}

#[test]
fn a_certificate_that_begins_later_is_not_ready() {
    let mut world = settled(web());
    says(&world, &certificate("shop", "web"), "Ready", "True", "Ready");
    world.advance(-2 * DAY);
    world.settle();
    let message = says(&world, &certificate("shop", "web"), "Ready", "False", "NotYetValid");
    assert!(message.contains("web-tls"), "{message}");
    world.advance(2 * DAY);
    world.settle();
    says(&world, &certificate("shop", "web"), "Ready", "True", "Ready");
}

/// A ring of a newer format cannot be read, so after a restart no issuer is known. The stored certificate stays valid.
#[test]
fn a_ring_of_a_newer_format_leaves_certificates_ready_after_a_restart() {
    let mut world = settled(web());
    let before = world.reported(&certificate("shop", "web"));
    let key = ObjectKey::secret("gaia-system", "gaia-ca-ring");
    let stored = world.objects.get_mut(&key).unwrap();
    let newer = stored.content["ring.json"].replace("\"formatVersion\":1", "\"formatVersion\":2");
    stored.content.insert("ring.json".to_owned(), newer);
    let version = world.fresh();
    world.objects.get_mut(&key).unwrap().touch(version);
    world.crash();
    world.settle();
    says(&world, &domain(), "Stalled", "True", "RingUnreadable");
    says(&world, &certificate("shop", "web"), "Ready", "True", "Ready");
    let after = world.reported(&certificate("shop", "web"));
    let issuer = |status: &world::Status| match status {
        world::Status::Certificate(status) => status.issuer.clone(),
        _ => None,
    };
    assert!(issuer(&after).is_some() && issuer(&after) == issuer(&before));
}

/// Kind: an upgrade. What main issued in a namespace named `shop` keeps `web.shop` through renewals, and a spec that asks for
/// it is not refused.
#[test]
fn a_name_in_a_newer_top_level_domain_is_certified_where_it_is_stored_or_asked_for() {
    let mut world = quiet(web());
    let granted =
        AllowedNames { namespaces: vec!["shop".to_owned()], dns_names: vec!["*.shop".to_owned()], ip_ranges: vec![] };
    world.edit_domain(TD, |found| found.spec.allowed_names = vec![granted.clone()]);
    world.settle();
    let has_it = |world: &World, name: &str| {
        let stored = world.secret("shop", &format!("{name}-tls")).unwrap();
        world.leaf(stored).unwrap().0.dns.contains(&format!("{name}.shop"))
    };
    assert!(has_it(&world, "web"), "as main issued it");
    world.edit_domain(TD, |found| found.spec.allowed_names = vec![]);
    assert_eq!(doing(&mut world), [""; 0], "nothing is issued again for it");
    let message = says(&world, &certificate("shop", "web"), "AmbiguousNames", "True", "AmbiguousNames");
    assert!(message.contains("delete the Secret to get a certificate without it"), "{message}");
    world.advance(100 * DAY);
    world.settle();
    assert!(has_it(&world, "web"), "renewed with the name");
    let asks = ServiceCertificateSpec { extra_dns_names: vec!["api.shop".to_owned()], ..Default::default() };
    world.create_certificate_of("shop", "api", asks);
    world.settle();
    assert!(has_it(&world, "api"));
    let message = says(&world, &certificate("shop", "api"), "AmbiguousNames", "True", "AmbiguousNames");
    assert!(message.starts_with("spec.extraDNSNames: api.shop can also be a public name"), "{message}");
    says(&world, &certificate("shop", "api"), "Ready", "True", "Ready");
    sound(&world);
}
