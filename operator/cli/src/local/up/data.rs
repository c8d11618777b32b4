//! The directory of the platform's data on this machine: assets, and the keys that are not Gaia's.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::Failure;

/// Creates missing folders and keys. Existing keys stay: sessions of browsers are encrypted by them.
///
/// # Errors
/// The disk cannot be written, or the system has no randomness.
pub(crate) fn prepare(data: &Path) -> Result<(), Failure> {
    for folder in ["asset-service", "chat-service", "web-service"].map(|name| data.join(name)) {
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(|error| fault(&folder, &error))?;
    }
    write_new(&data.join(".gitignore"), "*\n", 0o644)?;
    for file in [session_keys(data), provider_key(data)] {
        write_new(&file, &format!("{}\n", STANDARD.encode(random()?)), 0o600)?;
    }
    Ok(())
}

/// The keys of session cookies.
pub(crate) fn session_keys(data: &Path) -> PathBuf {
    data.join("web-service").join("session-keys")
}

/// The key of the stand-in for the provider.
pub(crate) fn provider_key(data: &Path) -> PathBuf {
    data.join("chat-service").join("provider-key")
}

/// Copies a key that the user keeps elsewhere.
///
/// # Errors
/// The source cannot be read, or the disk cannot be written.
pub(crate) fn copy_private(source: &Path, file: &Path) -> Result<(), Failure> {
    let key = std::fs::read_to_string(source).map(zeroize::Zeroizing::new);
    let key = key.map_err(|error| Failure::usage(format!("cannot read {}: {error}", source.display())))?;
    replace(file, &key, 0o600)
}

fn write_new(file: &Path, content: &str, mode: u32) -> Result<(), Failure> {
    if file.exists() { Ok(()) } else { replace(file, content, mode) }
}

/// Writes a file with its whole content in one rename: after a crash it is there or not.
fn replace(file: &Path, content: &str, mode: u32) -> Result<(), Failure> {
    let unfinished = file.with_extension("unfinished");
    let write = || {
        match std::fs::remove_file(&unfinished) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut created = OpenOptions::new().write(true).create_new(true).mode(mode).open(&unfinished)?;
        created.write_all(content.as_bytes())?;
        created.sync_all()?;
        std::fs::rename(&unfinished, file)
    };
    write().map_err(|error| fault(file, &error))
}

fn random() -> Result<[u8; 32], Failure> {
    gaia_runtime::random().ok_or_else(|| Failure::failing("the system has no randomness"))
}

fn fault(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failing(format!("cannot write {}: {error}", path.display())).next("name another directory with --data")
}
