//! API-key usage as observed by one instance of a service.
//!
//! `GET /.well-known/gaia/ledger` on the mesh listener answers with a [`LedgerReport`] to the operator, and with 404 to
//! all other peers, also while the instance drains. The operator keeps the latest day of each key and caller, in a
//! [`LedgerRecord`] per service.

use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::SpiffeId;

/// Path of the report.
pub const LEDGER_PATH: &str = "/.well-known/gaia/ledger";

/// The uses that one instance has observed since it started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LedgerReport {
    /// See [`crate::mount::SCHEMA_VERSION`].
    pub schema_version: u32,
    /// As in [`crate::identity::IdentityReport`].
    pub instance: String,
    /// The time when the process started; it has no earlier observations.
    pub started_at: Timestamp,
    /// Sorted by key and caller; at most 32 callers per key.
    pub entries: Vec<LedgerEntry>,
    /// Accepted requests with a credential and without a client certificate: the last day of each caller, with the
    /// transport ([`PLAIN`] or [`TLS`]) in place of the key. None: the instance is too old to count them, which is no
    /// evidence that there were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain: Option<Vec<LedgerEntry>>,
}

/// Transport of a [`LedgerReport::plain`] row: plain HTTP.
pub const PLAIN: &str = "plain";
/// Transport of a [`LedgerReport::plain`] row: TLS without a client certificate.
pub const TLS: &str = "tls";

/// The last day on which a caller presented a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LedgerEntry {
    /// The id of the key's record.
    pub key: String,
    /// The caller.
    pub caller: LedgerCaller,
    /// The day, in UTC.
    pub date: Date,
}

/// A caller, as far as an instance can identify it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "kind")]
pub enum LedgerCaller {
    /// Identified by its certificate; without one, by its service token.
    Peer {
        /// Its SPIFFE ID.
        spiffe_id: SpiffeId,
    },
    /// Identified by its address, which is that of a pod of this GaiaService. Only the operator can find that.
    Workload {
        /// The GaiaService's namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Identified by its address and user agent.
    Unknown {
        /// The source address, where there is one: a workload is found by it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<IpAddr>,
        /// The first product of its `User-Agent`, without the version.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user_agent: Option<String>,
        /// The path pattern it called.
        route: String,
    },
    /// All callers beyond the limit.
    Others,
}

/// `ledger.json` in ConfigMap `<service>-ledger`: the uses that all instances of a service have observed, and the time
/// since which they are complete.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LedgerRecord {
    /// See [`crate::mount::SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The time since which every use of a key is in `entries`; none: uses may be missing now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watched_since: Option<Timestamp>,
    /// The gap that invalidates the time before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<EvidenceGap>,
    /// The last run of JWTOnly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt_only: Option<ModeRun>,
    /// The last run of `tls.mode: Strict`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<ModeRun>,
    /// Callers without a client certificate; only while `tls.mode: Permissive` runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain: Option<PlainRecord>,
    /// The instances whose ledgers are read, sorted. One that terminates without a final read leaves a gap.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<LedgerInstance>,
    /// The last day of each key and caller, sorted; at most 32 callers per key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entries: Vec<LedgerEntry>,
}

/// That something may have been missed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EvidenceGap {
    /// The time when the gap was found.
    pub noticed: Timestamp,
    /// The cause, for users.
    pub what: String,
}

/// The evidence on callers without a client certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlainRecord {
    /// The time since which every accepted request without a client certificate is in `entries`; none: requests may be
    /// missing now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watched_since: Option<Timestamp>,
    /// The gap that invalidates the time before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<EvidenceGap>,
    /// As in [`LedgerReport::plain`], of all instances together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entries: Vec<LedgerEntry>,
}

/// The period in which a mode ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModeRun {
    /// From then on.
    pub since: Timestamp,
    /// Until then; none: it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// A process whose ledger is read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LedgerInstance {
    /// The UID of its pod; of an endpoint, its service and address.
    pub uid: String,
    /// As it calls itself.
    pub instance: String,
}

/// The text for users.
impl fmt::Display for LedgerCaller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer { spiffe_id } => write!(f, "{spiffe_id}"),
            Self::Workload { namespace, name } => write!(f, "{namespace}/{name}, by its address"),
            Self::Unknown { address, user_agent, route } => {
                if let Some(address) = address {
                    write!(f, "{address} ")?;
                }
                if let Some(user_agent) = user_agent.as_ref().filter(|text| !text.is_empty()) {
                    write!(f, "{user_agent} ")?;
                }
                write!(f, "on {route}")
            }
            Self::Others => write!(f, "others"),
        }
    }
}

/// The maximum number of callers listed for one key; all others share one entry.
pub const MAX_CALLERS: usize = 32;
/// The most bytes a report may have: every caller of some two hundred keys.
pub const MAX_LEDGER_BYTES: usize = 1024 * 1024;
