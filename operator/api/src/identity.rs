//! The report of an instance about its identity and loaded files, for the operator alone.
//!
//! `GET /.well-known/gaia/identity` on the mesh listener answers with an [`IdentityReport`] to a peer whose certificate
//! carries [`crate::SpiffeId::operator`], and with 404 to all other peers. Nothing in it is secret, but no other peer
//! needs it. The operator treats a report as an acknowledgement: everything that it names is in use.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::mount::{AuthMode, ServiceIdentity};

/// Path of the report.
pub const IDENTITY_PATH: &str = "/.well-known/gaia/identity";

/// In [`IdentityReport::enforces`]: chains with a key of `denylist.json`'s `issuers` above the leaf are refused.
pub const ENFORCES_ISSUERS: &str = "issuers";

/// The most bytes a report may have.
pub const MAX_REPORT_BYTES: usize = 64 * 1024;

/// The material that one instance has loaded and serves now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityReport {
    /// See [`crate::mount::SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Identifies the process, also among earlier ones of the same pod: random, hex.
    pub instance: String,
    /// The time when the process started.
    pub started_at: Timestamp,
    /// The service whose policy it has loaded.
    pub service: ServiceIdentity,
    /// The leaf it presents.
    pub leaf: LeafReport,
    /// Lower-case hex SHA-256 of the text of the `ca.crt` in force.
    pub bundle_hash: String,
    /// The kids of the `jwks.json` in force, sorted; empty if none was ever loaded.
    pub jwks_kids: Vec<String>,
    /// Of the token issuer: the kid it signs with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_kid: Option<String>,
    /// Lower-case hex SHA-256 of the text of the `denylist.json` in force; none if none is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denylist_hash: Option<String>,
    /// The parts of `denylist.json` that not every version enforces and this one does, such as [`ENFORCES_ISSUERS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub enforces: Vec<String>,
    /// Lower-case hex SHA-256 of the text of the `policy.json` in force.
    pub policy_hash: String,
    /// The mode in force.
    pub mode: AuthMode,
    /// Parts of the mounted files that it rejected, each with the reason; the previously loaded version stays in force.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, String>,
    /// Open connections from other services, by the fingerprint of the root that the peer's certificate chains to.
    #[serde(default)]
    pub connections: BTreeMap<String, u64>,
}

/// The leaf that an instance presents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeafReport {
    /// Lower-case hex.
    pub serial: String,
    /// Lower-case hex SHA-256 of its DER.
    pub fingerprint: String,
    /// Its notAfter.
    pub not_after: Timestamp,
}
