//! `userTokens` of `policy.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Tokens of outside issuers that a service accepts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserTokens {
    /// The fixed table of issuers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<UserTokenIssuer>,
    /// What a user may ask for; empty: everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

impl UserTokens {
    /// Returns true if no user token is accepted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.issuers.is_empty()
    }

    /// The issuer that people sign in at: the first that is a Supabase project. All services must agree on it.
    #[must_use]
    pub fn sign_in_issuer(&self) -> Option<&UserTokenIssuer> {
        self.issuers.iter().find(|issuer| issuer.profile == UserTokenProfile::Supabase)
    }
}

/// One outside issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserTokenIssuer {
    /// Its short name, as in `user:<name>:<sub>`.
    pub name: String,
    /// The exact `iss` claim.
    pub issuer: String,
    /// What its tokens look like.
    #[serde(default)]
    pub profile: UserTokenProfile,
    /// How they are verified.
    #[serde(default)]
    pub verification: UserTokenVerification,
    /// Where its keys are, for JWKS: https, or http on loopback.
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
    /// Longest life of a token, in seconds; none: a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ttl_seconds: Option<u64>,
}

/// What the tokens of an outside issuer look like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserTokenProfile {
    /// As Supabase Auth makes them: `role`, `session_id` and a UUID as `sub`.
    #[default]
    Supabase,
    /// Any JWT with the registered claims.
    Generic,
}

/// How the tokens of an outside issuer are verified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserTokenVerification {
    /// In process, by its published keys.
    #[default]
    JWKS,
    /// By asking the issuer over HTTP.
    Remote,
}
