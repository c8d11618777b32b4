//! External issuers of user tokens.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TokenAlgorithm;
use crate::Span;
use crate::crd::common::is_default;
use crate::crd::{SecretRef, rules};

/// An external issuer of user tokens.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[x_kube(validation = Rule::new("(has(self.verification) && self.verification == 'Remote') || has(self.jwksURL)").message("jwksURL must be set when verification is JWKS"))]
#[x_kube(validation = Rule::new("!has(self.verification) || self.verification != 'Remote' || has(self.apiKeySecretRef)").message("apiKeySecretRef must be set when verification is Remote"))]
#[x_kube(validation = Rule::new(r"!has(self.verification) || self.verification != 'Remote' || self.issuer.matches('^(https://|http://(localhost|127\\.0\\.0\\.1|\\[::1\\])[:/]).+$')")
    .message("issuer must be an https address, or http on loopback, when verification is Remote"))]
#[serde(rename_all = "camelCase")]
pub struct UserTokenIssuer {
    /// A short name, used in `user:<name>:<sub>`.
    #[schemars(length(min = 1, max = 63), pattern(rules::DNS_LABEL))]
    pub name: String,
    /// The exact `iss` claim.
    #[schemars(length(min = 1, max = 512))]
    pub issuer: String,
    /// Format of its tokens; default: Supabase.
    #[serde(default, skip_serializing_if = "is_default")]
    pub profile: IssuerProfile,
    /// Verification of its tokens; default: JWKS.
    #[serde(default, skip_serializing_if = "is_default")]
    pub verification: IssuerVerification,
    /// URL of its keys; https, or http on loopback.
    #[serde(rename = "jwksURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), pattern(r"^(https://|http://(localhost|127\.0\.0\.1|\[::1\])[:/]).+$"))]
    pub jwks_url: Option<String>,
    /// Secret with key `api-key` in each verifying service's namespace; its pods mount it as `issuer-<name>.key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_secret_ref: Option<SecretRef>,
    /// Accepted `aud` values; empty: `authenticated`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub audiences: Vec<String>,
    /// Accepted algorithms.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub algorithms: Vec<TokenAlgorithm>,
    /// Claims that must be there with these values.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    #[schemars(schema_with = "claim_map")]
    pub required_claims: std::collections::BTreeMap<String, String>,
    /// OAuth clients of third parties whose tokens are accepted; without them a token with a `client_id` is refused.
    #[serde(default, rename = "clientIDs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub client_ids: Vec<String>,
    /// Longest validity of a token; 24h by default.
    #[serde(rename = "maxTTL", skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = crate::crd::rules::between("1m", "168h"))]
    pub max_ttl: Option<Span>,
    /// PEM roots for asking it; none: the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65_536))]
    pub ca_bundle: Option<String>,
}

fn claim_map(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": { "type": "string", "maxLength": 512 },
    })
}

/// Format of an external issuer's tokens.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IssuerProfile {
    /// The format of Supabase Auth: `role`, `session_id` and a UUID as `sub`.
    #[default]
    Supabase,
    /// Any JWT with the registered claims.
    Generic,
}

impl From<IssuerProfile> for crate::mount::UserTokenProfile {
    fn from(profile: IssuerProfile) -> Self {
        match profile {
            IssuerProfile::Supabase => Self::Supabase,
            IssuerProfile::Generic => Self::Generic,
        }
    }
}

/// Verification of an external issuer's tokens.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IssuerVerification {
    /// In process, by its published keys.
    #[default]
    JWKS,
    /// By asking the issuer over HTTP.
    Remote,
}

impl From<IssuerVerification> for crate::mount::UserTokenVerification {
    fn from(verification: IssuerVerification) -> Self {
        match verification {
            IssuerVerification::JWKS => Self::JWKS,
            IssuerVerification::Remote => Self::Remote,
        }
    }
}
