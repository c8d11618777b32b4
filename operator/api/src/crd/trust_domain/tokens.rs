//! The platform's own tokens and their signing keys.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DistrustMode, one};
use crate::Span;
use crate::crd::common::is_default;
use crate::crd::rules;

/// The platform's own tokens.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[x_kube(validation = crate::crd::rules::not_longer_than("ttl", "maxTTL"))]
#[serde(rename_all = "camelCase")]
pub struct TokensSpec {
    /// `iss` of service tokens. Immutable.
    #[serde(default = "default_issuer")]
    #[schemars(length(min = 1, max = 253), pattern("^[!-~]+$"))]
    #[x_kube(validation = crate::crd::rules::immutable())]
    pub issuer: String,
    /// The broad audience of the dual phases. Immutable.
    #[serde(default = "default_audience")]
    #[schemars(length(min = 1, max = 253), pattern("^[!-~]+$"))]
    #[x_kube(validation = crate::crd::rules::immutable())]
    pub audience: String,
    /// The one GaiaService that gets the active signing key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issued_by: Option<ServiceRef>,
    /// RS256 or ES256. A change is a rotation.
    #[serde(default)]
    pub algorithm: TokenAlgorithm,
    /// Longest validity of a token.
    #[serde(default = "default_max_ttl", rename = "maxTTL")]
    #[x_kube(validation = crate::crd::rules::between("10s", "24h"))]
    pub max_ttl: Span,
    /// Validity of a service token unless its request asks for another one; 15m, or `maxTTL` if that is shorter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = crate::crd::rules::between("10s", "24h"))]
    pub ttl: Option<Span>,
    /// Rotate the signing key this often; quarterly by default.
    #[serde(default = "default_signing_period")]
    #[x_kube(validation = crate::crd::rules::between("1m", "99999h"))]
    pub rotation_period: Span,
    /// Raise it to force one rotation.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    #[x_kube(validation = crate::crd::rules::never_decreases())]
    pub rotation_revision: i64,
    /// Signing keys that must no longer be trusted. Permanent: removing an entry has no effect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["kid".into()]))]
    pub distrusted: Vec<DistrustedKey>,
}

impl Default for TokensSpec {
    fn default() -> Self {
        Self {
            issuer: default_issuer(),
            audience: default_audience(),
            issued_by: None,
            algorithm: TokenAlgorithm::default(),
            max_ttl: default_max_ttl(),
            ttl: None,
            rotation_period: default_signing_period(),
            rotation_revision: 1,
            distrusted: vec![],
        }
    }
}

fn default_issuer() -> String {
    "gaia-platform".to_owned()
}

fn default_audience() -> String {
    "gaia-services".to_owned()
}

fn default_max_ttl() -> Span {
    Span::hours(1)
}

/// The default rotation period of the signing key: 2160h.
#[must_use]
pub fn default_signing_period() -> Span {
    Span::hours(2160)
}

/// A signing key that must no longer be trusted.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct DistrustedKey {
    /// The key's id (RFC 7638 thumbprint).
    #[schemars(length(min = 43, max = 43), pattern("^[A-Za-z0-9_-]{43}$"))]
    pub kid: String,
    /// When it is removed from the key set; default: AfterReissue.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: DistrustMode,
}

/// Refers to a GaiaService.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ServiceRef {
    /// Its namespace.
    #[schemars(length(min = 1, max = 63), pattern(rules::DNS_LABEL))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(min = 1, max = 63), pattern(rules::DNS_LABEL))]
    pub name: String,
}

/// Signature algorithms of service tokens.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TokenAlgorithm {
    /// RSA 2048 with SHA-256.
    #[default]
    RS256,
    /// ECDSA P-256 with SHA-256.
    ES256,
}
