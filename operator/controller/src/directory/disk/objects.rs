//! The objects of a directory: one JSON file each, below `.gaia/objects/<kind>/<namespace, or _>/`.
//!
//! Objects have a UID and a resource version, as in a cluster. Versions are numbers that grow over all objects, also
//! after a restart: a write on an outdated version is refused.

use std::collections::BTreeSet;

use gaia_api::Clock;
use gaia_plan::object::Version;
use gaia_plan::object::merge::apply_patch;
use serde_json::{Value, json};
use zeroize::{Zeroize as _, Zeroizing};

use super::dir::{Access, Dir, Kind, is_temporary};
use super::error::DirectoryError;
use crate::api_server::Resource;
use crate::api_server::object::read_metadata;
use crate::cache::Place;

type Result<T> = std::result::Result<T, DirectoryError>;

/// The kinds of stored objects.
pub(crate) const KINDS: [Resource; 5] =
    [Resource::TRUST_DOMAIN, Resource::SERVICE, Resource::CERTIFICATE, Resource::CONFIG_MAP, Resource::SECRET];

/// The reason why a write did not happen.
#[derive(Debug)]
pub(crate) enum WriteError {
    Exists,
    Missing,
    /// The object has another version.
    Conflict,
    Directory(DirectoryError),
}

impl From<DirectoryError> for WriteError {
    fn from(error: DirectoryError) -> Self {
        Self::Directory(error)
    }
}

/// The folder of the objects.
pub(crate) struct Objects {
    dir: Dir,
    last_version: u64,
}

impl Objects {
    /// Opens the folder for reading.
    pub(crate) fn open(dir: Dir) -> Self {
        Self { dir, last_version: 0 }
    }

    /// Opens the folder for writing: leftovers of interrupted writes are removed.
    pub(crate) fn open_for_writing(dir: Dir) -> Result<Self> {
        let mut objects = Self::open(dir);
        for resource in KINDS {
            let Some(kind) = objects.dir.own_sub(&folder(resource))? else { continue };
            for (namespace, found) in kind.entries()? {
                let Some(sub) = (found == Kind::Folder).then(|| kind.own_sub(&namespace)).transpose()?.flatten() else {
                    continue;
                };
                sub.remove_leftovers()?;
            }
            for place in objects.places(resource)? {
                let raw = objects.read(resource, &place)?.unwrap_or_default();
                let version = read_metadata(&raw).ok().and_then(|meta| meta.resource_version?.parse().ok());
                objects.last_version = objects.last_version.max(version.unwrap_or_default());
            }
        }
        Ok(objects)
    }

    /// Namespace (empty: none) and name of all objects of a kind.
    pub(crate) fn places(&self, resource: Resource) -> Result<Vec<Place>> {
        let Some(kind) = self.dir.own_sub(&folder(resource))? else { return Ok(vec![]) };
        let mut places = vec![];
        for (namespace, _) in kind.entries()?.into_iter().filter(|(_, found)| *found == Kind::Folder) {
            let Some(sub) = kind.own_sub(&namespace)? else { continue };
            let names = sub.entries()?.into_iter().filter(|(name, _)| !is_temporary(name));
            let names = names.filter_map(|(name, _)| name.strip_suffix(SUFFIX).map(str::to_owned));
            let namespace = if namespace == CLUSTER { String::new() } else { namespace };
            places.extend(names.map(|name| (namespace.clone(), name)));
        }
        Ok(places)
    }

