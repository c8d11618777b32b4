//! Python interpreters: one with PyJWT, to verify tokens with an independent library, and those of programs in Python.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use gaia_pki::sha256_hex;

use super::build::{lock, run_with_progress};
use super::on_path;
use crate::dirs;

/// A Python that has PyJWT and its dependencies for RSA and ECDSA: the system's (Debian: `python3-jwt`), the one on `PATH`,
/// or one in the cache, `venv-<hash of the requirements>`, which pip fills first if it is missing.
///
/// # Errors
/// If there is no `python3`, or pip cannot install PyJWT.
pub fn python_with_jwt() -> Result<PathBuf> {
    let on_path = on_path("python3");
    let known = [PathBuf::from("/usr/bin/python3")].into_iter().chain(on_path.clone());
    if let Some(python) = known.into_iter().find(|python| has_jwt(python)) {
        return Ok(python);
    }
    let base = on_path.context("there is no `python3` on PATH: run `make deps`")?;
    virtual_environment(&base, REQUIREMENT.as_bytes(), "PyJWT", &[REQUIREMENT.into()])
}

/// A Python in the cache, `venv-<hash of the file>`, with all that a `requirements.txt` lists, which pip installs first if
/// it is missing.
///
/// # Errors
/// If there is no `python3` that can create a virtual environment, or pip cannot install the packages.
pub fn python_with(requirements: &Path) -> Result<PathBuf> {
    let base = on_path("python3").context("there is no `python3` on PATH: run `make deps`")?;
    let text = std::fs::read(requirements).with_context(|| format!("cannot read {}", requirements.display()))?;
    let what = format!("what {} lists", requirements.display());
    virtual_environment(&base, &text, &what, &["--requirement".into(), requirements.into()])
}

/// The environment of that name; an incomplete one is created again.
fn virtual_environment(base: &Path, named_by: &[u8], what: &str, pip_args: &[OsString]) -> Result<PathBuf> {
    let cache = dirs::cache()?;
    std::fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let venv = cache.join(format!("venv-{}", &sha256_hex(named_by)[..16]));
    let python = venv.join("bin/python");
    let whole = venv.join("gaia-whole");
    let _one_builder = lock(&venv.with_extension("lock"))?;
    // The system's Python may have been removed since.
    if !whole.exists() || !python.exists() {
        dirs::remove(&venv)?;
        install(base, &venv, what, pip_args)?;
        std::fs::write(&whole, "").with_context(|| format!("cannot write {}", whole.display()))?;
    }
    Ok(python)
}

fn install(base: &Path, venv: &Path, what: &str, pip_args: &[OsString]) -> Result<()> {
    let log = venv.with_extension("log");
    let mut make = Command::new(base);
    make.args(["-m", "venv"]).arg(venv);
    run_with_progress("making a Python environment", make, &log)?;
    let mut pip = Command::new(venv.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(pip_args);
    run_with_progress(&format!("installing {what}"), pip, &log)
}

fn has_jwt(python: &Path) -> bool {
    let output = Command::new(python).args(["-c", "import jwt, cryptography; jwt.PyJWKSet"]).output();
    output.is_ok_and(|output| output.status.success())
}

const REQUIREMENT: &str = "pyjwt[crypto]>=2.8,<3";
