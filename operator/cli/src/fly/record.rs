//! The record of the sent files: `fly.json` in the directory. Fly shows no value of a secret, only a digest of its own; the record
//! joins that digest with the hash of the file that was sent. Without it everything is sent again.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::plan::Phase;
use crate::Failure;

/// The record of a directory.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Record {
    schema_version: u32,
    /// By app.
    pub(crate) apps: BTreeMap<String, AppRecord>,
}

/// The record of an app.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct AppRecord {
    /// By secret.
    pub(crate) secrets: BTreeMap<String, Sent>,
    /// The machines and their instance ids when the secrets of a phase were staged.
    pub(crate) staged_at: BTreeMap<Phase, BTreeMap<String, String>>,
}

/// A value that was sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Sent {
    /// Lower-case hex SHA-256 of the file.
    pub(crate) sha256: String,
    /// The digest that Fly lists for it.
    pub(crate) digest: String,
}

/// The record, held by this process until it is dropped.
pub(crate) struct Held {
    /// The record.
    pub(crate) record: Record,
    path: PathBuf,
    _lock: File,
}

impl Record {
    /// Reads the record of a directory, for a verb that changes nothing.
    ///
    /// # Errors
    /// If it cannot be read. A missing one is empty.
    pub(crate) fn read(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join(NAME);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| {
                Failure::failing(format!("{}: {error}", path.display()))
                    .next(format!("remove {}: everything is sent again then", path.display()))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Failure::unknown(format!("cannot read {}: {error}", path.display()))),
        }
    }
}

impl Held {
    /// Reads the record of a directory, and keeps others from changing it.
    ///
    /// # Errors
    /// As [`Record::read`], or if another process holds it.
    pub(crate) fn take(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join("fly.lock");
        let failed = |error: io::Error| Failure::failing(format!("cannot lock {}: {error}", path.display()));
        let lock = private(&path).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let cause = format!("{} is locked: another `gaia fly deploy` runs", path.display());
                return Err(Failure::failing(cause).next("wait for its end"));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        Ok(Self { record: Record::read(dir)?, path: dir.join(NAME), _lock: lock })
    }

    /// Writes the record in one rename.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn save(&mut self) -> Result<(), Failure> {
        self.record.schema_version = crate::output::SCHEMA_VERSION;
        let failed = |error: io::Error| Failure::failing(format!("cannot write {}: {error}", self.path.display()));
        let text = serde_json::to_vec_pretty(&self.record).map_err(io::Error::from).map_err(failed)?;
        let temporary = self.path.with_extension("json.new");
        let write = || {
            let mut file = private(&temporary)?;
            file.set_len(0)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&temporary, &self.path)
        };
        write().map_err(failed)
    }
}

/// Opens a file for its owner alone, without following a link.
fn private(path: &Path) -> io::Result<File> {
    if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}

const NAME: &str = "fly.json";
