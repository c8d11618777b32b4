//! A process that is killed at a write, and the next one.

use super::rotations::{Rehearsal, state};
use crate::directory::disk::dir::Budget;

/// Kills the engine after a number of writes of a rotation, continues with another engine, and compares the end with an
/// undisturbed rotation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_write_of_a_rotation_leads_to_the_same_end() {
    let undisturbed = Rehearsal::new("undisturbed").await;
    undisturbed.ask_for_rotation();
    undisturbed.drive(None, 1..16).await;
    let expected = state(&undisturbed.certs());
    for writes in (0..TRIED).filter(|writes| writes % STRIDE == 0) {
        let rehearsal = Rehearsal::new("killed").await;
        rehearsal.ask_for_rotation();
        rehearsal.drive(Some(Budget::of(writes)), 1..16).await;
        // Every state that a crash leaves is usable: leaves chain to the bundle, and keys fit.
        let _ = state(&rehearsal.certs());
        rehearsal.drive(None, 1..32).await;
        assert_eq!(state(&rehearsal.certs()), expected, "killed after {writes} writes");
    }
}

/// More writes than a rotation of two services takes.
const TRIED: u64 = 400;
/// A prime, so that no kind of write is left out for its place in a sequence.
const STRIDE: u64 = 13;
