//! Errors of a directory: each names the path, the cause and the next step.

use std::io;
use std::path::{Path, PathBuf};

/// The reason why a directory could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The system refused a call.
    #[error("cannot {verb} {}: {source}{}", path.display(), next_step(source))]
    Io {
        /// The attempted operation.
        verb: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file or folder is not safe to use. Nothing was changed.
    #[error("{}: {why}; {next}", path.display())]
    Unsafe {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        why: String,
        /// The next step.
        next: String,
    },
    /// The directory holds, or does not hold, a tree of other tools. Nothing was changed.
    #[error("{}: {why}; {next}", path.display())]
    OldTree {
        /// The directory, or a file in it.
        path: PathBuf,
        /// The cause.
        why: String,
        /// The next step.
        next: String,
    },
    /// A manifest was refused. Nothing was changed.
    #[error("{}{}{}: {why}", file.display(), at_line(*line), in_field(field))]
    Manifest {
        /// The file.
        file: PathBuf,
        /// The line, if it is known.
        line: Option<usize>,
        /// The object and the field, as `GaiaService gateway: spec.tls.mode`; empty: the file as a whole.
        field: String,
        /// The cause.
        why: String,
    },
    /// Another process writes to the directory.
    #[error("{}: {why}", path.display())]
    Busy {
        /// The directory.
        path: PathBuf,
        /// The evidence.
        why: String,
    },
    /// A stored object cannot be read.
    #[error("{}: {why}; restore the file from a backup", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause, without any content.
        why: String,
    },
    /// The directory has no such object.
    #[error("{}: there is no {what}; {next}", path.display())]
    Missing {
        /// The directory.
        path: PathBuf,
        /// The kind and name.
        what: String,
        /// The next step.
        next: String,
    },
}

impl DirectoryError {
    pub(crate) fn io(verb: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { verb, path: path.to_owned(), source: source.into() }
    }

    pub(crate) fn old_tree(path: &Path, why: impl Into<String>, next: impl Into<String>) -> Self {
        Self::OldTree { path: path.to_owned(), why: why.into(), next: next.into() }
    }

    pub(crate) fn hazard(path: &Path, why: impl Into<String>, next: impl Into<String>) -> Self {
        Self::Unsafe { path: path.to_owned(), why: why.into(), next: next.into() }
    }
}

fn next_step(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free space and run the command again",
        io::ErrorKind::ReadOnlyFilesystem => "; mount the file system writable and run the command again",
        io::ErrorKind::PermissionDenied => "; run the command as the user who owns the directory",
        io::ErrorKind::NotFound => "; run `gaia local init` first, or name the directory with --dir",
        _ => "",
    }
}

fn at_line(line: Option<usize>) -> String {
    line.map(|line| format!(":{line}")).unwrap_or_default()
}

fn in_field(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!(": {field}") }
}
