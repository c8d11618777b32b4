//! Bring-your-own CAs, with the certificates of `docs/examples/vectors`: renewed with their key, compromised, restored
//! in the Secret.

use super::*;
use gaia_api::crd::{DistrustMode, DistrustedCa};
use gaia_pki::{Certificate, sha256_hex};
use gaia_plan::keyring::ring::CaPath;

/// `a` and `b` were issued by one root; `a2` is `a`, certified again with the same key and name; `root` is the root itself.
pub(super) fn corporate(world: &mut World, which: &str) -> String {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../../../../docs/examples/vectors/issuers.json")).unwrap();
    let case = |name: &str| {
        let cases = vectors["cases"].as_array().unwrap();
        cases.iter().find(|case| case["name"] == name).unwrap()["chain"][1].as_str().unwrap().to_owned()
    };
    let root = vectors["root"].as_str().unwrap().to_owned();
    let pem = match which {
        "a" => case("no key is listed"),
        "a2" => case("the issuer was certified again with the listed key"),
        "b" => case("a certificate of the listed key is presented beside the path"),
        _ => root.clone(),
    };
    let root = (pem != root).then_some(root);
    put(world, &pem, root.as_deref())
}

/// Puts a CA into the Secret: one that signs below `root`, or a root.
pub(super) fn put(world: &mut World, pem: &str, root: Option<&str>) -> String {
    let read = |pem: &str| Certificate::chain_from_pem(pem.as_bytes()).unwrap().remove(0);
    let mut path = vec![read(pem)];
    path.extend(root.map(read));
    let fingerprint = path[0].fingerprint();
    world.pems.insert(fingerprint.clone(), (pem.to_owned(), root.unwrap_or(pem).to_owned()));
    world.external_ca = Some(Ok(ExternalCa {
        fingerprint: fingerprint.clone(),
        not_after: at("2040-01-01T00:00:00Z"),
        path: CaPath::of(&path),
        ..ExternalCa::default()
    }));
    fingerprint
}

/// A fleet whose CA is `a`.
pub(super) fn corporate_fleet() -> (World, String) {
    let mut world = issuer_in("auth", "auth-service");
    world.edit_domain(TD, |found| found.spec.ca.existing_secret_ref = Some(SecretRef { name: "our-ca".to_owned() }));
    let first = corporate(&mut world, "a");
    world.settle();
    world.start(Pod::of("auth", "auth-service", "auth-0").issuer());
    wait(&mut world, 120);
    assert_eq!(world.states(true), "Active");
    (world, first)
}

fn distrust(world: &mut World, fingerprint: &str, mode: DistrustMode) {
    world.edit_domain(TD, |found| {
        found.spec.ca.distrusted = vec![DistrustedCa { fingerprint: fingerprint.to_owned(), mode }];
    });
    world.settle();
}

fn issuers(world: &World) -> Vec<String> {
    let text = &world.config_map("auth", "gaia-trust").unwrap().content["denylist.json"];
    let denylist: gaia_api::mount::Denylist = serde_json::from_str(text).unwrap();
    denylist.issuers
}

fn stalled(world: &World) -> String {
    says(world, &domain(), "Stalled", "True", "CADistrusted")
}

/// Kind: distrust by certificate. The key is compromised, whichever certificate contains it.
#[test]
fn every_certificate_of_a_leaked_key_is_distrusted_with_it() {
    let (mut world, first) = corporate_fleet();
    corporate(&mut world, "a2");
    until(&mut world, true, "Retiring, Active");
    corporate(&mut world, "b");
    distrust(&mut world, &first, DistrustMode::Immediate);
    assert_eq!(world.states(true), "Distrusted, Distrusted, Active");
    assert_eq!(issuers(&world).len(), 1, "one key");
    // A renewed certificate of the leaked key is refused, with the reason.
    corporate(&mut world, "a2");
    let before = ids(&world, true);
    wait(&mut world, 60);
    assert_eq!(ids(&world, true), before);
    assert!(stalled(&world).contains("is distrusted"), "{}", stalled(&world));
    sound(&world);
}

