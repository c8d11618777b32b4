//! Default of a spec without required fields.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON};

/// The definition with `{}` as the default of its spec, if none of its fields is required.
///
/// A server-side apply of `spec: {}` over other fields can result in `spec: null`. The API server replaces that by the
/// default if there is one, and refuses the object otherwise.
pub(super) fn of_empty_spec(mut definition: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut definition.spec.versions {
        let schema = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        let spec = schema.and_then(|schema| schema.properties.as_mut()?.get_mut("spec"));
        if let Some(spec) = spec.filter(|spec| spec.required.is_none()) {
            spec.default = Some(JSON(serde_json::json!({})));
        }
    }
    definition
}
