//! `gaia.yaml`: the user's manifests, the same as in a cluster.
//!
//! In: the text of the file, the patches of `gaia.changes.yaml`, and the stored objects. Out: all objects, or the first
//! fault with its line and field. Nothing of a file with a fault is accepted.

mod lines;
mod schema;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gaia_plan::object::merge::apply_patch;
use serde::Deserialize as _;
use serde_json::{Value, json};

use self::lines::Documents;
pub(crate) use self::schema::Schemas;
use super::changes::Changes;
use super::disk::dir::Dir;
use super::disk::error::DirectoryError;
use super::disk::objects::Objects;
use super::engine::MANIFESTS;
use crate::api_server::Resource;
use crate::cache::Place;

/// An accepted object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Manifest {
    pub(crate) resource: Resource,
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// Reads the manifests of a directory, with `changes` applied.
///
/// # Errors
/// The first fault, with its file, line and field.
pub(crate) fn read_from(
    root: &Dir,
    changes: &Changes,
    overrides: &BTreeMap<String, Vec<String>>,
    objects: Option<&Objects>,
) -> Result<Vec<Manifest>, DirectoryError> {
    let file = root.path().join(MANIFESTS);
    let missing = || DirectoryError::io("read", &file, std::io::Error::from(std::io::ErrorKind::NotFound));
    let text = root.read(MANIFESTS)?.ok_or_else(missing)?;
    let text =
        std::str::from_utf8(&text).map_err(|_| fault(&file, None, String::new(), "it is not UTF-8".to_owned()))?;
    read(&file, text, changes, overrides, objects)
}

/// Reads all manifests of a file. `objects`: the stored ones, which some fields must not differ from.
///
/// # Errors
/// The first fault, with its line and field.
pub(crate) fn read(
    file: &Path,
    text: &str,
    changes: &Changes,
    overrides: &BTreeMap<String, Vec<String>>,
    objects: Option<&Objects>,
) -> Result<Vec<Manifest>, DirectoryError> {
    let documents = Documents::of(text);
    let mut manifests: Vec<Manifest> = vec![];
    let mut lines = vec![];
    let mut index = 0;
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let at = |error: &serde_yaml_ng::Error| error.location().map(|location| location.line());
        let fault = |line, why: String| fault(file, line, String::new(), why);
        let parsed = serde_yaml_ng::Value::deserialize(document);
        let parsed = parsed.map_err(|error| fault(at(&error), without_position(&error.to_string())))?;
        if parsed.is_null() {
            continue;
        }
        let first = documents.first_line(index);
        index += 1;
        let value = serde_json::to_value(&parsed);
        let mut value = value.map_err(|_| fault(first, "a key is not a text".to_owned()))?;
        drop_nulls(&mut value);
        let manifest = identify(value).map_err(|(path, why)| {
            let line = documents.line(index - 1, &path).or(first);
            self::fault(file, line, path.join("."), why)
        })?;
        if let Some(same) = manifests.iter().position(|known| is_namesake(known, &manifest)) {
            let known = &manifests[same];
            let other = lines.get(same).copied().flatten().unwrap_or(1);
            let why = format!(
                "{} has the name of {} in line {other}; names are directories, so each is used once",
                manifest.label(),
                known.label()
            );
            return Err(self::fault(
                file,
                documents.line(index - 1, &["metadata".into(), "name".into()]),
                manifest.label(),
                why,
            ));
        }
        lines.push(first);
        manifests.push(manifest);
    }
    let domains: Vec<&Manifest> = manifests.iter().filter(|it| it.resource == Resource::TRUST_DOMAIN).collect();
    match domains.as_slice() {
        [_] => {}
        [] => {
            return Err(fault(
                file,
                None,
                String::new(),
                "it has no TrustDomain; the file may be half saved".to_owned(),
            ));
        }
        [first, second, ..] => {
            let why = format!("it has {} and {}; a directory has one TrustDomain", first.label(), second.label());
            return Err(fault(file, None, String::new(), why));
        }
    }
    for (index, manifest) in manifests.iter_mut().enumerate() {
        if manifest.resource == Resource::SERVICE
            && let Some(endpoints) = overrides.get(&manifest.place.1)
        {
            manifest.value["spec"]["endpoints"] = json!(endpoints);
        }
        let written = manifest.value.clone();
        if let Some(patch) = changes.of(manifest.resource, &manifest.place) {
            apply_patch(&mut manifest.value, patch);
        }
        let old = objects.map(|objects| objects.value(manifest.resource, &manifest.place)).transpose()?.flatten();
        let checked = Schemas::get().check(manifest.resource.kind, &manifest.value, old.as_ref());
        checked.map_err(|(path, why)| {
            let field = format!("{}: {}", manifest.label(), path.join("."));
            let is_own = Schemas::get().check(manifest.resource.kind, &written, old.as_ref()).is_err();
            match is_own || changes.of(manifest.resource, &manifest.place).is_none() {
                true => fault(file, documents.line(index, &path), field, why),
                false => fault(&changes.file(), None, field, why),
            }
        })?;
    }
    Ok(manifests)
}

