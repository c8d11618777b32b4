//! What is reported of a TrustDomain.

use jiff::Timestamp;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::crd::Condition;

/// What the operator reports of a TrustDomain.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct TrustDomainStatus {
    /// The generation of the spec this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The CA's generations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<RingStatus>,
    /// The JWT signing keys' generations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing_keys: Option<RingStatus>,
    /// How many instances are current.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instances: Option<Counts>,
    /// What is rotating: `-`, `CA`, `SigningKey` or `CA,SigningKey`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub rotating: Option<String>,
    /// Instances that a rotation waits for, or that do not use what was published longer than propagation.minDelay ago;
    /// at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub laggards: Vec<Laggard>,
    /// How many they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub laggard_count: Option<i32>,
    /// The measured exposure of the last compromise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposure: Option<Exposure>,
    /// The reason of Stalled if that is True, else of Ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub reason: Option<String>,
    /// The message of the same condition.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub message: Option<String>,
    /// Ready, Reconciling, Stalled, CARotating, SigningKeysRotating, ExpiringSoon, and warnings.
    #[serde(default)]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The generations of one ring.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
pub struct RingStatus {
    /// The generation that signs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<GenerationStatus>,
    /// The generation that will sign next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<GenerationStatus>,
    /// Generations still trusted, no longer signing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub retiring: Vec<GenerationStatus>,
    /// Generations no longer trusted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub distrusted: Vec<GenerationStatus>,
}

/// One generation of a ring.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct GenerationStatus {
    /// Short id. Of a CA that the operator made, the subject's common name holds it.
    #[schemars(length(max = 64))]
    pub id: String,
    /// Of a CA: lower-case hex SHA-256 of the certificate's DER.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub fingerprint: Option<String>,
    /// Of a signing key: its id (RFC 7638 thumbprint).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub kid: Option<String>,
    /// Of a CA: when its certificate ends (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub not_after: Option<Timestamp>,
    /// Staged, Published, Active, Retiring, Removed or Distrusted.
    #[schemars(length(max = 32))]
    pub state: String,
    /// Since when it is in this state (RFC 3339).
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub since: Timestamp,
    /// Of a retiring generation: when it can go at the earliest (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub safe_to_remove_time: Option<Timestamp>,
}

/// How many of how many.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
pub struct Counts {
    /// Instances that use the current material.
    pub current: i32,
    /// All instances.
    pub total: i32,
    /// Both as text, `2/2`; `-` when nothing can be probed.
    #[schemars(length(max = 32))]
    pub summary: String,
}

/// An instance that lags, or an instance, a leaf Secret or a namespace that a rotation waits for, or did not wait for.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Laggard {
    /// Its namespace.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Namespace or Secret; absent for an instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<LaggardKind>,
    /// Its pod or endpoint; the name of a Secret; empty for a namespace.
    #[schemars(length(max = 253))]
    pub pod: String,
    /// The reason why it is not current.
    #[schemars(length(max = 512))]
    pub reason: String,
}

/// The kind of a laggard that is no instance.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaggardKind {
    /// A leaf Secret whose certificate is still signed by the retiring CA.
    Secret,
    /// A namespace in which a projection or a leaf Secret cannot be written.
    Namespace,
}

/// From the edit that distrusted something to the last acknowledgement.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Exposure {
    /// The time when it was distrusted (RFC 3339).
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub from: Timestamp,
    /// The time when the last instance refused it (RFC 3339); none: not yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub until: Option<Timestamp>,
    /// Until then: the instances that may still accept it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub message: Option<String>,
}
