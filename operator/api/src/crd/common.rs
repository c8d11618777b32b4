//! Types that more than one custom resource uses.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;

/// Refers to a TrustDomain by name.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct TrustDomainRef {
    /// `metadata.name` of the TrustDomain.
    #[serde(default = "default_trust_domain")]
    #[schemars(length(min = 1, max = 63), pattern(rules::DNS_LABEL))]
    pub name: String,
}

impl Default for TrustDomainRef {
    fn default() -> Self {
        Self { name: default_trust_domain() }
    }
}

fn default_trust_domain() -> String {
    "gaia".to_owned()
}

/// Refers to a Secret by name.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct SecretRef {
    /// `metadata.name` of the Secret.
    #[schemars(length(min = 1, max = 253), pattern(rules::DNS_NAME))]
    pub name: String,
}

/// The kind of a private key.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum KeyAlgorithm {
    /// RSA, PKCS #1 v1.5 signatures.
    RSA,
    /// ECDSA on a NIST curve.
    #[default]
    ECDSA,
}

/// A private key's algorithm and size.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
#[x_kube(validation = crate::crd::rules::key_size())]
pub struct PrivateKeySpec {
    /// RSA or ECDSA.
    #[serde(default)]
    pub algorithm: KeyAlgorithm,
    /// Bits: 2048 (default), 3072 or 4096 for RSA; 256 (default) or 384 for ECDSA.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 256, max = 4096))]
    pub size: Option<i32>,
}

/// Labels and annotations for what the operator creates.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
pub struct ObjectTemplate {
    /// Labels to set; removed again when they are removed here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64), schema_with = "label_map")]
    #[x_kube(validation = crate::crd::rules::template_keys())]
    pub labels: BTreeMap<String, String>,
    /// Annotations to set; removed again when they are removed here. At most 16 KiB in all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64), schema_with = "annotation_map")]
    #[x_kube(validation = crate::crd::rules::template_keys())]
    #[x_kube(validation = crate::crd::rules::small_map())]
    pub annotations: BTreeMap<String, String>,
}

impl ObjectTemplate {
    /// Returns true if no label or annotation is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.annotations.is_empty()
    }
}

fn label_map(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {
            "type": "string",
            "maxLength": 63,
            "pattern": "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$",
        },
    })
}

fn annotation_map(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": { "type": "string", "maxLength": 16384 },
    })
}

/// A Kubernetes label selector: all parts must match; `{}` selects all namespaces.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceSelector {
    /// Labels that must be there with these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64), schema_with = "label_map")]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub match_expressions: Vec<SelectorRequirement>,
}

/// One requirement of a label selector.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[x_kube(validation = Rule::new("(has(self.values) && size(self.values) > 0) == (self.operator in ['In', 'NotIn'])")
    .message("values must be set for In and NotIn, and for these only"))]
pub struct SelectorRequirement {
    /// The label.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// Operator that relates the label to the values.
    pub operator: SelectorOperator,
    /// Values for In and NotIn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub values: Vec<String>,
}

/// Operator of a label selector requirement.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelectorOperator {
    /// The label has one of the values.
    In,
    /// The label is absent or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

impl NamespaceSelector {
    /// Returns true if an object with these labels is selected.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| requirement.matches(labels))
    }
}

impl SelectorRequirement {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            SelectorOperator::In => listed,
            SelectorOperator::NotIn => !listed,
            SelectorOperator::Exists => value.is_some(),
            SelectorOperator::DoesNotExist => value.is_none(),
        }
    }
}

/// The workload that uses a certificate: how its instances are probed and how they load changes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// The mTLS port to probe. A GaiaService's default is 8443; a ServiceCertificate without a port is not probed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// Server name for the TLS handshake; default: the service's own name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), pattern(rules::DNS_NAME))]
    pub server_name: Option<String>,
    /// Way in which instances load changed files.
    #[serde(default)]
    pub strategy: ReloadStrategy,
    /// Acknowledgement that a rotation requires of these instances.
    #[serde(default)]
    pub acknowledgement: Acknowledgement,
    /// Workloads to restart if their instances do not reload.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub restart_targets: Vec<RestartTarget>,
}

