//! Compromised generations: refused, replaced, and never restored.

use super::*;
use gaia_api::crd::{DistrustMode, DistrustedCa, DistrustedKey, RevokedSubject};

fn distrust_ca(world: &mut World, fingerprint: &str, mode: DistrustMode) {
    world.edit_domain(TD, |found| {
        found.spec.ca.distrusted = vec![DistrustedCa { fingerprint: fingerprint.to_owned(), mode }];
    });
    world.settle();
}

fn distrust_keys(world: &mut World, kids: &[String], mode: DistrustMode) {
    world.edit_domain(TD, |found| {
        found.spec.tokens.distrusted = kids.iter().map(|kid| DistrustedKey { kid: kid.clone(), mode }).collect();
    });
    world.settle();
}

fn kids(world: &World) -> Vec<String> {
    let ring = world.signing_ring(TD).unwrap();
    ring.generations.iter().map(|generation| generation.material.jwk.kid().to_owned()).collect()
}

fn active_ca(world: &World) -> String {
    world.ca_ring(TD).unwrap().active().unwrap().material.fingerprint.clone()
}

/// All stored objects as one text.
fn stored(world: &World) -> String {
    let all = world.objects.values().flat_map(|stored| stored.content.iter());
    all.filter(|(name, _)| *name != "denylist.json" && *name != "ring.json").map(|(_, text)| text.as_str()).collect()
}

/// Re-issues of a rotation by choice are paced. After a distrust they are not, in either mode.
#[test]
fn reissues_after_a_distrust_are_not_paced() {
    for mode in [DistrustMode::AfterReissue, DistrustMode::Immediate] {
        let mut world = fleet();
        let issued = |world: &World, since: usize| -> Vec<bool> {
            world.leaves.values().skip(since).map(|leaf| leaf.paced).collect()
        };
        let first = issued(&world, 0);
        assert!(first.iter().all(|paced| !paced), "first certificates");
        ask_to_rotate(&mut world, true);
        wait(&mut world, 3600);
        let by_choice = issued(&world, first.len());
        assert!(!by_choice.is_empty() && by_choice.iter().all(|paced| *paced));
        let before = world.leaves.len();
        let leaked = active_ca(&world);
        distrust_ca(&mut world, &leaked, mode);
        wait(&mut world, 3600);
        let after = issued(&world, before);
        assert!(after.len() >= by_choice.len() && after.iter().all(|paced| !paced), "{mode:?}: {after:?}");
    }
}

#[test]
fn after_reissue_a_fresh_ca_is_published_signs_and_then_the_leaked_one_is_refused() {
    let mut world = fleet();
    let leaked = active_ca(&world);
    let from = world.now;
    distrust_ca(&mut world, &leaked, DistrustMode::AfterReissue);
    assert_eq!(world.states(true), "Active, Published");
    says(&world, &domain(), "CARotating", "True", "WaitingForInstances");
    assert_eq!(status(&world).exposure.unwrap().from, from);
    // As soon as all instances trust it, without P and S and jitter.
    assert_eq!(until(&mut world, true, "Retiring, Active"), 60);
    assert_ne!(issuer_of(&world, "shop", "asset-service"), leaked[..8]);
    assert_eq!(until(&mut world, true, "Distrusted, Active"), 60);
    assert!(!stored(&world).contains(&leaked));
    // Until every pod has the bundle without it.
    assert_eq!(status(&world).exposure.unwrap().until, None);
    wait(&mut world, 600);
    let exposure = status(&world).exposure.unwrap();
    let seconds = exposure.until.unwrap().duration_since(exposure.from).as_secs();
    assert!((300..=380).contains(&seconds), "{seconds}");
    says(&world, &domain(), "CARotating", "False", "Settled");
    // Sticky.
    world.edit_domain(TD, |found| found.spec.ca.distrusted.clear());
    world.advance(DAY);
    world.settle();
    assert_eq!(world.states(true), "Distrusted, Active");
    world.is_whole().unwrap();
    sound(&world);
}

