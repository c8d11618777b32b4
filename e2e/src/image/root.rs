//! The files of an image, in a directory of their own until they are packed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::assets::on_path;

/// A root file system under construction.
#[derive(Debug)]
pub struct Root {
    dir: TempDir,
}

impl Root {
    /// An empty one.
    ///
    /// # Errors
    /// If a temporary directory cannot be created.
    pub fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        Ok(Self { dir })
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Copies a program to `to`, which is relative to the root.
    ///
    /// # Errors
    /// If it is not there.
    pub fn add_program(&self, from: &Path, to: &str) -> Result<()> {
        let target = self.place(to)?;
        fs::copy(from, &target).with_context(|| format!("cannot copy {} into the image", from.display()))?;
        Ok(fs::set_permissions(target, fs::Permissions::from_mode(0o755))?)
    }

    /// Removes symbols and debug information from a program: of a debug build they are the larger part. Does nothing without
    /// `strip`.
    ///
    /// # Errors
    /// If the file is not a program.
    pub(super) fn strip(&self, program: &str) -> Result<()> {
        if on_path("strip").is_none() {
            return Ok(());
        }
        run(Command::new("strip").arg("--strip-all").arg(self.path().join(program)))
    }

    /// Writes a world-readable file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn add_text(&self, to: &str, content: &str) -> Result<()> {
        let target = self.place(to)?;
        fs::write(&target, content)?;
        Ok(fs::set_permissions(target, fs::Permissions::from_mode(0o644))?)
    }

    /// Creates a symbolic link at `at` to `target`.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn add_link(&self, target: &str, at: &str) -> Result<()> {
        Ok(symlink(target, self.place(at)?)?)
    }

    /// Creates a directory.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn add_directory(&self, to: &str, mode: u32) -> Result<()> {
        let target = self.place(to)?;
        fs::create_dir_all(&target)?;
        Ok(fs::set_permissions(target, fs::Permissions::from_mode(mode))?)
    }

    /// Unpacks Debian packages, downloaded as the machine's own apt is set up, without their documentation.
    ///
    /// # Errors
    /// If a package cannot be downloaded or unpacked.
    pub fn add_packages(&self, packages: &[&str]) -> Result<()> {
        let downloads = tempfile::tempdir()?;
        let mut download = Command::new("apt-get");
        download.args(["download", "-qq", "-o", "APT::Sandbox::User=root"]).args(packages);
        run(download.current_dir(downloads.path())).context("cannot download the packages of the image")?;
        for entry in fs::read_dir(downloads.path())? {
            run(Command::new("dpkg-deb").arg("-x").arg(entry?.path()).arg(self.path()))?;
        }
        let conversions = |lib: &str| format!("{lib}/{}-linux-gnu/gconv", std::env::consts::ARCH);
        for unused in ["usr/share".to_owned(), conversions("usr/lib"), conversions("lib")] {
            let _ = fs::remove_dir_all(self.path().join(unused));
        }
        self.link_merged_directories()
    }

    /// On systems that keep everything in /usr, packages rely on links that the base system has and an image does not.
    fn link_merged_directories(&self) -> Result<()> {
        for name in ["lib", "lib64"] {
            let (link, target) = (self.path().join(name), Path::new("usr").join(name));
            if !link.exists() && self.path().join(&target).exists() {
                symlink(target, link)?;
            }
        }
        Ok(())
    }

    fn place(&self, to: &str) -> Result<PathBuf> {
        let target = self.path().join(to);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        Ok(target)
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(())
}
