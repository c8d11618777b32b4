//! ServiceCertificate: one leaf in one Secret.

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{
    Condition, Counts, DeletionPolicy, KeyUsage, LaggingInstance, ObjectTemplate, PrivateKeySpec, Renewal,
    SubjectCommonName, TrustDomainRef, Workload, rules,
};
use crate::{Span, names};

/// One leaf certificate in one Secret.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "gaia.dev",
    version = "v1alpha1",
    kind = "ServiceCertificate",
    plural = "servicecertificates",
    shortname = "scert",
    category = "gaia",
    namespaced,
    status = "ServiceCertificateStatus",
    derive = "PartialEq",
    doc = "ServiceCertificate is one leaf certificate in one Secret, issued and renewed by a TrustDomain's CA.",
    validation = crate::crd::rules::name_is_dns_label(),
    printcolumn(name = "READY", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "REASON", type_ = "string", json_path = ".status.reason", description = "The reason of Stalled if that is True, else of Ready"),
    printcolumn(name = "SECRET", type_ = "string", json_path = ".status.secretName"),
    printcolumn(name = "EXPIRES", type_ = "string", json_path = ".status.notAfter", description = "Expiry of the \
                                                                                                   stored certificate"),
    printcolumn(name = "RENEWS", type_ = "string", json_path = ".status.renewalTime", description = "Time of the next \
                                                                                                     renewal"),
    printcolumn(name = "SERVED", type_ = "string", json_path = ".status.served.summary", description = "Number of \
                                                                                                        instances \
                                                                                                        that serve \
                                                                                                        the stored \
                                                                                                        certificate"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "MESSAGE", type_ = "string", json_path = ".status.message", priority = 1),
    printcolumn(name = "TRUST-DOMAIN", type_ = "string", json_path = ".spec.trustDomainRef.name", priority = 1),
    printcolumn(name = "ISSUER", type_ = "string", json_path = ".status.issuer", description = "The CA generation that signed the stored certificate", priority = 1),
    printcolumn(name = "REVISION", type_ = "integer", json_path = ".status.revision", description = "Number of times \
                                                                                                     the certificate \
                                                                                                     was issued", priority = 1)
)]
#[x_kube(validation = crate::crd::rules::immutable_optional("secretName"))]
#[x_kube(validation = crate::crd::rules::leaf_duration())]
#[serde(rename_all = "camelCase")]
pub struct ServiceCertificateSpec {
    /// The TrustDomain that issues. Immutable.
    #[serde(default)]
    #[x_kube(validation = crate::crd::rules::immutable())]
    pub trust_domain_ref: TrustDomainRef,
    /// The workload's service account; default: this object's name. The URI SAN is always and only
    /// `spiffe://<trust domain>/ns/<namespace>/sa/<serviceAccountName>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), pattern(rules::DNS_NAME))]
    pub service_account_name: Option<String>,
    /// The Secret to write; default: `<name>-tls`. Immutable.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), pattern(rules::DNS_NAME))]
    pub secret_name: Option<String>,
    /// Names in addition to `<name>`, `<name>.<ns>`, `<name>.<ns>.svc` and `<name>.<ns>.svc.<cluster domain>`.
    /// `<name>.<ns>` is left out if the namespace has the name of a top-level domain, unless it is listed here. Others
    /// must match the TrustDomain's `allowedNames`.
    #[serde(default, rename = "extraDNSNames", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253), pattern(rules::WILDCARD_DNS_NAME)))]
    pub extra_dns_names: Vec<String>,
    /// IP addresses. They must match the TrustDomain's `allowedNames`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 64)))]
    #[x_kube(validation = crate::crd::rules::each_is_ip())]
    pub ip_addresses: Vec<String>,
    /// Also certify `*.<name>.<ns>.svc` and its cluster-domain form, for the pods of a headless Service.
    #[serde(default, skip_serializing_if = "is_false")]
    pub headless: bool,
    /// Validity of the certificate; default: the TrustDomain's. At least 1h, or 10m with `allowShortLived`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = crate::crd::rules::between("10m", "26280h"))]
    pub duration: Option<Span>,
    /// Allow a duration under 1h.
    #[serde(default, skip_serializing_if = "is_false")]
    pub allow_short_lived: bool,
    /// The leaf's key; default: the TrustDomain's. Each certificate gets a new key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key: Option<PrivateKeySpec>,
    /// Extended key usages; default both.
    #[serde(default = "both_usages")]
    #[schemars(length(min = 1, max = 2))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub usages: Vec<KeyUsage>,
    /// Subject of the certificate: empty (None), or the object's name as common name (ServiceName).
    #[serde(default)]
    pub subject_common_name: SubjectCommonName,
    /// Labels and annotations of the Secret.
    #[serde(default, skip_serializing_if = "ObjectTemplate::is_empty")]
    pub secret_template: ObjectTemplate,
    /// The workload that uses the certificate.
    #[serde(default)]
    pub workload: Workload,
    /// `Disabled` stops renewing, never stops reporting.
    #[serde(default)]
    pub renewal: Renewal,
    /// `Retain` leaves the Secret when this object is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

impl Default for ServiceCertificateSpec {
    fn default() -> Self {
        Self {
            trust_domain_ref: TrustDomainRef::default(),
            service_account_name: None,
            secret_name: None,
            extra_dns_names: vec![],
            ip_addresses: vec![],
            headless: false,
            duration: None,
            allow_short_lived: false,
            private_key: None,
            usages: both_usages(),
            subject_common_name: SubjectCommonName::default(),
            secret_template: ObjectTemplate::default(),
            workload: Workload::default(),
            renewal: Renewal::default(),
            deletion_policy: DeletionPolicy::default(),
        }
    }
}

impl ServiceCertificate {
    /// The name of the Secret it writes.
    #[must_use]
    pub fn secret_name(&self) -> String {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        self.spec.secret_name.clone().unwrap_or_else(|| names::leaf_secret(name))
    }
}

/// Server and client, the default of `usages`.
#[must_use]
pub fn both_usages() -> Vec<KeyUsage> {
    vec![KeyUsage::ServerAuth, KeyUsage::ClientAuth]
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
pub(super) fn is_false(value: &bool) -> bool {
    !*value
}

/// Status of a ServiceCertificate.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct ServiceCertificateStatus {
    /// The generation of the spec this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The Secret that holds the leaf.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub secret_name: Option<String>,
    /// Start of validity of the stored certificate (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub not_before: Option<Timestamp>,
    /// Expiry of the stored certificate (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub not_after: Option<Timestamp>,
    /// The time when it will be renewed (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub renewal_time: Option<Timestamp>,
    /// Lower-case hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub serial_number: Option<String>,
    /// Lower-case hex SHA-256 of the leaf's DER.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub fingerprint: Option<String>,
    /// The CA generation that signed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub issuer: Option<String>,
    /// Number of times it was issued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// Failed attempts since the last success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_attempts: Option<i32>,
    /// The time when the last attempt failed (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub last_failure_time: Option<Timestamp>,
    /// Number of instances that serve the stored certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub served: Option<Counts>,
    /// Instances that have not loaded a published part within `propagation.minDelay`. Those of a GaiaService are in its own status.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub lagging: Vec<LaggingInstance>,
    /// The number of all such instances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lagging_count: Option<i32>,
    /// The reason of Stalled if that is True, else of Ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub reason: Option<String>,
    /// The message of the same condition.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub message: Option<String>,
    /// Ready, Reconciling, Stalled, Served, and warnings.
    #[serde(default)]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
