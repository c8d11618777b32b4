//! Truncates statuses to the bounds of their schema.
//!
//! One text, list or date beyond a bound would make the API server refuse a whole status, and the object would report
//! nothing. Every status is checked against the schema before it is written: long texts and lists are cut, other
//! invalid values are left out, and the caller counts them.

use std::collections::{BTreeMap, HashSet};
use std::sync::LazyLock;

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::Value;

use super::dates::clamped;

/// Cuts a status to the schema of its kind. Returns the fields that were cut or left out.
#[must_use]
pub fn fit_status(kind: &str, status: &mut Value) -> Vec<String> {
    let mut fit = Fit { path: vec!["status".to_owned()], cut: vec![] };
    if let Some(schema) = STATUSES.get(kind)
        && !fit.value(schema, status)
    {
        *status = Value::Object(serde_json::Map::new());
    }
    fit.cut
}

struct Fit {
    path: Vec<String>,
    cut: Vec<String>,
}

impl Fit {
    /// Returns true if the value can stay, after it was cut.
    fn value(&mut self, schema: &JSONSchemaProps, value: &mut Value) -> bool {
        match value {
            Value::Null => schema.nullable == Some(true),
            Value::String(text) => self.text(schema, text),
            Value::Number(_) => self.number(schema, value),
            Value::Array(items) => self.list(schema, items),
            Value::Object(_) => self.object(schema, value),
            Value::Bool(_) => true,
        }
    }

    fn text(&mut self, schema: &JSONSchemaProps, text: &mut String) -> bool {
        if schema.enum_.as_ref().is_some_and(|known| !known.iter().any(|known| known.0 == text.as_str())) {
            return false;
        }
        if schema.format.as_deref() == Some("date-time") {
            let Ok(time) = text.parse::<Timestamp>() else { return false };
            if clamped(time) != time {
                *text = clamped(time).to_string();
                self.note();
            }
        }
        let length = text.chars().count();
        if let Some(max) = schema.max_length.and_then(|max| usize::try_from(max).ok()).filter(|max| length > *max) {
            *text = text.chars().take(max.saturating_sub(1)).collect();
            text.extend((max > 0).then_some('…'));
            self.note();
        }
        schema.min_length.is_none_or(|min| i64::try_from(text.chars().count()).is_ok_and(|length| length >= min))
    }

    fn number(&mut self, schema: &JSONSchemaProps, value: &mut Value) -> bool {
        let Some(found) = value.as_i64() else { return true };
        let (mut low, mut high) = match schema.format.as_deref() {
            Some("int32") => (i64::from(i32::MIN), i64::from(i32::MAX)),
            _ => (i64::MIN, i64::MAX),
        };
        #[expect(clippy::cast_possible_truncation, reason = "bounds of integer fields are whole numbers of this size")]
        let whole = |bound: f64| bound as i64;
        low = schema.minimum.map_or(low, |bound| low.max(whole(bound)));
        high = schema.maximum.map_or(high, |bound| high.min(whole(bound)));
        if !(low..=high).contains(&found) {
            *value = found.max(low).min(high).into();
            self.note();
        }
        true
    }

    fn list(&mut self, schema: &JSONSchemaProps, items: &mut Vec<Value>) -> bool {
        let before = items.len();
        if let Some(JSONSchemaPropsOrArray::Schema(of_item)) = &schema.items {
            let all = std::mem::take(items);
            for (index, mut item) in all.into_iter().enumerate() {
                self.path.push(index.to_string());
                if self.value(of_item, &mut item) {
                    items.push(item);
                } else {
                    self.note();
                }
                self.path.pop();
            }
        }
        if let Some(keys) = schema.x_kubernetes_list_map_keys.as_ref().filter(|keys| !keys.is_empty()) {
            let mut seen = HashSet::new();
            items.retain(|item| seen.insert(keys.iter().map(|key| item[key].to_string()).collect::<Vec<_>>()));
        }
        if let Some(max) = schema.max_items.and_then(|max| usize::try_from(max).ok()) {
            items.truncate(max);
        }
        if items.len() < before {
            self.note();
        }
        true
    }

    fn object(&mut self, schema: &JSONSchemaProps, value: &mut Value) -> bool {
        let Some(fields) = value.as_object_mut() else { return true };
        let mut misfits = vec![];
        for (name, field) in fields.iter_mut() {
            let of_field =
                schema.properties.as_ref().and_then(|known| known.get(name)).or(match &schema.additional_properties {
                    Some(JSONSchemaPropsOrBool::Schema(of_value)) => Some(of_value),
                    _ => None,
                });
            // The API server drops unknown fields.
            let Some(of_field) = of_field else { continue };
            self.path.push(name.clone());
            if !self.value(of_field, field) {
                self.note();
                misfits.push(name.clone());
            }
            self.path.pop();
        }
        for name in &misfits {
            fields.remove(name);
        }
        schema.required.iter().flatten().all(|name| fields.contains_key(name))
    }

