//! An operator that is killed at every change aborts a rotation with the same result as without kills, whatever state the rotation
//! had reached.

use crate::common::chronicle::{id_in, states_of};
use crate::common::conduct::Moment;
use crate::common::story::{LEAVES, Opening, Proof, Story, abort, abort_active, raised};

// ---- staged --------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_every_change_it_aborts_a_staged_rotation() {
    STAGED.ends_as_undisturbed(Moment::BeforeItIsSent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_every_change_it_aborts_a_staged_rotation() {
    STAGED.ends_as_undisturbed(Moment::AfterItIsDone).await;
}

/// It never stays in this state, so the operator is killed there first.
const STAGED: Story = Story {
    edits: &[|_| Some(raised("ca")), |seen| Some(abort(&id_in(&seen.ring("ca"), "Staged")?))],
    is_over: |seen| states_of(&seen.ring("ca")) == ["Active", "Removed"],
    proof: Proof::Time,
    opening: Opening::CutShort,
    least_deaths: 4,
};

// ---- published -----------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_every_change_it_aborts_a_published_rotation() {
    PUBLISHED.ends_as_undisturbed(Moment::BeforeItIsSent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_every_change_it_aborts_a_published_rotation() {
    PUBLISHED.ends_as_undisturbed(Moment::AfterItIsDone).await;
}

const PUBLISHED: Story = Story {
    edits: &[|_| Some(raised("ca")), |seen| Some(abort(&id_in(&seen.ring("ca"), "Published")?))],
    is_over: |seen| states_of(&seen.ring("ca")) == ["Active", "Removed"],
    proof: Proof::Time,
    opening: Opening::Settled,
    least_deaths: 10,
};

// ---- active --------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_every_change_it_reactivates_the_previous_ca() {
    ACTIVE.ends_as_undisturbed(Moment::BeforeItIsSent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_every_change_it_reactivates_the_previous_ca() {
    ACTIVE.ends_as_undisturbed(Moment::AfterItIsDone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_every_change_it_reactivates_the_previous_signing_key() {
    KEY_ACTIVE.ends_as_undisturbed(Moment::BeforeItIsSent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_every_change_it_reactivates_the_previous_signing_key() {
    KEY_ACTIVE.ends_as_undisturbed(Moment::AfterItIsDone).await;
}

/// The state in which every leaf is of the new CA.
const ACTIVE: Story = Story {
    edits: &[
        |_| Some(raised("ca")),
        |seen| {
            let is_through = LEAVES.iter().all(|leaf| seen.revision(leaf) == 2);
            abort_active(&seen.ring("ca")).filter(|_| is_through)
        },
    ],
    is_over: |seen| states_of(&seen.ring("ca")) == ["Active", "Removed"],
    proof: Proof::Time,
    opening: Opening::Settled,
    least_deaths: 22,
};

/// The state in which the next key exists, and the issuer's Secret is written.
const KEY_ACTIVE: Story = Story {
    edits: &[
        |_| Some(raised("tokens")),
        |seen| {
            let ring = seen.ring("signing");
            let is_through = states_of(&ring) == ["Retiring", "Active", "Published"]
                && ring["generations"][0]["switchedTime"].is_string();
            abort_active(&ring).filter(|_| is_through)
        },
    ],
    is_over: |seen| states_of(&seen.ring("signing")) == ["Active", "Removed", "Published"],
    proof: Proof::Time,
    opening: Opening::Settled,
    least_deaths: 14,
};
