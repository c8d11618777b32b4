//! `gaia.changes.yaml`: merge patches that verbs made, applied over `gaia.yaml`.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::disk::dir::{Access, Dir};
use super::disk::error::DirectoryError;
use crate::api_server::Resource;
use crate::cache::Place;

/// The patches, one an object, and the requests that made them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Changes {
    #[serde(skip)]
    path: PathBuf,
    /// The last requests that were carried out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) handled: Vec<String>,
    #[serde(default)]
    pub(crate) patches: Vec<Patch>,
}

/// A merge patch of one object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Patch {
    kind: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    namespace: String,
    name: String,
    patch: Value,
}

impl Changes {
    /// Reads the file; a missing one has no patches.
    pub(crate) fn read(root: &Dir) -> Result<Self, DirectoryError> {
        let path = root.path().join(CHANGES);
        let Some(text) = root.read(CHANGES)? else { return Ok(Self { path, ..Self::default() }) };
        let parsed: Result<Self, _> = serde_yaml_ng::from_slice(&text);
        match parsed {
            Ok(changes) => Ok(Self { path, ..changes }),
            Err(error) => Err(DirectoryError::Manifest {
                line: error.location().map(|location| location.line()),
                field: String::new(),
                why: error.to_string().split(" at line ").next().unwrap_or_default().to_owned(),
                file: path,
            }),
        }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.path.clone()
    }

    /// The patch of an object.
    pub(crate) fn of(&self, resource: Resource, place: &Place) -> Option<&Value> {
        let is_its = |it: &&Patch| it.kind == resource.kind && it.namespace == place.0 && it.name == place.1;
        self.patches.iter().find(is_its).map(|it| &it.patch)
    }

    /// Kind, namespace, name and patch of each.
    pub(crate) fn into_parts(self) -> Vec<(String, String, String, Value)> {
        self.patches.into_iter().map(|it| (it.kind, it.namespace, it.name, it.patch)).collect()
    }

    /// Adds a patch; later values replace earlier ones.
    pub(crate) fn add(&mut self, resource: Resource, place: &Place, patch: &Value) {
        let is_its = |it: &&mut Patch| it.kind == resource.kind && it.namespace == place.0 && it.name == place.1;
        match self.patches.iter_mut().find(is_its) {
            Some(known) => compose(&mut known.patch, patch),
            None => self.patches.push(Patch {
                kind: resource.kind.to_owned(),
                namespace: place.0.clone(),
                name: place.1.clone(),
                patch: patch.clone(),
            }),
        }
    }

    /// Removes the patch of an object.
    pub(crate) fn forget(&mut self, name: &str) {
        self.patches.retain(|it| it.name != name || it.kind == Resource::TRUST_DOMAIN.kind);
    }

    /// Records that a request was carried out.
    pub(crate) fn note_handled(&mut self, id: &str) {
        self.handled.push(id.to_owned());
        let surplus = self.handled.len().saturating_sub(REMEMBERED);
        self.handled.drain(..surplus);
    }

    /// Writes the file.
    pub(crate) fn write(&self, root: &Dir) -> Result<(), DirectoryError> {
        let mut text = HEADER.to_owned();
        let yaml = serde_yaml_ng::to_string(self).map_err(|error| DirectoryError::Manifest {
            file: self.file(),
            line: None,
            field: String::new(),
            why: error.to_string(),
        })?;
        let _ = write!(text, "{yaml}");
        root.write(CHANGES, text.as_bytes(), Access { mode: 0o644, group: None })
    }
}

/// Merges a later patch into an earlier one, so that both have the effect of one after the other.
fn compose(earlier: &mut Value, later: &Value) {
    match (earlier, later) {
        (Value::Object(earlier), Value::Object(later)) => {
            for (name, value) in later {
                compose(earlier.entry(name).or_insert(Value::Object(serde_json::Map::new())), value);
            }
        }
        (earlier, later) => *earlier = later.clone(),
    }
}

pub(crate) const CHANGES: &str = "gaia.changes.yaml";
const HEADER: &str = "# Written by gaia: changes that commands made, applied over gaia.yaml. Move them into gaia.yaml and\n\
                      # delete them here when they are to stay.\n";
const REMEMBERED: usize = 100;
