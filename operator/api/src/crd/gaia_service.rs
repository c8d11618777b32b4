//! GaiaService: a service of the platform.

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::is_default;
use super::service_certificate::is_false;
use super::{
    AuthMode, Condition, DeletionPolicy, KeyUsage, LaggingInstance, ObjectTemplate, PrivateKeySpec, Renewal, SecretRef,
    SubjectCommonName, TrustDomainRef, Workload, rules,
};
use crate::Span;

/// A service of the platform: its certificate, who may call it, and which credentials it accepts.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[kube(
    group = "gaia.dev",
    version = "v1alpha1",
    kind = "GaiaService",
    plural = "gaiaservices",
    shortname = "gsvc",
    category = "gaia",
    namespaced,
    status = "GaiaServiceStatus",
    derive = "PartialEq",
    doc = "GaiaService is a service of the platform: its certificate, its allowed callers, and the credentials it \
           accepts.",
    validation = crate::crd::rules::name_is_dns_label(),
    printcolumn(name = "MODE", type_ = "string", json_path = ".status.auth.mode", description = "The authentication mode that runs"),
    printcolumn(name = "TLS", type_ = "string", json_path = ".status.tls.mode", description = "The TLS mode that runs"),
    printcolumn(name = "READY", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "REASON", type_ = "string", json_path = ".status.reason", description = "The reason of Stalled if that is True, else of Ready"),
    printcolumn(name = "EXPIRES", type_ = "string", json_path = ".status.certificate.notAfter"),
    printcolumn(name = "SERVED", type_ = "string", json_path = ".status.certificate.served"),
    printcolumn(name = "LEGACY-USED", type_ = "string", json_path = ".status.legacy.lastUsedDate", description = "The last day an API key was used"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "MESSAGE", type_ = "string", json_path = ".status.message", priority = 1),
    printcolumn(name = "TRUST-DOMAIN", type_ = "string", json_path = ".spec.trustDomainRef.name", priority = 1),
    printcolumn(name = "ISSUER", type_ = "string", json_path = ".status.certificate.issuer", description = "The CA generation that signed the stored certificate", priority = 1),
    printcolumn(name = "REVISION", type_ = "integer", json_path = ".status.certificate.revision", description = "Number \
                                                                                                                 of \
                                                                                                                 times \
                                                                                                                 the \
                                                                                                                 certificate \
                                                                                                                 was \
                                                                                                                 issued", priority = 1)
)]
#[x_kube(validation = Rule::new("!has(self.auth) || !has(self.auth.mode) || self.auth.mode != 'JWTOnly' || (has(self.tls) && self.tls.mode == 'Strict')")
    .message("tls.mode must be Strict when auth.mode is JWTOnly"))]
#[x_kube(validation = crate::crd::rules::immutable_secret_name_in_overrides())]
#[serde(rename_all = "camelCase")]
pub struct GaiaServiceSpec {
    /// The TrustDomain it belongs to. Immutable.
    #[serde(default)]
    #[x_kube(validation = crate::crd::rules::immutable())]
    pub trust_domain_ref: TrustDomainRef,
    /// The workload's service account; default: this object's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), pattern(rules::DNS_NAME))]
    pub service_account_name: Option<String>,
    /// Probing (port 8443 by default) and reloading of its instances.
    #[serde(default)]
    pub workload: Workload,
    /// Overrides for its ServiceCertificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateOverrides>,
    /// `host:port` of instances outside the cluster; probed like pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(min = 3, max = 260), pattern(r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$"))
    )]
    pub endpoints: Vec<String>,
    /// Callers that may call this service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = crate::crd::rules::unique_callers())]
    pub callers: Vec<CallerSpec>,
    /// Transports.
    #[serde(default)]
    pub tls: TlsSpec,
    /// Credentials.
    #[serde(default)]
    pub auth: AuthSpec,
    /// Waves rotate in order, 0 first; put the canary in 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 9))]
    pub rotation_wave: i32,
}

/// Overrides for the ServiceCertificate of a GaiaService; see there.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
#[x_kube(validation = crate::crd::rules::leaf_duration())]
#[serde(rename_all = "camelCase")]
pub struct CertificateOverrides {
    /// The Secret to write; default: `<name>-tls`. Immutable.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), pattern(rules::DNS_NAME))]
    pub secret_name: Option<String>,
    /// Further DNS names; they must match the TrustDomain's `allowedNames`.
    #[serde(default, rename = "extraDNSNames", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253), pattern(rules::WILDCARD_DNS_NAME)))]
    pub extra_dns_names: Vec<String>,
    /// IP addresses; they must match the TrustDomain's `allowedNames`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 64)))]
    #[x_kube(validation = crate::crd::rules::each_is_ip())]
    pub ip_addresses: Vec<String>,
    /// Also certify wildcard names for the pods of a headless Service.
    #[serde(default, skip_serializing_if = "is_false")]
    pub headless: bool,
    /// Validity of the certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = crate::crd::rules::between("10m", "26280h"))]
    pub duration: Option<Span>,
    /// Allow a duration under 1h.
    #[serde(default, skip_serializing_if = "is_false")]
    pub allow_short_lived: bool,
    /// The leaf's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key: Option<PrivateKeySpec>,
    /// Extended key usages; default both.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2))]
    pub usages: Option<Vec<KeyUsage>>,
    /// Subject of the certificate: empty (None), or this object's name as common name (ServiceName).
    #[serde(default, skip_serializing_if = "is_default")]
    pub subject_common_name: SubjectCommonName,
    /// Labels and annotations of the Secret.
    #[serde(default, skip_serializing_if = "ObjectTemplate::is_empty")]
    pub secret_template: ObjectTemplate,
    /// `Disabled` stops renewing.
    #[serde(default)]
    pub renewal: Renewal,
    /// `Retain` leaves the Secret.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// A declared caller.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CallerSpec {
    /// Name of the calling GaiaService.
    #[schemars(length(min = 1, max = 63), pattern(rules::DNS_LABEL))]
    pub service: String,
    /// Its namespace; default: this service's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), pattern(rules::DNS_LABEL))]
    pub namespace: Option<String>,
    /// Scopes it may request; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 128), pattern("^[!#-\\[\\]-~]+$")))]
    pub scopes: Vec<String>,
    /// True if it may carry a user's identity; default: false.
    #[serde(default, skip_serializing_if = "is_false")]
    pub on_behalf_of: bool,
}

