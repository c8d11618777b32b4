//! Kubeconfig files: who connects to which server.

use std::path::Path;

use anyhow::Result;
use k8s_openapi::ByteString;
use kube::config::Kubeconfig;
use serde_json::{Value, json};

use crate::authority::{Credential, write_private};

/// Writes a kubeconfig that shows a client certificate, for its owner's eyes only.
///
/// # Errors
/// If the file cannot be written.
pub fn write_with_certificate(path: &Path, server: &str, authority: &str, credential: &Credential) -> Result<()> {
    let cluster = json!({ "server": server, "certificate-authority-data": base64(authority)? });
    let user = json!({
        "client-certificate-data": base64(&credential.certificate)?,
        "client-key-data": base64(&credential.key)?,
    });
    write(path, &cluster, &user, "default")
}

/// Writes a kubeconfig for the server of `base` that shows a bearer token, for its owner's eyes only.
pub(super) fn write_with_token(path: &Path, base: &Kubeconfig, token: &str, namespace: &str) -> Result<()> {
    let cluster = base.clusters.first().map(|named| &named.cluster);
    write(path, &serde_json::to_value(cluster)?, &json!({ "token": token }), namespace)
}

fn write(path: &Path, cluster: &Value, user: &Value, namespace: &str) -> Result<()> {
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": NAME, "cluster": cluster }],
        "users": [{ "name": NAME, "user": user }],
        "contexts": [{ "name": NAME, "context": { "cluster": NAME, "user": NAME, "namespace": namespace } }],
        "current-context": NAME,
    });
    write_private(path, &serde_yaml_ng::to_string(&kubeconfig)?)
}

/// As Kubernetes writes bytes.
fn base64(text: &str) -> Result<Value> {
    Ok(serde_json::to_value(ByteString(text.as_bytes().to_vec()))?)
}

const NAME: &str = "gaia";