#[test]
fn after_reissue_waits_five_minutes_at_most() {
    let mut world = fleet();
    world.start(Pod::of("shop", "asset-service", "old").never_reloads());
    let leaked = active_ca(&world);
    distrust_ca(&mut world, &leaked, DistrustMode::AfterReissue);
    let signs = until(&mut world, true, "Retiring, Active");
    assert_eq!(signs, 150);
    assert_eq!(signs + until(&mut world, true, "Distrusted, Active"), 300);
    world.advance(DAY);
    world.settle();
    assert_eq!(status(&world).exposure.unwrap().until, None, "one pod trusts it still");
    world.restart("old");
    world.settle();
    assert!(status(&world).exposure.unwrap().until.is_some());
    sound(&world);
}

#[test]
fn a_namespace_that_cannot_be_written_does_not_keep_a_leaked_ca_alive() {
    let mut world = fleet();
    let leaked = active_ca(&world);
    world.edit_domain(TD, |found| {
        found.spec.ca.distrusted = vec![DistrustedCa { fingerprint: leaked.clone(), mode: DistrustMode::AfterReissue }];
    });
    for _ in 0..31 {
        // Only the ring can be written.
        world.advance(10);
        world.probe();
        for _ in 0..3 {
            let planned = world.plan(&domain());
            for action in &planned.actions {
                if matches!(action, Action::Transition(_)) {
                    world.execute(&domain(), action).unwrap();
                }
            }
        }
    }
    assert_eq!(world.states(true), "Distrusted, Active");
}

#[test]
fn immediate_drops_the_ca_from_everything_at_once() {
    let mut world = fleet();
    let leaked = active_ca(&world);
    let old_kid = kids(&world)[0].clone();
    distrust_ca(&mut world, &leaked, DistrustMode::Immediate);
    assert_eq!(world.states(true), "Distrusted, Active");
    assert!(!stored(&world).contains(&leaked));
    // The holder of the CA could obtain tokens: the key that signed them is removed too, and the next is promoted.
    assert_eq!(world.states(false), "Distrusted, Active, Published");
    let denied = world.config_map("shop", "gaia-trust").unwrap().content["denylist.json"].clone();
    assert!(denied.contains(&old_kid), "{denied}");
    assert!(!stored(&world).contains(&old_kid));
    says(&world, &certificate("shop", "asset-service"), "Ready", "True", "Ready");
    wait(&mut world, 300);
    assert!(status(&world).exposure.unwrap().until.is_some());
    world.is_whole().unwrap();
    sound(&world);
}

#[test]
fn after_reissue_the_active_key_goes_with_the_ca_in_the_same_mode() {
    let mut world = fleet();
    let leaked = active_ca(&world);
    distrust_ca(&mut world, &leaked, DistrustMode::AfterReissue);
    // All instances know the next key, so it is activated at once.
    assert_eq!(world.states(false), "Retiring, Active, Published");
    assert_eq!(until(&mut world, false, "Distrusted, Active, Published"), 300);
    sound(&world);
}

#[test]
fn a_stricter_mode_takes_effect_while_the_replacement_is_under_way() {
    let mut world = fleet();
    let leaked = active_ca(&world);
    distrust_ca(&mut world, &leaked, DistrustMode::AfterReissue);
    let fresh = ids(&world, true)[1].clone();
    distrust_ca(&mut world, &leaked, DistrustMode::Immediate);
    assert_eq!(world.states(true), "Distrusted, Active");
    assert_eq!(ids(&world, true)[1], fresh);
    // The key that was promoted last signed tokens for the holder of the CA, too.
    assert_eq!(world.states(false), "Distrusted, Distrusted, Active, Published");
    sound(&world);
}

#[test]
fn a_ca_that_was_staged_beside_the_leaked_one_is_never_used() {
    let mut world = fleet();
    ask_to_rotate(&mut world, true);
    let leaked = active_ca(&world);
    distrust_ca(&mut world, &leaked, DistrustMode::AfterReissue);
    assert_eq!(world.states(true), "Active, Removed, Published");
    until(&mut world, true, "Distrusted, Removed, Active");
    sound(&world);
}

