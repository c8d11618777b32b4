//! The invariants, on generated worlds. Their numbers are those of `README.md` in this folder, which also lists the
//! rules that were broken on purpose to verify that a test fails.
//!
//! `PROPTEST_CASES` sets the number of cases of every property; by default each has its own.

#[path = "properties/rotations.rs"]
mod rotations;
mod world;

use std::collections::BTreeMap;

use gaia_api::Span;
use gaia_api::crd::{GaiaServiceSpec, SecretRef, ServiceCertificateSpec};
use gaia_plan::Action;
use gaia_plan::object::ObjectKey;
use gaia_plan::trust_domain::ExternalCa;
use jiff::Timestamp;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError};
use world::{DAY, Edit, Name, Resource, Seed, Status, Step, TD, Tamper, World, history, possible_history};

fn cases(default: u32) -> Config {
    let config = Config { failure_persistence: None, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_some() { config } else { Config { cases: default, ..config } }
}

/// The world after all steps, with the operator at rest.
fn lived(seed: &Seed, steps: &[Step]) -> World {
    let mut world = seed.world();
    for step in steps {
        world.apply(step);
    }
    world.fail_next = 0;
    world.settle();
    world
}

fn holds(world: &World, invariant: u8) -> Result<(), TestCaseError> {
    world.holds(invariant).map_err(TestCaseError::fail)
}

fn statuses(world: &World) -> Vec<Status> {
    world.resources().iter().map(|resource| world.reported(resource)).collect()
}

proptest! {
    #![proptest_config(cases(900))]

    /// Invariant 1. Writes that follow from a ring's next state come after it, but no write is repeated.
    #[test]
    fn planning_again_after_execution_is_empty((seed, steps) in history(8), which in 0usize..8) {
        let mut world = seed.world();
        for step in &steps {
            world.apply(step);
        }
        (world.fail_next, world.view) = (0, None);
        let resources = world.resources();
        prop_assume!(!resources.is_empty());
        let resource = &resources[which % resources.len()];
        let planned = world.plan(resource);
        for action in &planned.actions {
            // A POST that meets an object without a label is not an execution, but a look.
            prop_assume!(world.execute(resource, action).is_ok());
        }
        let again: Vec<String> = world.plan(resource).actions.iter().map(ToString::to_string).collect();
        let done: Vec<String> = planned.actions.iter().map(ToString::to_string).collect();
        let moves = |action: &Action| {
            matches!(action, Action::CreateRing(_) | Action::Transition(_) | Action::Restore(_))
        };
        if !planned.actions.iter().any(moves) {
            prop_assert!(world.plan(resource).actions.iter().all(moves), "after {done:#?} still {again:#?}");
        }
        prop_assert!(again.iter().all(|action| !done.contains(action)), "again after {done:#?}: {again:#?}");
    }

    /// Invariant 2: from any state, and after a crash at any prefix of actions.
    #[test]
    fn every_history_comes_to_rest((seed, steps) in history(14)) {
        let mut world = lived(&seed, &steps);
        world.settle_and_wait();
        holds(&world, 2)?;
        for resource in world.resources() {
            let status = world.reported(&resource);
            let (reconciling, reason, message) = status.condition("Reconciling");
            let waits_for_others = ["TrustDomainNotFound", "TrustDomainNotReady"].contains(&reason);
            let waits_for_its_ca = message.contains("clock is behind");
            prop_assert!(
                reconciling == "False" || waits_for_others || waits_for_its_ca,
                "{resource:?} at rest is {reason}: {message}"
            );
        }
    }

    /// Invariants 2 and 5: tampered objects are repaired in every history, and the reported status is true.
    #[test]
    fn what_can_be_had_is_had((seed, steps) in possible_history(14)) {
        let mut world = lived(&seed, &steps);
        world.settle_and_wait();
        // A clock that went back to before a certificate's notBefore comes to it again.
        for _ in 0..steps.len() {
            let is_early = |resource: &Resource| world.reported(resource).condition("Ready").1 == "NotYetValid";
            if !world.resources().iter().any(is_early) {
                break;
            }
            world.advance(600);
            world.settle_and_wait();
        }
        for resource in world.resources() {
            let status = world.reported(&resource);
            let (ready, reason, message) = status.condition("Ready");
            prop_assert_eq!(ready, "True", "{:?} is {}: {}", resource, reason, message);
            let (stalled, reason, message) = status.condition("Stalled");
            prop_assert_eq!(stalled, "False", "{:?} is {}: {}", resource, reason, message);
        }
        world.is_whole().map_err(TestCaseError::fail)?;
        for invariant in [0, 2, 5, 9, 12, 14, 15] {
            holds(&world, invariant)?;
        }
    }

    /// Rules without a number (no validity exceeds the CA's, epochs only grow), and that `Ready` is always true to the
    /// state.
    #[test]
    fn whatever_happens_ready_is_the_truth((seed, steps) in history(14)) {
        let world = lived(&seed, &steps);
        holds(&world, 0)?;
        for (name, certificate) in &world.certificates {
            let status = world.reported(&Resource::Certificate(name.clone()));
            if status.condition("Ready").0 == "True" {
                let stored = world.secret(&name.0, &certificate.secret_name());
                let leaf = stored.and_then(|stored| world.leaf(stored).filter(|_| !stored.foreign));
                prop_assert!(leaf.is_some_and(|(leaf, key_matches)| key_matches && leaf.not_after > world.now));
            }
        }
    }

    /// Invariant 5, with key and certificate always together.
    #[test]
    fn a_usable_secret_is_never_replaced_by_a_worse_one((seed, steps) in history(14)) {
        holds(&lived(&seed, &steps), 5)?;
    }

    /// Invariant 6, also where the same things were observed in another order.
    #[test]
    fn the_same_inputs_give_the_same_status_byte_for_byte((seed, steps) in history(10)) {
        let mut world = seed.world();
        for step in &steps {
            world.apply(step);
            for resource in world.resources() {
                let bytes = |reversed| {
                    let planned = world.plan_in_order(&resource, reversed);
                    (serde_json::to_string(&planned.status).unwrap(), serde_json::to_string(&planned.actions).unwrap())
                };
                prop_assert_eq!(bytes(false), bytes(true));
            }
        }
    }

    /// Invariant 7, backwards: by minutes or by years, for all ready objects. A request that was refused may be
    /// possible at an earlier time, as a CA has not expired then; that is another story. A pending distrust does not
    /// wait for the clock, but no CA is activated that peers do not accept yet.
    #[test]
    fn a_clock_that_goes_back_issues_nothing((seed, steps) in history(10), back in prop_oneof![1i64..3600, 1..2000 * DAY]) {
        let mut world = lived(&seed, &steps);
        world.settle_and_wait();
        let before = world.log.len();
        let unready: Vec<Resource> = world.resources().into_iter()
            .filter(|resource| world.reported(resource).condition("Ready").0 != "True").collect();
        let active = |world: &World| world.ca_ring(TD).and_then(|ring| ring.active().map(|active| active.material.clone()));
        let signed_before = active(&world);
        let ca = world.ca_ring(TD).is_some_and(|ring| ring.trusted().any(|generation| generation.distrust.is_some()));
        let keys = world.signing_ring(TD).is_some_and(|ring| ring.trusted().any(|key| key.distrust.is_some()));
        world.advance(-back);
        world.settle();
        let is_valid = |signs: &gaia_plan::keyring::ring::CaMaterial| signs.not_before <= world.now;
        prop_assert!(active(&world) == signed_before || active(&world).as_ref().is_none_or(is_valid));
        holds(&world, 7)?;
        let made: Vec<String> = world.log[before..].iter()
            .filter(|done| !unready.contains(&done.by))
            .filter(|done| matches!(done.action, Action::IssueLeaf(_) | Action::CreateRing(_) | Action::WriteSigner(_)))
            .map(|done| done.action.to_string()).collect();
        prop_assert!(made.is_empty() || ca || keys, "{made:#?}");
    }

    /// Invariant 8.
    #[test]
    fn the_next_look_is_within_an_hour_and_not_after_what_is_due((seed, steps) in history(14)) {
        let mut world = seed.world();
        for step in &steps {
            world.apply(step);
            for resource in world.resources() {
                world.reconcile(&resource);
            }
        }
        holds(&world, 8)?;
    }

    /// Invariant 9.
    #[test]
    fn a_foreign_object_is_never_written((seed, steps) in history(14), names in prop::collection::vec(0usize..10, 0..6)) {
        let mut world = seed.world();
        for name in names {
            world.apply(&Step::Edit(0, Edit::Foreign(name)));
        }
        for step in &steps {
            world.apply(step);
        }
        world.fail_next = 0;
        world.settle();
        holds(&world, 9)?;
    }

    /// Invariant 11: at rest, over time and after a restart.
    #[test]
    fn at_rest_nothing_is_written((seed, steps) in history(12), resyncs in 1usize..4) {
        let mut world = lived(&seed, &steps);
        world.settle_and_wait();
        let objects = world.objects.clone();
        if world.knows_by_a_look() {
            // The next process has no state of it, and reports so.
            world.crash();
            world.settle();
        }
        let before = statuses(&world);
        for _ in 0..resyncs {
            let next = world.resources().iter().map(|resource| world.plan(resource).next_check).min();
            let least = world.now.checked_add(jiff::SignedDuration::from_secs(1)).unwrap();
            world.now = next.filter(|next| *next > least)
                .map_or(world.now, |next| next.checked_sub(jiff::SignedDuration::from_secs(1)).unwrap());
            world.settle();
            world.crash();
            world.settle();
        }
        prop_assert!(objects == world.objects, "{:#?}", world.log.last().map(|done| done.action.to_string()));
        prop_assert_eq!(before, statuses(&world));
    }

    /// Invariant 12: rings are created once and never overwritten, and key material only changes with a new
    /// certificate.
    #[test]
    fn kids_and_serials_are_never_used_twice((seed, steps) in history(14)) {
        let world = lived(&seed, &steps);
        holds(&world, 12)?;
    }

    /// Invariant 15.
    #[test]
    fn no_leaf_carries_a_name_that_was_not_granted((seed, steps) in history(10)) {
        holds(&lived(&seed, &steps), 15)?;
    }
}

proptest! {
    #![proptest_config(cases(150))]

    /// Invariant 2: the final state and the created objects are those of a run without a crash.
    #[test]
    fn a_crash_after_any_write_of_a_first_issuance_changes_nothing((seed, _) in possible_history(1)) {
        let calm = lived(&seed, &[]);
        let writes = calm.log.len();
        for crash_after in 0..writes {
            let mut world = seed.world();
            let mut left = crash_after;
            // As `settle`, but the operator dies after so many writes in all.
            'life: loop {
                let mut moved = false;
                for resource in world.resources() {
                    let planned = world.plan(&resource);
                    for action in &planned.actions {
                        if left == 0 {
                            break 'life;
                        }
                        prop_assert!(world.execute(&resource, action).is_ok());
                        (left, moved) = (left - 1, true);
                    }
                    if planned.actions.is_empty() {
                        moved |= world.report(&resource, planned.status);
                    }
                }
                if !moved {
                    break;
                }
            }
            world.crash();
            world.settle();
            prop_assert_eq!(shape(&calm), shape(&world), "crash after {} writes", crash_after);
            prop_assert_eq!(calm.log.len(), world.log.len(), "crash after {} writes", crash_after);
        }
    }

    /// Invariant 7, forwards.
    #[test]
    fn a_quarter_later_every_leaf_is_renewed_at_once_and_once(
        (seed, steps) in possible_history(6),
        quarters in 1usize..4,
    ) {
        let mut world = lived(&seed, &steps);
        world.settle_and_wait();
        for _ in 0..quarters {
            world.advance(91 * DAY);
            let before = world.log.len();
            world.settle();
            for name in world.certificates.keys() {
                let by = Resource::Certificate(name.clone());
                let issued = world.log[before..].iter()
                    .filter(|done| done.by == by && matches!(done.action, Action::IssueLeaf(_))).count();
                prop_assert_eq!(issued, 1, "{:?}", name);
            }
            let settled = world.log.len();
            world.settle();
            prop_assert_eq!(settled, world.log.len());
        }
    }

    /// Invariant 5 and cap: near its CA's expiry a leaf is clamped, and then neither shortened nor renewed in a loop,
    /// however often it is reconciled.
    #[test]
    fn a_leaf_that_is_clamped_by_its_ca_is_not_renewed_in_a_loop(
        (leaf, ca) in prop::sample::select(vec![("720h", 1_500), ("3240h", 6_500)]),
        permille in prop::collection::vec(1i64..60, 40),
        requests in prop::collection::vec(prop::bool::weighted(0.2), 40),
    ) {
        let mut world = World::new();
        let mut spec = world::plain_domain();
        // A bring-your-own CA would be replaced in time.
        spec.ca.existing_secret_ref = Some(SecretRef { name: "our-ca".to_owned() });
        spec.certificate_defaults.duration = Span::parse(leaf).unwrap();
        let not_after = world.now.checked_add(jiff::SignedDuration::from_hours(ca)).unwrap();
        world.external_ca = Some(Ok(ExternalCa { fingerprint: gaia_pki::sha256_hex(b"ours"), not_after, ..ExternalCa::default() }));
        world.create_domain(TD, spec);
        world.create_certificate_of("shop", "web", ServiceCertificateSpec::default());
        world.settle();
        let mut end = Timestamp::MIN;
        for (step, request) in permille.iter().zip(&requests) {
            world.advance(step * ca * 3600 / 1000);
            if *request {
                world.ask_to_renew(&("shop".to_owned(), "web".to_owned()), &format!("{}", world.now));
            }
            let before = world.log.len();
            world.settle();
            world.settle();
            let issued = |done: &&world::Done| matches!(done.action, Action::IssueLeaf(_));
            prop_assert!(world.log[before..].iter().filter(issued).count() <= 1, "{:#?}", world.done_since(before));
            let stored = world.secret("shop", "web-tls").unwrap();
            let (found, _) = world.leaf(stored).unwrap();
            prop_assert!(found.not_after >= end);
            end = found.not_after;
        }
        holds(&world, 5)?;
        holds(&world, 0)?;
    }
}

