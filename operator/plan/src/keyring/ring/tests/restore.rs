//! Restores of a ring from its copy while a backup that is older than both is in the ring's place.

use gaia_api::crd::DistrustMode;

use super::*;

#[test]
fn a_ca_that_was_removed_since_the_backup_does_not_sign_again() {
    let backup = ring(1, &[("old", State::Active)]);
    let copy = ring(2, &[("old", State::Retiring), ("new", State::Active)]);
    let restored = copy.restored(Some(&backup), 4, now()).expect("it can be restored");
    assert_eq!(states(&restored), [("old", State::Retiring), ("new", State::Active)]);
    assert_eq!((restored.epoch, restored.restored_from), (4, Some(2)));
}

#[test]
fn a_ca_that_leaked_since_the_backup_is_not_trusted_again() {
    let backup = ring(1, &[("old", State::Active)]);
    let mut copy = ring(2, &[("old", State::Distrusted), ("new", State::Active)]);
    copy.generations[0].distrust = Some(mark());
    let restored = copy.restored(Some(&backup), 4, now()).expect("it can be restored");
    assert_eq!(states(&restored), [("old", State::Distrusted), ("new", State::Active)]);
}

#[test]
fn what_only_the_backup_knows_to_have_leaked_is_not_trusted_either() {
    let mut backup = ring(1, &[("old", State::Distrusted), ("new", State::Active)]);
    backup.generations[0].distrust = Some(mark());
    let copy = ring(2, &[("old", State::Retiring), ("new", State::Active)]);
    let restored = copy.restored(Some(&backup), 4, now()).expect("it can be restored");
    assert_eq!(states(&restored), [("old", State::Distrusted), ("new", State::Active)]);
    let copy = ring(2, &[("old", State::Active)]);
    assert!(copy.restored(Some(&backup), 4, now()).is_err(), "nothing is left that may sign");
}

#[test]
fn what_is_being_replaced_because_it_leaked_stays_marked_by_a_copy_that_does_not_know_it() {
    let mut current = ring(2, &[("old", State::Retiring), ("new", State::Active)]);
    current.generations[0].distrust = Some(mark());
    let copy = ring(1, &[("old", State::Active), ("new", State::Published)]);
    let restored = copy.restored(Some(&current), 3, now()).expect("it can be restored");
    assert_eq!(states(&restored), [("old", State::Retiring), ("new", State::Active)]);
    assert_eq!(restored.generations[0].distrust, Some(mark()), "it is still to be refused");
}

fn ring(epoch: u64, generations: &[(&str, State)]) -> CaRing {
    CaRing { trust_domain: "shop.example".to_owned(), epoch, ..ring_of(generations) }
}

fn states(ring: &CaRing) -> Vec<(&str, State)> {
    ring.generations.iter().map(|generation| (generation.id.as_str(), generation.state)).collect()
}

fn mark() -> Distrust {
    Distrust { mode: DistrustMode::Immediate, since: Timestamp::UNIX_EPOCH, refused_time: None }
}

fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH
}
