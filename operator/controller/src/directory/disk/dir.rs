//! A folder, held by its handle. No path is resolved twice, and no link is followed.
//!
//! Every step down opens one name below an open handle with `O_NOFOLLOW`, so a link that another user puts in place of a
//! folder or file is an error, and never leads out of the tree. A file is written under a temporary name, flushed and
//! renamed: a crash leaves the old or the new content.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::error::DirectoryError;

type Result<T> = std::result::Result<T, DirectoryError>;

/// An open folder.
#[derive(Debug, Clone)]
pub(crate) struct Dir {
    fd: Arc<OwnedFd>,
    path: PathBuf,
    budget: Budget,
}

/// An entry of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    File,
    Folder,
    Link,
    Other,
}

/// Modes of a file: its permissions, and the group that may read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) mode: u32,
    pub(crate) group: Option<u32>,
}

impl Access {
    pub(crate) const PRIVATE: Self = Self { mode: 0o600, group: None };
    pub(crate) const PUBLIC: Self = Self { mode: 0o644, group: None };
}

impl Dir {
    /// Opens the root of a tree. Its path may lead over links, which are the user's own.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = fs::open(path, flags, Mode::empty()).map_err(|error| DirectoryError::io("open", path, error))?;
        Ok(Self { fd: Arc::new(fd), path: path.to_owned(), budget: Budget::default() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a folder below this one; none: it does not exist.
    pub(crate) fn sub(&self, name: &str) -> Result<Option<Self>> {
        let path = self.path_of(name)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match fs::openat(self.fd.as_fd(), name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(Self { fd: Arc::new(fd), path, budget: self.budget.clone() })),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                Err(DirectoryError::hazard(&path, "it must be a folder and is a link or a file", "remove it"))
            }
            Err(error) => Err(DirectoryError::io("open", &path, error)),
        }
    }

    /// The same for a folder that only this user may change.
    pub(crate) fn own_sub(&self, name: &str) -> Result<Option<Self>> {
        let Some(sub) = self.sub(name)? else { return Ok(None) };
        sub.check_owner()?;
        Ok(Some(sub))
    }

    /// Opens a folder that only this user may change, and creates it if it is missing.
    pub(crate) fn create_sub(&self, name: &str, access: Access) -> Result<Self> {
        if let Some(sub) = self.own_sub(name)? {
            return Ok(sub);
        }
        let path = self.path_of(name)?;
        self.step()?;
        match fs::mkdirat(self.fd.as_fd(), name, Mode::from_raw_mode(access.mode & 0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(DirectoryError::io("create", &path, error)),
        }
        let missing = || DirectoryError::io("open", &path, io::Error::from(io::ErrorKind::NotFound));
        let sub = self.own_sub(name)?.ok_or_else(missing)?;
        set_access(&sub.fd, access).map_err(|error| DirectoryError::io("set the mode of", &path, error))?;
        Ok(sub)
    }

    /// Refuses a folder that another user owns or may change.
    pub(crate) fn check_owner(&self) -> Result<()> {
        let stat = fs::fstat(self.fd.as_fd()).map_err(|error| DirectoryError::io("inspect", &self.path, error))?;
        check(&self.path, &stat)
    }

    /// Refuses a file that another user owns or may change; a missing one is accepted.
    pub(crate) fn check_owner_of(&self, name: &str) -> Result<()> {
        self.stat(name)?.map_or(Ok(()), |stat| check(&self.path.join(name), &stat))
    }

    /// Sets the mode and group of the folder, where they differ.
    pub(crate) fn set_access(&self, access: Access) -> Result<()> {
        let stat = fs::fstat(self.fd.as_fd()).map_err(|error| DirectoryError::io("inspect", &self.path, error))?;
        if stat.st_mode & 0o7777 == access.mode && access.group.is_none_or(|group| group == stat.st_gid) {
            return Ok(());
        }
        self.step()?;
        set_access(&self.fd, access).map_err(|error| DirectoryError::io("set the mode of", &self.path, error))
    }

    /// Reads a file; none: it does not exist. A link, a pipe or a device is refused.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>> {
        Ok(self.read_with_mode(name)?.map(|(bytes, _)| bytes))
    }

