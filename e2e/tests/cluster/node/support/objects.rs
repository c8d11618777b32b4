//! The objects of the cluster, for comparison with an earlier state.

use std::collections::BTreeMap;

use gaia_pki::Certificate;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use serde_json::{Map, Value};

use super::{NAMESPACE, Platform, SYSTEM};

/// Every object that the operator writes or writes a status of: identity and version.
pub type Snapshot = BTreeMap<String, String>;

/// A status without the fields that are reported up to a minute late: uses of API keys, counts of instances, and lagging ones.
fn settled(status: &Map<String, Value>) -> Value {
    let mut status = status.clone();
    for late in ["legacy", "instances", "served", "laggards", "laggardCount", "lagging", "laggingCount"] {
        status.remove(late);
    }
    if let Some(certificate) = status.get_mut("certificate").and_then(Value::as_object_mut) {
        certificate.remove("served");
    }
    if let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) {
        conditions
            .retain(|condition| !["Served", "LegacyFree", "PlainFree"].iter().any(|late| condition["type"] == *late));
    }
    Value::Object(status)
}

impl Platform {
    pub async fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::new();
        for (kinds, namespace) in [(RINGS, SYSTEM), (PROJECTIONS, NAMESPACE), (CUSTOM, NAMESPACE)] {
            let listed = self.cluster.kubectl(&["get", kinds, "-n", namespace, "-o", "json"]).await.unwrap();
            let listed: Value = serde_json::from_str(&listed).unwrap();
            for object in listed["items"].as_array().unwrap() {
                let metadata = &object["metadata"];
                let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
                if !text("name").starts_with("sh.helm.release.") {
                    let version = match &object["status"] {
                        Value::Object(status) => format!("{} {}", metadata["generation"], settled(status)),
                        _ => text("resourceVersion"),
                    };
                    let version = format!("{version} of {}", text("uid"));
                    snapshot.insert(format!("{} {}", object["kind"], text("name")), version);
                }
            }
        }
        for expected in ["gaia-ca-ring", "gaia-signing-ring", "gaia-token-signer", "asset-service-tls"] {
            assert!(snapshot.contains_key(&format!("\"Secret\" {expected}")), "{expected} is not in {snapshot:#?}");
        }
        snapshot
    }

    /// The leaf that a service should serve, and its bundle. None while there is no such Secret.
    pub async fn issued_leaf(&self, service: &str) -> Option<Certificate> {
        let secret = self.secret(NAMESPACE, &format!("{service}-tls")).await?;
        let chain = Certificate::chain_from_pem(&secret.data.unwrap()["tls.crt"].0).unwrap();
        chain.into_iter().next()
    }

    /// Every trusted root.
    pub async fn trusted_roots(&self) -> Vec<u8> {
        self.kubectl(&["get", "configmap", "gaia-trust", "-o", r"jsonpath={.data.ca\.crt}"]).await.into_bytes()
    }

    /// The active CA in the status of the TrustDomain.
    pub async fn ca_fingerprint(&self) -> String {
        self.kubectl(&["get", "trustdomain", "gaia", "-o", "jsonpath={.status.ca.active.fingerprint}"]).await
    }

    async fn secret(&self, namespace: &str, name: &str) -> Option<Secret> {
        Api::namespaced(self.client.clone(), namespace).get_opt(name).await.unwrap()
    }
}

const RINGS: &str = "secrets";
const PROJECTIONS: &str = "secrets,configmaps";
const CUSTOM: &str = "trustdomains,gaiaservices,servicecertificates";
