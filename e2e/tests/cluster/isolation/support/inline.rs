//! The schemas of built-in kinds, as the API server publishes them.

use gaia_e2e::wait;
use http::Request;
use kube::Client;
use serde_json::{Value, json};

/// The schema of a kind, its references resolved. `group` is `api/v1` or `apis/<group>/<version>`.
pub async fn schema_of(client: &Client, group: &str, kind: &str) -> Value {
    let request = || Request::get(format!("/openapi/v3/{group}")).body(vec![]).unwrap();
    let read = async || client.request::<Value>(request()).await.ok();
    let document = wait::until("the API server publishes its schemas", crate::common::SOON, read).await.unwrap();
    let schemas = &document["components"]["schemas"];
    let is_kind = |schema: &Value| schema["x-kubernetes-group-version-kind"][0]["kind"] == kind;
    let schema = schemas.as_object().unwrap().values().find(|schema| is_kind(schema)).unwrap();
    resolved(schema, schemas, 0)
}

fn resolved(schema: &Value, schemas: &Value, depth: usize) -> Value {
    if depth > 12 {
        return json!({});
    }
    let reference = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str());
    if let Some(name) = reference.and_then(|reference| reference.rsplit_once('/')) {
        return resolved(&schemas[name.1], schemas, depth);
    }
    let mut schema = schema.clone();
    for (_, property) in schema["properties"].as_object_mut().into_iter().flatten() {
        *property = resolved(property, schemas, depth + 1);
    }
    for inner in ["items", "additionalProperties"] {
        if schema[inner].is_object() {
            schema[inner] = resolved(&schema[inner], schemas, depth + 1);
        }
    }
    schema
}
