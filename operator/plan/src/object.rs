//! Observed and desired state of an object, and the difference.

pub mod merge;
mod refused;

use std::collections::BTreeMap;
use std::fmt;

use gaia_api::names::{MANAGED_BY, MANAGED_BY_LABEL, annotation};
use gaia_pki::sha256_hex;
use serde::Serialize;

pub(crate) use self::refused::{immutable, not_owned, not_owned_as, unreadable};
use crate::Event;

/// The kinds of objects the operator writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum ObjectKind {
    /// v1 Secret.
    Secret,
    /// v1 ConfigMap.
    ConfigMap,
    /// gaia.dev ServiceCertificate.
    ServiceCertificate,
}

/// Names one object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: ObjectKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectKey {
    /// A Secret.
    #[must_use]
    pub fn secret(namespace: &str, name: impl Into<String>) -> Self {
        Self { kind: ObjectKind::Secret, namespace: namespace.to_owned(), name: name.into() }
    }

    /// A ConfigMap.
    #[must_use]
    pub fn config_map(namespace: &str, name: impl Into<String>) -> Self {
        Self { kind: ObjectKind::ConfigMap, namespace: namespace.to_owned(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// The version of an object on which a write is planned. Both parts are sent as preconditions: with the resource
/// version alone, a write could re-create an object that was deleted in between.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Version {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
}

/// An owner reference; always to a kind of `gaia.dev/v1alpha1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OwnerRef {
    /// The owner's kind.
    pub kind: String,
    /// The owner's name.
    pub name: String,
    /// The owner's UID.
    pub uid: String,
}

/// Parsed metadata of a Secret or ConfigMap, with hashes in place of its content.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObjectFacts {
    /// Its UID; empty in the in-memory cluster.
    pub uid: String,
    /// Its `metadata.resourceVersion`.
    pub resource_version: String,
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// All annotations.
    pub annotations: BTreeMap<String, String>,
    /// Lower-case hex SHA-256 of each value.
    pub data: BTreeMap<String, String>,
    /// True if it is `immutable: true`.
    pub immutable: bool,
    /// True if it is deleted already, and waits for a finalizer.
    pub is_deleting: bool,
    /// Of a Secret: its type.
    pub type_: Option<String>,
    /// Owners of group `gaia.dev`.
    pub owners: Vec<OwnerRef>,
}

impl ObjectFacts {
    /// Its state.
    #[must_use]
    pub fn version(&self) -> Version {
        Version { uid: self.uid.clone(), resource_version: self.resource_version.clone() }
    }

    /// An annotation that holds a number.
    #[must_use]
    pub fn number(&self, annotation: &str) -> Option<u64> {
        self.annotations.get(annotation)?.parse().ok()
    }
}

/// An object as far as one custom resource is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ownership<T> {
    /// No object of that name is known to exist.
    Absent,
    /// It is the operator's.
    Ours(T),
    /// It belongs to another owner and is not changed.
    Foreign,
    /// It exists and cannot be read, for this cause. It stays untouched.
    Unreadable(String),
}

impl<T> Ownership<T> {
    /// The object, if it is the operator's.
    pub fn ours(&self) -> Option<&T> {
        match self {
            Self::Ours(facts) => Some(facts),
            Self::Absent | Self::Foreign | Self::Unreadable(_) => None,
        }
    }
}

/// Returns true if an object is the operator's to write: by its label, by the spec hash or a ring epoch it carries, by
/// an owner reference to this kind and name (not UID: a restore loses that), or because it was given up for adoption.
#[must_use]
pub fn is_ours(
    labels: &BTreeMap<String, String>,
    annotations: &BTreeMap<String, String>,
    owners: &[OwnerRef],
    owner: Option<(&str, &str)>,
) -> bool {
    labels.get(MANAGED_BY_LABEL).is_some_and(|value| value == MANAGED_BY)
        || annotations.contains_key(annotation::SPEC_HASH)
        || annotations.contains_key(annotation::CA_EPOCH)
        || annotations.contains_key(annotation::SIGNING_EPOCH)
        || annotations.get(annotation::ADOPT).is_some_and(|value| value == "true")
        || owner.is_some_and(|(kind, name)| owners.iter().any(|o| o.kind == kind && o.name == name))
}

