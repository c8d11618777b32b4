//! helm: the one that is there, or one that Go installs into the cache.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::build::{lock, run_with_progress};
use super::{existing, on_path};
use crate::dirs;

/// `HELM`, else a helm of major version 3 or later on `PATH`, else our own in the cache, which is installed first if it
/// is not there (over a minute when cold).
///
/// # Errors
/// If there is none and it cannot be installed.
pub fn helm() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("HELM") {
        return Ok(existing(path.into())?.program);
    }
    if let Some(path) = on_path("helm").filter(|path| is_recent(path)) {
        return Ok(path);
    }
    let dir = dirs::cache()?.join("bin");
    let helm = dir.join(format!("helm-{VERSION}"));
    if helm.is_file() {
        return Ok(helm);
    }
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let _one_builder = lock(&dir.join("helm.lock"))?;
    if !helm.is_file() {
        install(&helm)?;
    }
    Ok(helm)
}

fn install(helm: &std::path::Path) -> Result<()> {
    let go = on_path("go").context("helm must be built and there is no `go` on PATH: run `make deps`, or set HELM")?;
    let parent = helm.parent().context("helm has no directory")?;
    let unfinished = tempfile::tempdir_in(parent)?;
    let mut command = Command::new(go);
    command.env("CGO_ENABLED", "0").env("GOBIN", unfinished.path());
    command.arg("install").arg(format!("helm.sh/helm/v4/cmd/helm@{VERSION}"));
    let what = format!("installing helm {VERSION} (cold: about 80 s)");
    run_with_progress(&what, command, &parent.join("helm.build.log"))?;
    std::fs::rename(unfinished.path().join("helm"), helm).context("cannot put helm in place")
}

fn is_recent(path: &std::path::Path) -> bool {
    let Ok(output) = Command::new(path).args(["version", "--short"]).output() else { return false };
    major(&String::from_utf8_lossy(&output.stdout)).is_some_and(|major| major >= 3)
}

fn major(version: &str) -> Option<u32> {
    version.trim().trim_start_matches('v').split('.').next()?.parse().ok()
}

const VERSION: &str = "v4.3.1";

#[cfg(test)]
mod tests {
    use super::major;

    #[test]
    fn the_major_version_is_read_from_what_helm_prints() {
        assert_eq!(major("v3.17.0+g301108e\n"), Some(3));
        assert_eq!(major("v4.3.1"), Some(4));
        assert_eq!(major("Client: v2.16"), None);
    }
}
