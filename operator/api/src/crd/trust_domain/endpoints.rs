//! Endpoints outside the cluster that the operator may probe.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::crd::rules;

/// Endpoints that `spec.endpoints` of the GaiaServices in the listed namespaces may name.
///
/// Without `cidrs`, loopback, link-local, multicast and unspecified addresses and those of the API server are refused.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
#[x_kube(validation = Rule::new("has(self.hosts) || has(self.cidrs)").message("must have hosts, cidrs or both"))]
#[serde(rename_all = "camelCase")]
pub struct AllowedEndpoint {
    /// Namespaces this applies to.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63), pattern(rules::DNS_LABEL)))]
    pub namespaces: Vec<String>,
    /// DNS names and IP addresses. A leading `*.` matches exactly one label. Missing: IP addresses inside `cidrs` only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 253), pattern(rules::ENDPOINT_HOST)))]
    #[x_kube(validation = crate::crd::rules::each_is_name_or_ip())]
    pub hosts: Vec<String>,
    /// Networks in CIDR form. Every address that a name resolves to must be inside one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 64)))]
    #[x_kube(validation = crate::crd::rules::each_is_cidr())]
    pub cidrs: Vec<String>,
}
