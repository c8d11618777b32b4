//! A service directory on the disk.

use std::collections::BTreeMap;

use gaia_api::names::key;
use zeroize::Zeroizing;

use crate::directory::disk::dir::{Access, Dir, Kind, is_temporary};
use crate::directory::disk::error::DirectoryError;

/// The files of a directory and their contents.
pub(super) type Contents = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// Writes a directory if it differs from its contents. All files change in one rename of `..data`.
pub(super) fn write_directory(
    folder: &Dir,
    contents: &Contents,
    access: Access,
    of_file: impl Fn(&str) -> Access,
) -> Result<(), DirectoryError> {
    let current = folder.read_link(DATA)?.filter(|target| is_version(target));
    let is_same = match current.as_deref().map(|target| folder.own_sub(target)).transpose()?.flatten() {
        Some(version) => has_contents(&version, contents, &of_file)?,
        None => false,
    };
    let current = match current.filter(|_| is_same) {
        Some(current) => current,
        None => {
            let next = new_version(folder)?;
            let version = folder.create_sub(&next, access)?;
            for (name, content) in contents {
                version.write_new(name, content, of_file(name))?;
            }
            version.flush()?;
            if folder.kind(DATA)?.is_some_and(|kind| kind == Kind::Folder) {
                return Err(DirectoryError::hazard(&folder.path().join(DATA), "it must be a link", "remove it"));
            }
            folder.link(DATA, &next)?;
            next
        }
    };
    let names = contents.keys().map(|name| (name.as_str(), name.as_str()));
    let links: BTreeMap<&str, &str> = names.chain(OLD_NAMES).collect();
    for (name, file) in &links {
        folder.link(name, &format!("{DATA}/{file}"))?;
    }
    for (name, kind) in folder.entries()? {
        match kind {
            Kind::Folder if is_version(&name) && name != current => folder.remove_tree(&name)?,
            Kind::Link if is_own_link(folder, &name)? && !links.contains_key(name.as_str()) => folder.remove(&name)?,
            Kind::File | Kind::Link if is_temporary(&name) => folder.remove(&name)?,
            _ => {}
        }
    }
    Ok(())
}

/// Returns true if a version has exactly these files, with their modes.
fn has_contents(version: &Dir, contents: &Contents, of_file: &impl Fn(&str) -> Access) -> Result<bool, DirectoryError> {
    let entries = version.entries()?;
    let is_file = |(name, kind): &(String, Kind)| *kind == Kind::File && contents.contains_key(name);
    if entries.len() != contents.len() || !entries.iter().all(is_file) {
        return Ok(false);
    }
    for (name, content) in contents {
        let found = version.read_with_mode(name)?;
        if !found.is_some_and(|(found, mode)| found.as_slice() == content.as_slice() && mode == of_file(name).mode) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns true for a link into `..data`, which only Gaia makes.
fn is_own_link(folder: &Dir, name: &str) -> Result<bool, DirectoryError> {
    Ok(folder.read_link(name)?.is_some_and(|target| target.starts_with(&format!("{DATA}/"))))
}

/// The name of a version that does not exist.
fn new_version(folder: &Dir) -> Result<String, DirectoryError> {
    let used = folder.entries()?.into_iter();
    let last = used.filter_map(|(name, _)| name.strip_prefix(VERSION)?.parse::<u64>().ok()).max();
    Ok(format!("{VERSION}{}", last.unwrap_or_default() + 1))
}

fn is_version(name: &str) -> bool {
    name.strip_prefix(VERSION).is_some_and(|number| number.parse::<u64>().is_ok())
}

/// The link to the current version, by the kubelet's name: readers resolve it once.
const DATA: &str = "..data";
const VERSION: &str = "..version-";
/// The names of the scripts that this platform started from, and their files.
const OLD_NAMES: [(&str, &str); 3] = [("cert.pem", key::TLS_CERT), ("key.pem", key::TLS_KEY), ("ca.pem", key::CA_CERT)];
