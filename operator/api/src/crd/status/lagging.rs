//! Lagging instances in the status of the object that they belong to.

use jiff::Timestamp;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An instance that has not loaded a published part within `propagation.minDelay`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LaggingInstance {
    /// Its pod or endpoint.
    #[schemars(length(max = 320))]
    pub pod: String,
    /// The serial number of the certificate that it reports to serve: lower-case hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub leaf_serial: Option<String>,
    /// The time when that certificate expires (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub leaf_not_after: Option<Timestamp>,
    /// The part that it has not loaded; the first of several.
    pub part: PublishedPart,
    /// The published content: lower-case hex SHA-256 of a certificate or file, or the id of a signing key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub expected: Option<String>,
    /// The content that it reports; absent where it reports none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub loaded: Option<String>,
    /// The reason why it counts as lagging.
    #[schemars(length(max = 512))]
    pub reason: String,
}

/// A part that is published to instances.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishedPart {
    /// The certificate in the Secret.
    Certificate,
    /// `ca.crt`.
    TrustBundle,
    /// `jwks.json`.
    SigningKeys,
    /// `denylist.json`.
    Denylist,
    /// `policy.json`.
    Policy,
}