/// Transports of the mesh port.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
pub struct TlsSpec {
    /// Permissive: plain HTTP, TLS and mTLS on one port; Strict: mTLS only.
    #[serde(default)]
    pub mode: TlsMode,
}

/// Which transports the mesh port takes.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TlsMode {
    /// Plain HTTP, TLS and mTLS, each counted per caller.
    #[default]
    Permissive,
    /// mTLS only.
    Strict,
}

impl From<TlsMode> for crate::mount::TlsMode {
    fn from(mode: TlsMode) -> Self {
        match mode {
            TlsMode::Permissive => Self::Permissive,
            TlsMode::Strict => Self::Strict,
        }
    }
}

/// Credentials a service accepts.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AuthSpec {
    /// APIKeyOnly, Dual or JWTOnly; default: the TrustDomain's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<AuthMode>,
    /// Send `Deprecation`, `Sunset` and `Link` headers to users of API keys.
    #[serde(default, skip_serializing_if = "is_false")]
    pub deprecation_headers: bool,
    /// The time when API keys will be disabled (RFC 3339, UTC).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub sunset_time: Option<Timestamp>,
    /// Windows in which API keys are refused, to find clients that still use them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub brownout_windows: Vec<BrownoutWindow>,
    /// Secret with `api-keys.json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_keys_secret_ref: Option<SecretRef>,
    /// User tokens this service accepts; by default those of all issuers of its TrustDomain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_tokens: Option<UserTokensSpec>,
    /// Period without any use of an API key that JWTOnly requires; 720h by default.
    #[serde(default = "default_legacy_free_for")]
    #[x_kube(validation = crate::crd::rules::between("0s", "99999h"))]
    pub legacy_free_for: Span,
}

impl Default for AuthSpec {
    fn default() -> Self {
        Self {
            mode: None,
            deprecation_headers: false,
            sunset_time: None,
            brownout_windows: vec![],
            api_keys_secret_ref: None,
            user_tokens: None,
            legacy_free_for: default_legacy_free_for(),
        }
    }
}

/// The default period without any use of an API key that JWTOnly requires: 720h.
#[must_use]
pub fn default_legacy_free_for() -> Span {
    Span::hours(720)
}

/// A window in which API keys are refused.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct BrownoutWindow {
    /// Start of the window (RFC 3339, UTC).
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub start: Timestamp,
    /// Length of the window, at most 6h.
    #[x_kube(validation = crate::crd::rules::between("1s", "6h"))]
    pub duration: Span,
}

/// User tokens a service accepts.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
pub struct UserTokensSpec {
    /// Names of `userTokenIssuers`; none listed: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    pub issuers: Vec<String>,
    /// Scopes that a user's token carries; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 128), pattern("^[!#-\\[\\]-~]+$")))]
    pub scopes: Vec<String>,
}

/// Status of a GaiaService.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct GaiaServiceStatus {
    /// The generation of the spec this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Which mode runs, and which is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<AuthStatus>,
    /// Which TLS mode runs, and which is wanted; none before the first policy is published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsStatus>,
    /// A summary of its ServiceCertificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateSummary>,
    /// Use of API keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub legacy: Option<LegacyStatus>,
    /// Lower-case hex SHA-256 of the published policy.json.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub policy_hash: Option<String>,
    /// Instances that have not loaded a published part within `propagation.minDelay`.
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
    /// Ready, Reconciling, Stalled, CertificateReady, PolicyPublished, Served, LegacyFree, PlainFree, and warnings.
    #[serde(default)]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Which mode runs, and which is wanted.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AuthStatus {
    /// The mode that runs.
    pub mode: AuthMode,
    /// The requested mode.
    pub desired_mode: AuthMode,
}

/// Which TLS mode runs, and which is wanted.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TlsStatus {
    /// The mode that runs.
    pub mode: TlsMode,
    /// The requested mode.
    pub desired_mode: TlsMode,
    /// The time since which an instance may have served Permissive (RFC 3339); none: no instance has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub permissive_since: Option<Timestamp>,
}

/// A summary of the ServiceCertificate of a GaiaService.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct CertificateSummary {
    /// Its name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Expiry of the stored certificate (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub not_after: Option<Timestamp>,
    /// Number of instances that serve it: `2/2`, or `-` when no instance can be probed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub served: Option<String>,
    /// The CA generation that signed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub issuer: Option<String>,
    /// Number of times it was issued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
}

/// Use of API keys.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct LegacyStatus {
    /// The last day any API key was used (YYYY-MM-DD).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub last_used_date: Option<String>,
    /// Callers with an API key, and the last day of each; at most 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub callers: Vec<LegacyCaller>,
}

/// A caller that used an API key.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LegacyCaller {
    /// The key's id.
    #[schemars(length(max = 128))]
    pub key: String,
    /// The caller.
    #[schemars(length(max = 512))]
    pub caller: String,
    /// The last day (YYYY-MM-DD).
    #[schemars(length(max = 32))]
    pub last_used_date: String,
}
