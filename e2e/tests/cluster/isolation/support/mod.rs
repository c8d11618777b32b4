//! Odd objects, made from the schemas that the API server checks them by.
#![allow(unreachable_pub, reason = "a module of a test program")]

pub mod deviation;
pub mod full;
pub mod inline;
pub mod odd;

use http::Request;
use http::header::CONTENT_TYPE;
use kube::Client;
use serde_json::{Value, json};

/// The path of an object, or of the collection that it is created in.
pub fn path_of(object: &Value, is_named: bool) -> String {
    let (meta, version) = (&object["metadata"], object["apiVersion"].as_str().unwrap());
    let group = if version == "v1" { "/api/v1".to_owned() } else { format!("/apis/{version}") };
    let resource = format!("{}s", object["kind"].as_str().unwrap().to_lowercase());
    let collection = match meta["namespace"].as_str() {
        Some(namespace) => format!("{group}/namespaces/{namespace}/{resource}"),
        None => format!("{group}/{resource}"),
    };
    if is_named { format!("{collection}/{}", meta["name"].as_str().unwrap()) } else { collection }
}

/// Creates an object whose metadata no type needs to hold.
pub async fn post(client: &Client, path: &str, object: &Value) -> Result<Value, kube::Error> {
    let request = Request::post(path).header(CONTENT_TYPE, "application/json");
    client.request(request.body(serde_json::to_vec(object).unwrap()).unwrap()).await
}

/// Adds or replaces one field of an object, independent of other writers.
pub async fn set(client: &Client, path: &str, field: &str, value: &Value) -> Result<Value, kube::Error> {
    let patch = json!([{ "op": "add", "path": field, "value": value }]);
    let request = Request::patch(path).header(CONTENT_TYPE, "application/json-patch+json");
    client.request(request.body(serde_json::to_vec(&patch).unwrap()).unwrap()).await
}
