//! A directory that is replaced in one step, as by kubelet: the files are in a dated directory, `..data` links to
//! that, and each visible name links through `..data`. A reader that resolves `..data` once sees one state only.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;

/// The content of a volume: paths below its root, and their data.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Makes `root` contain exactly `files`, in one step. Returns true if it changed: a correct volume is left
/// unchanged, down to its modification time.
///
/// # Errors
/// If a path is outside of the volume, or a file cannot be written.
pub fn write(root: &Path, files: &Files, now: Timestamp) -> Result<bool> {
    files.keys().try_for_each(|path| check_path(path))?;
    fs::create_dir_all(root).with_context(|| format!("cannot create {}", root.display()))?;
    let old = fs::read_link(root.join(DATA)).ok();
    if old.as_ref().is_some_and(|old| read(&root.join(old)).is_ok_and(|present| present == *files)) {
        return Ok(false);
    }
    let new = write_dated(root, files, now)?;
    swap(root, &new)?;
    link_visible(root, files)?;
    unlink_stale(root, files)?;
    if let Some(old) = old {
        fs::remove_dir_all(root.join(old))?;
    }
    Ok(true)
}

/// Kubernetes refuses the same paths.
fn check_path(path: &str) -> Result<()> {
    let normal = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    ensure!(normal && !path.is_empty() && !path.starts_with(".."), "{path:?} is not a path inside of a volume");
    Ok(())
}

fn write_dated(root: &Path, files: &Files, now: Timestamp) -> Result<PathBuf> {
    let prefix = now.strftime("..%Y_%m_%d_%H_%M_%S.").to_string();
    let dated = tempfile::Builder::new().prefix(&prefix).tempdir_in(root)?.keep();
    for (path, content) in files {
        write_file(&dated.join(path), content)
            .with_context(|| format!("cannot write {path} in {}", dated.display()))?;
    }
    dated.file_name().map(PathBuf::from).context("the dated directory has no name")
}

fn write_file(path: &Path, content: &[u8]) -> Result<()> {
    use std::io::Write;
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)?;
    Ok(file.write_all(content)?)
}

/// The atomic step: a rename replaces the link.
fn swap(root: &Path, new: &Path) -> Result<()> {
    let staged = root.join("..data_tmp");
    remove_if_there(&staged)?;
    symlink(new, &staged)?;
    fs::rename(staged, root.join(DATA)).context("cannot swap ..data")
}

fn link_visible(root: &Path, files: &Files) -> Result<()> {
    for name in files.keys().map(|path| visible(path)) {
        match symlink(Path::new(DATA).join(name), root.join(name)) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

fn unlink_stale(root: &Path, files: &Files) -> Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name();
        let wanted = files.keys().any(|path| name == visible(path));
        if !wanted && !name.to_string_lossy().starts_with("..") {
            remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

/// The part of a path that is a link in the root of the volume.
fn visible(path: &str) -> &str {
    path.split('/').next().unwrap_or(path)
}

fn read(dir: &Path) -> Result<Files> {
    let mut files = Files::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(dir)?.to_str().context("not UTF-8")?.to_owned();
                files.insert(name, fs::read(&path)?);
            }
        }
    }
    Ok(files)
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

const DATA: &str = "..data";
const FILE_MODE: u32 = 0o440;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn files(of: &[(&str, &str)]) -> Files {
        of.iter().map(|(path, content)| ((*path).to_owned(), content.as_bytes().to_vec())).collect()
    }

    fn entries(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_volume_looks_as_kubelet_makes_it() {
        let root = tempfile::tempdir().unwrap();
        assert!(write(root.path(), &files(&[("tls.crt", "leaf"), ("keys/a.json", "{}")]), NOW).unwrap());
        let names = entries(root.path());
        assert!(names[0].starts_with("..2027_01_15_08_00_00."), "{names:?}");
        assert_eq!(names[1..], ["..data", "keys", "tls.crt"]);
        assert_eq!(fs::read_link(root.path().join("tls.crt")).unwrap(), Path::new("..data/tls.crt"));
        assert_eq!(fs::read_to_string(root.path().join("keys/a.json")).unwrap(), "{}");
    }

    #[test]
    fn what_is_right_already_is_not_written_again() {
        let root = tempfile::tempdir().unwrap();
        let wanted = files(&[("ca.crt", "root")]);
        write(root.path(), &wanted, NOW).unwrap();
        let before = fs::read_link(root.path().join(DATA)).unwrap();
        assert!(!write(root.path(), &wanted, NOW).unwrap());
        assert_eq!(fs::read_link(root.path().join(DATA)).unwrap(), before);
    }

    #[test]
    fn a_reader_that_resolved_data_before_the_swap_sees_only_the_old_state() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), &files(&[("tls.crt", "old"), ("tls.key", "old")]), NOW).unwrap();
        let certificate = fs::File::open(root.path().join("tls.crt")).unwrap();
        let opened = fs::File::open(root.path().join(DATA)).unwrap();
        write(root.path(), &files(&[("tls.crt", "new"), ("tls.key", "new")]), NOW).unwrap();
        assert_eq!(std::io::read_to_string(certificate).unwrap(), "old");
        drop(opened);
        assert_eq!(fs::read_to_string(root.path().join("tls.key")).unwrap(), "new");
    }

    #[test]
    fn a_file_that_is_gone_takes_its_link_with_it_and_the_old_state_is_removed() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), &files(&[("a", "1"), ("b", "2")]), NOW).unwrap();
        write(root.path(), &files(&[("a", "1")]), NOW).unwrap();
        let names = entries(root.path());
        assert_eq!(names.len(), 3, "{names:?}");
        assert_eq!(names[1..], ["..data", "a"]);
    }

    #[test]
    fn a_path_out_of_the_volume_is_refused() {
        let root = tempfile::tempdir().unwrap();
        for path in ["../escape", "/etc/passwd", "..data", "a/../../b", ""] {
            assert!(write(root.path(), &files(&[(path, "x")]), NOW).is_err(), "{path}");
        }
        assert!(entries(root.path()).is_empty());
    }

    #[test]
    fn keys_are_not_readable_by_everybody() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        write(root.path(), &files(&[("tls.key", "secret")]), NOW).unwrap();
        let mode = fs::metadata(root.path().join("tls.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o007, 0, "{mode:o}");
    }
}
