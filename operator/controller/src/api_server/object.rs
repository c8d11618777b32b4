//! Objects of the API server, each parsed on its own.
//!
//! Metadata is parsed first and field by field, without `managedFields`: an invalid field there never makes an object
//! unreadable. If the rest does not match its type, the object is [`Unreadable`]: its metadata is known nevertheless,
//! and none of its content is repeated.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use zeroize::Zeroizing;

use super::json;
use crate::api_server::text::without_keys;

/// An object, as far as it can be read.
#[derive(Debug, Clone)]
pub(crate) enum Reading<K> {
    Object(K),
    Unreadable(Box<Unreadable>),
}

/// An object that cannot be parsed: its metadata, and the location of the error.
#[derive(Clone)]
pub(crate) struct Unreadable {
    pub(crate) meta: ObjectMeta,
    pub(crate) fault: Fault,
    /// The object as it came.
    pub(crate) raw: Zeroizing<Vec<u8>>,
}

/// The location of a parse error, without any content of the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The JSON path, `spec.auth.mode` for instance; empty: the object as a whole.
    pub(crate) path: String,
    pub(crate) problem: Problem,
}

/// The class of a [`Fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Problem {
    NotJson,
    TooLarge,
    MissingField,
    WrongType,
    UnknownValue,
    InvalidValue,
}

impl Problem {
    fn as_str(self) -> &'static str {
        match self {
            Self::NotJson => "not JSON",
            Self::TooLarge => "too large",
            Self::MissingField => "a required field is missing",
            Self::WrongType => "wrong type",
            Self::UnknownValue => "a value that this version does not know",
            Self::InvalidValue => "invalid value",
        }
    }

    /// Uses the category of serde's error. Its text can quote the value.
    fn of(error: &serde_json::Error) -> Self {
        let text = error.to_string();
        let is = |start: &str| text.starts_with(start);
        if is("missing field") {
            Self::MissingField
        } else if is("invalid type") || is("invalid length") || !error.is_data() {
            Self::WrongType
        } else if is("unknown variant") || is("unknown field") {
            Self::UnknownValue
        } else {
            Self::InvalidValue
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(self.problem.as_str()),
            path => write!(f, "{path}: {}", self.problem.as_str()),
        }
    }
}

impl fmt::Debug for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unreadable").field("name", &self.meta.name).field("fault", &self.fault).finish_non_exhaustive()
    }
}

/// A type whose metadata is that of Kubernetes.
pub(crate) trait Object: DeserializeOwned {
    fn metadata(&self) -> &ObjectMeta;
}

impl<K: DeserializeOwned + kube::Resource> Object for K {
    fn metadata(&self) -> &ObjectMeta {
        self.meta()
    }
}

impl<K: Object> Reading<K> {
    pub(crate) fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Object(object) => object.metadata(),
            Self::Unreadable(unreadable) => &unreadable.meta,
        }
    }
}

/// Parses one object.
///
/// # Errors
/// Its metadata does not identify an object.
pub(crate) fn read<K: DeserializeOwned>(raw: Zeroizing<Vec<u8>>) -> Result<Reading<K>, Fault> {
    let not_json = |_| Fault { path: String::new(), problem: Problem::NotJson };
    let found = json::member(&raw, "metadata").map_err(not_json)?;
    let Some(found) = found else {
        return Err(Fault { path: "metadata".to_owned(), problem: Problem::MissingField });
    };
    let (meta, odd) = metadata(raw.get(found.clone()).unwrap_or_default())?;
    // The parsed metadata replaces the original, so that the typed parser accepts it whatever it held.
    let tame = serde_json::to_vec(&meta).unwrap_or_default();
    let mut object = Zeroizing::new(Vec::with_capacity(raw.len() + tame.len()));
    object.extend_from_slice(raw.get(..found.start).unwrap_or_default());
    object.extend_from_slice(&tame);
    object.extend_from_slice(raw.get(found.end..).unwrap_or_default());
    let fault = match (serde_json::from_slice::<K>(&object), odd) {
        (Ok(object), None) => return Ok(Reading::Object(object)),
        (Ok(_), Some(odd)) => odd,
        (Err(error), _) => fault_of::<K>(&object, &error),
    };
    Ok(Reading::Unreadable(Box::new(Unreadable { meta, fault, raw })))
}

