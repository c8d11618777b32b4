//! Bounds of conditions: the schema of `metav1.Condition` comes without any.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};

/// The definition with bounded conditions in its status.
pub(super) fn bounded(mut definition: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut definition.spec.versions {
        let schema = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        let status = schema.and_then(|schema| schema.properties.as_mut()?.get_mut("status"));
        let conditions = status.and_then(|status| status.properties.as_mut()?.get_mut("conditions"));
        if let Some(JSONSchemaPropsOrArray::Schema(condition)) = conditions.and_then(|list| list.items.as_mut()) {
            bound(condition);
        }
    }
    definition
}

fn bound(condition: &mut JSONSchemaProps) {
    for (name, length) in [("type", MAX_TYPE), ("status", MAX_STATUS), ("reason", MAX_REASON), ("message", MAX_MESSAGE)]
    {
        if let Some(field) = condition.properties.as_mut().and_then(|fields| fields.get_mut(name)) {
            field.max_length = Some(length);
        }
    }
}

const MAX_TYPE: i64 = 316;
/// `True`, `False` or `Unknown`.
const MAX_STATUS: i64 = 7;
const MAX_REASON: i64 = 1024;
/// Less than the 32768 of Kubernetes: 32 conditions are to fit into one object.
const MAX_MESSAGE: i64 = 4096;
