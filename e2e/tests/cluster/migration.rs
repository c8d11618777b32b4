//! The whole way from one shared API key to mutual TLS and tokens alone, and back, and there again, under load.

use gaia_e2e::{ControlPlaneOptions, migration, tier};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_platform_moves_off_its_shared_key_and_nobody_who_uses_it_is_refused_for_no_reason() {
    let Some(plane) = tier::own_control_plane(ControlPlaneOptions::default()).await else { return };
    let walk = migration::walk(plane).await.unwrap();
    assert!(walk.is_clean(), "{walk:#?}");
}