    fn note(&mut self) {
        let path = self.path.join(".");
        if !self.cut.contains(&path) {
            self.cut.push(path);
        }
    }
}

/// The schema of each kind's status.
static STATUSES: LazyLock<BTreeMap<String, JSONSchemaProps>> = LazyLock::new(|| {
    let status =
        |definition: k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition| {
            let version = definition.spec.versions.into_iter().next()?;
            let schema = version.schema?.open_api_v3_schema?;
            Some((definition.spec.names.kind, schema.properties?.remove("status")?))
        };
    super::all().into_iter().filter_map(status).collect()
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// No status may have a bound that `fit_status` does not handle.
    #[test]
    fn statuses_have_only_bounds_that_are_held() {
        fn look(path: &str, schema: &JSONSchemaProps) {
            let is_date = schema.format.as_deref() == Some("date-time");
            assert!(is_date || schema.pattern.is_none(), "{path} has a pattern");
            assert!(is_date || schema.x_kubernetes_validations.is_none(), "{path} has a rule");
            assert!(schema.min_items.is_none() && schema.max_properties.is_none() && schema.any_of.is_none(), "{path}");
            let is_bounded = match schema.type_.as_deref() {
                Some("string") => schema.max_length.is_some() || schema.enum_.is_some(),
                Some("array") => schema.max_items.is_some(),
                _ => true,
            };
            assert!(is_bounded, "{path} has no bound");
            for (name, property) in schema.properties.iter().flatten() {
                look(&format!("{path}.{name}"), property);
            }
            if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
                look(&format!("{path}[]"), items);
            }
        }
        assert_eq!(STATUSES.len(), 3);
        for (kind, schema) in STATUSES.iter() {
            look(kind, schema);
        }
    }

    #[test]
    fn what_is_too_long_is_cut_and_named() {
        let laggard = |n: usize| json!({ "namespace": "shop", "pod": format!("pod-{n}"), "reason": "x".repeat(600) });
        let mut status = json!({
            "reason": "Ready",
            "message": "é".repeat(5000),
            "rotating": "CA",
            "laggards": (0..12).map(laggard).collect::<Vec<_>>(),
            "laggardCount": 4_000_000_000_u64,
            "exposure": { "from": "9999-12-30T00:00:00Z" },
        });
        let cut = fit_status("TrustDomain", &mut status);
        assert!(status["message"].as_str().unwrap().ends_with("é…"));
        assert_eq!(status["message"].as_str().unwrap().chars().count(), 4096);
        assert_eq!(status["laggards"].as_array().unwrap().len(), 10);
        assert_eq!(status["laggards"][0]["reason"].as_str().unwrap().chars().count(), 512);
        assert_eq!(status["laggardCount"], 2_147_483_647);
        assert_eq!(status["exposure"]["from"], "9998-12-31T23:59:59Z");
        assert_eq!(status["reason"], "Ready");
        assert!(cut.contains(&"status.message".to_owned()) && cut.contains(&"status.laggards".to_owned()), "{cut:?}");
        assert_eq!(fit_status("TrustDomain", &mut status), Vec::<String>::new(), "once cut, it fits");
    }

    #[test]
    fn what_cannot_be_cut_is_left_out_and_the_rest_is_reported() {
        let condition = |type_: &str| {
            json!({ "type": type_, "status": "True", "reason": "R", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z" })
        };
        let mut status = json!({
            "auth": { "mode": "NewerMode", "desiredMode": "Dual" },
            "certificate": { "name": "web", "notAfter": "no date" },
            "conditions": [condition("Ready"), condition("Ready"), { "type": "Half" }],
        });
        let cut = fit_status("GaiaService", &mut status);
        assert_eq!(status, json!({ "certificate": { "name": "web" }, "conditions": [condition("Ready")] }));
        assert!(!cut.is_empty());
    }

    #[test]
    fn what_fits_stays_as_it_is() {
        let fits = json!({ "secretName": "web-tls", "revision": 3, "served": { "current": 1, "total": 1, "summary": "1/1" },
            "notAfter": "2026-01-01T00:00:00Z", "conditions": [] });
        let mut status = fits.clone();
        assert_eq!(fit_status("ServiceCertificate", &mut status), Vec::<String>::new());
        assert_eq!(status, fits);
    }
}
