//! Deviations: an object with one field changed to an odd value, for each field of a schema and each value that a schema
//! could let pass by mistake.

use kube::CustomResourceExt;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// An object and where it deviates.
pub struct Deviation {
    /// JSON pointer of the field, and the value in brief.
    pub name: String,
    pub object: Value,
}

impl Deviation {
    /// True if a field of the status deviates, else it is one of the spec.
    pub fn is_of_status(&self) -> bool {
        self.name.starts_with("/status")
    }
}

/// All deviations of `base` at and below the field `root` (a JSON pointer). A field is left out where `base` has no
/// place for it.
pub fn deviations(schema: &Value, base: &Value, root: &str) -> Vec<Deviation> {
    let mut fields = vec![];
    collect(schema, base.pointer(root).unwrap_or(&Value::Null), root, &mut fields);
    let mut found = vec![];
    for (pointer, values) in fields {
        for value in values {
            let mut object = base.clone();
            let brief: String = value.as_ref().map_or("absent".to_owned(), Value::to_string).chars().take(40).collect();
            if set(&mut object, &pointer, value) && object != *base {
                found.push(Deviation { name: format!("{pointer} = {brief}"), object });
            }
        }
    }
    found
}

/// The deviations of a custom resource's spec and status that its type refuses, and the status that they deviate from.
pub fn refused<K: DeserializeOwned + CustomResourceExt>(base: &Value) -> (Vec<Deviation>, Value) {
    let definition = json!(K::crd());
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    let mut whole = base.clone();
    whole["status"] = filled(&schema["status"]);
    let mut odd = deviations(&schema["spec"], base, "/spec");
    odd.extend(deviations(&schema["status"], &whole, "/status"));
    odd.retain(|deviation| serde_json::from_value::<K>(deviation.object.clone()).is_err());
    (odd, whole["status"].take())
}

/// A value that fills in every field of a schema.
fn filled(schema: &Value) -> Value {
    if let Some(value) = schema["enum"].get(0).or_else(|| schema.get("default").filter(|value| !value.is_object())) {
        return value.clone();
    }
    match schema["type"].as_str() {
        Some("object") if schema["additionalProperties"].is_object() => {
            json!({ "a": filled(&schema["additionalProperties"]) })
        }
        Some("object") => {
            let properties = schema["properties"].as_object().into_iter().flatten();
            Value::Object(properties.map(|(name, property)| (name.clone(), filled(property))).collect())
        }
        Some("array") => json!([filled(&schema["items"])]),
        Some("string") if schema["format"] == "date-time" => json!("2026-06-30T12:00:00Z"),
        Some("string") => json!("a".repeat(usize::try_from(schema["minLength"].as_u64().unwrap_or(1)).unwrap())),
        Some("boolean") => json!(true),
        _ => schema["minimum"].as_i64().unwrap_or(1).into(),
    }
}

type Field = (String, Vec<Option<Value>>);

/// The fields of a schema that have a place in `base`, each with its values; none: the field is absent.
fn collect(schema: &Value, base: &Value, pointer: &str, fields: &mut Vec<Field>) {
    if pointer.matches('/').count() > DEPTH {
        return;
    }
    fields.push((pointer.to_owned(), values(schema, base)));
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let name = name.replace('~', "~0").replace('/', "~1");
        let below = base.pointer(&format!("/{name}")).unwrap_or(&Value::Null);
        if base.is_object() {
            collect(property, below, &format!("{pointer}/{name}"), fields);
        }
    }
    if let Some(first) = base.get(0) {
        collect(&schema["items"], first, &format!("{pointer}/0"), fields);
    }
    if let (true, Some((key, value))) = (schema["additionalProperties"].is_object(), first_entry(base)) {
        collect(&schema["additionalProperties"], value, &format!("{pointer}/{key}"), fields);
    }
}

fn first_entry(value: &Value) -> Option<(&String, &Value)> {
    value.as_object()?.iter().next()
}

