//! Rotations during arbitrary events, and lost rings.

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::world::{Edit, Resource, Seed, Step, TD, Tamper, World, possible_history, rotating_history};
use super::{cases, holds};

/// The world after its rotations, before the last settling.
fn stirred(seed: &Seed, steps: &[Step]) -> World {
    let mut world = seed.world();
    for step in steps {
        world.apply(step);
    }
    world
}

/// No rule was broken, by its number in the design; 0 are those without.
fn holds_all(world: &World) -> Result<(), TestCaseError> {
    match world.violations.first() {
        None => Ok(()),
        Some((number, what)) => Err(TestCaseError::fail(format!("invariant {number}: {what}"))),
    }
}

proptest! {
    #![proptest_config(cases(500))]

    /// Invariants 3, 4 and 13, and all others that are checked for single actions, in all histories with rotations.
    #[test]
    fn nothing_is_signed_too_early_refused_too_early_or_ever_trusted_again((seed, steps) in rotating_history(20)) {
        holds_all(&stirred(&seed, &steps))?;
    }

}

proptest! {
    #![proptest_config(cases(60))]

    /// Invariant 2: once all instances follow, every rotation completes, and every object is intact.
    #[test]
    fn every_rotation_ends((seed, steps) in rotating_history(14)) {
        let mut world = stirred(&seed, &steps);
        world.calm();
        // Two rotations of the CA, one after the other, wait about ten times.
        for _ in 0..9 {
            world.watch(8);
            world.advance(5 * 3600);
            world.watch(8);
        }
        holds_all(&world)?;
        let usable = world.ca_ring(TD).is_some() && world.signing_ring(TD).is_some();
        let reported = world.reported(&Resource::Domain(TD.to_owned()));
        let (_, stalled, _) = reported.condition("Stalled");
        if usable && stalled == "Settled" {
            let waits = ["Staged", "Published", "Retiring"];
            let ca = world.states(true);
            prop_assert!(!waits.iter().any(|state| ca.contains(state)), "{ca}: {:?}", reported.conditions());
            let signing = world.states(false);
            prop_assert!(!signing.contains("Retiring") && signing.contains("Published"), "{signing}");
            for condition in ["CARotating", "SigningKeysRotating"] {
                let (status, _, message) = reported.condition(condition);
                prop_assert!(status == "False", "{condition}: {message}");
            }
        }
    }
}

/// The ways to lose a ring.
fn losses() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Settle),
        4 => any::<bool>().prop_map(|ca| Step::Edit(0, Edit::RingGone(ca))),
        2 => any::<bool>().prop_map(|ca| Step::Edit(0, Edit::RingUnreadable(ca))),
        2 => any::<bool>().prop_map(|there| Step::Edit(0, Edit::RingCopy(there))),
        2 => Just(Step::Edit(0, Edit::DomainAgain)),
        1 => Just(Step::Edit(0, Edit::DomainGone)),
        1 => Just(Step::Edit(0, Edit::Bootstrap(false))),
        1 => Just(Step::Crash),
        3 => (0usize..12).prop_map(|which| Step::Tamper(which, Tamper::Delete)),
        1 => (0usize..8).prop_map(|which| Step::Edit(which, Edit::CertificateGone)),
        2 => (0usize..8, 0usize..4).prop_map(|(which, writes)| Step::CrashAfter(which, writes)),
    ];
    prop::collection::vec(step, 1..16)
}

proptest! {
    #![proptest_config(cases(900))]

    /// Invariant 14: for all losses in all orders, and however often the TrustDomain is created again.
    #[test]
    fn a_lost_ring_never_leads_to_a_new_root_silently((seed, first) in possible_history(4), steps in losses()) {
        let mut world = seed.world();
        for step in &first {
            world.apply(step);
        }
        (world.fail_next, world.view) = (0, None);
        for step in &steps {
            world.apply(step);
            holds(&world, 14)?;
        }
        world.settle();
        holds(&world, 14)?;
        if world.domains.contains_key(TD) && world.leaf_of_domain_exists(TD) {
            let lost = world.ca_ring(TD).is_none();
            let status = world.reported(&Resource::Domain(TD.to_owned()));
            let (stalled, reason, _) = status.condition("Stalled");
            let said = stalled == "True" && ["RingMissing", "RingUnreadable"].contains(&reason);
            prop_assert!(!lost || said, "{stalled} {reason}");
        }
    }
}
