//! An operator that is killed at every change replaces leaked keys with the same result as without kills.

use crate::common::chronicle::{Chronicle, name_in, states_of};
use crate::common::conduct::Moment;
use crate::common::story::{Opening, Proof, Story};
use serde_json::{Value, json};

// ---- a CA ----------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_every_change_it_replaces_a_ca_that_leaked() {
    CA.ends_as_undisturbed(Moment::BeforeItIsSent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_every_change_it_replaces_a_ca_that_leaked() {
    CA.ends_as_undisturbed(Moment::AfterItIsDone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_every_change_it_drops_a_ca_that_leaked_at_once() {
    CA_NOW.ends_as_undisturbed(Moment::BeforeItIsSent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_every_change_it_drops_a_ca_that_leaked_at_once() {
    CA_NOW.ends_as_undisturbed(Moment::AfterItIsDone).await;
}

/// With the CA the active signing key is removed: a holder of the CA could obtain tokens of it.
const CA: Story = Story {
    edits: &[|seen| Some(distrusted_ca(seen, "AfterReissue"))],
    is_over: |seen| is_refused(&seen.ring("ca"), 2) && is_refused(&seen.ring("signing"), 3),
    proof: Proof::Time,
    opening: Opening::Settled,
    least_deaths: 24,
};

const CA_NOW: Story = Story { edits: &[|seen| Some(distrusted_ca(seen, "Immediate"))], least_deaths: 15, ..CA };

// ---- a signing key -------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_every_change_it_replaces_a_signing_key_that_leaked() {
    KEY.ends_as_undisturbed(Moment::BeforeItIsSent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_every_change_it_replaces_a_signing_key_that_leaked() {
    KEY.ends_as_undisturbed(Moment::AfterItIsDone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_every_change_it_drops_a_signing_key_that_leaked_at_once() {
    KEY_NOW.ends_as_undisturbed(Moment::BeforeItIsSent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_every_change_it_drops_a_signing_key_that_leaked_at_once() {
    KEY_NOW.ends_as_undisturbed(Moment::AfterItIsDone).await;
}

const KEY: Story = Story {
    edits: &[|seen| Some(distrusted_key(seen, "AfterReissue"))],
    is_over: |seen| is_refused(&seen.ring("signing"), 3),
    proof: Proof::Time,
    opening: Opening::Settled,
    least_deaths: 10,
};

const KEY_NOW: Story = Story { edits: &[|seen| Some(distrusted_key(seen, "Immediate"))], least_deaths: 7, ..KEY };

// ---- shared --------------------------------------------------------------------------------------------------------

fn distrusted_ca(seen: &Chronicle, mode: &str) -> Value {
    let fingerprint = name_in(&seen.ring("ca"), "Active").unwrap();
    json!({ "spec": { "ca": { "distrusted": [{ "fingerprint": fingerprint, "mode": mode }] } } })
}

fn distrusted_key(seen: &Chronicle, mode: &str) -> Value {
    let kid = name_in(&seen.ring("signing"), "Active").unwrap();
    json!({ "spec": { "tokens": { "distrusted": [{ "kid": kid, "mode": mode }] } } })
}

/// The first generation is distrusted, no instance trusts it, and the others exist.
fn is_refused(ring: &Value, generations: usize) -> bool {
    let first = &ring["generations"][0];
    let is_gone = first["state"] == "Distrusted" && first["distrust"]["refusedTime"].is_string();
    let states = states_of(ring);
    is_gone && states.len() == generations && !states[1..].iter().any(|state| state == "Staged")
}
