//! The API key of the demo: generated at run time, its hash for the service, its text for the caller.

use std::path::Path;

use anyhow::Result;
use gaia_api::mount::{ApiKeyRecord, ApiKeyState, ApiKeys, SCHEMA_VERSION};
use gaia_e2e::authority::write_private;
use gaia_pki::sha256_hex;
use gaia_stand_ins::random::random;

/// Writes `api-keys.json`, which the service mounts, and `api-key.header`, which the caller sends.
pub(super) fn write(dir: &Path) -> Result<()> {
    let key = format!("gk_demo_{:032x}", u128::from_be_bytes(random()?));
    let record = ApiKeyRecord {
        id: "demo".to_owned(),
        sha256: sha256_hex(key.as_bytes()),
        principal: "a mobile app".to_owned(),
        scopes: Vec::new(),
        expires: None,
        state: ApiKeyState::Active,
        mode: None,
        shared: false,
    };
    let keys = ApiKeys { schema_version: SCHEMA_VERSION, keys: vec![record] };
    std::fs::write(dir.join("api-keys.json"), serde_json::to_string_pretty(&keys)?)?;
    write_private(&dir.join("api-key.header"), &format!("X-API-Key: {key}\n"))
}
