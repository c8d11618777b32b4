//! Keys: private ones by their public half alone, public ones, JWKs and records of API keys.

use gaia_api::mount::{ApiKeyRecord, ApiKeyState};
use gaia_pki::{Jwk, PrivateKey, PublicKey};
use jiff::Timestamp;
use serde::Serialize;

use super::trust::Trust;

/// A key, by its public half.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct KeyView {
    /// Algorithm and size.
    pub(super) key: String,
    /// Lower-case hex SHA-256 of the public key (SubjectPublicKeyInfo).
    pub(super) fingerprint: String,
    /// The certificates of the input with this key, by position.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) certificates: Vec<usize>,
}

impl KeyView {
    pub(super) fn of_private(key: &PrivateKey, certificates: &[gaia_pki::Certificate]) -> Self {
        Self::of_public(&key.public_key(), certificates)
    }

    pub(super) fn of_public(key: &PublicKey, certificates: &[gaia_pki::Certificate]) -> Self {
        let fingerprint = key.fingerprint();
        let same = certificates.iter().enumerate().filter(|(_, found)| found.public_key().fingerprint() == fingerprint);
        Self { key: key.describe(), certificates: same.map(|(index, _)| index + 1).collect(), fingerprint }
    }
}

/// A JWK.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JwkView {
    pub(super) kid: String,
    pub(super) algorithm: String,
    /// True if the kid is the thumbprint of the key (RFC 7638).
    pub(super) is_kid_thumbprint: bool,
    /// Its generation in the platform.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) generation: Option<String>,
}

impl JwkView {
    pub(super) fn of(jwk: &Jwk, trust: &Trust) -> Self {
        Self {
            kid: jwk.kid().to_owned(),
            algorithm: jwk.algorithm().to_string(),
            is_kid_thumbprint: jwk.thumbprint() == jwk.kid(),
            generation: trust.key_generation(jwk.kid()),
        }
    }
}

/// The record of an API key, without its hash.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ApiKeyView {
    pub(super) id: String,
    pub(super) principal: String,
    pub(super) scopes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expires: Option<Timestamp>,
    /// `active`, `revoked` or `expired`.
    pub(super) state: &'static str,
    pub(super) is_shared: bool,
}

impl ApiKeyView {
    pub(super) fn of(record: ApiKeyRecord, now: Timestamp) -> Self {
        let state = match record.state {
            ApiKeyState::Revoked => "revoked",
            ApiKeyState::Active if record.expires.is_some_and(|expires| expires <= now) => "expired",
            ApiKeyState::Active => "active",
        };
        Self {
            id: record.id,
            principal: record.principal,
            scopes: record.scopes,
            expires: record.expires,
            state,
            is_shared: record.shared,
        }
    }
}
