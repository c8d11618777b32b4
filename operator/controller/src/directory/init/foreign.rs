//! Files of the scripts that this platform started from: they hold keys in use, and are never overwritten.

use std::path::Path;

use crate::directory::disk::dir::{Dir, Kind};
use crate::directory::disk::error::DirectoryError;
use crate::directory::engine::HIDDEN;

/// Refuses a folder that other tools have written to.
pub(super) fn refuse(path: &Path) -> Result<(), DirectoryError> {
    if !path.exists() || path.join(HIDDEN).exists() {
        return Ok(());
    }
    let root = Dir::open(path)?;
    let mut found: Vec<String> = vec![];
    for (name, kind) in root.entries()? {
        match kind {
            Kind::File if AT_ROOT.contains(&name.as_str()) => found.push(name),
            Kind::Folder => {
                let Some(sub) = root.sub(&name)? else { continue };
                let files = sub.entries()?.into_iter().filter(|(_, kind)| *kind == Kind::File);
                let files = files.filter(|(file, _)| IN_SERVICES.contains(&file.as_str()));
                found.extend(files.map(|(file, _)| format!("{name}/{file}")));
            }
            _ => {}
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    let why = format!("it holds keys or certificates that gaia did not write ({})", found.join(", "));
    Err(DirectoryError::hazard(path, why, "name another directory with --dir, or move these files away"))
}

const AT_ROOT: [&str; 6] = ["ca.key", "ca-key.pem", "ca.pem", "ca.srl", "jwt-signing.key", "jwt-signing.pub"];
const IN_SERVICES: [&str; 5] = ["cert.pem", "key.pem", "ca.pem", "tls.crt", "tls.key"];