/// Kind: a renewed certificate that the ring has never seen.
#[test]
fn a_new_certificate_of_a_distrusted_key_is_refused_with_the_reason() {
    let (mut world, first) = corporate_fleet();
    corporate(&mut world, "b");
    until(&mut world, true, "Removed, Active");
    distrust(&mut world, &first, DistrustMode::AfterReissue);
    assert_eq!(world.states(true), "Distrusted, Active");
    // Sticky, also by key.
    world.edit_domain(TD, |found| found.spec.ca.distrusted.clear());
    corporate(&mut world, "a2");
    wait(&mut world, 60);
    assert_eq!(world.states(true), "Distrusted, Active");
    let message = stalled(&world);
    assert!(message.contains(&format!("has the public key of {}, which is distrusted", &first[..8])), "{message}");
    sound(&world);
}

/// Kind: an exposure that is reported as over while verifiers accept the compromised CA.
#[test]
fn below_a_trusted_root_the_exposure_ends_when_every_instance_enforces_the_denylist() {
    let (mut world, first) = corporate_fleet();
    world.start(Pod::of("auth", "auth-service", "mute").seen_by(Sight::Handshake));
    wait(&mut world, 120);
    corporate(&mut world, "b");
    until(&mut world, true, "Active, Published");
    distrust(&mut world, &first, DistrustMode::Immediate);
    assert_eq!(world.states(true), "Distrusted, Active");
    let key = world.ca_ring(TD).unwrap().generations[0].material.path.signing_key().unwrap().to_owned();
    assert_eq!(issuers(&world), [key]);
    wait(&mut world, 600);
    let exposure = status(&world).exposure.unwrap();
    assert_eq!(exposure.until, None, "the pod that reports nothing may accept it");
    assert!(exposure.message.clone().unwrap().contains("auth/mute: Unenforced"), "{exposure:?}");
    assert!(status(&world).laggards.iter().any(|laggard| laggard.pod == "mute"));
    world.restart("mute");
    wait(&mut world, 600);
    assert_eq!(status(&world).exposure.unwrap().until, None, "a restart proves nothing");
    world.stop("mute");
    wait(&mut world, 600);
    let exposure = status(&world).exposure.unwrap();
    assert!(exposure.until.is_some() && exposure.message.is_none(), "{exposure:?}");
    sound(&world);
}

#[test]
fn the_only_ca_is_distrusted_at_once_and_nothing_is_signed_until_there_is_another() {
    let (mut world, first) = corporate_fleet();
    distrust(&mut world, &first, DistrustMode::Immediate);
    assert_eq!(world.states(true), "Distrusted");
    says(&world, &domain(), "Ready", "False", "CADistrusted");
    let message = stalled(&world);
    assert!(message.contains(&format!("CA {} in Secret", &first[..8])), "{message}");
    assert!(message.contains("put a CA with a new key into"), "{message}");
    assert_eq!(issuers(&world).len(), 1);
    wait(&mut world, 600);
    assert_eq!(world.states(true), "Distrusted");
    corporate(&mut world, "b");
    wait(&mut world, 60);
    assert_eq!(world.states(true), "Distrusted, Active");
    wait(&mut world, 600);
    says(&world, &domain(), "Ready", "True", "Ready");
    says(&world, &domain(), "Stalled", "False", "Settled");
    says(&world, &certificate("auth", "auth-service"), "Ready", "True", "Ready");
    world.is_whole().unwrap();
}

#[test]
fn after_reissue_waits_for_another_ca_and_replaces_the_signing_key_meanwhile() {
    let (mut world, first) = corporate_fleet();
    let kid = ids(&world, false)[0].clone();
    distrust(&mut world, &first, DistrustMode::AfterReissue);
    wait(&mut world, 1200);
    assert_eq!(world.states(true), "Active");
    stalled(&world);
    assert_eq!(world.states(false), "Distrusted, Active, Published");
    assert_eq!(ids(&world, false)[0], kid);
    corporate(&mut world, "b");
    until(&mut world, true, "Retiring, Active");
    until(&mut world, true, "Distrusted, Active");
    says(&world, &domain(), "Stalled", "False", "Settled");
    sound(&world);
}

/// The runbook: another CA first, then the distrust. The message named the new one, and refused.
#[test]
fn a_ca_that_was_put_into_the_secret_before_replaces_the_leaked_one() {
    for mode in [DistrustMode::AfterReissue, DistrustMode::Immediate] {
        let (mut world, first) = corporate_fleet();
        corporate(&mut world, "b");
        world.settle();
        assert_eq!(world.states(true), "Active, Published");
        distrust(&mut world, &first, mode);
        says(&world, &domain(), "Stalled", "False", "Settled");
        until(&mut world, true, "Distrusted, Active");
        sound(&world);
    }
}