/// An object as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredObject {
    /// Which one.
    pub key: ObjectKey,
    /// Of a Secret: its type.
    pub secret_type: Option<&'static str>,
    /// Labels in addition to the managed-by label.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Labels and annotations that the user requested; removed when they are no longer requested.
    pub template: Template,
    /// Public content.
    pub data: BTreeMap<String, String>,
    /// The policy for keys that are not in `data`.
    pub other_keys: OtherKeys,
    /// The owner. None: a former owner of group `gaia.dev` is removed.
    pub owner: Option<OwnerRef>,
}

/// Labels and annotations that the user requested.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Template {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// The policy for data keys that are not desired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherKeys {
    /// They stay.
    Keep,
    /// They go.
    Remove,
}

/// One write of a Secret or ConfigMap: a POST without `on`, else a merge patch of what differs. `None` removes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ObjectChange {
    /// Which one.
    pub key: ObjectKey,
    /// The state it was planned on; none: it is created.
    pub on: Option<Version>,
    /// Of a Secret that is created: its type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_type: Option<&'static str>,
    /// Labels to set or remove.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Option<String>>,
    /// Annotations to set or remove.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, Option<String>>,
    /// Public content to set or remove.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, Option<String>>,
    /// The owners it should have; none: they stay as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owners: Option<Vec<OwnerRef>>,
    /// The event to send once it is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<Event>,
}

impl ObjectChange {
    /// An empty change; the execution adds its content.
    #[must_use]
    pub fn nothing(key: ObjectKey, on: Option<Version>) -> Self {
        Self {
            key,
            on,
            secret_type: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            data: BTreeMap::new(),
            owners: None,
            event: None,
        }
    }

    /// The same change with an event.
    #[must_use]
    pub fn with_event(mut self, reason: &'static str, message: String) -> Self {
        self.event = Some(Event::new(reason, message));
        self
    }

    /// A summary of the changes for messages: `labels app, tier; data ca.crt`.
    #[must_use]
    pub fn summary(&self) -> String {
        let list = |what: &str, names: Vec<&str>| (!names.is_empty()).then(|| format!("{what} {}", names.join(", ")));
        let parts = [
            list("labels", self.labels.keys().map(String::as_str).collect()),
            list(
                "annotations",
                self.annotations.keys().map(String::as_str).filter(|name| !DATES.contains(name)).collect(),
            ),
            list("data", self.data.keys().map(String::as_str).collect()),
            self.owners.as_ref().map(|_| "owner reference".to_owned()),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
    }
}

impl fmt::Display for ObjectChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.on {
            None => write!(f, "create {}", self.key),
            Some(_) => write!(f, "patch {} ({})", self.key, self.summary()),
        }
    }
}

impl DesiredObject {
    /// Creates it.
    #[must_use]
    pub fn create(&self) -> ObjectChange {
        let set = |map: BTreeMap<String, String>| map.into_iter().map(|(key, value)| (key, Some(value))).collect();
        ObjectChange {
            key: self.key.clone(),
            on: None,
            secret_type: self.secret_type,
            labels: set(self.all_labels()),
            annotations: set(self.all_annotations()),
            data: set(self.data.clone()),
            owners: self.owner.clone().map(|owner| vec![owner]),
            event: None,
        }
    }

    /// The changes from the observed to the desired state; none if they are equal.
    #[must_use]
    pub fn change_from(&self, facts: &ObjectFacts) -> Option<ObjectChange> {
        let gone = former_template_keys(facts);
        let labels = difference(&self.all_labels(), &facts.labels, |key| gone.contains(&format!("label:{key}")));
        let annotations = difference(&self.all_annotations(), &facts.annotations, |key| {
            key == annotation::TEMPLATE_KEYS || gone.contains(&format!("annotation:{key}"))
        });
        let mut data: BTreeMap<String, Option<String>> = BTreeMap::new();
        for (key, value) in &self.data {
            if facts.data.get(key) != Some(&sha256_hex(value.as_bytes())) {
                data.insert(key.clone(), Some(value.clone()));
            }
        }
        if self.other_keys == OtherKeys::Remove {
            for key in facts.data.keys().filter(|key| !self.data.contains_key(*key)) {
                data.insert(key.clone(), None);
            }
        }
        let wanted_owners: Vec<OwnerRef> = self.owner.iter().cloned().collect();
        let owners = (facts.owners != wanted_owners).then_some(wanted_owners);
        if labels.is_empty() && annotations.is_empty() && data.is_empty() && owners.is_none() {
            return None;
        }
        Some(ObjectChange {
            key: self.key.clone(),
            on: Some(facts.version()),
            secret_type: None,
            labels,
            annotations,
            data,
            owners,
            event: None,
        })
    }

