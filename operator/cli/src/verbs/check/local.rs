//! Findings of a directory: modes, owners, links, edited files, and an engine that does not run.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use gaia_api::names::key;
use gaia_operator::directory;
use jiff::Timestamp;

use super::certificates::is_overdue;
use super::snapshot::{Snapshot, Stored};
use super::{Findings, after};
use crate::Failure;
use crate::source::Source;
use crate::source::directory::{OWN, cannot_read, read_bounded};

pub(super) fn check(
    source: &Source,
    snapshot: &Snapshot,
    now: Timestamp,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let Source::Directory(directory) = source;
    let root = directory.path();
    for fault in &snapshot.unreadable {
        findings.add("GAIA813", fault.object.clone(), fault.why.clone());
    }
    let own = root.join(OWN);
    let Some(meta) = look(&own)? else { return Ok(()) };
    if meta.mode() & 0o077 != 0 {
        findings.add("GAIA802", shown(&own), format!("its mode is {:04o}", meta.mode() & 0o7777));
    }
    for stored in &snapshot.certificates {
        check_service(root, snapshot, stored, meta.uid(), findings)?;
    }
    check_public(root, snapshot, findings)?;
    check_manifests(root, findings);
    for old in ["ca.key", "ca-key.pem", "jwt-signing.key"] {
        let path = root.join(old);
        if look(&path)?.is_some() {
            findings.add("GAIA808", shown(&path), "every service of the old platform could read it");
        }
    }
    if look(&root.join(".gitignore"))?.is_none() {
        findings.add("GAIA811", shown(root), "it has no .gitignore");
    }
    check_engine(&own.join("heartbeat"), snapshot, now, findings)
}

fn check_service(
    root: &Path,
    snapshot: &Snapshot,
    stored: &Stored,
    owner: u32,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let folder = root.join(&stored.name);
    let Some(meta) = look(&folder)? else {
        // A certificate that does not exist yet has no directory.
        if stored.secret.is_some() {
            findings.add("GAIA806", shown(&folder), "it does not exist");
        }
        return Ok(());
    };
    if !meta.is_dir() {
        findings.add("GAIA805", shown(&folder), "it must be a folder");
        return Ok(());
    }
    if meta.uid() != owner {
        let uid = meta.uid();
        findings.add("GAIA803", shown(&folder), format!("it belongs to user {uid}, {OWN} to user {owner}"));
    }
    if meta.mode() & 0o022 != 0 {
        findings.add("GAIA804", shown(&folder), format!("its mode is {:04o}", meta.mode() & 0o7777));
    }
    for name in entries(&folder)? {
        let path = folder.join(&name);
        let target = fs::read_link(&path).ok();
        let is_own = target.as_ref().is_none_or(|target| match name.as_str() {
            DATA => target.components().count() == 1 && target.to_string_lossy().starts_with(".."),
            _ => target.starts_with(DATA) && target.components().count() == 2,
        });
        if let Some(target) = target.filter(|_| !is_own) {
            findings.add("GAIA805", shown(&path), format!("it leads to {}", target.display()));
            return Ok(());
        }
    }
    let data = folder.join(DATA);
    if fs::symlink_metadata(&data).is_err() {
        findings.add("GAIA806", shown(&folder), "it has no ..data");
        return Ok(());
    }
    for name in entries(&data)?.into_iter().filter(|name| is_private(name)) {
        let mode = look(&data.join(&name))?.map_or(0, |meta| meta.mode() & 0o777);
        if mode & 0o077 != 0 && mode != OF_GROUP {
            findings.add("GAIA801", shown(&folder.join(&name)), format!("its mode is {mode:04o}"));
        }
    }
    check_files(&data, &folder, snapshot, stored, findings)
}

