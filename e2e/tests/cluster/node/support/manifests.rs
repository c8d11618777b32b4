//! The applied manifests: services that mount the operator's objects, as in the README.

use std::path::Path;

use serde::Deserialize as _;
use serde_json::{Value, json};
use serde_yaml_ng::Deserializer;

use super::{NAMESPACE, images};

/// A shared API key, as platforms had them before Gaia, and its SHA-256.
pub const API_KEY: &str = "the-shared-key-of-the-platform";
const API_KEY_SHA256: &str = "32a76e52d8c78c797f510046996261a929c3598431cd3dc7ea2187603e35897a";

/// All objects of the platform, as one manifest.
pub fn platform() -> String {
    let domain = json!({
        "apiVersion": "gaia.dev/v1alpha1", "kind": "TrustDomain", "metadata": { "name": "gaia" },
        "spec": {
            "trustDomain": "shop.example",
            "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": NAMESPACE } },
            // Short, so that an old signing key is removed soon.
            "tokens": { "issuedBy": { "namespace": NAMESPACE, "name": "auth-service" }, "maxTTL": "20s" },
        },
    });
    let callers = json!([{ "service": "gateway", "scopes": ["assets:read", "assets:write"] }]);
    let keys = json!({ "schemaVersion": 1, "keys": [
        { "id": "legacy", "sha256": API_KEY_SHA256, "principal": "everyone", "state": "active", "shared": true },
    ]});
    let mut objects = vec![
        domain,
        service("auth-service", &json!({})),
        service("gateway", &json!({})),
        service(
            "asset-service",
            &json!({ "callers": callers, "auth": { "apiKeysSecretRef": { "name": "asset-service-api-keys" } } }),
        ),
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": "asset-service-api-keys", "namespace": NAMESPACE },
            "stringData": { "api-keys.json": keys.to_string() },
        }),
    ];
    objects.extend(workload("auth-service", &auth_service_pod()));
    objects.extend(workload("asset-service", &asset_service_pod()));
    objects.extend(workload("gateway", &gateway_pod()));
    json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string()
}

/// Namespaces that admit only restricted pods.
pub fn namespaces(names: &[&str]) -> String {
    let level = |mode: &str| (format!("pod-security.kubernetes.io/{mode}"), json!("restricted"));
    let labels: serde_json::Map<String, Value> = ["enforce", "warn"].map(level).into_iter().collect();
    let namespace = |name: &&str| json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } });
    let items: Vec<Value> = names.iter().map(namespace).collect();
    json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string()
}

fn service(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "gaia.dev/v1alpha1", "kind": "GaiaService",
        "metadata": { "name": name, "namespace": NAMESPACE }, "spec": spec,
    })
}

/// ServiceAccount, Deployment and Service.
fn workload(name: &str, pod: &Value) -> [Value; 3] {
    let (metadata, labels) = (json!({ "name": name, "namespace": NAMESPACE }), json!({ "app": name }));
    let template = json!({ "metadata": { "labels": labels }, "spec": pod });
    [
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata }),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
            "spec": { "selector": { "matchLabels": labels }, "template": template },
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": { "selector": labels, "ports": [{ "name": "mesh", "port": 8443 }] },
        }),
    ]
}

/// "The service that issues tokens mounts two more files."
fn auth_service_pod() -> Value {
    let mut pod = gaia_pod("auth-service");
    let sources = pod["volumes"][0]["projected"]["sources"].as_array_mut().unwrap();
    let item = |file: &str| json!([{ "key": file, "path": file }]);
    sources.push(json!({ "secret": { "name": "gaia-token-signer", "items": item("jwt-signing.key") } }));
    sources.push(json!({ "configMap": { "name": "gaia-grants", "items": item("grants.json") } }));
    pod
}

fn asset_service_pod() -> Value {
    let mut pod = gaia_pod("asset-service");
    push(&mut pod["volumes"], json!({ "name": "assets", "emptyDir": { "sizeLimit": "100Mi" } }));
    let container = &mut pod["containers"][0];
    push(&mut container["volumeMounts"], json!({ "name": "assets", "mountPath": "/var/lib/assets" }));
    push(&mut container["env"], json!({ "name": "GAIA_OBJECT_STORE_URL", "value": "file:///var/lib/assets" }));
    pod
}

/// The caller: curl with the files that its pod mounts.
fn gateway_pod() -> Value {
    let mut pod = readme_pod("gateway");
    pod["terminationGracePeriodSeconds"] = json!(0);
    pod["containers"][0]["image"] = json!(images::CALLER);
    pod["containers"][0]["command"] = json!(["sleep", "infinity"]);
    pod
}

/// The README's pod, with a program of Gaia's image in it.
fn gaia_pod(program: &str) -> Value {
    let mut pod = readme_pod(program);
    let container = &mut pod["containers"][0];
    container["image"] = json!(images::GAIA);
    container["command"] = json!([program]);
    container["env"] = json!([{ "name": "GAIA_SERVICE_NAME", "value": program }]);
    container["ports"] = json!([{ "name": "mesh", "containerPort": 8443 }, { "name": "admin", "containerPort": 9090 }]);
    container["livenessProbe"] = json!({ "httpGet": { "path": "/livez", "port": "admin" } });
    container["readinessProbe"] =
        json!({ "httpGet": { "path": "/readyz", "port": "admin" }, "initialDelaySeconds": 1, "periodSeconds": 5 });
    pod
}

/// The spec of the pod that the README shows, for another service than its `orders`.
fn readme_pod(service: &str) -> Value {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let blocks = readme.split("```yaml\n").skip(1).map(|rest| rest.split("\n```").next().unwrap());
    let block = blocks.into_iter().find(|block| block.contains("kind: Pod")).unwrap();
    // Octal as in YAML 1.1, which Kubernetes reads and this parser does not.
    let block = block.replace("orders", service).replace("defaultMode: 0440", "defaultMode: 288");
    let objects = Deserializer::from_str(&block).map(|document| Value::deserialize(document).unwrap());
    let pod = objects.into_iter().find(|object| object["kind"] == "Pod").unwrap();
    assert_eq!(pod["spec"]["volumes"][0]["projected"]["defaultMode"], 0o440, "the README's pod has changed");
    pod["spec"].clone()
}

fn push(list: &mut Value, item: Value) {
    list.as_array_mut().unwrap().push(item);
}
