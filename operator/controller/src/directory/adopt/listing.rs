//! The entries of a directory, as they are before Gaia has written to it.

use std::collections::BTreeMap;
use std::io;

use zeroize::Zeroizing;

use super::tree::{ROOT_FILES, SERVICE_FILES};
use crate::directory::disk::dir::{Dir, Kind};
use crate::directory::disk::error::DirectoryError;
use crate::directory::engine::{HIDDEN, OBJECTS};

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    Folder,
    File {
        /// The permission bits.
        mode: u32,
        /// Its content; none: it was not needed, or could not be read.
        content: Option<Content>,
    },
    Link,
    /// A pipe, a socket or a device.
    Other,
}

/// The content of a file. It may be a private key, so `Debug` shows its length only.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Content(pub(crate) Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// The entries of a directory and of its sub-folders, by their paths below it.
pub(crate) type Listing = BTreeMap<String, Entry>;

/// Reads the entries that recognition needs: the names of the old tree, and the folders that may be services.
pub(super) fn read(root: &Dir) -> Result<Listing, DirectoryError> {
    let mut listing = Listing::new();
    for (name, kind) in root.entries()? {
        if kind != Kind::Folder {
            if ROOT_FILES.iter().any(|(known, _)| *known == name) || kind == Kind::Link {
                listing.insert(name.clone(), entry(root, &name, kind)?);
            }
            continue;
        }
        let Some(sub) = root.sub(&name)? else { continue };
        if name == HIDDEN {
            if sub.kind(OBJECTS)?.is_some() {
                listing.insert(format!("{HIDDEN}/{OBJECTS}"), Entry::Folder);
            }
            continue;
        }
        listing.insert(name.clone(), Entry::Folder);
        for (file, _) in SERVICE_FILES {
            if let Some(kind) = sub.kind(file)? {
                listing.insert(format!("{name}/{file}"), entry(&sub, file, kind)?);
            }
        }
    }
    Ok(listing)
}

fn entry(folder: &Dir, name: &str, kind: Kind) -> Result<Entry, DirectoryError> {
    match kind {
        Kind::Folder => Ok(Entry::Folder),
        Kind::Link => Ok(Entry::Link),
        Kind::Other => Ok(Entry::Other),
        Kind::File => match folder.read_with_mode(name) {
            Ok(Some((content, mode))) => Ok(Entry::File { mode, content: Some(Content(content)) }),
            Ok(None) => Ok(Entry::Other),
            Err(DirectoryError::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
                Ok(Entry::File { mode: 0, content: None })
            }
            Err(error) => Err(error),
        },
    }
}