    /// The content and the mode of a file.
    pub(crate) fn read_with_mode(&self, name: &str) -> Result<Option<(Zeroizing<Vec<u8>>, u32)>> {
        let path = self.path_of(name)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match fs::openat(self.fd.as_fd(), name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => {
                return Err(DirectoryError::hazard(&path, "it must be a file and is a link", "remove it"));
            }
            Err(error) => return Err(DirectoryError::io("read", &path, error)),
        };
        let stat = fs::fstat(&fd).map_err(|error| DirectoryError::io("inspect", &path, error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(DirectoryError::hazard(&path, "it must be a regular file", "remove it"));
        }
        if stat.st_size > MAX_BYTES {
            let why = format!("it has {} bytes, more than {MAX_BYTES}", stat.st_size);
            return Err(DirectoryError::hazard(&path, why, "remove it, or restore it from a backup"));
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(stat.st_size).unwrap_or_default() + 1));
        let mut file = std::fs::File::from(fd);
        file.read_to_end(&mut bytes).map_err(|error| DirectoryError::io("read", &path, error))?;
        Ok(Some((bytes, stat.st_mode & 0o7777)))
    }

    /// Writes a file as a whole: a crash leaves the old or the new content.
    pub(crate) fn write(&self, name: &str, bytes: &[u8], access: Access) -> Result<()> {
        let path = self.path_of(name)?;
        let temporary = temporary(name);
        let done = self.write_new(&temporary, bytes, access).and_then(|()| self.rename(&temporary, name));
        if done.is_err() && !self.budget.is_spent() {
            let _ = fs::unlinkat(self.fd.as_fd(), temporary.as_str(), AtFlags::empty());
        }
        done.map_err(|error| match error {
            // The user knows the file, and not its temporary name.
            DirectoryError::Io { verb, source, .. } => DirectoryError::Io { verb, path, source },
            other => other,
        })
    }

    /// Writes a file as a whole without flushing it: after a crash of the machine its content may be lost.
    pub(crate) fn write_unflushed(&self, name: &str, bytes: &[u8], access: Access) -> Result<()> {
        let path = self.path_of(name)?;
        let failed = |error: io::Error| DirectoryError::io("write", &path, error);
        let temporary = temporary(name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(access.mode);
        let fd = fs::openat(self.fd.as_fd(), temporary.as_str(), flags, mode).map_err(|error| failed(error.into()))?;
        let written = std::fs::File::from(fd)
            .write_all(bytes)
            .and_then(|()| Ok(fs::renameat(self.fd.as_fd(), temporary.as_str(), self.fd.as_fd(), name)?));
        if written.is_err() {
            let _ = fs::unlinkat(self.fd.as_fd(), temporary.as_str(), AtFlags::empty());
        }
        written.map_err(failed)
    }

    /// Opens a file to lock it, and creates it if it is missing.
    pub(crate) fn lock_file(&self, name: &str) -> Result<OwnedFd> {
        let path = self.path_of(name)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat(self.fd.as_fd(), name, flags, Mode::from_raw_mode(0o600))
            .map_err(|error| DirectoryError::io("lock", &path, error))
    }

    /// Writes a file that does not exist, and flushes it.
    pub(crate) fn write_new(&self, name: &str, bytes: &[u8], access: Access) -> Result<()> {
        let path = self.path_of(name)?;
        let failed = |error: io::Error| DirectoryError::io("write", &path, error);
        self.step()?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(self.fd.as_fd(), name, flags, Mode::from_raw_mode(0o600)).map_err(|e| failed(e.into()))?;
        let mut file = std::fs::File::from(fd);
        self.step()?;
        file.write_all(bytes).map_err(failed)?;
        set_access(&file, access).map_err(|error| failed(error.into()))?;
        if cfg!(test) { Ok(()) } else { file.sync_all().map_err(failed) }
    }

    /// Renames an entry over another, and flushes the folder.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<()> {
        let path = self.path_of(to)?;
        self.step()?;
        fs::renameat(self.fd.as_fd(), from, self.fd.as_fd(), to)
            .map_err(|error| DirectoryError::io("replace", &path, error))?;
        self.flush()
    }

