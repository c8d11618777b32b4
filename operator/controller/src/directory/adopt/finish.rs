//! The end of an adoption: the old key files are moved away.

use gaia_api::crd::{AuthMode, GaiaService};

use super::record::Record;
use super::{rings, tree};
use crate::directory::disk::dir::Access;
use crate::directory::disk::error::DirectoryError;
use crate::directory::disk::objects::FOLDER;
use crate::directory::view::Directory;

/// An adopted key that its ring still trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdoptedKey {
    /// Its file at the root of the old tree.
    pub file: String,
    /// The state of its generation.
    pub state: String,
    /// The command that replaces it.
    pub next: &'static str,
}

/// The result of [`Directory::finish_adoption`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    /// These files were moved to `.gaia/adopted`. Empty: they were moved before.
    Moved(Vec<String>),
    /// Old services may still need the files; each reason with its next step. Nothing was changed.
    Held(Vec<String>),
}

impl Directory {
    /// The adopted keys that are not replaced yet. Every old service could read them.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn adopted_keys(&self) -> Result<Vec<AdoptedKey>, DirectoryError> {
        let Some(record) = Record::read(&self.hidden)? else { return Ok(vec![]) };
        let mut keys = vec![];
        for domain in self.trust_domains()? {
            let name = domain.metadata.name.unwrap_or_default();
            for (file, state) in rings::trusted(&self.objects, &name, &record)? {
                let next = if file == tree::SIGNING_KEY { "gaia rotate signing-key" } else { "gaia rotate ca" };
                keys.push(AdoptedKey { file, state, next });
            }
        }
        Ok(keys)
    }

    /// Moves the old key files to `.gaia/adopted` once no old service can need them. `are_stopped`: all
    /// old services are stopped.
    ///
    /// # Errors
    /// No tree was adopted, or the disk cannot be read or written.
    pub fn finish_adoption(&self, are_stopped: bool) -> Result<Finish, DirectoryError> {
        let Some(record) = Record::read(&self.hidden)? else {
            return Err(DirectoryError::Missing {
                path: self.root.path().to_owned(),
                what: "adopted tree".to_owned(),
                next: "there is nothing to finish".to_owned(),
            });
        };
        let held = self.held(are_stopped)?;
        if !held.is_empty() {
            return Ok(Finish::Held(held));
        }
        let folder = self.hidden.create_sub(FOLDER_NAME, FOLDER)?;
        let mut moved = vec![];
        for file in record.key_files() {
            let Some(content) = self.root.read(file)? else { continue };
            folder.write(file, &content, Access::PRIVATE)?;
            self.root.remove(file)?;
            moved.push(file.to_owned());
        }
        Ok(Finish::Moved(moved))
    }

    fn held(&self, are_stopped: bool) -> Result<Vec<String>, DirectoryError> {
        let mut held: Vec<String> = vec![];
        for AdoptedKey { file, state, next } in self.adopted_keys()? {
            held.push(format!(
                "the key in {file} is {state}: old services sign or verify with it; run `{next} --wait`"
            ));
        }
        if are_stopped {
            return Ok(held);
        }
        let default = self.trust_domains()?.first().map(|domain| domain.spec.auth.default_mode).unwrap_or_default();
        let mode = |service: &GaiaService| service.spec.auth.mode.unwrap_or(default);
        let accepting = self.services()?.into_iter().filter(|service| mode(service) != AuthMode::JWTOnly);
        let names: Vec<String> = accepting.filter_map(|service| service.metadata.name).collect();
        if !names.is_empty() {
            held.push(format!(
                "{} accept API keys, so old services can still run, and they read these files when they start; set \
                 spec.auth.mode: JWTOnly, or stop the old services and add --old-services-stopped",
                names.join(", ")
            ));
        }
        Ok(held)
    }
}

const FOLDER_NAME: &str = "adopted";
