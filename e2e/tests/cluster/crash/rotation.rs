//! An operator that is killed at every change ends a rotation with the same result as without kills: one run after the other
//! is killed, each at the next change, until no change is left.

use crate::common::chronicle::states_of;
use crate::common::conduct::Moment;
use crate::common::story::{LEAVES, Opening, Proof, Story, raised};
use serde_json::json;

// ---- the rotation of the CA ----------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_every_change_it_rotates_the_ca() {
    CA_ROTATION.ends_as_undisturbed(Moment::BeforeItIsSent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_every_change_it_rotates_the_ca() {
    CA_ROTATION.ends_as_undisturbed(Moment::AfterItIsDone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_every_change_it_rotates_the_ca_as_an_endpoint_acknowledges_it() {
    let story = Story { proof: Proof::Endpoint, ..CA_ROTATION };
    story.ends_as_undisturbed(Moment::BeforeItIsSent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_every_change_it_rotates_the_ca_as_an_endpoint_acknowledges_it() {
    let story = Story { proof: Proof::Endpoint, ..CA_ROTATION };
    story.ends_as_undisturbed(Moment::AfterItIsDone).await;
}

const CA_ROTATION: Story = Story {
    edits: &[|_| Some(raised("ca"))],
    is_over: |seen| states_of(&seen.ring("ca")) == ["Removed", "Active"],
    proof: Proof::Time,
    opening: Opening::Settled,
    least_deaths: 18,
};

// ---- the rotation of the signing key -------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_every_change_it_rotates_the_signing_key() {
    KEY_ROTATION.ends_as_undisturbed(Moment::BeforeItIsSent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_every_change_it_rotates_the_signing_key() {
    KEY_ROTATION.ends_as_undisturbed(Moment::AfterItIsDone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_every_change_it_rotates_the_signing_key_as_an_endpoint_acknowledges_it() {
    let story = Story { proof: Proof::Endpoint, ..KEY_ROTATION };
    story.ends_as_undisturbed(Moment::BeforeItIsSent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_every_change_it_rotates_the_signing_key_as_an_endpoint_acknowledges_it() {
    let story = Story { proof: Proof::Endpoint, ..KEY_ROTATION };
    story.ends_as_undisturbed(Moment::AfterItIsDone).await;
}

const KEY_ROTATION: Story = Story {
    edits: &[|_| Some(raised("tokens"))],
    is_over: |seen| states_of(&seen.ring("signing")) == ["Removed", "Active", "Published"],
    proof: Proof::Time,
    opening: Opening::Settled,
    least_deaths: 10,
};

// ---- leaves --------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_every_change_it_reissues_leaves() {
    REISSUE.ends_as_undisturbed(Moment::BeforeItIsSent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_every_change_it_reissues_leaves() {
    REISSUE.ends_as_undisturbed(Moment::AfterItIsDone).await;
}

/// The spec of every leaf requests another kind of key.
const REISSUE: Story = Story {
    edits: &[|_| Some(json!({ "spec": { "certificateDefaults": { "privateKey": { "size": 384 } } } }))],
    is_over: |seen| LEAVES.iter().all(|leaf| seen.revision(leaf) == 2),
    proof: Proof::Time,
    opening: Opening::Settled,
    least_deaths: 4,
};
