//! `userTokens` of `policy.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Tokens of external issuers that a service accepts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserTokens {
    /// The fixed table of issuers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<UserTokenIssuer>,
    /// The scopes of users; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

impl UserTokens {
    /// Returns true if no user token is accepted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.issuers.is_empty()
    }

    /// The issuer for interactive sign-in: the first that is a Supabase project. All services must select the same one.
    #[must_use]
    pub fn sign_in_issuer(&self) -> Option<&UserTokenIssuer> {
        self.issuers.iter().find(|issuer| issuer.profile == UserTokenProfile::Supabase)
    }
}

/// One external issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserTokenIssuer {
    /// Its short name, as in `user:<name>:<sub>`.
    pub name: String,
    /// The exact `iss` claim.
    pub issuer: String,
    /// The format of its tokens.
    #[serde(default)]
    pub profile: UserTokenProfile,
    /// The verification of its tokens.
    #[serde(default)]
    pub verification: UserTokenVerification,
    /// The URL of its keys, for JWKS: https, or http on loopback.
    #[serde(default, rename = "jwksURL", skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// Accepted `aud` values; empty: `authenticated`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audiences: Vec<String>,
    /// Accepted algorithms, `RS256` and `ES256`; empty: both.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub algorithms: Vec<String>,
    /// Claims that must be there with these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub required_claims: BTreeMap<String, String>,
    /// OAuth clients of third parties whose tokens are accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub client_ids: Vec<String>,
    /// PEM roots for asking it; none: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<String>,
    /// Longest validity of a token, in seconds; none: a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ttl_seconds: Option<u64>,
}

/// The format of an external issuer's tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserTokenProfile {
    /// The format of Supabase Auth: `role`, `session_id` and a UUID as `sub`.
    #[default]
    Supabase,
    /// Any JWT with the registered claims.
    Generic,
}

/// The verification of an external issuer's tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserTokenVerification {
    /// In process, by its published keys.
    #[default]
    JWKS,
    /// By asking the issuer over HTTP.
    Remote,
}
