//! Schemas of the JSON files in a pod's credential directory (`/etc/gaia`), and of those that the token issuer mounts.
//!
//! Every file carries `schemaVersion`; a reader accepts its own version and the one before, and ignores unknown fields.
//! Times are RFC 3339 in UTC, durations whole seconds, fingerprints lower-case hex SHA-256 of the DER.

mod user_tokens;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use self::user_tokens::{UserTokenIssuer, UserTokenProfile, UserTokenVerification, UserTokens};
use crate::SpiffeId;

/// The version this build writes.
pub const SCHEMA_VERSION: u32 = 1;

/// The reason why a mounted file was rejected.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// Not the JSON the schema asks for.
    #[error("{file} is not valid: {source}")]
    Invalid {
        /// The file's name.
        file: &'static str,
        /// The parser's error: a position and an expectation, never content of string values.
        source: serde_json::Error,
    },
    /// Written by a newer Gaia.
    #[error("{file} has schemaVersion {found}, this program reads up to {SCHEMA_VERSION}")]
    TooNew {
        /// The file's name.
        file: &'static str,
        /// The version found.
        found: u32,
    },
}

/// Reads one mounted JSON file.
///
/// # Errors
/// [`MountError`] if the text is not JSON of that schema, or of a version this build does not read.
pub fn read<T: DeserializeOwned>(file: &'static str, text: &[u8]) -> Result<T, MountError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        schema_version: u32,
    }
    let invalid = |source| MountError::Invalid { file, source };
    let version: Version = serde_json::from_slice(text).map_err(invalid)?;
    // Version 1 is the first, so there is no version before it yet.
    if version.schema_version != SCHEMA_VERSION {
        return Err(MountError::TooNew { file, found: version.schema_version });
    }
    serde_json::from_slice(text).map_err(invalid)
}

/// `policy.json`: what one service demands of its callers. Written per GaiaService into ConfigMap `<service>-auth`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// See [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The identity of this service.
    pub service: ServiceIdentity,
    /// Which transports the mesh listener takes.
    pub tls_mode: TlsMode,
    /// Which credentials decide.
    pub mode: AuthMode,
    /// The rules for the platform's tokens.
    pub tokens: TokenRules,
    /// The allowed callers, sorted by `spiffeId`.
    pub callers: Vec<Caller>,
    /// The rules for API keys while tokens are accepted, too.
    #[serde(default, skip_serializing_if = "ApiKeyRules::is_empty")]
    pub api_keys: ApiKeyRules,
    /// Tokens of external issuers.
    #[serde(default, skip_serializing_if = "UserTokens::is_empty")]
    pub user_tokens: UserTokens,
    /// Services that declare this one as a caller and whose SPIFFE ID is not the default for their name, sorted. None:
    /// written by an operator that does not list them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<Vec<ServiceIdentity>>,
    /// The service that issues tokens; none: not configured, or written by an operator that does not name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_issuer: Option<ServiceIdentity>,
}

/// The rules for API keys in mode Dual.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeyRules {
    /// The deprecation headers of each response; none: no headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deprecation: Option<Deprecation>,
    /// Periods in which keys are refused, to find clients that still use them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub brownouts: Vec<Brownout>,
}

impl ApiKeyRules {
    /// Returns true if keys are simply accepted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.deprecation.is_none() && self.brownouts.is_empty()
    }
}

/// `Deprecation` (RFC 9745), `Sunset` (RFC 8594) and `Link`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deprecation {
    /// The time since which keys are deprecated.
    pub since: Timestamp,
    /// The time when keys will be disabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sunset: Option<Timestamp>,
    /// URL of the migration guide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guide: Option<String>,
}

/// A time in which API keys are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Brownout {
    /// From then on.
    pub start: Timestamp,
    /// Until then.
    pub end: Timestamp,
}

/// A service's names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceIdentity {
    /// Namespace of the GaiaService.
    pub namespace: String,
    /// Name of the GaiaService.
    pub name: String,
    /// The identity in its leaf.
    pub spiffe_id: SpiffeId,
}

/// Transports of the mesh listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsMode {
    /// TLS with an optional client certificate, and plain HTTP.
    Permissive,
    /// mTLS only.
    Strict,
}

/// Which credentials decide; ordered, the laxest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AuthMode {
    /// API keys decide.
    APIKeyOnly,
    /// API keys and tokens are both accepted.
    Dual,
    /// Tokens decide.
    JWTOnly,
}

impl AuthMode {
    /// Its name, as in `policy.json`, for labels and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::APIKeyOnly => "APIKeyOnly",
            Self::Dual => "Dual",
            Self::JWTOnly => "JWTOnly",
        }
    }
}

/// The rules for the platform's own tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRules {
    /// `iss` of service tokens.
    pub issuer: String,
    /// The broad audience of the dual phases, accepted in addition to the service's own SPIFFE id unless JWTOnly.
    pub audience: String,
    /// Longest validity of a token, in seconds.
    pub max_ttl_seconds: u64,
}

/// One declared caller of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Caller {
    /// The caller's SPIFFE ID.
    pub spiffe_id: SpiffeId,
    /// The scopes it may request; empty or missing: all.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// True if it may carry a user's identity; missing: no.
    #[serde(default)]
    pub on_behalf_of: bool,
}