/// Kind: a renewal that is ignored in silence. The root is renewed, the intermediate below it is the same.
#[test]
fn a_root_renewed_above_the_ca_in_use_is_a_warning_with_the_next_step() {
    let (mut world, first) = corporate_fleet();
    if let Some(Ok(ca)) = &mut world.external_ca {
        ca.path.certificates.last_mut().unwrap().fingerprint = sha256_hex(b"renewed root");
    }
    wait(&mut world, 60);
    assert_eq!(world.states(true), "Active");
    let message = says(&world, &domain(), "CANotUsed", "True", "CANotUsed");
    assert!(message.contains(&format!("above CA {}", &first[..8])), "{message}");
    assert!(message.contains("certify the CA again"), "{message}");
    corporate(&mut world, "a");
    wait(&mut world, 60);
    assert_eq!(world.reported(&domain()).condition("CANotUsed").0, "");
}

/// Kind: a request that is ignored in silence.
#[test]
fn a_former_ca_that_is_put_back_signs_again() {
    let (mut world, first) = corporate_fleet();
    corporate(&mut world, "b");
    until(&mut world, true, "Retiring, Active");
    corporate(&mut world, "a");
    wait(&mut world, 20);
    assert_eq!(world.states(true), "Active, Retiring");
    assert_eq!(world.ca_ring(TD).unwrap().active().unwrap().material.fingerprint, first);
    until(&mut world, true, "Active, Removed");
    // The same with one that was removed: it is published again.
    corporate(&mut world, "b");
    until(&mut world, true, "Removed, Active");
    corporate(&mut world, "a");
    until(&mut world, true, "Active, Published");
    until(&mut world, true, "Removed, Active");
    assert_eq!(world.ca_ring(TD).unwrap().active().unwrap().material.fingerprint, first);
    sound(&world);
}

#[test]
fn an_aborted_ca_in_the_secret_is_named_and_used_when_the_revision_is_raised() {
    let (mut world, _) = corporate_fleet();
    let second = corporate(&mut world, "b");
    world.settle();
    annotate(&mut world, annotation::ABORT, &second[..8]);
    wait(&mut world, 60);
    assert_eq!(world.states(true), "Active, Removed");
    let message = says(&world, &domain(), "CANotUsed", "True", "CANotUsed");
    assert!(message.contains("was aborted"), "{message}");
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Removed, Active");
    assert_eq!(world.ca_ring(TD).unwrap().active().unwrap().material.fingerprint, second);
}

#[test]
fn a_ca_that_peers_refuse_is_not_used_and_one_in_use_is_only_warned_about() {
    let mut world = issuer_in("auth", "auth-service");
    world.edit_domain(TD, |found| found.spec.ca.existing_secret_ref = Some(SecretRef { name: "our-ca".to_owned() }));
    corporate(&mut world, "a");
    let refuse = |world: &mut World| {
        if let Some(Ok(ca)) = &mut world.external_ca {
            ca.refused = Some("\"CN=A\" has a serial number that is negative".to_owned());
        }
    };
    refuse(&mut world);
    world.settle();
    assert_eq!(world.states(true), "");
    let message = says(&world, &domain(), "Stalled", "True", "CAInvalid");
    assert!(message.contains("serial number that is negative"), "{message}");
    corporate(&mut world, "a");
    wait(&mut world, 20);
    // An earlier version has accepted it.
    refuse(&mut world);
    world.settle();
    says(&world, &domain(), "Stalled", "False", "Settled");
    says(&world, &domain(), "Ready", "True", "Ready");
    let message = says(&world, &domain(), "CANotStrict", "True", "CANotStrict");
    assert!(message.contains("stays in use, but peers refuse it"), "{message}");
}

#[test]
fn a_mistyped_fingerprint_is_a_warning_with_the_closest_one() {
    let (mut world, first) = corporate_fleet();
    let mistyped = format!("{}{}", &first[..62], if first.ends_with("00") { "11" } else { "00" });
    distrust(&mut world, &mistyped, DistrustMode::Immediate);
    assert_eq!(world.states(true), "Active");
    let message = says(&world, &domain(), "DistrustedUnknown", "True", "DistrustedUnknown");
    assert!(message.contains(&format!("the closest are {first}")), "{message}");
    distrust(&mut world, &sha256_hex(b"nothing"), DistrustMode::Immediate);
    says(&world, &domain(), "Ready", "True", "Ready");
}