    /// Flushes the entries of the folder.
    pub(crate) fn flush(&self) -> Result<()> {
        // A test kills no machine, and hundreds of flushes would take most of its time.
        if cfg!(test) {
            return Ok(());
        }
        fs::fsync(self.fd.as_fd()).map_err(|error| DirectoryError::io("flush", &self.path, error))
    }

    /// Points a link at a target, in one rename.
    pub(crate) fn link(&self, name: &str, target: &str) -> Result<()> {
        let path = self.path_of(name)?;
        if self.read_link(name)?.as_deref() == Some(target) {
            return Ok(());
        }
        let temporary = temporary(name);
        self.step()?;
        fs::symlinkat(target, self.fd.as_fd(), temporary.as_str())
            .map_err(|error| DirectoryError::io("create", &path, error))?;
        let done = self.rename(&temporary, name);
        if done.is_err() && !self.budget.is_spent() {
            let _ = fs::unlinkat(self.fd.as_fd(), temporary.as_str(), AtFlags::empty());
        }
        done
    }

    /// The target of a link; none: it does not exist, or is no link.
    pub(crate) fn read_link(&self, name: &str) -> Result<Option<String>> {
        let path = self.path_of(name)?;
        match fs::readlinkat(self.fd.as_fd(), name, vec![]) {
            Ok(target) => Ok(target.into_string().ok()),
            Err(Errno::NOENT | Errno::INVAL) => Ok(None),
            Err(error) => Err(DirectoryError::io("read", &path, error)),
        }
    }

    /// Removes a file or a link, if it exists.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let path = self.path_of(name)?;
        self.step()?;
        match fs::unlinkat(self.fd.as_fd(), name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => self.flush(),
            Err(error) => Err(DirectoryError::io("remove", &path, error)),
        }
    }

    /// Removes a folder with its content, if it exists. No link is followed.
    pub(crate) fn remove_tree(&self, name: &str) -> Result<()> {
        let Some(sub) = self.sub(name)? else { return Ok(()) };
        for (entry, kind) in sub.entries()? {
            match kind {
                Kind::Folder => sub.remove_tree(&entry)?,
                Kind::File | Kind::Link | Kind::Other => sub.remove(&entry)?,
            }
        }
        self.step()?;
        match fs::unlinkat(self.fd.as_fd(), name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => self.flush(),
            Err(error) => Err(DirectoryError::io("remove", &sub.path, error)),
        }
    }

    /// The entries, sorted by name. Names that are not UTF-8 are left out: Gaia writes none.
    pub(crate) fn entries(&self) -> Result<Vec<(String, Kind)>> {
        let failed = |error: Errno| DirectoryError::io("list", &self.path, error);
        let mut entries = vec![];
        for entry in fs::Dir::read_from(self.fd.as_fd()).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => self.kind(name)?.unwrap_or(Kind::Other),
                known => Kind::from(known),
            };
            entries.push((name.to_owned(), kind));
        }
        entries.sort_unstable();
        Ok(entries)
    }

    /// Removes temporary files of interrupted writes.
    pub(crate) fn remove_leftovers(&self) -> Result<()> {
        let entries = self.entries()?.into_iter();
        entries
            .filter(|(name, kind)| *kind != Kind::Folder && is_temporary(name))
            .try_for_each(|(name, _)| self.remove(&name))
    }

    /// The kind of an entry; none: it does not exist.
    pub(crate) fn kind(&self, name: &str) -> Result<Option<Kind>> {
        Ok(self.stat(name)?.map(|stat| Kind::from(FileType::from_raw_mode(stat.st_mode))))
    }

    /// A mark that changes with the file; none: it does not exist.
    pub(crate) fn mark(&self, name: &str) -> Result<Option<FileMark>> {
        let stat = self.stat(name)?;
        Ok(stat.map(|stat| {
            let parts = (i128::from(stat.st_size), i128::from(stat.st_mtime), i128::from(stat.st_mtime_nsec));
            FileMark(i128::from(stat.st_ino), parts.0, parts.1, parts.2)
        }))
    }

    fn stat(&self, name: &str) -> Result<Option<Stat>> {
        let path = self.path_of(name)?;
        match fs::statat(self.fd.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(DirectoryError::io("inspect", &path, error)),
        }
    }

    /// The path of one name. Names come from manifests: none may lead anywhere else.
    fn path_of(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            return Err(DirectoryError::hazard(&path, "it is not the name of a file", "use another name"));
        }
        Ok(path)
    }

    fn step(&self) -> Result<()> {
        if self.budget.spend() {
            return Ok(());
        }
        Err(DirectoryError::io("write", &self.path, io::Error::from(io::ErrorKind::StorageFull)))
    }

    /// The same folder with a number of writes after which each fails, as a killed process writes nothing more.
    #[cfg(test)]
    pub(crate) fn with_budget(self, budget: Budget) -> Self {
        Self { budget, ..self }
    }
}