#[test]
fn a_leaked_next_ca_is_dropped_and_a_removed_one_marked_so_that_no_restore_brings_it_back() {
    let mut world = fleet();
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Removed, Active");
    let removed = world.ca_ring(TD).unwrap().generations[0].material.fingerprint.clone();
    distrust_ca(&mut world, &removed, DistrustMode::AfterReissue);
    assert_eq!(world.states(true), "Distrusted, Active");
    ask_to_rotate(&mut world, true);
    let next = world.ca_ring(TD).unwrap().next().unwrap().material.fingerprint.clone();
    distrust_ca(&mut world, &next, DistrustMode::AfterReissue);
    assert_eq!(world.states(true), "Distrusted, Active, Distrusted");
    sound(&world);
}

#[test]
fn the_only_ca_of_ones_own_is_distrusted_at_once_and_never_taken_again() {
    let mut world = issuer_in("auth", "auth-service");
    world.edit_domain(TD, |found| found.spec.ca.existing_secret_ref = Some(SecretRef { name: "our-ca".to_owned() }));
    world.external_ca = external_ca(1, "2030-01-01T00:00:00Z");
    world.settle();
    let leaked = active_ca(&world);
    distrust_ca(&mut world, &leaked, DistrustMode::Immediate);
    assert_eq!(world.states(true), "Distrusted");
    let message = says(&world, &domain(), "Stalled", "True", "CADistrusted");
    assert!(message.contains("is distrusted; put a CA with a new key into Secret"), "{message}");
    says(&world, &domain(), "Ready", "False", "CADistrusted");
    world.external_ca = external_ca(2, "2030-01-01T00:00:00Z");
    world.settle();
    assert_eq!(world.states(true), "Distrusted, Active");
    says(&world, &domain(), "Stalled", "False", "Settled");
    // It is never accepted again, not even by a TrustDomain that starts over.
    world.external_ca = external_ca(1, "2030-01-01T00:00:00Z");
    assert_eq!(doing(&mut world).iter().filter(|done| done.contains("-ring")).count(), 0);
    let mut other = web();
    other.edit_domain(TD, |found| {
        found.spec.ca.existing_secret_ref = Some(SecretRef { name: "our-ca".to_owned() });
        found.spec.ca.distrusted = vec![DistrustedCa { fingerprint: leaked, mode: DistrustMode::Immediate }];
    });
    other.external_ca = external_ca(1, "2030-01-01T00:00:00Z");
    assert_eq!(doing(&mut other), [""; 0]);
    says(&other, &domain(), "Stalled", "True", "CADistrusted");
    sound(&world);
}

#[test]
fn of_two_leaked_cas_one_that_cannot_be_replaced_does_not_save_the_other() {
    let mut world = issuer_in("auth", "auth-service");
    world.edit_domain(TD, |found| found.spec.ca.existing_secret_ref = Some(SecretRef { name: "our-ca".to_owned() }));
    world.external_ca = external_ca(1, "2030-01-01T00:00:00Z");
    world.settle();
    world.external_ca = external_ca(2, "2030-01-01T00:00:00Z");
    world.settle();
    assert_eq!(world.states(true), "Active, Published");
    world.edit_domain(TD, |found| {
        let both = [1, 2].map(|number| external_ca(number, "2030-01-01T00:00:00Z").unwrap().unwrap().fingerprint);
        let mode = DistrustMode::AfterReissue;
        found.spec.ca.distrusted = both.map(|fingerprint| DistrustedCa { fingerprint, mode }).to_vec();
    });
    world.settle();
    assert_eq!(world.states(true), "Active, Distrusted");
    says(&world, &domain(), "Stalled", "True", "CADistrusted");
}

#[rstest]
#[case::later(DistrustMode::AfterReissue)]
#[case::now(DistrustMode::Immediate)]
fn for_a_leaked_key_the_next_one_is_promoted(#[case] mode: DistrustMode) {
    let mut world = fleet();
    let [leaked, next] = kids(&world).try_into().unwrap();
    distrust_keys(&mut world, std::slice::from_ref(&leaked), mode);
    let ring = world.signing_ring(TD).unwrap();
    assert_eq!(ring.active().unwrap().material.jwk.kid(), next);
    let gone = if mode == DistrustMode::Immediate { 0 } else { 300 };
    assert_eq!(until(&mut world, false, "Distrusted, Active, Published"), gone);
    assert!(!stored(&world).contains(&leaked));
    assert_eq!(world.states(true), "Active", "the CA has nothing to do with it");
    wait(&mut world, 300);
    assert!(status(&world).exposure.unwrap().until.is_some());
    sound(&world);
}

