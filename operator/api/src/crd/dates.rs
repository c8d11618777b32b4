//! Bounds of every `date-time` field, so that Gaia's types can represent every value that the API server accepts.
//!
//! The API server accepts more than RFC 3339 for `date-time`, and years up to 9999 in any offset; jiff's range ends at
//! 9999-12-30T22:00:00Z. One such date must not make an object unreadable.

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool, ValidationRule,
};

/// The definition with a pattern and a rule on each `date-time` field, wherever it is.
pub(super) fn bounded(mut definition: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut definition.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            bound(schema);
        }
    }
    definition
}

/// The time itself if a `date-time` field may hold it, else the nearest that it may.
#[must_use]
pub fn clamped(time: Timestamp) -> Timestamp {
    let (first, last) = bounds();
    time.clamp(first, last)
}

/// The first and the last second that a `date-time` field may hold: 1970-01-01T00:00:00Z and 9998-12-31T23:59:59Z.
#[must_use]
pub fn bounds() -> (Timestamp, Timestamp) {
    (Timestamp::UNIX_EPOCH, Timestamp::from_second(LAST_SECOND).unwrap_or(Timestamp::MAX))
}

fn bound(schema: &mut JSONSchemaProps) {
    if schema.format.as_deref() == Some("date-time") {
        schema.pattern = Some(PATTERN.to_owned());
        schema.max_length = Some(MAX_LENGTH);
        schema.x_kubernetes_validations = Some(vec![ValidationRule {
            rule: "self >= timestamp('1970-01-01T00:00:00Z') && self < timestamp('9999-01-01T00:00:00Z')".to_owned(),
            message: Some("must be in the years 1970 to 9998 (UTC)".to_owned()),
            ..ValidationRule::default()
        }]);
    }
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        bound(property);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => bound(items),
        Some(JSONSchemaPropsOrArray::Schemas(all)) => all.iter_mut().for_each(bound),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        bound(values);
    }
}

/// RFC 3339 with at most nine digits of a second, as Kubernetes writes it.
const PATTERN: &str =
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$";
const MAX_LENGTH: i64 = 64;
/// 9998-12-31T23:59:59Z.
const LAST_SECOND: i64 = 253_370_764_799;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_second_is_the_end_of_9998() {
        assert_eq!(bounds().1.to_string(), "9998-12-31T23:59:59Z");
        assert_eq!(clamped(Timestamp::MAX), bounds().1);
        assert_eq!(clamped(Timestamp::MIN), Timestamp::UNIX_EPOCH);
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        assert_eq!(clamped(now), now);
    }
}
