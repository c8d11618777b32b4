//! Rotations of both rings on a real API server, on a clock that the test sets: two quarters, and two years in `make test-long`.

use gaia_e2e::load::Kind;
use gaia_e2e::progress::say;
use gaia_e2e::rehearsal::{Rehearsal, RehearsalOptions, Ring};
use gaia_e2e::{ControlPlaneOptions, tier};
use jiff::SignedDuration;

#[tokio::test(flavor = "multi_thread")]
async fn both_rings_rotate_quarterly_and_no_request_fails() {
    let Some(plane) = tier::own_control_plane(ControlPlaneOptions::default()).await else { return };
    let quarters = if tier::is_long() { 8 } else { 2 };
    let options = RehearsalOptions { length: SignedDuration::from_hours(quarters * 2190), ..Default::default() };
    let record = Rehearsal::run(&plane, options, |transition| say(transition)).await.unwrap();
    say(&record);
    assert_eq!(record.complaints(), Vec::<String>::new(), "{record}");
    let load = record.load.as_ref().unwrap();
    for kind in [Kind::Mtls, Kind::ApiKey, Kind::Stranger] {
        assert!(load.counts_of(kind).ok > 100, "{kind}:\n{load}");
    }
    for ring in [Ring::Ca, Ring::SigningKeys] {
        let removed = record.transitions.iter().filter(|seen| seen.ring == ring && seen.to == "Removed").count();
        let expected = usize::try_from(quarters).unwrap();
        assert!((expected - 1..=expected).contains(&removed), "{removed} generations of the {ring} ring were removed");
    }
    let years = usize::from(tier::is_long());
    assert_eq!(record.sizes.len(), years + 1, "one table for each year");
}