proptest! {
    #![proptest_config(cases(60))]

    /// Invariant 10: every cause that makes one certificate be issued repeatedly.
    #[test]
    fn a_flapping_spec_never_exceeds_the_issuance_budget(
        moves in prop::collection::vec((0i64..70, 0usize..7), 20..90),
    ) {
        let mut world = World::new();
        world.create_domain(TD, world::plain_domain());
        world.create_service("shop", "asset-service", GaiaServiceSpec::default());
        world.settle();
        let name: Name = ("shop".to_owned(), "asset-service".to_owned());
        let secret = ObjectKey::secret("shop", "asset-service-tls");
        for (round, (gap, what)) in moves.iter().enumerate() {
            world.advance(*gap);
            let flip = round % 2 == 0;
            let life = Span::parse(if flip { "24h" } else { "25h" }).unwrap();
            match what {
                0 | 1 => world.edit_service(&name, |service| {
                    service.spec.certificate.get_or_insert_default().duration = Some(life);
                }),
                2 => world.edit_domain(TD, |domain| domain.spec.certificate_defaults.duration = life),
                3 => world.remove(&secret),
                4 => world.tamper(&secret, Tamper::SwapKey),
                5 => world.ask_to_renew(&name, &round.to_string()),
                _ => world.fail_next = 1,
            }
            world.settle();
        }
        let times: Vec<Timestamp> = world.log.iter()
            .filter(|done| matches!(done.action, Action::IssueLeaf(_))).map(|done| done.at).collect();
        for (index, first) in times.iter().enumerate() {
            for (more, last) in times[index..].iter().enumerate() {
                let minutes = usize::try_from(last.duration_since(*first).as_secs() / 60).unwrap();
                prop_assert!(more < 10 + minutes + 1, "{} issues within {minutes} minutes", more + 1);
            }
        }
    }
}

/// The existing objects, without values that are new in every run.
fn shape(world: &World) -> Vec<String> {
    let objects = world.objects.iter().map(|(key, stored)| {
        let facts = &stored.facts;
        // A MAC depends on the random key of its ring, so only its presence is compared.
        let comparable = |(name, value): (&String, &String)| {
            (name.clone(), if name.ends_with("-mac") { String::new() } else { value.clone() })
        };
        let annotations: BTreeMap<String, String> = facts.annotations.iter().map(comparable).collect();
        let keys: Vec<&String> = stored.content.keys().filter(|key| key.len() != "00000000.key".len()).collect();
        format!("{key} {:?} {annotations:?} {keys:?} {}", facts.labels, facts.owners.len())
    });
    let statuses = world.resources().into_iter().map(|resource| {
        let status = world.reported(&resource);
        let conditions: Vec<_> = status.conditions().iter().map(|c| (&c.type_, &c.status, &c.reason)).collect();
        format!("{resource:?} {conditions:?}")
    });
    objects.chain(statuses).collect()
}