/// Compares the public files with the stored objects.
fn check_files(
    data: &Path,
    folder: &Path,
    snapshot: &Snapshot,
    stored: &Stored,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let Some(leaf) = &stored.secret else { return Ok(()) };
    let trust = snapshot.trust.get(&stored.object.spec.trust_domain_ref.name);
    let mut expected: Vec<(&str, Option<&[u8]>)> = vec![(key::TLS_CERT, Some(&leaf.text)), (key::TLS_KEY, None)];
    for (name, content) in trust.iter().flat_map(|trust| &trust.data) {
        expected.push((name, Some(content)));
    }
    for (name, content) in expected {
        let file = data.join(name);
        match read_bounded(&file) {
            Ok(found) if content.is_some_and(|content| content != found.as_slice()) => {
                findings.add("GAIA807", shown(&folder.join(name)), "it differs from the stored object");
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                findings.add("GAIA806", shown(folder), format!("{name} is missing"));
            }
            Err(error) => return Err(cannot_read(&file, &error)),
        }
    }
    Ok(())
}

fn check_public(root: &Path, snapshot: &Snapshot, findings: &mut Findings) -> Result<(), Failure> {
    let Some(trust) = snapshot.trust.values().next() else { return Ok(()) };
    for (name, key) in [("ca.pem", key::CA_CERT), ("jwks.json", key::JWKS)] {
        let (path, Some(expected)) = (root.join(name), trust.data.get(key)) else { continue };
        match read_bounded(&path) {
            Ok(found) if found == *expected => {}
            Ok(_) => findings.add("GAIA812", shown(&path), "it differs"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                findings.add("GAIA812", shown(&path), "it is missing");
            }
            Err(error) => return Err(cannot_read(&path, &error)),
        }
    }
    Ok(())
}

/// Syntax, fields, schemas and rules of `gaia.yaml` and its patches, as the engine checks them.
fn check_manifests(root: &Path, findings: &mut Findings) {
    if let Err(error) = directory::check_manifests(root) {
        findings.add("GAIA809", shown(&root.join("gaia.yaml")), error.to_string());
    }
}

/// A renewal that is overdue while no engine runs has one cause, and is one finding.
fn check_engine(heartbeat: &Path, snapshot: &Snapshot, now: Timestamp, findings: &mut Findings) -> Result<(), Failure> {
    let last = look(heartbeat)?.and_then(|meta| meta.modified().ok());
    let last = last.and_then(|time| Timestamp::try_from(time.max(SystemTime::UNIX_EPOCH)).ok());
    if last.is_some_and(|last| after(last, STILL) >= now) {
        return Ok(());
    }
    let overdue: Vec<&str> =
        snapshot.certificates.iter().filter(|it| is_overdue(it, now)).map(|it| it.name.as_str()).collect();
    if !overdue.is_empty() {
        let since = last.map_or_else(|| "it has never run".to_owned(), |last| format!("it ran last at {last}"));
        findings.0.retain(|finding| finding.id != "GAIA302");
        findings.add("GAIA810", shown(heartbeat), format!("{since}; renewals are overdue: {}", overdue.join(", ")));
    }
    Ok(())
}

fn is_private(name: &str) -> bool {
    name.ends_with(".key") || matches!(name, "tls.pem" | "key.pem" | key::API_KEYS)
}

/// The metadata of a path without following a link; none: it does not exist.
fn look(path: &Path) -> Result<Option<Metadata>, Failure> {
    match fs::symlink_metadata(path) {
        Ok(meta) => Ok(Some(meta)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot_read(path, &error)),
    }
}

fn entries(folder: &Path) -> Result<Vec<String>, Failure> {
    let found = fs::read_dir(folder).map_err(|error| cannot_read(folder, &error))?;
    Ok(found.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

fn shown(path: &Path) -> String {
    PathBuf::from(path).display().to_string()
}

/// The link to the current version of the files.
const DATA: &str = "..data";
/// The mode of a key that a group was granted.
const OF_GROUP: u32 = 0o440;
/// The engine raises its heartbeat every two seconds.
const STILL: Duration = Duration::from_secs(60);