    fn all_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.template.labels.clone();
        labels.extend(self.labels.clone());
        labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
        labels
    }

    fn all_annotations(&self) -> BTreeMap<String, String> {
        let mut annotations = self.template.annotations.clone();
        annotations.extend(self.annotations.clone());
        let labels = self.template.labels.keys().map(|key| format!("label:{key}"));
        let keys: Vec<String> =
            labels.chain(self.template.annotations.keys().map(|key| format!("annotation:{key}"))).collect();
        if !keys.is_empty() {
            annotations.insert(annotation::TEMPLATE_KEYS.to_owned(), keys.join(","));
        }
        annotations
    }
}

/// Annotations that only date a change of content.
const DATES: [&str; 2] = [annotation::DENYLIST_PUBLISHED_AT, annotation::POLICY_PUBLISHED_AT];

/// Keys that a template once set, as `label:<key>` and `annotation:<key>`.
fn former_template_keys(facts: &ObjectFacts) -> Vec<String> {
    facts
        .annotations
        .get(annotation::TEMPLATE_KEYS)
        .map(|keys| keys.split(',').map(str::to_owned).collect())
        .unwrap_or_default()
}

fn difference(
    wanted: &BTreeMap<String, String>,
    found: &BTreeMap<String, String>,
    was_ours: impl Fn(&str) -> bool,
) -> BTreeMap<String, Option<String>> {
    let set = wanted.iter().filter(|(key, value)| found.get(*key) != Some(*value));
    let removed = found.keys().filter(|key| !wanted.contains_key(*key) && was_ours(key));
    set.map(|(key, value)| (key.clone(), Some(value.clone()))).chain(removed.map(|key| (key.clone(), None))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn desired() -> DesiredObject {
        DesiredObject {
            key: ObjectKey::config_map("shop", "gaia-trust"),
            secret_type: None,
            labels: map(&[("gaia.dev/component", "trust")]),
            annotations: map(&[("gaia.dev/ca-epoch", "1")]),
            template: Template { labels: map(&[("team", "a")]), annotations: map(&[("note", "b")]) },
            data: map(&[("ca.crt", "PEM")]),
            other_keys: OtherKeys::Remove,
            owner: None,
        }
    }

    /// The object that a server stores after a create.
    fn stored(change: &ObjectChange) -> ObjectFacts {
        let flat = |map: &BTreeMap<String, Option<String>>| {
            map.iter().filter_map(|(k, v)| Some((k.clone(), v.clone()?))).collect::<BTreeMap<_, _>>()
        };
        ObjectFacts {
            labels: flat(&change.labels),
            annotations: flat(&change.annotations),
            data: flat(&change.data).into_iter().map(|(k, v)| (k, sha256_hex(v.as_bytes()))).collect(),
            owners: change.owners.clone().unwrap_or_default(),
            ..ObjectFacts::default()
        }
    }

    #[test]
    fn what_was_just_created_needs_no_change() {
        let desired = desired();
        assert_eq!(desired.change_from(&stored(&desired.create())), None);
    }

    #[test]
    fn only_what_differs_is_patched() {
        let desired = desired();
        let mut facts = stored(&desired.create());
        facts.labels.remove(MANAGED_BY_LABEL);
        facts.labels.insert("somebody-elses".into(), "label".into());
        facts.data.insert("extra".into(), "hash".into());
        let change = desired.change_from(&facts).unwrap();
        assert_eq!(change.labels, BTreeMap::from([(MANAGED_BY_LABEL.to_owned(), Some(MANAGED_BY.to_owned()))]));
        assert_eq!(change.data, BTreeMap::from([("extra".to_owned(), None)]));
        assert!(change.annotations.is_empty());
        assert_eq!(change.summary(), "labels app.kubernetes.io/managed-by; data extra");
    }

    #[test]
    fn what_leaves_the_template_leaves_the_object() {
        let before = stored(&desired().create());
        let after = DesiredObject { template: Template::default(), ..desired() };
        let change = after.change_from(&before).unwrap();
        assert_eq!(change.labels, BTreeMap::from([("team".to_owned(), None)]));
        assert_eq!(
            change.annotations,
            BTreeMap::from([("note".to_owned(), None), (annotation::TEMPLATE_KEYS.to_owned(), None)])
        );
    }
}
