//! Requests: how a command changes a directory while a daemon holds it.
//!
//! A command writes `.gaia/requests/<id>.json`; the holder carries it out and writes `.gaia/answers/<id>.json`. The id is
//! recorded in the write that carries a request out, so a crash in between repeats nothing. A request of another epoch
//! of a ring, or one older than ten minutes, is answered so and not carried out. Without a daemon, the command starts an
//! [`Engine`] and carries the same request out itself.

mod carry_out;

use gaia_api::names::{self, annotation};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::disk::dir::{Access, Dir, Kind};
use super::disk::error::DirectoryError;
use super::disk::lock::{is_held, random_id};
use super::engine::Engine;
use super::engine::FOLDERS;
use super::view::Directory;

/// A change that a command asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Request {
    schema_version: u32,
    /// Random, 32 hexadecimal digits; also the name of its file.
    pub id: String,
    /// The time at which it was made.
    pub made: Timestamp,
    /// The epochs of the rings that it was decided on.
    pub epochs: Epochs,
    /// The changes, in order.
    pub actions: Vec<RequestAction>,
}

/// The epochs of a TrustDomain's rings, as its trust bundle carries them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Epochs {
    /// Of the CA ring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Of the signing ring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing: Option<String>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum RequestAction {
    /// Merges a patch (RFC 7396) into an object. One of `gaia.yaml` is patched in `gaia.changes.yaml`; a ServiceCertificate
    /// of a GaiaService, and a Secret of the user, are patched where they are stored. A missing Secret is created.
    Patch {
        /// TrustDomain, GaiaService, ServiceCertificate or Secret.
        kind: String,
        /// Empty: none.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        namespace: String,
        /// The object's name.
        name: String,
        /// The merge patch.
        patch: Value,
    },
    /// Removes a service that is no longer in `gaia.yaml`, with its directory.
    Prune {
        /// The service's name.
        service: String,
    },
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestAnswer {
    /// The id of the request.
    pub id: String,
    /// The outcome.
    pub outcome: RequestOutcome,
    /// The cause and the next step; empty where it was done.
    pub message: String,
}

/// The outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestOutcome {
    /// Carried out.
    Done,
    /// A value is wrong, or the object may not be changed. Nothing was changed.
    Refused,
    /// It was older than ten minutes. Nothing was changed.
    Expired,
    /// A ring has changed since it was made. Nothing was changed.
    Stale,
    /// The disk failed; it may be carried out in part.
    Failed,
}

impl Directory {
    /// A request for these changes, decided on the present state.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn request(&self, actions: Vec<RequestAction>, now: Timestamp) -> Result<Request, DirectoryError> {
        Ok(Request { schema_version: 1, id: random_id(), made: now, epochs: self.epochs()?, actions })
    }

    /// The epochs of the rings, without reading a ring.
    ///
    /// # Errors
    /// The trust bundle cannot be read.
    pub fn epochs(&self) -> Result<Epochs, DirectoryError> {
        for domain in self.trust_domains()? {
            let name = names::trust(domain.metadata.name.as_deref().unwrap_or_default());
            let is_its = |meta: &ObjectMeta| meta.name.as_ref() == Some(&name);
            if let Some(found) = self.config_maps()?.into_iter().find(|map| is_its(&map.metadata)) {
                return Ok(epochs_in(&found.metadata));
            }
        }
        Ok(Epochs::default())
    }

    /// Returns true if a daemon or another command holds the directory. It takes ten seconds if the last holder ran on
    /// another kernel and did not give it up.
    ///
    /// # Errors
    /// The lock or the heartbeat cannot be read.
    pub async fn is_held(&self) -> Result<bool, DirectoryError> {
        is_held(&self.hidden).await
    }

    /// Leaves a request to the process that holds the directory.
    ///
    /// # Errors
    /// Too many requests wait, it is too large, or the disk cannot be written.
    pub fn submit(&self, request: &Request) -> Result<(), DirectoryError> {
        let folder = self.hidden.create_sub(REQUESTS, FOLDERS)?;
        if files(&folder)?.len() >= MOST {
            let why = format!("{MOST} requests wait for the daemon");
            return Err(DirectoryError::hazard(folder.path(), why, "check that `gaia local run` is running"));
        }
        let text = serde_json::to_vec(request).unwrap_or_default();
        if text.len() > MAX_BYTES {
            let why = format!("the request has {} bytes, more than {MAX_BYTES}", text.len());
            return Err(DirectoryError::hazard(folder.path(), why, "change fewer objects at once"));
        }
        folder.write(&file(&request.id), &text, Access::PRIVATE)
    }

    /// The answer to a request; none: it waits.
    ///
    /// # Errors
    /// The answer cannot be read.
    pub fn answer(&self, id: &str) -> Result<Option<RequestAnswer>, DirectoryError> {
        let Some(folder) = self.hidden.own_sub(ANSWERS)? else { return Ok(None) };
        Ok(folder.read(&file(id))?.and_then(|text| serde_json::from_slice(&text).ok()))
    }
}