    /// The text of an object; none: it does not exist.
    pub(crate) fn read(&self, resource: Resource, place: &Place) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let Some(kind) = self.dir.own_sub(&folder(resource))? else { return Ok(None) };
        let Some(sub) = kind.own_sub(scope(place))? else { return Ok(None) };
        sub.read(&file(place))
    }

    /// An object as JSON; none: it does not exist.
    pub(crate) fn value(&self, resource: Resource, place: &Place) -> Result<Option<Value>> {
        let Some(raw) = self.read(resource, place)? else { return Ok(None) };
        match serde_json::from_slice(&raw) {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(DirectoryError::Unreadable { path: self.path(resource, place), why: "not JSON".to_owned() }),
        }
    }

    /// Creates an object; never replaces one.
    pub(crate) fn create(
        &mut self,
        resource: Resource,
        place: &Place,
        mut object: Value,
        clock: &dyn Clock,
    ) -> std::result::Result<Zeroizing<Vec<u8>>, WriteError> {
        if self.read(resource, place)?.is_some() {
            return Err(WriteError::Exists);
        }
        object["metadata"]["uid"] = json!(new_uid());
        object["metadata"]["creationTimestamp"] = json!(gaia_api::crd::whole_seconds(clock.now()).to_string());
        object["metadata"]["generation"] = json!(1);
        self.put(resource, place, object)
    }

    /// Changes an object that still has that version; none: whatever its version is.
    pub(crate) fn change(
        &mut self,
        resource: Resource,
        place: &Place,
        on: Option<&Version>,
        change: impl FnOnce(&mut Value),
    ) -> std::result::Result<Zeroizing<Vec<u8>>, WriteError> {
        let mut object = self.value(resource, place)?.ok_or(WriteError::Missing)?;
        if on.is_some_and(|on| !has_version(&object, on)) {
            return Err(WriteError::Conflict);
        }
        let kept = ["uid", "creationTimestamp", "generation"].map(|field| (field, object["metadata"][field].clone()));
        let spec = object["spec"].clone();
        change(&mut object);
        for (field, value) in kept {
            object["metadata"][field] = value;
        }
        if object["spec"] != spec {
            let generation = object["metadata"]["generation"].as_i64().unwrap_or_default();
            object["metadata"]["generation"] = json!(generation + 1);
        }
        self.put(resource, place, object)
    }

    /// Deletes an object that still has that version; none: whatever its version is.
    pub(crate) fn delete(
        &mut self,
        resource: Resource,
        place: &Place,
        on: Option<&Version>,
    ) -> std::result::Result<(), WriteError> {
        let Some(mut object) = self.value(resource, place)? else { return Ok(()) };
        let is_on = on.is_none_or(|on| has_version(&object, on));
        wipe(&mut object);
        if !is_on {
            return Err(WriteError::Conflict);
        }
        let Some(kind) = self.dir.own_sub(&folder(resource))? else { return Ok(()) };
        let Some(sub) = kind.own_sub(scope(place))? else { return Ok(()) };
        Ok(sub.remove(&file(place))?)
    }

    fn put(
        &mut self,
        resource: Resource,
        place: &Place,
        mut object: Value,
    ) -> std::result::Result<Zeroizing<Vec<u8>>, WriteError> {
        self.last_version += 1;
        object["metadata"]["resourceVersion"] = json!(self.last_version.to_string());
        object["metadata"]["name"] = json!(place.1);
        if !place.0.is_empty() {
            object["metadata"]["namespace"] = json!(place.0);
        }
        let text = serde_json::to_vec(&object).map(Zeroizing::new);
        wipe(&mut object);
        let unreadable = |_| DirectoryError::Unreadable { path: self.path(resource, place), why: "no JSON".to_owned() };
        let text = text.map_err(unreadable)?;
        let kind = self.dir.create_sub(&folder(resource), FOLDER)?;
        kind.create_sub(scope(place), FOLDER)?.write(&file(place), &text, Access::PRIVATE)?;
        Ok(text)
    }

    /// The file of an object.
    pub(crate) fn path(&self, resource: Resource, place: &Place) -> std::path::PathBuf {
        self.dir.path().join(folder(resource)).join(scope(place)).join(file(place))
    }

    /// The namespaces of all objects.
    pub(crate) fn namespaces(&self) -> Result<BTreeSet<String>> {
        let mut namespaces = BTreeSet::new();
        for resource in KINDS {
            namespaces.extend(self.places(resource)?.into_iter().map(|(namespace, _)| namespace));
        }
        namespaces.remove("");
        Ok(namespaces)
    }
}

/// Applies a merge patch, in memory that the caller wipes.
pub(crate) fn patched(object: &mut Value, mut patch: Value) {
    apply_patch(object, &patch);
    wipe(&mut patch);
}

fn has_version(object: &Value, on: &Version) -> bool {
    let meta = &object["metadata"];
    meta["uid"] == json!(on.uid) && meta["resourceVersion"] == json!(on.resource_version)
}

/// Overwrites every text of a value.
pub(crate) fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A random UUID (RFC 9562, version 4).
fn new_uid() -> String {
    let mut bits = [0; 16];
    #[expect(clippy::disallowed_methods, reason = "a UID is random and nothing is decided by it")]
    let _ = aws_lc_rs::rand::fill(&mut bits);
    bits[6] = bits[6] & 0x0f | 0x40;
    bits[8] = bits[8] & 0x3f | 0x80;
    let hex: String = bits.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn folder(resource: Resource) -> String {
    resource.plural().to_owned()
}

fn scope(place: &Place) -> &str {
    if place.0.is_empty() { CLUSTER } else { &place.0 }
}

fn file(place: &Place) -> String {
    format!("{}{SUFFIX}", place.1)
}

/// The folder of objects without a namespace.
const CLUSTER: &str = "_";
const SUFFIX: &str = ".json";
pub(crate) const FOLDER: Access = Access { mode: 0o700, group: None };