/// Inode, size and time of the last change of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileMark(i128, i128, i128, i128);

impl From<FileType> for Kind {
    fn from(found: FileType) -> Self {
        match found {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Folder,
            FileType::Symlink => Self::Link,
            _ => Self::Other,
        }
    }
}

/// The number of writes left; unlimited outside tests.
#[derive(Debug, Clone, Default)]
pub(crate) struct Budget(Option<Arc<AtomicU64>>);

impl Budget {
    #[cfg(test)]
    pub(crate) fn of(writes: u64) -> Self {
        Self(Some(Arc::new(AtomicU64::new(writes))))
    }

    /// The number of writes left.
    #[cfg(test)]
    pub(crate) fn left(&self) -> u64 {
        self.0.as_ref().map_or(u64::MAX, |left| left.load(Ordering::Acquire))
    }

    fn spend(&self) -> bool {
        let Some(left) = &self.0 else { return true };
        left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok()
    }

    fn is_spent(&self) -> bool {
        self.0.as_ref().is_some_and(|left| left.load(Ordering::Acquire) == 0)
    }
}

fn set_access(file: impl std::os::fd::AsFd, access: Access) -> std::result::Result<(), Errno> {
    if let Some(group) = access.group {
        fs::fchown(&file, None, Some(rustix::fs::Gid::from_raw(group)))?;
    }
    fs::fchmod(&file, Mode::from_raw_mode(access.mode))
}

fn check(path: &Path, stat: &Stat) -> Result<()> {
    let me = rustix::process::geteuid().as_raw();
    if stat.st_uid != me {
        let why = format!("it belongs to user {} and this process runs as user {me}", stat.st_uid);
        return Err(DirectoryError::hazard(
            path,
            why,
            format!("run as that user, or `chown -R {me} {}`", path.display()),
        ));
    }
    if stat.st_mode & 0o022 != 0 {
        let why = format!("its mode {:04o} lets other users change it", stat.st_mode & 0o7777);
        return Err(DirectoryError::hazard(path, why, format!("`chmod go-w {}`", path.display())));
    }
    Ok(())
}

/// A name that no other writer uses, also in another container. Its end identifies the leftovers of
/// interrupted writes.
fn temporary(name: &str) -> String {
    let mut bits = [0; 8];
    #[expect(clippy::disallowed_methods, reason = "a name is random and nothing is decided by it")]
    let _ = aws_lc_rs::rand::fill(&mut bits);
    format!(".{name}.{:016x}{TEMPORARY}", u64::from_be_bytes(bits))
}

/// Returns true for the temporary file of an interrupted write.
pub(crate) fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(TEMPORARY)
}

const TEMPORARY: &str = ".gaia.tmp";
/// Larger than any object that the operator writes.
const MAX_BYTES: i64 = 16 << 20;
