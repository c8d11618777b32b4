//! Leaf Secrets that are kept, copied or immutable, in the rotations after that.

use super::isolation::{until, wait};
use super::*;
use gaia_api::crd::{DeletionPolicy, LaggardKind};

/// It was cut off at the next CA rotation before, with all conditions green.
#[test]
fn retained_secret_keeps_its_root_until_it_expires_and_holds_no_other_rotation() {
    let mut world = fleet();
    let retained = ServiceCertificateSpec { deletion_policy: DeletionPolicy::Retain, ..Default::default() };
    world.create_certificate_of("shop", "kept", retained);
    world.settle();
    world.certificates.remove(&name("shop", "kept"));
    let end = world.leaf(world.secret("shop", "kept-tls").unwrap()).unwrap().0.not_after;
    ask_to_rotate(&mut world, true);
    wait(&mut world, 3 * 3600);
    assert_eq!(world.states(true), "Retiring, Active");
    let message = says(&world, &domain(), "CARotating", "True", "PastDeadline");
    assert!(message.contains("shop/kept-tls: ") && message.contains("(left by deletionPolicy: Retain)"), "{message}");
    assert!(status(&world).laggards.iter().any(|laggard| laggard.kind == Some(LaggardKind::Secret)));
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Retiring, Removed, Active");
    world.advance(end.duration_since(world.now).as_secs() + 61);
    until(&mut world, true, "Removed, Removed, Active");
}

/// Kind: a Secret left by `deletionPolicy: Retain` is forgotten. Its `ca.crt` was not updated, so its clients refused
/// every peer after the next CA rotation. Here no other object in the namespace refers to the TrustDomain.
#[test]
fn ca_crt_of_a_retained_secret_follows_the_bundle_while_its_namespace_is_selected() {
    let mut world = fleet();
    let retained = ServiceCertificateSpec { deletion_policy: DeletionPolicy::Retain, ..Default::default() };
    world.create_certificate_of("other", "kept", retained);
    world.settle();
    world.delete(&certificate("other", "kept"));
    world.settle();
    let roots = |world: &World| world.secret("other", "kept-tls").unwrap().content["ca.crt"].matches("ROOT").count();
    assert_eq!(roots(&world), 1);
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Retiring, Active");
    assert_eq!(roots(&world), 2);
    wait(&mut world, 3 * 3600);
    assert_eq!(world.states(true), "Retiring, Active", "its own root stays until it expires");
    let log = world.log.len();
    wait(&mut world, 3600);
    assert_eq!(world.done_since(log), [""; 0], "at rest");
    // Outside the TrustDomain it is left alone.
    world.edit_domain(TD, |found| {
        found.spec.namespace_selector = Some(NamespaceSelector {
            match_labels: [("team".to_owned(), "none".to_owned())].into(),
            ..Default::default()
        });
    });
    ask_to_rotate(&mut world, true);
    wait(&mut world, 3600);
    assert_eq!(roots(&world), 2);
}

/// The owner of a namespace outside the TrustDomain copies a leaf Secret with its labels.
#[test]
fn copy_of_a_leaf_outside_the_selected_namespaces_holds_nothing() {
    let mut world = fleet();
    world.domains.get_mut(TD).unwrap().spec.namespace_selector =
        Some(serde_json::from_value(serde_json::json!({ "matchLabels": { "env": "prod" } })).unwrap());
    world.settle();
    let certificates: Vec<_> = world.certificates.keys().cloned().collect();
    let of_shop = certificates.iter().find(|(namespace, _)| namespace == "shop").unwrap();
    let mut copy = world.objects[&ObjectKey::secret("shop", format!("{}-tls", of_shop.1))].clone();
    copy.facts.owners.clear();
    copy.facts.uid = "stranger".to_owned();
    world.namespaces.insert("stranger".to_owned(), std::collections::BTreeMap::new());
    world.objects.insert(ObjectKey::secret("stranger", "copy-tls"), copy);
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Removed, Active");
}

/// A tenant that makes its Secret immutable delays no other CA rotation.
#[test]
fn immutable_leaf_keeps_its_root_and_holds_no_other_rotation() {
    let mut world = fleet();
    world.create_certificate_of("shop", "stuck", ServiceCertificateSpec::default());
    world.settle();
    world.objects.get_mut(&ObjectKey::secret("shop", "stuck-tls")).unwrap().facts.immutable = true;
    ask_to_rotate(&mut world, true);
    wait(&mut world, 3 * 3600);
    assert_eq!(world.states(true), "Retiring, Active");
    says(&world, &domain(), "CARotating", "True", "PastDeadline");
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Retiring, Removed, Active");
}