impl Manifest {
    /// Kind, namespace and name.
    pub(crate) fn label(&self) -> String {
        match self.place.0.as_str() {
            "" => format!("{} {}", self.resource.kind, self.place.1),
            namespace => format!("{} {namespace}/{}", self.resource.kind, self.place.1),
        }
    }
}

/// Two objects that would have one file or one service directory. A GaiaService has a ServiceCertificate of its name.
fn is_namesake(one: &Manifest, other: &Manifest) -> bool {
    let is_domain = |it: &Manifest| it.resource == Resource::TRUST_DOMAIN;
    one.place.1 == other.place.1 && is_domain(one) == is_domain(other)
}

/// The manifest in a document, with the fields that are read.
fn identify(document: Value) -> Result<Manifest, (Vec<String>, String)> {
    let refused = |path: &[&str], why: &str| (path.iter().map(|&part| part.to_owned()).collect(), why.to_owned());
    let Value::Object(mut fields) = document else { return Err(refused(&[], "it must be an object")) };
    if fields.get("apiVersion").and_then(Value::as_str) != Some(API_VERSION) {
        return Err(refused(&["apiVersion"], "must be gaia.dev/v1alpha1"));
    }
    let kind = fields.get("kind").and_then(Value::as_str).unwrap_or_default();
    let known = [Resource::TRUST_DOMAIN, Resource::SERVICE, Resource::CERTIFICATE];
    let Some(resource) = known.into_iter().find(|resource| resource.kind == kind) else {
        return Err(refused(&["kind"], "must be TrustDomain, GaiaService or ServiceCertificate"));
    };
    if let Some(unknown) = fields.keys().find(|name| !TOP.contains(&name.as_str())) {
        return Err(refused(&[unknown], "unknown field"));
    }
    let Some(Value::Object(metadata)) = fields.get("metadata") else {
        return Err(refused(&["metadata"], "must have a name"));
    };
    if let Some(unknown) = metadata.keys().find(|name| !METADATA.contains(&name.as_str())) {
        return Err(refused(&["metadata", unknown], "unknown field"));
    }
    let text = |field: &str| metadata.get(field).and_then(Value::as_str);
    let Some(name) = text("name").filter(|name| is_label(name)) else {
        return Err(refused(&["metadata", "name"], "must be a DNS label: lower-case letters, digits and '-'"));
    };
    let namespace = match (resource, text("namespace")) {
        (Resource::TRUST_DOMAIN, None) => "",
        (Resource::TRUST_DOMAIN, Some(_)) => {
            return Err(refused(&["metadata", "namespace"], "a TrustDomain has no namespace"));
        }
        (_, namespace) => namespace.unwrap_or(DEFAULT_NAMESPACE),
    };
    if resource != Resource::TRUST_DOMAIN && !is_label(namespace) {
        return Err(refused(&["metadata", "namespace"], "must be a DNS label: lower-case letters, digits and '-'"));
    }
    let place = (namespace.to_owned(), name.to_owned());
    let mut kept = serde_json::Map::from_iter([("name".to_owned(), json!(name))]);
    if !namespace.is_empty() {
        kept.insert("namespace".to_owned(), json!(namespace));
    }
    for field in ["labels", "annotations"] {
        match metadata.get(field) {
            None => {}
            Some(Value::Object(map)) if map.values().all(Value::is_string) => {
                kept.insert(field.to_owned(), json!(map));
            }
            Some(_) => return Err(refused(&["metadata", field], "must map texts to texts")),
        }
    }
    let spec = fields.remove("spec").unwrap_or_else(|| json!({}));
    let value = json!({ "apiVersion": API_VERSION, "kind": resource.kind, "metadata": kept, "spec": spec });
    Ok(Manifest { resource, place, value })
}

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// The API server drops nulls before it checks an object.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn fault(file: &Path, line: Option<usize>, field: String, why: String) -> DirectoryError {
    DirectoryError::Manifest { file: PathBuf::from(file), line, field, why }
}

/// The parser's text repeats the position.
fn without_position(text: &str) -> String {
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

/// The namespace of objects that name none.
pub const DEFAULT_NAMESPACE: &str = "gaia";
const API_VERSION: &str = "gaia.dev/v1alpha1";
/// `status` is not read: a manifest from a cluster may have one.
const TOP: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];
const METADATA: [&str; 10] = [
    "name",
    "namespace",
    "labels",
    "annotations",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "managedFields",
    "selfLink",
];

#[cfg(test)]
mod tests;