/// Parses a Gaia type from JSON.
///
/// # Errors
/// The location where the text does not match the type.
pub(crate) fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(text).map_err(|error| fault_of::<T>(text, &error))
}

fn fault_of<T: DeserializeOwned>(text: &[u8], error: &serde_json::Error) -> Fault {
    let mut json = serde_json::Deserializer::from_slice(text);
    let path = match serde_path_to_error::deserialize::<_, T>(&mut json) {
        Err(error) => error.path().to_string(),
        Ok(_) => String::new(),
    };
    if serde_json::from_slice::<serde::de::IgnoredAny>(text).is_err() {
        return Fault { path: String::new(), problem: Problem::NotJson };
    }
    let path = if path == "." { String::new() } else { without_keys(&path) };
    Fault { path, problem: Problem::of(error) }
}

/// The fields of metadata that are read or written back.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMetadata {
    name: Option<Value>,
    generate_name: Option<Value>,
    namespace: Option<Value>,
    uid: Option<Value>,
    resource_version: Option<Value>,
    generation: Option<Value>,
    creation_timestamp: Option<Value>,
    deletion_timestamp: Option<Value>,
    labels: Option<Value>,
    annotations: Option<Value>,
    owner_references: Option<Value>,
    finalizers: Option<Value>,
}

/// Parses metadata alone, as in the response to a request for it.
///
/// # Errors
/// The metadata does not identify an object.
pub(crate) fn read_metadata(raw: &[u8]) -> Result<ObjectMeta, Fault> {
    let not_json = |_| Fault { path: String::new(), problem: Problem::NotJson };
    let found = json::member(raw, "metadata").map_err(not_json)?.unwrap_or_default();
    metadata(raw.get(found).unwrap_or_default()).map(|(meta, _)| meta)
}

/// Metadata field by field, and the first field that is not what it should be.
fn metadata(text: &[u8]) -> Result<(ObjectMeta, Option<Fault>), Fault> {
    let raw: RawMetadata = parse(text).map_err(|fault| Fault { path: "metadata".to_owned(), ..fault })?;
    let mut odd = None;
    let meta = ObjectMeta {
        name: field("name", raw.name, &mut odd),
        generate_name: field("generateName", raw.generate_name, &mut odd),
        namespace: field("namespace", raw.namespace, &mut odd),
        uid: field("uid", raw.uid, &mut odd),
        resource_version: field("resourceVersion", raw.resource_version, &mut odd),
        generation: field("generation", raw.generation, &mut odd),
        creation_timestamp: raw.creation_timestamp.map(time),
        deletion_timestamp: raw.deletion_timestamp.map(time),
        labels: field("labels", raw.labels, &mut odd),
        annotations: field("annotations", raw.annotations, &mut odd),
        owner_references: field::<Vec<OwnerReference>>("ownerReferences", raw.owner_references, &mut odd),
        finalizers: field("finalizers", raw.finalizers, &mut odd),
        ..ObjectMeta::default()
    };
    if meta.name.is_none() {
        return Err(Fault { path: "metadata.name".to_owned(), problem: Problem::MissingField });
    }
    Ok((meta, odd))
}

fn field<T: DeserializeOwned>(name: &str, value: Option<Value>, odd: &mut Option<Fault>) -> Option<T> {
    match serde_json::from_value(value?) {
        Ok(value) => Some(value),
        Err(error) => {
            let fault = Fault { path: format!("metadata.{name}"), problem: Problem::of(&error) };
            odd.get_or_insert(fault);
            None
        }
    }
}

