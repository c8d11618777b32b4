//! A process that is killed at a write, and the next one.

use super::rotations::{Rehearsal, state};
use crate::directory::disk::dir::Budget;

/// Kills the engine after a number of writes of a rotation, continues with another engine, and compares the end with an
/// undisturbed rotation. `GAIA_E2E_LONG=1` (`make test-long`) tries each write, else a dozen over the whole rotation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_write_of_a_rotation_leads_to_the_same_end() {
    let undisturbed = Rehearsal::new("undisturbed").await;
    undisturbed.ask_for_rotation();
    let budget = Budget::of(PLENTY);
    undisturbed.drive(Some(budget.clone()), 1..16).await;
    let expected = state(&undisturbed.certs());
    let used = PLENTY - budget.left();
    assert!(used > 20, "a rotation has {used} writes");
    let is_long = std::env::var_os("GAIA_E2E_LONG").is_some();
    let stride = if is_long { 1 } else { used / TRIED };
    for writes in (0..used).filter(|writes| writes % stride == 0) {
        let rehearsal = Rehearsal::new("killed").await;
        rehearsal.ask_for_rotation();
        rehearsal.drive(Some(Budget::of(writes)), 1..16).await;
        // Every state that a crash leaves is usable: leaves chain to the bundle, and keys fit.
        let _ = state(&rehearsal.certs());
        rehearsal.drive(None, 1..32).await;
        assert_eq!(state(&rehearsal.certs()), expected, "killed after {writes} of {used} writes");
    }
}

const PLENTY: u64 = 1_000_000;
/// Writes that are tried in the short form.
const TRIED: u64 = 12;
