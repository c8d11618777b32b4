//! `.gaia/adopted.json`: the adopted keys, for `check` and `adopt --finish`.

use serde::{Deserialize, Serialize};

use super::tree::{OldTree, SIGNING_KEY};
use crate::directory::disk::dir::{Access, Dir};
use crate::directory::disk::error::DirectoryError;

/// The record of an adoption. It has no private part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(super) schema_version: u32,
    /// False until every certificate was issued: an interrupted adoption is continued.
    pub(crate) is_complete: bool,
    /// The fingerprint of the CA.
    pub(crate) ca: String,
    /// The file of its key.
    pub(crate) ca_key_file: String,
    /// The kid of the signing key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kid: Option<String>,
}

impl Record {
    pub(super) fn of(tree: &OldTree) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            is_complete: false,
            ca: tree.ca.certificate().fingerprint(),
            ca_key_file: tree.form.ca_key_file().to_owned(),
            kid: tree.signing_key.as_ref().map(|key| key.jwk.kid().to_owned()),
        }
    }

    /// The record of `.gaia`; none: nothing was adopted.
    pub(super) fn read(hidden: &Dir) -> Result<Option<Self>, DirectoryError> {
        let Some(text) = hidden.read(FILE)? else { return Ok(None) };
        let unreadable = |_| DirectoryError::Unreadable { path: hidden.path().join(FILE), why: "not JSON".to_owned() };
        serde_json::from_slice(&text).map(Some).map_err(unreadable)
    }

    pub(super) fn write(&self, hidden: &Dir) -> Result<(), DirectoryError> {
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        hidden.write(FILE, &text, Access::PRIVATE)
    }

    /// The files of private keys at the root of the tree.
    pub(super) fn key_files(&self) -> Vec<&str> {
        [self.ca_key_file.as_str()].into_iter().chain(self.kid.as_ref().map(|_| SIGNING_KEY)).collect()
    }
}

const FILE: &str = "adopted.json";
const SCHEMA_VERSION: u32 = 1;