/// A time that jiff cannot represent is taken as the far future. For a deletion only its presence matters, for a
/// creation only the order.
fn time(value: Value) -> Time {
    serde_json::from_value(value).unwrap_or(Time(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use gaia_api::crd::GaiaService;
    use k8s_openapi::api::core::v1::Secret;
    use serde_json::json;

    use super::*;

    fn reading<K: DeserializeOwned>(value: &Value) -> Result<Reading<K>, Fault> {
        read(Zeroizing::new(serde_json::to_vec(value).unwrap()))
    }

    fn service(metadata: &Value, mode: &Value) -> Value {
        json!({ "apiVersion": "gaia.dev/v1alpha1", "kind": "GaiaService", "metadata": metadata,
            "spec": { "trustDomainRef": { "name": "gaia" }, "auth": { "mode": mode } } })
    }

    #[test]
    fn odd_metadata_makes_no_object_unreadable() {
        let late = "9999-12-31T23:59:59Z";
        let metadata = json!({ "name": "orders", "namespace": "shop", "uid": "u", "resourceVersion": "7",
            "creationTimestamp": late, "deletionTimestamp": late, "labels": { "a": "b" },
            "managedFields": [{ "time": late, "manager": 7 }], "selfLink": [], "deletionGracePeriodSeconds": "x" });
        let Ok(Reading::Object(found)) = reading::<GaiaService>(&service(&metadata, &json!("Dual"))) else {
            panic!("unreadable");
        };
        assert_eq!(found.metadata.uid.as_deref(), Some("u"));
        assert_eq!(found.metadata.labels.unwrap()["a"], "b");
        assert!(found.metadata.deletion_timestamp.is_some() && found.metadata.creation_timestamp.is_some());
        assert_eq!(found.metadata.managed_fields, None);
    }

    #[test]
    fn what_a_type_cannot_hold_is_named_and_the_metadata_is_known() {
        let metadata = json!({ "name": "orders", "namespace": "shop", "uid": "u", "annotations": { "a": "b" } });
        let missing = json!({ "apiVersion": "gaia.dev/v1alpha1", "kind": "GaiaService", "metadata": metadata,
            "spec": { "trustDomainRef": { "name": "gaia" }, "callers": [{}] } });
        for (value, expected) in [
            (service(&metadata, &json!("Quantum")), "spec.auth.mode: a value that this version does not know"),
            (service(&metadata, &json!(7)), "spec.auth.mode: wrong type"),
            (missing, "spec.callers[0]: a required field is missing"),
        ] {
            let Ok(Reading::Unreadable(found)) = reading::<GaiaService>(&value) else { panic!("{expected}") };
            assert_eq!(found.fault.to_string(), expected);
            assert_eq!(found.meta.annotations.unwrap()["a"], "b");
        }
    }

    #[test]
    fn metadata_of_another_type_is_named_and_the_rest_of_it_is_known() {
        let metadata = json!({ "name": "orders", "namespace": "shop", "uid": "u", "labels": ["a"], "generation": "x" });
        let Ok(Reading::Unreadable(found)) = reading::<GaiaService>(&service(&metadata, &json!("Dual"))) else {
            panic!("readable");
        };
        assert_eq!(found.fault.to_string(), "metadata.generation: wrong type");
        assert_eq!(found.meta.uid.as_deref(), Some("u"));
    }

    #[test]
    fn an_object_without_a_name_is_no_object() {
        for (value, expected) in [
            (json!({ "metadata": { "uid": "u" } }), "metadata.name: a required field is missing"),
            (json!({ "metadata": [] }), "metadata: wrong type"),
            (json!({}), "metadata: a required field is missing"),
            (json!("x"), "not JSON"),
        ] {
            assert_eq!(reading::<Secret>(&value).err().unwrap().to_string(), expected);
        }
    }

    #[test]
    fn a_fault_and_its_debug_output_hold_nothing_of_the_content() {
        let key = "LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0tCk1JR0hBZ0VBTUJNR0J5cUdTTTQ5QWdFR0ND";
        let metadata = json!({ "name": "web-tls", "namespace": "shop", "uid": "u" });
        for data in
            [json!({ "tls.key": [key] }), json!({ key: 7 }), json!({ "tls.key": format!("!{key}") }), json!(key)]
        {
            let value = json!({ "metadata": metadata, "data": data });
            let Ok(Reading::Unreadable(found)) = reading::<Secret>(&value) else { panic!("readable") };
            let texts = format!("{} {found:?}", found.fault);
            assert!(!texts.contains("LS0t"), "{texts}");
        }
    }
}
