//! A container image without a daemon and without a registry: one layer from files and Debian packages, as a
//! docker-archive tar. The same files give the same image, byte for byte.

mod archive;
mod root;

use std::path::Path;

use anyhow::{Context, Result};

pub use archive::write;
pub use root::Root;

use crate::programs;

/// The image's configuration.
#[derive(Clone, Debug)]
pub struct ImageConfig {
    /// `name:tag`.
    pub tag: String,
    /// The entry point of pods that name no command.
    pub command: Vec<String>,
    /// User and group, `uid:gid`.
    pub user: String,
}

/// Writes Gaia's image: the executable `gaia` with a link for each program in it, the few packages it is linked
/// against, the certificates of public authorities, no shell, and a user that is not root.
///
/// # Errors
/// If `gaia` is not built, a package cannot be downloaded, or the file cannot be written.
pub fn write_gaia(out: &Path, tag: &str, bin_dir: &Path) -> Result<()> {
    let root = Root::new()?;
    root.add_packages(&PACKAGES)?;
    add_programs(&root, bin_dir)?;
    root.add_text("etc/passwd", PASSWD)?;
    root.add_text("etc/group", GROUP)?;
    root.add_directory("tmp", 0o1777)?;
    let authorities = Path::new(AUTHORITIES);
    if authorities.is_file() {
        root.add_text(AUTHORITIES.trim_start_matches('/'), &std::fs::read_to_string(authorities)?)?;
    }
    let config = ImageConfig {
        tag: tag.to_owned(),
        command: vec!["gaia-operator".to_owned(), "run".to_owned()],
        user: "65532:65532".to_owned(),
    };
    write(out, &config, &root)
}

/// The executable and its links.
fn add_programs(root: &Root, bin_dir: &Path) -> Result<()> {
    let executable = format!("usr/local/bin/{EXECUTABLE}");
    root.add_program(&bin_dir.join(EXECUTABLE), &executable)?;
    root.strip(&executable)?;
    PROGRAMS.iter().try_for_each(|program| root.add_link(EXECUTABLE, &format!("usr/local/bin/{program}")))
}

/// Writes the pause image of the node.
///
/// # Errors
/// If the file cannot be written.
pub fn write_pause(out: &Path, pause: &Path) -> Result<()> {
    let root = Root::new()?;
    root.add_program(pause, "pause")?;
    let config =
        ImageConfig { tag: PAUSE_TAG.to_owned(), command: vec!["/pause".to_owned()], user: "65535:65535".to_owned() };
    write(out, &config, &root)
}

/// The default directory of the image's executable: cargo's release build, next to the profile of this program.
///
/// # Errors
/// If this program's own path is unknown.
pub fn default_bin_dir() -> Result<std::path::PathBuf> {
    if std::env::var_os("GAIA_BIN_DIR").is_some() {
        return programs::directory();
    }
    Ok(programs::directory()?.parent().context("the target directory has no parent")?.join("release"))
}

/// The name of the pause image.
pub const PAUSE_TAG: &str = "localhost/gaia-pause:1";

/// The file of Gaia's image that holds all programs.
pub const EXECUTABLE: &str = "gaia";
/// The programs of Gaia's image, each a link to [`EXECUTABLE`].
pub const PROGRAMS: &[&str] =
    &["gaia-operator", "auth-service", "asset-service", "chat-service", "gateway", "web-service"];

/// The packages that a Rust program for glibc is linked against.
const PACKAGES: [&str; 2] = ["libc6", "libgcc-s1"];
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
const PASSWD: &str = "root:x:0:0::/:/sbin/nologin\nnonroot:x:65532:65532::/:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nnonroot:x:65532:\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_links_to_one_file_in_both_kinds_of_image() {
        let (root, built) = (Root::new().unwrap(), tempfile::tempdir().unwrap());
        std::fs::copy("/bin/true", built.path().join(EXECUTABLE)).unwrap();
        add_programs(&root, built.path()).unwrap();
        let folder = root.path().join("usr/local/bin");
        for program in PROGRAMS {
            assert_eq!(std::fs::read_link(folder.join(program)).unwrap(), Path::new(EXECUTABLE));
        }
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), PROGRAMS.len() + 1);
        let dockerfile = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Dockerfile")).unwrap();
        assert!(dockerfile.contains(&format!("for program in {};", PROGRAMS.join(" "))), "the links of the Dockerfile");
    }
}