/// The values to try for a field: bounds, formats and enums of its schema, other types, nothing.
fn values(schema: &Value, base: &Value) -> Vec<Option<Value>> {
    let mut found = vec![None, Some(Value::Null)];
    let other_types = [json!(7), json!("x"), json!({}), json!([])];
    found.extend(other_types.into_iter().map(Some));
    found.extend(schema["enum"].as_array().into_iter().flatten().cloned().map(Some));
    match schema["type"].as_str() {
        Some("string") if schema["format"] == "date-time" => found.extend(TIMES.map(|time| Some(json!(time)))),
        Some("string") => {
            found.extend(TEXTS.map(|text| Some(json!(text))));
            let longest = schema["maxLength"].as_u64().unwrap_or(300).min(70_000);
            found.extend(["a", "é"].map(|letter| Some(json!(letter.repeat(usize::try_from(longest).unwrap())))));
        }
        Some("integer" | "number") => {
            let bound = |name: &str| schema[name].as_i64();
            let bounds = [bound("minimum"), bound("maximum")].into_iter().flatten();
            let around = bounds.flat_map(|bound| [bound.saturating_sub(1), bound, bound.saturating_add(1)]);
            found.extend(around.chain(NUMBERS).map(|number| Some(json!(number))));
            found.extend([json!(1.0), json!(1.5), json!(1e300), json!(u64::MAX)].map(Some));
        }
        Some("array") => {
            let first = base.get(0).cloned().unwrap_or_default();
            let most = usize::try_from(schema["maxItems"].as_u64().unwrap_or(100).min(1_000)).unwrap();
            found.extend([2, most, most + 1].map(|count| Some(Value::from(vec![first.clone(); count]))));
        }
        Some("object") => {
            let with = |key: &str, value: Value| {
                let mut object = base.as_object().cloned().unwrap_or_default();
                object.insert(key.to_owned(), value);
                Some(Value::Object(object))
            };
            let entry = first_entry(base).map_or(json!("x"), |(_, value)| value.clone());
            found.extend([with("", entry.clone()), with("unknown", json!({ "a": [1, null] })), with("é/~", entry)]);
        }
        _ => {}
    }
    found
}

/// Sets or removes a field. Returns false if there is no place for it.
fn set(object: &mut Value, pointer: &str, value: Option<Value>) -> bool {
    let Some((parent, name)) = pointer.rsplit_once('/') else { return false };
    let name = name.replace("~1", "/").replace("~0", "~");
    match (object.pointer_mut(parent), value) {
        (Some(Value::Object(parent)), Some(value)) => {
            parent.insert(name, value);
            true
        }
        (Some(Value::Object(parent)), None) => parent.remove(&name).is_some(),
        (Some(Value::Array(parent)), Some(value)) => {
            parent[0] = value;
            true
        }
        _ => false,
    }
}

/// Deeper fields of pods repeat the ones above them.
const DEPTH: usize = 8;
const NUMBERS: [i64; 6] = [0, -1, 1 << 31, -(1 << 31) - 1, i64::MAX, i64::MIN];
/// Times that a `date-time` may let pass.
const TIMES: [&str; 19] = [
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00Z",
    "1969-12-31T23:59:59Z",
    "1970-01-01T00:00:00Z",
    "9999-12-30T22:00:00Z",
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59.999999999-14:00",
    "10000-01-01T00:00:00Z",
    "-009999-01-01T00:00:00Z",
    "2026-02-29T00:00:00Z",
    "2026-06-30T23:59:60Z",
    "2026-06-30T24:00:00Z",
    "2026-06-30T12:00:00+14:00",
    "2026-06-30T12:00:00-23:59",
    "2026-06-30T12:00:00+26:00",
    "2026-06-30T12:00:00.1234567890Z",
    "2026-06-30t12:00:00z",
    "2026-06-30 12:00:00Z",
    "2026-06-30",
];
/// Texts of many kinds: durations, names, addresses, and values that no field expects.
const TEXTS: [&str; 32] = [
    "",
    " ",
    "a",
    "A",
    "é",
    "\u{0}",
    "\n",
    "0",
    "0s",
    "-1s",
    "1ns",
    "1us",
    "1µs",
    "0.000000001h",
    ".5h",
    "1.h",
    "+1h",
    "1h1h",
    "10m",
    "1h0m0.5s",
    "2160h",
    "26280h",
    "999999h",
    "2562047h47m16.854775807s",
    "99999999999999999999h",
    "1e3s",
    "1d",
    "2160H",
    "a.example",
    "a:65536",
    "0.0.0.0/33",
    "::ffff:1.2.3.4",
];
