//! Consistent reads of the credential directory.
//!
//! kubelet writes a new directory, points the symlink `..data` at it in one rename, and removes the old one. All files
//! of one read are therefore opened relative to one handle on the resolved `..data`, so that old and new files are
//! never mixed. A plain directory works too.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use gaia_pki::sha256_hex;
use rustix::fs::{CWD, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use zeroize::Zeroizing;

/// The files to read, and their locations.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    pub(crate) path: PathBuf,
    pub(crate) names: Vec<&'static str>,
    pub(crate) overrides: BTreeMap<&'static str, PathBuf>,
}

/// The files of one read. Contents may be private keys, so they are zeroized, and `Debug` prints hashes.
pub struct Files {
    files: BTreeMap<&'static str, Result<Zeroizing<Vec<u8>>, String>>,
    hash: String,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files").field("names", &self.files.keys()).field("hash", &self.hash).finish()
    }
}

impl Files {
    /// Returns the contents of a file; `None` if it does not exist.
    ///
    /// # Errors
    /// A description of why the file cannot be read.
    pub fn get(&self, name: &str) -> Result<Option<&[u8]>, String> {
        match self.files.get(name) {
            None => Ok(None),
            Some(Ok(bytes)) => Ok(Some(bytes.as_slice())),
            Some(Err(error)) => Err(error.clone()),
        }
    }

    /// Returns the contents of a required file.
    ///
    /// # Errors
    /// A description of why the file is missing or cannot be read.
    pub fn require(&self, name: &str) -> Result<&[u8], String> {
        self.get(name)?.ok_or_else(|| format!("{name} is missing"))
    }

    /// Returns a hash of all names and contents.
    pub(crate) fn hash(&self) -> &str {
        &self.hash
    }
}

impl Directory {
    /// Reads all files. An unreadable file is part of the result, because the others may be fine.
    ///
    /// During the read, `..data` may be replaced and the files under the old handle removed. They would appear to be
    /// deleted, so the result is discarded and the read repeated; `None` if that happens [`MAX_ATTEMPTS`] times.
    pub(crate) fn read(&self) -> Option<Files> {
        (0..MAX_ATTEMPTS).find_map(|_| {
            let handle = self.open();
            let files = self.read_through(handle.as_ref());
            handle.map_or(true, |handle| self.is_current(&handle)).then_some(files)
        })
    }

    fn read_through(&self, handle: Result<&OwnedFd, &Errno>) -> Files {
        let mut files = BTreeMap::new();
        let mut hashes = String::new();
        for &name in &self.names {
            let file = match (self.overrides.get(name), handle) {
                (Some(path), _) => openat(CWD, path, FILE_FLAGS, Mode::empty()),
                (None, Ok(handle)) => openat(handle, name, FILE_FLAGS, Mode::empty()),
                (None, Err(error)) => Err(*error),
            };
            let content = match file.map_err(io::Error::from).and_then(|file| content(file.into())) {
                Ok(bytes) => Ok(bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => Err(format!("{name} cannot be read: {error}")),
            };
            let hash = content.as_ref().map_or_else(Clone::clone, |bytes| sha256_hex(bytes));
            hashes.push_str(&format!("{name} {hash}\n"));
            files.insert(name, content);
        }
        Files { files, hash: sha256_hex(hashes.as_bytes()) }
    }

    fn is_current(&self, handle: &OwnedFd) -> bool {
        let identity = |fd: &OwnedFd| fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
        match (identity(handle), self.open().and_then(|now| identity(&now))) {
            (Ok(then), Ok(now)) => then == now,
            _ => false,
        }
    }

    /// Opens the target of `..data`, or a plain directory without it.
    fn open(&self) -> Result<OwnedFd, Errno> {
        let open = |path: &Path| openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let data = self.path.join("..data");
        // The target may be removed while the link is resolved; then the link has a new target.
        for _ in 0..MAX_ATTEMPTS {
            match open(&data) {
                Ok(found) => return Ok(found),
                Err(_) if data.is_symlink() => {}
                Err(_) => break,
            }
        }
        open(&self.path)
    }
}

fn content(file: File) -> io::Result<Zeroizing<Vec<u8>>> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(io::Error::other("larger than 4 MiB"));
    }
    // The full size is allocated at once: growing would leave copies of a key in freed memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default() + 1));
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Non-blocking: a named pipe in place of a file must not block the program.
const FILE_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);
/// Attempts per read while the directory is being replaced; the next check tries again.
const MAX_ATTEMPTS: usize = 5;
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::testing::{Mount, MountedFiles};

    fn directory(path: PathBuf) -> Directory {
        Directory { path, names: vec!["a", "b"], overrides: BTreeMap::new() }
    }

    #[test]
    fn a_plain_directory_is_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "1").unwrap();
        let files = directory(dir.path().to_owned()).read().unwrap();
        assert_eq!(files.get("a"), Ok(Some(&b"1"[..])));
        assert_eq!(files.get("b"), Ok(None));
        assert_eq!(files.require("b"), Err("b is missing".to_owned()));
    }

    #[test]
    fn files_come_from_the_directory_that_data_points_to() {
        let dir = tempfile::tempdir().unwrap();
        for (version, content) in [("..1", "old"), ("..2", "new")] {
            fs::create_dir(dir.path().join(version)).unwrap();
            fs::write(dir.path().join(version).join("a"), content).unwrap();
        }
        symlink("..1", dir.path().join("..data")).unwrap();
        symlink("..data/a", dir.path().join("a")).unwrap();
        let directory = directory(dir.path().to_owned());
        let old = directory.read().unwrap();
        symlink("..2", dir.path().join("..data_tmp")).unwrap();
        fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
        let new = directory.read().unwrap();
        assert_eq!((old.get("a"), new.get("a")), (Ok(Some(&b"old"[..])), Ok(Some(&b"new"[..]))));
        assert_ne!(old.hash(), new.hash());
        assert_eq!(new.hash(), directory.read().unwrap().hash());
    }

    #[test]
    fn a_read_during_a_swap_is_never_a_mixture_or_half_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let files = |content: &str| MountedFiles::from([("a", content.into()), ("b", content.into())]);
        let mut mount = Mount::new(dir.path(), &files("0"));
        let directory = directory(dir.path().to_owned());
        std::thread::scope(|scope| {
            let swapping = scope.spawn(|| (1..300).for_each(|version| mount.swap(&files(&version.to_string()))));
            while !swapping.is_finished() {
                if let Some(files) = directory.read() {
                    assert_eq!(files.require("a").unwrap(), files.require("b").unwrap());
                }
            }
        });
    }

    #[test]
    fn what_is_no_file_is_an_error_for_that_file_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("b"), "2").unwrap();
        let files = directory(dir.path().to_owned()).read().unwrap();
        assert!(files.get("a").unwrap_err().contains("not a regular file"));
        assert_eq!(files.get("b"), Ok(Some(&b"2"[..])));
    }

    #[test]
    fn a_single_file_may_lie_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("elsewhere"), "3").unwrap();
        let overrides = BTreeMap::from([("a", dir.path().join("elsewhere"))]);
        let directory = Directory { overrides, ..directory(PathBuf::from("/nonexistent")) };
        assert_eq!(directory.read().unwrap().get("a"), Ok(Some(&b"3"[..])));
    }

    #[test]
    fn debug_output_holds_no_content() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "secret").unwrap();
        assert!(!format!("{:?}", directory(dir.path().to_owned()).read().unwrap()).contains("secret"));
    }
}
