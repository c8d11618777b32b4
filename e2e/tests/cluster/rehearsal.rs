//! Two years of rotations on a real API server.

use gaia_e2e::load::Kind;
use gaia_e2e::progress::say;
use gaia_e2e::rehearsal::{Rehearsal, RehearsalOptions, Ring};
use gaia_e2e::{ControlPlaneOptions, tier};

#[tokio::test(flavor = "multi_thread")]
async fn in_two_years_both_rings_rotate_quarterly_and_no_request_fails() {
    let Some(plane) = tier::own_control_plane(ControlPlaneOptions::default()).await else { return };
    let record = Rehearsal::run(&plane, RehearsalOptions::default(), |transition| say(transition)).await.unwrap();
    say(&record);
    assert_eq!(record.complaints(), Vec::<String>::new(), "{record}");
    let load = record.load.as_ref().unwrap();
    for kind in [Kind::Mtls, Kind::ApiKey, Kind::Stranger] {
        assert!(load.counts_of(kind).ok > 100, "{kind}:\n{load}");
    }
    for ring in [Ring::Ca, Ring::SigningKeys] {
        let removed = record.transitions.iter().filter(|seen| seen.ring == ring && seen.to == "Removed").count();
        assert!((7..=8).contains(&removed), "{removed} generations of the {ring} ring were removed in eight quarters");
    }
    assert_eq!(record.sizes.len(), 2, "one table for each year");
}
