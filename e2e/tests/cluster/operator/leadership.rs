//! Two replicas: a leader that is paused past its lease in the middle of a rotation loses the lease, and nothing else is lost.

use std::time::Duration;

use crate::common::{OPERATOR_NAMESPACE, Plane, SOON};
use gaia_e2e::{OperatorProcess, wait};
use serde_json::{Value, json};

#[tokio::test]
async fn a_leader_that_sleeps_before_the_ca_is_switched_finds_it_done_and_stands_down() {
    let story = Story {
        part: "ca",
        ring: "ca",
        asleep_at: &["Active", "Published"],
        ends_with: &["Removed", "Active"],
        succession: &[
            "epoch 1, revision 1: Active",
            "epoch 2, revision 2: Active, Staged",
            "epoch 2, revision 2: Active, Published",
            "epoch 2, revision 2: Retiring (signedUntil), Active",
            "epoch 2, revision 2: Retiring (switchedTime) (signedUntil), Active",
            "epoch 3, revision 2: Removed (switchedTime) (signedUntil), Active",
        ],
        issues: 2,
    };
    story.plays().await;
}

#[tokio::test]
async fn a_leader_that_sleeps_after_the_signing_key_was_switched_finds_the_old_one_gone_and_stands_down() {
    let story = Story {
        part: "tokens",
        ring: "signing",
        asleep_at: &["Retiring", "Active", "Published"],
        ends_with: &["Removed", "Active", "Published"],
        succession: &[
            "epoch 1, revision 1: Active, Staged",
            "epoch 1, revision 1: Active, Published",
            "epoch 2, revision 2: Retiring, Active, Staged",
            "epoch 2, revision 2: Retiring, Active, Published",
            "epoch 2, revision 2: Retiring (switchedTime), Active, Published",
            "epoch 3, revision 2: Removed (switchedTime), Active, Published",
        ],
        issues: 1,
    };
    story.plays().await;
}

struct Story {
    /// Of the spec.
    part: &'static str,
    ring: &'static str,
    asleep_at: &'static [&'static str],
    ends_with: &'static [&'static str],
    /// The complete history of the ring.
    succession: &'static [&'static str],
    /// The number of issuances of each certificate.
    issues: usize,
}

impl Story {
    async fn plays(self) {
        let Some(plane) = Plane::own(&[]).await else { return };
        let first = plane.start_operator().await;
        let scene = plane.scene().await;
        let seen = scene.rotating(json!({ "tokens": { "maxTTL": "10s" } }), "3s").await;
        let second = OperatorProcess::start(plane.operator().await.named("gaia-operator-second")).unwrap();
        second.wait_ready(SOON).await.unwrap();
        assert!(leads(&first).await && !leads(&second).await);

        let before = transitions(&plane).await;
        let mark = scene.mark().await;
        scene.raise(self.part, 2).await;
        seen.wait_for_states(self.ring, self.asleep_at).await;
        first.pause().unwrap();
        wait::until("the other one leads", Duration::from_secs(25), async || leads(&second).await).await.unwrap();
        seen.wait_for_states(self.ring, self.ends_with).await;
        scene.wait_rotated().await;

        first.resume().unwrap();
        let status = first.ended(SOON).await.unwrap();
        assert!(!status.success(), "it exits with an error: {status}");
        assert!(first.log_tail().contains("the lease is lost"), "{}", first.log_tail());
        let writes = scene.writes(mark).await;
        assert!(leads(&second).await);

        seen.catch_up().await;
        seen.nothing_twice();
        assert_eq!(seen.succession(self.ring), self.succession, "no transition is lost or doubled");
        let replaced = format!("update secrets td-{}-ring", self.ring);
        // The next signing key was published before.
        let earlier = usize::from(self.ring == "signing");
        let count = writes.iter().filter(|write| **write == replaced).count();
        assert_eq!(count, self.succession.len() - 1 - earlier, "{writes:#?}");
        let created: Vec<&String> = writes.iter().filter(|w| w.starts_with("create secrets")).collect();
        assert!(created.iter().all(|write| write.ends_with("-ring-previous")), "{created:?}");
        assert_eq!(seen.revision("worker-tls"), self.issues);
        assert!(scene.leaf_is_whole("worker-tls").await);
        assert_eq!(transitions(&plane).await, before + 1, "the lease changed hands once");
        scene.end().await;
    }
}

async fn leads(operator: &OperatorProcess) -> bool {
    operator.metrics().await.is_ok_and(|all| all.lines().any(|line| line == "gaia_leader 1"))
}

/// The number of transitions of the lease.
async fn transitions(plane: &Plane) -> u64 {
    let lease = plane.kubectl(&["get", "lease", "gaia-operator", "-n", OPERATOR_NAMESPACE, "-o", "json"]).await;
    let lease: Value = serde_json::from_str(&lease.unwrap()).unwrap();
    lease["spec"]["leaseTransitions"].as_u64().unwrap()
}
