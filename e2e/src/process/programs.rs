//! Gaia's own programs, as cargo built them.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// One of Gaia's binaries: in `GAIA_BIN_DIR`, else in the target directory of this program.
///
/// # Errors
/// If it does not exist, with the command that builds it.
pub fn locate(name: &str) -> Result<PathBuf> {
    let path = directory()?.join(name);
    ensure!(
        path.is_file(),
        "{} is not there: run `cargo build --workspace`, or set GAIA_BIN_DIR to where it is",
        path.display()
    );
    Ok(path)
}

/// The directory of Gaia's binaries.
///
/// # Errors
/// If this program's own path is unknown.
pub fn directory() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("GAIA_BIN_DIR") {
        return Ok(std::path::absolute(dir)?);
    }
    target_directory()
}

fn target_directory() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let dir = own.parent().context("this program is in no directory")?;
    // Tests are in target/<profile>/deps, binaries one up.
    let of_test = dir.file_name().is_some_and(|name| name == "deps");
    Ok(dir.parent().filter(|_| of_test).unwrap_or(dir).to_owned())
}

/// `gaia-e2e`, for tests that need it as a program: this one, or the one next to it.
///
/// # Errors
/// If it is not built.
pub fn own() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    if own.file_name().is_some_and(|name| name == "gaia-e2e") {
        return Ok(own);
    }
    let path = target_directory()?.join("gaia-e2e");
    ensure!(path.is_file(), "{} is not there: run `cargo build -p gaia-e2e`", path.display());
    Ok(path)
}
