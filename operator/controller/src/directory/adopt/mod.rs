//! Adoption of the tree that the old scripts made.
//!
//! `listing` reads the entries of a directory and `tree` finds the CA and the signing key in them. `rings` writes both as
//! the first generations of the rings, and `record` the names of the adopted keys. `finish` moves the old key files away
//! once both are replaced.

mod finish;
mod listing;
mod record;
mod rings;
mod tree;

use std::fmt::Write as _;
use std::time::Duration;

use gaia_api::Clock;
use gaia_api::crd::{PropagationSpec, TrustDomain};
use gaia_plan::rules::limits;
use jiff::Timestamp;

pub use self::finish::{AdoptedKey, Finish};
use self::record::Record;
use self::tree::OldTree;
use super::disk::dir::Dir;
use super::disk::error::DirectoryError;
use super::disk::lock::Lock;
use super::disk::objects::{FOLDER, Objects};
use super::engine::{HIDDEN, OBJECTS};
use crate::execute::issue;

/// A tree that is being adopted.
pub(super) struct Adoption {
    tree: OldTree,
    record: Record,
    is_continued: bool,
}

/// Refuses a folder that other tools have written to, and one whose adoption was interrupted.
pub(super) fn refuse(root: &Dir) -> Result<(), DirectoryError> {
    if let Some(hidden) = root.own_sub(HIDDEN)?
        && Record::read(&hidden)?.is_some_and(|record| !record.is_complete)
    {
        let why = "the adoption of the old tree was interrupted";
        return Err(DirectoryError::old_tree(root.path(), why, "continue it with `gaia local init --adopt`"));
    }
    let foreign = tree::foreign(&listing::read(root)?);
    if foreign.is_empty() {
        return Ok(());
    }
    let mut why = "it holds files that gaia did not write:".to_owned();
    for file in foreign {
        let _ = write!(why, "\n  {}  {}", file.path, file.what);
    }
    let next =
        "nothing was changed; take them over with `gaia local init --adopt`, or name another directory with --dir";
    Err(DirectoryError::old_tree(root.path(), why, next))
}

/// Reads the old tree; none: it is adopted already.
pub(super) fn read(root: &Dir, trust_domain: &str, now: Timestamp) -> Result<Option<Adoption>, DirectoryError> {
    let hidden = root.own_sub(HIDDEN)?;
    let known = hidden.as_ref().map(Record::read).transpose()?.flatten();
    if known.as_ref().is_some_and(|record| record.is_complete) {
        return Ok(None);
    }
    let listing = listing::read(root)?;
    if known.is_none() && tree::foreign(&listing).is_empty() {
        let why = "there is no tree of the old scripts to adopt";
        return Err(DirectoryError::old_tree(root.path(), why, "run `gaia local init` without --adopt"));
    }
    let mut tree = tree::recognise(&listing, now).map_err(|faults| {
        let mut why = "the tree of the old scripts cannot be adopted:".to_owned();
        for tree::TreeFault { path, why: cause, next } in faults {
            let _ = write!(why, "\n  {path}: {cause}; {next}");
        }
        DirectoryError::old_tree(root.path(), why, "nothing was changed; run the command again after that")
    })?;
    let examined = issue::examine(&tree.ca, trust_domain, now);
    if let Some(why) = examined.refused {
        let next = "no peer would accept its certificates: run `gaia local init` in an empty directory";
        return Err(DirectoryError::old_tree(&root.path().join(tree::CA), why, next));
    }
    let strict = examined.not_strict.into_iter().map(|why| {
        format!(
            "{}: strict peers (OpenSSL with -x509_strict, Python 3.13) refuse it: {why}; `gaia rotate ca` replaces it",
            tree::CA
        )
    });
    tree.warnings.extend(strict);
    let record = Record::of(&tree);
    for file in record.key_files().into_iter().chain([tree::CA]) {
        root.check_owner_of(file)?;
    }
    Ok(Some(Adoption { tree, record, is_continued: known.is_some() }))
}

impl Adoption {
    /// Facts that the user must know.
    pub(super) fn warnings(&self) -> &[String] {
        &self.tree.warnings
    }

    /// Returns true if it was interrupted before.
    pub(super) fn is_continued(&self) -> bool {
        self.is_continued
    }

    /// The services of the old tree.
    pub(super) fn services(&self) -> &[String] {
        &self.tree.services
    }

    /// Fields of the TrustDomain with which nothing is replaced before the user asks for it: another kind of key starts
    /// a rotation, and certificates that are long for the rest of the CA's validity start it early.
    pub(super) fn trust_domain_fields(&self, now: Timestamp) -> String {
        let key = self.tree.ca.key().spec();
        let (algorithm, size) = if key.is_rsa() { ("RSA", key.as_str()) } else { ("ECDSA", key.as_str()) };
        let size = size.rsplit('-').next().unwrap_or_default();
        let mut fields = format!(
            "  # As the adopted CA. Another kind of key starts a rotation.\n  ca: {{privateKey: {{algorithm: {algorithm}, size: \
             {size}}}}}\n"
        );
        if let Some(hours) = leaf_hours(self.tree.ca.not_after(), now) {
            let _ = write!(
                fields,
                "  # Short, for the rest of the adopted CA's validity; remove it after `gaia rotate ca`.\n  \
                 certificateDefaults: {{duration: {hours}h}}\n"
            );
        }
        fields
    }

    /// Returns true if the signing key is not of the default algorithm.
    pub(super) fn signs_by_es256(&self) -> bool {
        self.tree.signing_key.as_ref().is_some_and(|signing| !signing.key.spec().is_rsa())
    }

    /// Writes the rings. It is safe to repeat.
    pub(super) async fn write_rings(
        &self,
        root: &Dir,
        domain: &TrustDomain,
        clock: &dyn Clock,
    ) -> Result<(), DirectoryError> {
        let hidden = root.create_sub(HIDDEN, FOLDER)?;
        let lock = Lock::take(hidden.clone()).await?;
        self.record.write(&hidden)?;
        let mut objects = Objects::open_for_writing(hidden.create_sub(OBJECTS, FOLDER)?)?;
        let created = rings::create(&mut objects, &self.tree, domain, clock);
        drop(lock);
        created
    }

    /// Records that every certificate was issued.
    pub(super) fn complete(&self, root: &Dir) -> Result<(), DirectoryError> {
        let Some(hidden) = root.own_sub(HIDDEN)? else { return Ok(()) };
        Record { is_complete: true, ..self.record.clone() }.write(&hidden)
    }
}

/// The longest validity of leaves with which a CA needs no successor yet; none: the default.
fn leaf_hours(ca_ends: Timestamp, now: Timestamp) -> Option<u64> {
    let left = Duration::try_from(ca_ends.duration_since(now)).unwrap_or_default();
    let times = PropagationSpec::default();
    let fits = |hours: &u64| limits::least_life_left(Duration::from_secs(hours * 3600), &times) <= left;
    if fits(&DEFAULT_LEAF_HOURS) {
        return None;
    }
    Some(SHORTER_LEAF_HOURS.into_iter().find(fits).unwrap_or(LEAST_LEAF_HOURS))
}

const DEFAULT_LEAF_HOURS: u64 = 3240;
const SHORTER_LEAF_HOURS: [u64; 3] = [1440, 720, 168];
const LEAST_LEAF_HOURS: u64 = 24;

#[cfg(test)]
mod tests;
