//! Rotations that take seconds, and edits during them.

use gaia_e2e::wait::{self, Seen};
use serde_json::{Value, json};

use super::chronicle::Chronicle;
use super::objects::merged;
use super::{SOON, Scene};

impl Scene {
    /// A TrustDomain with a certificate `worker`, Ready, whose rotations continue after `min_delay` by time alone.
    pub async fn rotating(&self, spec: Value, min_delay: &str) -> Chronicle {
        let seen = self.chronicle().await;
        let times =
            json!({ "minDelay": min_delay, "clockSkew": "0s", "deadline": "30s", "requireAcknowledgement": false });
        self.create(self.trust_domain(merged(json!({ "propagation": times }), spec))).await;
        self.create(self.certificate("worker", json!({}))).await;
        self.wait_ready("TrustDomain", &[&self.domain]).await;
        self.wait_ready("ServiceCertificate", &["worker"]).await;
        seen.wait_for_states("signing", &["Active", "Published"]).await;
        self.wait_rotated().await;
        seen
    }

    /// Requests a rotation of `ca` or `tokens`.
    pub async fn raise(&self, part: &str, revision: u32) {
        self.patch("TrustDomain", &self.domain, json!({ "spec": { part: { "rotationRevision": revision } } })).await;
    }

    /// Annotates the TrustDomain.
    pub async fn annotate(&self, name: &str, value: &str) {
        self.patch("TrustDomain", &self.domain, json!({ "metadata": { "annotations": { name: value } } })).await;
    }

    /// Waits until a condition of the TrustDomain is True for that reason, with a message that contains `about`.
    pub async fn wait_for_message(&self, type_: &str, reason: &str, about: &str) -> String {
        wait::until(&format!("{type_} is True: {about}"), SOON, async || {
            match self.condition("TrustDomain", &self.domain, type_).await {
                Some(found) if found.reason == reason && found.message.contains(about) => Seen::Yes(found.message),
                other => Seen::NotYet(format!("{other:?}")),
            }
        })
        .await
        .unwrap()
    }

    /// Waits until no ring is in transition, and nothing is to be written.
    pub async fn wait_rotated(&self) {
        let domain = self.domain.clone();
        wait::until("nothing rotates", SOON, async || {
            let status = self.get("TrustDomain", &domain).await.unwrap()["status"].clone();
            if status["rotating"] == "-" { Seen::Yes(()) } else { Seen::NotYet(status.to_string()) }
        })
        .await
        .unwrap();
        self.wait_for("TrustDomain", &domain, "Reconciling=False", "Settled", SOON).await;
    }
}
