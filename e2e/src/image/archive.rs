//! The docker-archive format: a tar of a manifest, a configuration and the layers.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aws_lc_rs::digest::{SHA256, digest};
use serde_json::json;
use tar::{Builder, EntryType, Header};

use super::{ImageConfig, Root};

/// Writes the image to `out`, which is replaced in one step.
///
/// # Errors
/// If a file cannot be read or written.
pub fn write(out: &Path, config: &ImageConfig, root: &Root) -> Result<()> {
    let layer = pack(root.path()).context("cannot pack the layer")?;
    let configuration = configuration(config, &sha256(&layer))?;
    let name = format!("{}.json", sha256(&configuration));
    let manifest = json!([{ "Config": name, "RepoTags": [config.tag], "Layers": ["layer.tar"] }]);
    let mut archive = Builder::new(Vec::new());
    append(&mut archive, &name, &configuration)?;
    append(&mut archive, "layer.tar", &layer)?;
    append(&mut archive, "manifest.json", &serde_json::to_vec(&manifest)?)?;
    replace(out, &archive.into_inner()?)
}

fn configuration(config: &ImageConfig, layer: &str) -> Result<Vec<u8>> {
    let configuration = json!({
        "architecture": architecture(),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer}")] },
        "config": {
            "Cmd": config.command,
            "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
            "User": config.user,
            "WorkingDir": "/",
        },
    });
    Ok(serde_json::to_vec(&configuration)?)
}

/// The image has the architecture of this machine: its programs are this machine's.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// All files below `root` in the order of their names; owners and times are left out.
fn pack(root: &Path) -> Result<Vec<u8>> {
    let mut archive = Builder::new(Vec::new());
    for path in sorted(root)? {
        let name = path.strip_prefix(root)?;
        let metadata = fs::symlink_metadata(&path)?;
        let mut header = header(metadata.permissions().mode() & 0o7777);
        if metadata.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            archive.append_link(&mut header, name, fs::read_link(&path)?)?;
        } else if metadata.is_dir() {
            header.set_entry_type(EntryType::Directory);
            archive.append_data(&mut header, name, std::io::empty())?;
        } else {
            header.set_size(metadata.len());
            archive.append_data(&mut header, name, File::open(&path)?)?;
        }
    }
    Ok(archive.into_inner()?)
}

fn sorted(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Owned by root, without a time.
fn header(mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}

fn append(archive: &mut Builder<Vec<u8>>, name: &str, content: &[u8]) -> Result<()> {
    let mut header = header(0o644);
    header.set_size(content.len() as u64);
    Ok(archive.append_data(&mut header, name, content)?)
}

fn replace(out: &Path, content: &[u8]) -> Result<()> {
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let mut file = tempfile::NamedTempFile::new_in(parent)?;
    file.write_all(content)?;
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644))?;
    file.persist(out).with_context(|| format!("cannot write {}", out.display()))?;
    Ok(())
}

fn sha256(content: &[u8]) -> String {
    digest(&SHA256, content).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use super::*;

    fn image(dir: &Path) -> Vec<u8> {
        let root = Root::new().unwrap();
        root.add_text("etc/passwd", "root:x:0:0::/:/sbin/nologin\n").unwrap();
        root.add_program(Path::new("/bin/true"), "usr/local/bin/gaia-operator").unwrap();
        root.add_directory("tmp", 0o1777).unwrap();
        let config = ImageConfig {
            tag: "localhost/gaia:0".to_owned(),
            command: vec!["gaia-operator".to_owned()],
            user: "65532:65532".to_owned(),
        };
        let out = dir.join("image.tar");
        write(&out, &config, &root).unwrap();
        fs::read(out).unwrap()
    }

    fn entries(tar: &[u8]) -> BTreeMap<String, (Header, Vec<u8>)> {
        let mut archive = tar::Archive::new(tar);
        let read = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().to_str().unwrap().to_owned(), (entry.header().clone(), content))
        };
        archive.entries().unwrap().map(read).collect()
    }

    #[test]
    fn the_same_files_make_the_same_image_byte_for_byte() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(image(dir.path()), image(dir.path()));
    }

    #[test]
    fn the_manifest_leads_to_a_configuration_and_a_layer_with_the_right_digests() {
        let dir = tempfile::tempdir().unwrap();
        let image = entries(&image(dir.path()));
        let manifest: serde_json::Value = serde_json::from_slice(&image["manifest.json"].1).unwrap();
        assert_eq!(manifest[0]["RepoTags"][0], "localhost/gaia:0");
        let configuration = &image[manifest[0]["Config"].as_str().unwrap()].1;
        assert_eq!(manifest[0]["Config"], format!("{}.json", sha256(configuration)));
        let configuration: serde_json::Value = serde_json::from_slice(configuration).unwrap();
        let layer = format!("sha256:{}", sha256(&image["layer.tar"].1));
        assert_eq!(configuration["rootfs"]["diff_ids"][0], layer);
        assert_eq!(configuration["config"]["User"], "65532:65532");
    }

    #[test]
    fn the_layer_has_modes_and_neither_owners_nor_times() {
        let dir = tempfile::tempdir().unwrap();
        let layer = entries(&entries(&image(dir.path()))["layer.tar"].1);
        let mode = |name: &str| layer[name].0.mode().unwrap();
        assert_eq!((mode("tmp"), mode("etc/passwd"), mode("usr/local/bin/gaia-operator")), (0o1777, 0o644, 0o755));
        assert!(layer.values().all(|(header, _)| header.uid().unwrap() == 0 && header.mtime().unwrap() == 0));
    }
}