#[rstest]
#[case::later(DistrustMode::AfterReissue)]
#[case::now(DistrustMode::Immediate)]
fn a_next_key_that_leaked_too_is_not_promoted(#[case] mode: DistrustMode) {
    let mut world = fleet();
    let leaked = kids(&world);
    distrust_keys(&mut world, &leaked, mode);
    wait(&mut world, 600);
    assert_eq!(world.states(false), "Distrusted, Distrusted, Active, Published");
    for kid in leaked {
        assert!(!stored(&world).contains(&kid));
    }
    assert_eq!(world.signing_ring(TD).unwrap().generations[1].activated_time, None, "it never signed");
    world.is_whole().unwrap();
    sound(&world);
}

#[test]
fn a_leaked_generation_is_refused_in_time_also_while_a_rotation_waits_for_laggards() {
    let mut world = fleet();
    ask_to_rotate(&mut world, false);
    wait(&mut world, 120);
    assert_eq!(world.states(false), "Retiring, Active, Published");
    let [old, active, _] = kids(&world).try_into().unwrap();
    // First the one that signs, and four minutes later the one before it.
    distrust_keys(&mut world, std::slice::from_ref(&active), DistrustMode::AfterReissue);
    wait(&mut world, 240);
    distrust_keys(&mut world, &[active, old], DistrustMode::AfterReissue);
    wait(&mut world, 60);
    assert_eq!(world.states(false), "Retiring, Distrusted, Active, Published");
    wait(&mut world, 240);
    assert_eq!(world.states(false), "Distrusted, Distrusted, Active, Published");
    sound(&world);
}

#[test]
fn a_leaked_key_is_refused_in_time_also_when_the_clock_went_back() {
    let mut world = fleet();
    world.advance(2 * 3600);
    ask_to_rotate(&mut world, true);
    world.settle();
    world.advance(-3600);
    let leaked = kids(&world)[0].clone();
    distrust_keys(&mut world, std::slice::from_ref(&leaked), DistrustMode::AfterReissue);
    wait(&mut world, 150);
    // The key after the next one is published only when times can be written again.
    assert_eq!(world.states(false), "Retiring, Active, Staged");
    wait(&mut world, 150);
    assert_eq!(world.states(false), "Distrusted, Active, Staged");
    assert!(!stored(&world).contains(&leaked));
    world.advance(3600);
    world.settle();
    assert_eq!(world.states(false), "Distrusted, Active, Published");
    sound(&world);
}

#[test]
fn what_is_revoked_is_published_and_a_revoked_leaf_is_issued_anew_once() {
    let mut world = fleet();
    let leaf = world.leaf(world.secret("shop", "asset-service-tls").unwrap()).unwrap().0.fingerprint.clone();
    world.edit_domain(TD, |found| {
        found.spec.revoked.leaves = vec![leaf.clone()];
        found.spec.revoked.jtis = vec!["b".to_owned(), "a".to_owned(), "b".to_owned()];
        let not_before = at("2026-01-01T00:00:00Z");
        found.spec.revoked.subjects =
            vec![RevokedSubject { sub: "spiffe://gaia.local/ns/x/sa/y".to_owned(), not_before }];
    });
    let done = doing(&mut world);
    let issued = done.iter().filter(|done| done.contains("certificate for")).count();
    assert_eq!(issued, 1, "{done:#?}");
    let text = &world.config_map("auth", "gaia-trust").unwrap().content["denylist.json"];
    let denylist: serde_json::Value = serde_json::from_str(text).unwrap();
    assert_eq!(denylist["leaves"], serde_json::json!([leaf]));
    assert_eq!(denylist["jtis"], serde_json::json!(["a", "b"]));
    assert_eq!(denylist["subjects"][0]["sub"], "spiffe://gaia.local/ns/x/sa/y");
    assert_eq!(doing(&mut world), [""; 0]);
    sound(&world);
}
