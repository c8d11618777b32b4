//! The whole migration from one shared API key to mutual TLS and tokens, back, and again, under load.

use gaia_e2e::{ControlPlaneOptions, migration, tier};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_platform_migrates_off_its_shared_key_without_unannounced_refusals() {
    let Some(plane) = tier::own_control_plane(ControlPlaneOptions::default()).await else { return };
    let walk = migration::walk(plane).await.unwrap();
    assert!(walk.is_clean(), "{walk:#?}");
}