/// Way in which instances load changed files.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ReloadStrategy {
    /// Reload where instances report, else restart `restartTargets`, else wait for them to be restarted.
    #[default]
    Auto,
}

/// Acknowledgement that a rotation requires of instances.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Acknowledgement {
    /// A rotation waits until every instance is current.
    #[default]
    Required,
    /// Laggards are reported but do not hold a rotation.
    BestEffort,
}

/// A workload whose pod template may be annotated to restart it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RestartTarget {
    /// The workload's kind.
    pub kind: RestartKind,
    /// The workload's name, in the same namespace.
    #[schemars(length(min = 1, max = 253), pattern(rules::DNS_NAME))]
    pub name: String,
}

/// Kinds of workloads that can be restarted.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RestartKind {
    /// apps/v1 Deployment.
    Deployment,
    /// apps/v1 StatefulSet.
    StatefulSet,
    /// apps/v1 DaemonSet.
    DaemonSet,
}

/// Purposes of a certificate.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyUsage {
    /// TLS server.
    ServerAuth,
    /// TLS client.
    ClientAuth,
}

/// Subject of a certificate.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SubjectCommonName {
    /// The subject is empty, as SPIFFE recommends for workloads.
    #[default]
    None,
    /// The object's name, for servers that map users by the common name.
    ServiceName,
}

/// Renewal policy of a certificate.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Renewal {
    /// Renewed at two thirds of its validity.
    #[default]
    Enabled,
    /// Not renewed automatically, but still reported.
    Disabled,
}

/// Policy for the Secret when its ServiceCertificate is deleted.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DeletionPolicy {
    /// The Secret is deleted too (owner reference).
    #[default]
    Delete,
    /// The Secret stays.
    Retain,
}

/// Which credentials a service accepts.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AuthMode {
    /// API keys decide; tokens are validated but never change the decision.
    APIKeyOnly,
    /// API keys and tokens are both accepted.
    #[default]
    Dual,
    /// Tokens decide; API keys are refused.
    JWTOnly,
}

impl From<AuthMode> for crate::mount::AuthMode {
    fn from(mode: AuthMode) -> Self {
        match mode {
            AuthMode::APIKeyOnly => Self::APIKeyOnly,
            AuthMode::Dual => Self::Dual,
            AuthMode::JWTOnly => Self::JWTOnly,
        }
    }
}

/// Returns true if a value is its type's default. Fields of list items omit it: a default inside an item of an atomic
/// list would make an unchanged apply differ from the stored object.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn an_empty_selector_selects_everything() {
        assert!(NamespaceSelector::default().matches(&labels(&[])));
    }

    #[test]
    fn every_part_of_a_selector_must_hold() {
        let selector: NamespaceSelector = serde_json::from_str(
            r#"{"matchLabels":{"env":"prod"},"matchExpressions":[
                {"key":"team","operator":"In","values":["a","b"]},
                {"key":"legacy","operator":"DoesNotExist"},
                {"key":"tier","operator":"NotIn","values":["x"]},
                {"key":"gaia","operator":"Exists"}]}"#,
        )
        .unwrap();
        assert!(selector.matches(&labels(&[("env", "prod"), ("team", "a"), ("gaia", "")])));
        assert!(!selector.matches(&labels(&[("env", "prod"), ("team", "c"), ("gaia", "")])));
        assert!(!selector.matches(&labels(&[("env", "prod"), ("team", "a"), ("gaia", ""), ("tier", "x")])));
        assert!(!selector.matches(&labels(&[("env", "prod"), ("team", "a"), ("gaia", ""), ("legacy", "")])));
        assert!(!selector.matches(&labels(&[("team", "a"), ("gaia", "")])));
    }
}
