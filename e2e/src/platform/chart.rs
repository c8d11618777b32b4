//! The operator's chart on a cluster without a kubelet: everything except the Deployment, which a local process replaces.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize as _;
use serde_yaml_ng::{Deserializer, Value};

use crate::cluster::Cluster;

/// The name of the chart's ServiceAccount for release `gaia`.
pub const SERVICE_ACCOUNT: &str = "gaia-operator";

/// Installs CRDs, ServiceAccount and RBAC of `charts/gaia` into `namespace`, which is created if it does not exist.
/// Returns a kubeconfig of that ServiceAccount: the operator under test has the chart's rights and no others.
///
/// # Errors
/// The chart cannot be rendered, or the cluster refuses it.
pub async fn install_without_deployment(cluster: &Cluster, namespace: &str, values: &[&str]) -> Result<PathBuf> {
    let manifests = render(cluster, namespace, values).await?;
    if !cluster.kubectl_output(&["get", "namespace", namespace]).await?.status.success() {
        cluster.kubectl(&["create", "namespace", namespace]).await?;
    }
    cluster.apply(&manifests).await?;
    let crds = "--for=condition=Established";
    cluster
        .kubectl(&[
            "wait",
            crds,
            "--timeout=30s",
            "crd",
            "trustdomains.gaia.dev",
            "servicecertificates.gaia.dev",
            "gaiaservices.gaia.dev",
        ])
        .await?;
    cluster.kubeconfig_for_service_account(namespace, SERVICE_ACCOUNT).await
}

/// The chart, rendered, without its Deployment.
async fn render(cluster: &Cluster, namespace: &str, values: &[&str]) -> Result<String> {
    let chart = directory();
    let chart = chart.to_str().context("the chart's path is not UTF-8")?;
    let mut args = vec!["template", "gaia", chart, "--namespace", namespace];
    for value in values {
        args.extend(["--set", value]);
    }
    without_deployment(&cluster.helm(&args).await?)
}

fn without_deployment(manifests: &str) -> Result<String> {
    let mut kept = String::new();
    for document in Deserializer::from_str(manifests) {
        let object = Value::deserialize(document).context("helm rendered something that is not YAML")?;
        let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
        if !["", "Deployment", "PodDisruptionBudget"].contains(&kind) {
            kept.push_str("---\n");
            kept.push_str(&serde_yaml_ng::to_string(&object)?);
        }
    }
    Ok(kept)
}

/// The path of the chart in the working tree that these tests were built from.
#[must_use]
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/gaia")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_but_the_deployment_is_kept() {
        let manifests =
            "---\nkind: Role\nmetadata: {name: a}\n---\n# nothing\n---\nkind: Deployment\nmetadata: {name: b}\n";
        let kept = without_deployment(manifests).unwrap();
        assert!(kept.contains("kind: Role") && !kept.contains("Deployment"), "{kept}");
    }
}
