//! The schemas of the custom resources, applied as the API server applies them: types and bounds, unknown fields,
//! defaults, then the CEL rules.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jiff::Timestamp;
use kube::core::cel::{CompiledSchema, Validator, apply_defaults, compile_schema};
use regex::Regex;
use serde_json::Value;

/// A path and the cause.
pub(super) type Fault = (Vec<String>, String);

/// The schemas by kind.
pub(crate) struct Schemas(BTreeMap<String, Schema>);

struct Schema {
    schema: Value,
    rules: CompiledSchema,
}

impl Schemas {
    /// The schemas of all kinds, compiled at the first call.
    pub(crate) fn get() -> &'static Self {
        static SCHEMAS: LazyLock<Schemas> = LazyLock::new(|| {
            let schema = |definition: k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition| {
                let version = definition.spec.versions.into_iter().next()?;
                let schema = serde_json::to_value(version.schema?.open_api_v3_schema?).ok()?;
                Some((definition.spec.names.kind, Schema { rules: compile_schema(&schema), schema }))
            };
            Schemas(gaia_api::crd::all().into_iter().filter_map(schema).collect())
        });
        &SCHEMAS
    }

    /// Checks an object, and a change of it where the previous object is given.
    pub(crate) fn check(&self, kind: &str, object: &Value, old: Option<&Value>) -> Result<(), Fault> {
        let Some(Schema { schema, rules }) = self.0.get(kind) else {
            return Err((vec!["kind".to_owned()], "no such kind".to_owned()));
        };
        let empty = Value::Null;
        let of_spec = schema.pointer("/properties/spec").unwrap_or(&empty);
        let mut path = vec!["spec".to_owned()];
        structure(of_spec, &object["spec"], &mut path)?;
        let defaulted = apply_defaults(schema, object);
        let old = old.map(|old| apply_defaults(schema, old));
        let Err(errors) = Validator::new().validate_compiled(rules, &defaulted, old.as_ref()) else { return Ok(()) };
        let Some(first) = errors.iter().next() else { return Ok(()) };
        let path =
            first.field_path.split(['.', '[']).map(|part| part.trim_end_matches(']').trim_matches('"').to_owned());
        Err((path.filter(|part| !part.is_empty()).collect(), first.message.clone()))
    }
}

/// Types, bounds and names of fields.
fn structure(schema: &Value, value: &Value, path: &mut Vec<String>) -> Result<(), Fault> {
    let refused = |path: &[String], why: String| Err((path.to_vec(), why));
    if schema["x-kubernetes-int-or-string"] == true || schema["x-kubernetes-preserve-unknown-fields"] == true {
        return Ok(());
    }
    let expected = schema["type"].as_str().unwrap_or_default();
    let fits = match expected {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => true,
    };
    if !fits {
        return refused(path, format!("must be {}", article(expected)));
    }
    if let Some(known) = schema["enum"].as_array()
        && !known.contains(value)
    {
        let names: Vec<&str> = known.iter().filter_map(Value::as_str).collect();
        return refused(path, format!("must be one of {}", names.join(", ")));
    }
    match value {
        Value::Object(fields) => {
            let known = schema["properties"].as_object();
            for (name, field) in fields {
                path.push(name.clone());
                let of_field = known.and_then(|known| known.get(name));
                match of_field.or_else(|| schema.get("additionalProperties").filter(|more| more.is_object())) {
                    Some(of_field) => structure(of_field, field, path)?,
                    None => return refused(path, "unknown field".to_owned()),
                }
                path.pop();
            }
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            if let Some(missing) = required.into_iter().find(|name| !fields.contains_key(*name)) {
                return refused(path, format!("must have {missing}"));
            }
            bounded(schema, "Properties", fields.len()).or_else(|why| refused(path, why))
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                path.push(index.to_string());
                structure(&schema["items"], item, path)?;
                path.pop();
            }
            unique(schema, items).or_else(|why| refused(path, why))?;
            bounded(schema, "Items", items.len()).or_else(|why| refused(path, why))
        }
        Value::String(text) => {
            if schema["format"] == "date-time" && text.parse::<Timestamp>().is_err() {
                return refused(path, "must be a time such as 2027-01-01T00:00:00Z".to_owned());
            }
            let pattern = schema["pattern"].as_str().map(Regex::new);
            if let Some(Ok(pattern)) = pattern
                && !pattern.is_match(text)
            {
                return refused(path, format!("must match {pattern}"));
            }
            bounded(schema, "Length", text.chars().count()).or_else(|why| refused(path, why))
        }
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or_default();
            match (schema["minimum"].as_f64(), schema["maximum"].as_f64()) {
                (Some(least), _) if number < least => refused(path, format!("must be at least {least}")),
                (_, Some(most)) if number > most => refused(path, format!("must be at most {most}")),
                _ => Ok(()),
            }
        }
        Value::Null | Value::Bool(_) => Ok(()),
    }
}

fn bounded(schema: &Value, of: &str, count: usize) -> Result<(), String> {
    let bound = |which: &str| schema[format!("{which}{of}")].as_u64().and_then(|bound| usize::try_from(bound).ok());
    let what = match of {
        "Items" => "items",
        "Length" => "characters",
        _ => "fields",
    };
    match (bound("min"), bound("max")) {
        (Some(least), _) if count < least => Err(format!("must have at least {least} {what}")),
        (_, Some(most)) if count > most => Err(format!("must have at most {most} {what}")),
        _ => Ok(()),
    }
}

/// Entries of a set, and the keys of a list map, are unique.
fn unique(schema: &Value, items: &[Value]) -> Result<(), String> {
    let keys: Vec<&str> = match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => vec![],
        Some("map") => {
            schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
        }
        _ => return Ok(()),
    };
    let identity = |item: &Value| -> Vec<Value> {
        if keys.is_empty() { vec![item.clone()] } else { keys.iter().map(|key| item[*key].clone()).collect() }
    };
    let mut known = vec![];
    for item in items {
        let identity = identity(item);
        if known.contains(&identity) {
            let names: Vec<String> =
                identity.iter().map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned)).collect();
            return Err(format!("must not hold {} twice", names.join(", ")));
        }
        known.push(identity);
    }
    Ok(())
}

fn article(type_: &str) -> String {
    let article = if type_.starts_with(['a', 'i', 'o']) { "an" } else { "a" };
    format!("{article} {type_}")
}
