//! The service directories: what a pod has in `/etc/gaia`, as files.
//!
//! In: the stored Secrets and ConfigMaps. Out: a folder a service, swapped in one rename of the link `..data` as the
//! kubelet does it, and the public files at the root of the tree. A folder is written once everything that a pod would
//! wait for exists; it is never renamed, as a bind mount would keep the old one.

mod files;
mod sources;

use std::collections::{BTreeMap, BTreeSet};

use gaia_api::names::key;
use gaia_plan::object::{ObjectKey, ObjectKind};

use self::files::{Contents, write_directory};
use self::sources::{Sources, read};
use super::disk::dir::{Access, Dir};
use super::disk::error::DirectoryError;
use super::disk::objects::Objects;
use crate::cache::Place;

/// The service directories of a tree.
pub(crate) struct Projection {
    root: Dir,
    /// The group that may read the service directories; none: the group of this user.
    group: Option<u32>,
    /// The sources of each service directory, by its name; none: not known since a manifest changed.
    sources: Option<BTreeMap<String, Sources>>,
    /// Directories that may differ from the objects.
    due: BTreeSet<String>,
    is_all_due: bool,
    /// ServiceCertificates that were written: the sources of their directories are determined again.
    changed: BTreeSet<Place>,
}

impl Projection {
    pub(crate) fn new(root: Dir, group: Option<u32>) -> Self {
        Self { root, group, sources: None, due: BTreeSet::new(), is_all_due: true, changed: BTreeSet::new() }
    }

    /// An object was written: the directories that hold a part of it are due. Returns their names.
    pub(crate) fn mark(&mut self, object: &ObjectKey, objects: &Objects) -> Result<BTreeSet<String>, DirectoryError> {
        let names = if object.kind == ObjectKind::ServiceCertificate {
            self.changed.insert((object.namespace.clone(), object.name.clone()));
            BTreeSet::from([object.name.clone()])
        } else {
            let holds = |sources: &Sources| sources.parts.iter().any(|part| part.object == *object);
            let known = self.known_sources(objects)?.iter();
            known.filter(|(_, sources)| holds(sources)).map(|(name, _)| name.clone()).collect()
        };
        self.due.extend(names.iter().cloned());
        Ok(names)
    }

    /// Returns true if a directory may differ from the objects, because it could not be written.
    pub(crate) fn has_due(&self) -> bool {
        self.is_all_due || !self.due.is_empty()
    }

    /// All directories are due.
    pub(crate) fn mark_all(&mut self) {
        self.is_all_due = true;
    }

    /// A manifest was changed: the sources are determined again.
    pub(crate) fn forget_sources(&mut self) {
        self.sources = None;
        self.is_all_due = true;
    }

    /// Writes the directories that are due and differ. Those that fail stay due, and are returned by name.
    pub(crate) fn write_due(&mut self, objects: &Objects) -> Vec<(String, DirectoryError)> {
        if !self.is_all_due && self.due.is_empty() {
            return vec![];
        }
        if let Err(error) = self.known_sources(objects) {
            return vec![(String::new(), error)];
        }
        let sources = self.sources.take().unwrap_or_default();
        let is_due = |name: &String| self.is_all_due || self.due.contains(name);
        let mut failures = vec![];
        for (name, sources) in sources.iter().filter(|(name, _)| is_due(name)) {
            if let Err(error) = self.write_one(name, sources, objects) {
                failures.push((name.clone(), error));
            }
        }
        self.sources = Some(sources);
        self.due = failures.iter().map(|(name, _)| name.clone()).collect();
        self.is_all_due = false;
        failures
    }

    /// The sources, determined again where ServiceCertificates were written.
    fn known_sources(&mut self, objects: &Objects) -> Result<&BTreeMap<String, Sources>, DirectoryError> {
        let mut known = match self.sources.take() {
            Some(known) => known,
            None => {
                self.changed.clear();
                sources::all(objects)?
            }
        };
        for place in std::mem::take(&mut self.changed) {
            match sources::one(objects, &place)? {
                Some(found) => drop(known.insert(place.1, found)),
                None => drop(known.remove(&place.1)),
            }
        }
        Ok(self.sources.insert(known))
    }

    fn write_one(&self, name: &str, sources: &Sources, objects: &Objects) -> Result<(), DirectoryError> {
        let Some(contents) = read(sources, objects)? else { return Ok(()) };
        let folder = self.root.create_sub(name, self.folder_access())?;
        folder.set_access(self.folder_access())?;
        write_directory(&folder, &contents, self.folder_access(), |file| self.file_access(file))?;
        self.write_public(&contents)
    }

    fn folder_access(&self) -> Access {
        Access { mode: 0o750, group: self.group }
    }

    /// Keys are for the user alone, or for the group that was named.
    fn file_access(&self, file: &str) -> Access {
        match (is_private(file), self.group) {
            (true, None) => Access::PRIVATE,
            (_, Some(group)) => Access { mode: 0o440, group: Some(group) },
            (false, None) => Access { mode: 0o640, group: None },
        }
    }

    /// The public files at the root, which are equal in all directories.
    fn write_public(&self, contents: &Contents) -> Result<(), DirectoryError> {
        for (file, name) in PUBLIC {
            let Some(content) = contents.get(file) else { continue };
            let is_same = self
                .root
                .read_with_mode(name)?
                .is_some_and(|(found, mode)| found.as_slice() == content.as_slice() && mode == Access::PUBLIC.mode);
            if !is_same {
                self.root.write(name, content, Access::PUBLIC)?;
            }
        }
        Ok(())
    }
}

/// Returns true for a file that holds a private key, or hashes or keys of clients.
fn is_private(file: &str) -> bool {
    file.ends_with(".key") || file == TLS_PEM || file == key::API_KEYS
}

/// Key and chain in one file, for programs that read both at once.
const TLS_PEM: &str = "tls.pem";
/// Public files of a service directory, and their names at the root.
const PUBLIC: [(&str, &str); 3] =
    [(key::CA_CERT, "ca.pem"), (key::JWKS, key::JWKS), (key::JWT_SIGNING_PUB, key::JWT_SIGNING_PUB)];
