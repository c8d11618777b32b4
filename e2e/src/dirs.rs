//! Directories for builds and runs of the harness.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

/// `GAIA_CACHE_DIR`, else `gaia` in the user's cache directory (`XDG_CACHE_HOME`, else `~/.cache`).
///
/// # Errors
/// If there is no home directory.
pub fn cache() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("GAIA_CACHE_DIR") {
        return Ok(dir.into());
    }
    if let Some(dir) = std::env::var_os("XDG_CACHE_HOME") {
        return Ok(PathBuf::from(dir).join("gaia"));
    }
    let home = std::env::home_dir().context("no home directory for the cache: set GAIA_CACHE_DIR")?;
    Ok(home.join(".cache/gaia"))
}

/// The default directory of the cluster of `gaia-e2e cluster up`.
///
/// # Errors
/// If there is no home directory.
pub fn cluster(name: &str) -> Result<PathBuf> {
    Ok(cache()?.join("run").join(name))
}

/// A new directory for a control plane of a test. It is left in place, for its logs; those of ended test processes are
/// removed here.
///
/// # Errors
/// If the directory cannot be made.
pub fn scratch() -> Result<PathBuf> {
    let parent = cache()?.join("run/tests");
    std::fs::create_dir_all(&parent).with_context(|| format!("cannot create {}", parent.display()))?;
    sweep(&parent);
    let dir = tempfile::Builder::new().prefix(&format!("{}-", std::process::id())).tempdir_in(&parent);
    Ok(dir.with_context(|| format!("cannot create a directory in {}", parent.display()))?.keep())
}

/// Removes a file, or a directory with its content; a missing one is no error.
///
/// # Errors
/// If it cannot be removed.
pub fn remove(path: &Path) -> Result<()> {
    for _ in 0..ATTEMPTS {
        match remove_once(path) {
            // A process that was just killed may still be adding files.
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => std::thread::sleep(PAUSE),
            other => return other.with_context(|| format!("cannot remove {}", path.display())),
        }
    }
    remove_once(path).with_context(|| format!("cannot remove {}", path.display()))
}

fn remove_once(path: &Path) -> std::io::Result<()> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes the directories of ended processes. A failure is left to the next run.
fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.split('-').next()).and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !PathBuf::from(format!("/proc/{pid}")).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(50);