/// Kind: a status that claims a step that was not taken.
#[test]
fn after_advance_without_what_still_serves_the_old_certificate_is_named() {
    let mut world = fleet();
    world.start(Pod::of("shop", "asset-service", "deaf").never_reloads());
    wait(&mut world, 60);
    ask_to_rotate(&mut world, true);
    let next = ids(&world, true)[1].clone();
    let before = world.log.len();
    annotate(&mut world, annotation::ADVANCE_WITHOUT, &next);
    until(&mut world, true, "Removed, Active");
    let events = world.log[before..].iter().flat_map(|done| done.action.events());
    let completed: Vec<_> = events.filter(|event| event.reason == "RotationCompleted").collect();
    assert_eq!(completed.len(), 1);
    assert!(completed[0].message.contains("shop/deaf"), "{completed:?}");
    assert!(!completed[0].message.contains("every certificate it signed is replaced"), "{completed:?}");
}

/// The CA in the Secret begins at that time.
fn begins(world: &mut World, time: Timestamp) {
    if let Some(Ok(ca)) = &mut world.external_ca {
        ca.not_before = time;
    }
}

fn not_before_its_time(world: &World) {
    assert!(world.violations.iter().all(|(invariant, _)| *invariant != 7), "{:#?}", world.violations);
}

/// Kind: a CA that becomes Active before its notBefore: as the first one of a ring.
#[test]
fn a_first_ca_that_is_not_valid_yet_is_used_once_it_is() {
    let mut world = issuer_in("auth", "auth-service");
    world.edit_domain(TD, |found| found.spec.ca.existing_secret_ref = Some(SecretRef { name: "our-ca".to_owned() }));
    corporate(&mut world, "a");
    let time = world.now.checked_add(jiff::SignedDuration::from_hours(1)).unwrap();
    begins(&mut world, time);
    world.settle();
    assert_eq!(world.states(true), "");
    let message = says(&world, &domain(), "Stalled", "True", "NotYetValid");
    assert!(message.contains(&format!("is valid only from {time}")), "{message}");
    until(&mut world, true, "Active");
    assert!(world.now >= time);
    not_before_its_time(&world);
    sound(&world);
}

/// The same in place of one that leaked: a new one, and a former one that is put back.
#[rstest]
#[case::new(false, DistrustMode::Immediate)]
#[case::new(false, DistrustMode::AfterReissue)]
#[case::former(true, DistrustMode::Immediate)]
#[case::former(true, DistrustMode::AfterReissue)]
fn a_replacement_that_is_not_valid_yet_signs_once_it_is(#[case] former: bool, #[case] mode: DistrustMode) {
    let (mut world, first) = corporate_fleet();
    let mut leaked = first.clone();
    if former {
        leaked = corporate(&mut world, "b");
        until(&mut world, true, "Retiring, Active");
        // As an earlier version or a clock that ran ahead left it.
        world.advance(-30 * DAY);
    }
    let time = if former {
        world.ca_ring(TD).unwrap().generations[0].material.not_before
    } else {
        world.now.checked_add(jiff::SignedDuration::from_hours(1)).unwrap()
    };
    distrust(&mut world, &leaked, mode);
    corporate(&mut world, if former { "a" } else { "b" });
    begins(&mut world, time);
    wait(&mut world, 900);
    let signs = |world: &World| world.ca_ring(TD).unwrap().active().map(|active| active.material.fingerprint.clone());
    let expected = (mode == DistrustMode::AfterReissue).then_some(leaked.clone());
    assert_eq!(signs(&world), expected, "{}", world.states(true));
    if mode == DistrustMode::Immediate && !former {
        says(&world, &domain(), "Ready", "False", "CADistrusted");
        let message = world.reported(&domain()).condition("Ready").2.to_owned();
        assert!(message.contains(&format!("is valid only from {time}")), "{message}");
    }
    while world.now < time {
        world.advance(DAY.min(time.duration_since(world.now).as_secs() + 1));
        world.settle();
    }
    wait(&mut world, 1200);
    assert!(signs(&world).is_some_and(|active| active != leaked), "{}", world.states(true));
    not_before_its_time(&world);
}