impl Engine {
    /// Carries out the requests that wait, and removes old answers.
    pub(super) fn answer_requests(&mut self) -> Result<(), DirectoryError> {
        let now = self.settings.clock.now();
        let Some(folder) = self.hidden.own_sub(REQUESTS)? else { return Ok(()) };
        let waiting = files(&folder)?;
        if waiting.is_empty() && self.hidden.own_sub(ANSWERS)?.is_none_or(|dir| files(&dir).is_ok_and(|f| f.is_empty()))
        {
            return Ok(());
        }
        let answers = self.hidden.create_sub(ANSWERS, FOLDERS)?;
        for name in waiting.into_iter().take(MOST) {
            let id = name.strip_suffix(SUFFIX).unwrap_or_default().to_owned();
            let request = folder.read(&name)?.filter(|text| text.len() <= MAX_BYTES);
            let request = request.and_then(|text| serde_json::from_slice::<Request>(&text).ok());
            let answer = match request.filter(|request| request.id == id) {
                Some(request) => self.carry_out(&request),
                None => RequestAnswer {
                    id,
                    outcome: RequestOutcome::Refused,
                    message: "the file is not a request of this version".to_owned(),
                },
            };
            let text = serde_json::to_vec(&answer).unwrap_or_default();
            answers.write(&name, &text, Access::PRIVATE)?;
            folder.remove(&name)?;
            tracing::info!(id = answer.id, outcome = ?answer.outcome, message = answer.message, "request answered");
        }
        for name in files(&answers)? {
            let id = name.strip_suffix(SUFFIX).unwrap_or_default();
            match self.answered.get(id) {
                Some(at) if now.duration_since(*at) < KEPT => {}
                Some(_) => {
                    answers.remove(&name)?;
                    self.answered.remove(id);
                }
                None => drop(self.answered.insert(id.to_owned(), now)),
            }
        }
        Ok(())
    }
}

/// The epochs that a trust bundle carries.
pub(super) fn epochs_in(meta: &ObjectMeta) -> Epochs {
    let of = |name: &str| meta.annotations.as_ref().and_then(|annotations| annotations.get(name)).cloned();
    Epochs { ca: of(annotation::CA_EPOCH), signing: of(annotation::SIGNING_EPOCH) }
}

fn files(folder: &Dir) -> Result<Vec<String>, DirectoryError> {
    let entries = folder.entries()?.into_iter();
    Ok(entries.filter(|(name, kind)| *kind == Kind::File && name.ends_with(SUFFIX)).map(|(name, _)| name).collect())
}

fn file(id: &str) -> String {
    format!("{id}{SUFFIX}")
}

const REQUESTS: &str = "requests";
const ANSWERS: &str = "answers";
const SUFFIX: &str = ".json";
const MOST: usize = 100;
const MAX_BYTES: usize = 64 << 10;
/// The longest time that a request may wait.
const VALID: SignedDuration = SignedDuration::from_mins(10);
/// The time for which an answer is kept.
const KEPT: SignedDuration = SignedDuration::from_mins(10);