/// `grants.json`: for the token issuer, every (caller, target, scopes) of the TrustDomain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grants {
    /// See [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The rules for tokens.
    pub tokens: TokenRules,
    /// Validity of a service token, in seconds, unless its request asks for another one; none: 15 minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_ttl_seconds: Option<u64>,
    /// All services of the TrustDomain, sorted: `service_name` and `target_service` are looked up here.
    pub services: Vec<ServiceIdentity>,
    /// The allowed calls, sorted.
    pub grants: Vec<Grant>,
}

/// One allowed pair.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// The caller.
    pub caller: SpiffeId,
    /// The service called.
    pub target: SpiffeId,
    /// The scopes the caller may request; empty or missing: all.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// True if the caller may carry a user's identity to the target. False in files from before this field.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub on_behalf_of: bool,
}

/// `denylist.json`: revoked certificates, tokens, subjects and CAs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Denylist {
    /// See [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Fingerprints of leaves.
    pub leaves: Vec<String>,
    /// Signing keys.
    pub kids: Vec<String>,
    /// Token ids.
    pub jtis: Vec<String>,
    /// Subjects whose older tokens are refused.
    pub subjects: Vec<DeniedSubject>,
    /// Lower-case hex SHA-256 of the public keys (SubjectPublicKeyInfo) of compromised CAs: a chain with such a key
    /// above the leaf is rejected, whatever its root is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<String>,
}

/// A subject whose tokens issued before a time are refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeniedSubject {
    /// The `sub` claim.
    pub sub: String,
    /// Tokens with an earlier `iat` are refused.
    pub not_before: Timestamp,
}

impl Denylist {
    /// A denylist without entries.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            leaves: vec![],
            kids: vec![],
            jtis: vec![],
            subjects: vec![],
            issuers: vec![],
        }
    }
}

/// `api-keys.json`: the API keys one service accepts. Only hashes are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeys {
    /// See [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The records.
    pub keys: Vec<ApiKeyRecord>,
}

/// One API key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeyRecord {
    /// Its public name, used in logs and as `key:<id>`.
    pub id: String,
    /// Lower-case hex SHA-256 of the key's text.
    pub sha256: String,
    /// The owner: a SPIFFE id or a free name.
    pub principal: String,
    /// Its scopes; empty: all.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Its expiry; none: it does not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Its state.
    pub state: ApiKeyState,
    /// A mode stricter than its service's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<AuthMode>,
    /// True if several callers share it (an imported key).
    #[serde(default)]
    pub shared: bool,
}

/// The state of an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApiKeyState {
    /// It works.
    Active,
    /// It is refused.
    Revoked,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_a_newer_schema_is_refused_by_name() {
        let text = br#"{"schemaVersion": 2, "leaves": [], "kids": [], "jtis": [], "subjects": []}"#;
        let error = read::<Denylist>("denylist.json", text).unwrap_err();
        assert_eq!(error.to_string(), "denylist.json has schemaVersion 2, this program reads up to 1");
    }

    #[test]
    fn fields_a_reader_does_not_know_are_ignored() {
        let text = br#"{"schemaVersion":1,"leaves":[],"kids":[],"jtis":[],"subjects":[],"later":true}"#;
        assert_eq!(read::<Denylist>("denylist.json", text).unwrap(), Denylist::empty());
    }

    #[test]
    fn a_denylist_without_issuers_is_read_and_written_as_before() {
        let text = r#"{"schemaVersion":1,"leaves":[],"kids":[],"jtis":[],"subjects":[]}"#;
        let denylist: Denylist = read("denylist.json", text.as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&denylist).unwrap(), text);
    }

    #[test]
    fn a_policy_without_the_newer_parts_is_read_and_written_as_before() {
        let text = r#"{"schemaVersion":1,"service":{"namespace":"n","name":"s","spiffeId":"spiffe://d/ns/n/sa/s"},"tlsMode":"Strict","mode":"Dual","tokens":{"issuer":"i","audience":"a","maxTtlSeconds":60},"callers":[]}"#;
        let policy: Policy = read("policy.json", text.as_bytes()).unwrap();
        assert!(policy.api_keys.is_empty() && policy.user_tokens.is_empty());
        assert_eq!(serde_json::to_string(&policy).unwrap(), text);
    }

    #[test]
    fn callers_and_grants_need_only_who_they_are() {
        let caller: Caller = serde_json::from_str(r#"{"spiffeId":"spiffe://d/ns/n/sa/s"}"#).unwrap();
        assert_eq!((caller.scopes, caller.on_behalf_of), (vec![], false));
        let grant = r#"{"caller":"spiffe://d/ns/n/sa/s","target":"spiffe://d/ns/n/sa/t"}"#;
        assert_eq!(serde_json::from_str::<Grant>(grant).unwrap().scopes, Vec::<String>::new());
    }

    #[test]
    fn grants_without_a_validity_are_read_and_written_as_before() {
        let text = r#"{"schemaVersion":1,"tokens":{"issuer":"i","audience":"a","maxTtlSeconds":60},"services":[],"grants":[]}"#;
        let grants: Grants = read("grants.json", text.as_bytes()).unwrap();
        assert_eq!((grants.token_ttl_seconds, serde_json::to_string(&grants).unwrap().as_str()), (None, text));
    }

    #[test]
    fn an_api_key_record_needs_only_its_essentials() {
        let text = br#"{"schemaVersion":1,"keys":[{"id":"a","sha256":"00","principal":"p","state":"active"}]}"#;
        let keys: ApiKeys = read("api-keys.json", text).unwrap();
        assert_eq!(keys.keys[0].scopes, Vec::<String>::new());
        assert!(!keys.keys[0].shared);
    }
}
