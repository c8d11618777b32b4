//! TrustDomain: one environment's root of trust.

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod endpoints;
mod status;
mod tokens;
mod users;

pub use self::endpoints::*;
pub use self::status::*;
pub use self::tokens::*;
pub use self::users::*;
use super::common::is_default;
use super::{AuthMode, NamespaceSelector, PrivateKeySpec, SecretRef, rules};
use crate::Span;

/// One environment's root of trust: its CA, its JWT signing keys, and who may use them.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "gaia.dev",
    version = "v1alpha1",
    kind = "TrustDomain",
    plural = "trustdomains",
    shortname = "td",
    category = "gaia",
    status = "TrustDomainStatus",
    derive = "PartialEq",
    doc = "TrustDomain is one environment's root of trust: its CA, its JWT signing keys, and the namespaces that may \
           use them.",
    validation = crate::crd::rules::name_is_dns_label(),
    printcolumn(name = "READY", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "REASON", type_ = "string", json_path = ".status.reason", description = "The reason of Stalled if that is True, else of Ready"),
    printcolumn(name = "CA-EXPIRES", type_ = "string", json_path = ".status.ca.active.notAfter", description = "Expiry \
                                                                                                                of \
                                                                                                                the \
                                                                                                                active \
                                                                                                                CA \
                                                                                                                certificate"),
    printcolumn(name = "SIGNING-KEY", type_ = "string", json_path = ".status.signingKeys.active.id", description = "The active JWT signing key"),
    printcolumn(name = "ROTATING", type_ = "string", json_path = ".status.rotating"),
    printcolumn(name = "PODS-UPDATED", type_ = "string", json_path = ".status.instances.summary"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "MESSAGE", type_ = "string", json_path = ".status.message", priority = 1),
    printcolumn(name = "TRUST-DOMAIN", type_ = "string", json_path = ".spec.trustDomain", priority = 1),
    printcolumn(name = "ISSUER", type_ = "string", json_path = ".status.ca.active.id", description = "The active CA generation", priority = 1),
    printcolumn(name = "REVISION", type_ = "integer", json_path = ".spec.ca.rotationRevision", description = "The \
                                                                                                              last \
                                                                                                              requested \
                                                                                                              CA \
                                                                                                              rotation", priority = 1)
)]
#[x_kube(validation = Rule::new("!has(self.userTokenIssuers) || self.userTokenIssuers.all(i, i.issuer != self.tokens.issuer)")
    .message("userTokenIssuers must not contain the issuer of spec.tokens.issuer"))]
#[serde(rename_all = "camelCase")]
pub struct TrustDomainSpec {
    /// SPIFFE trust domain name, e.g. gaia.local. Immutable.
    #[schemars(length(min = 1, max = 253), pattern(rules::DNS_NAME))]
    #[x_kube(validation = crate::crd::rules::immutable())]
    pub trust_domain: String,
    /// Namespaces that may reference this TrustDomain. Missing: none; {}: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<NamespaceSelector>,
    /// Names beyond a service's own that may be certified.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub allowed_names: Vec<AllowedNames>,
    /// Endpoints that GaiaServices may name in `spec.endpoints`. None: an endpoint is not probed, and its service counts
    /// by time alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub allowed_endpoints: Vec<AllowedEndpoint>,
    /// The certificate authority.
    #[serde(default)]
    pub ca: CaSpec,
    /// Defaults for every ServiceCertificate.
    #[serde(default)]
    pub certificate_defaults: CertificateDefaults,
    /// The platform's own tokens.
    #[serde(default)]
    pub tokens: TokensSpec,
    /// Revoked certificates, tokens and subjects. At most 1,000 entries in all.
    #[serde(default)]
    pub revoked: RevokedSpec,
    /// External issuers of user tokens (Supabase is one).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, b.issuer == a.issuer))").message("must have unique issuers"))]
    pub user_token_issuers: Vec<UserTokenIssuer>,
    /// Authentication defaults for services.
    #[serde(default)]
    pub auth: TrustDomainAuth,
    /// Delivery of changes to the running pods.
    #[serde(default)]
    pub propagation: PropagationSpec,
}

/// Names that the listed namespaces may have certified.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct AllowedNames {
    /// Namespaces this applies to.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63), pattern(rules::DNS_LABEL)))]
    pub namespaces: Vec<String>,
    /// DNS names. A leading `*.` matches exactly one label, and allows the wildcard name itself.
    #[serde(default, rename = "dnsNames", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253), pattern(rules::WILDCARD_DNS_NAME)))]
    pub dns_names: Vec<String>,
    /// Networks in CIDR form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 64)))]
    #[x_kube(validation = crate::crd::rules::each_is_cidr())]
    pub ip_ranges: Vec<String>,
}

/// The certificate authority.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[x_kube(validation = Rule::new("!has(self.existingSecretRef) || (!has(self.privateKey) && !has(self.duration) && !has(self.rotationPeriod))")
    .message("existingSecretRef must not be combined with privateKey, duration or rotationPeriod"))]
#[serde(rename_all = "camelCase")]
pub struct CaSpec {
    /// The CA's key: ECDSA 256 by default. A change is a rotation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key: Option<PrivateKeySpec>,
    /// Validity of a CA certificate; 87600h by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = crate::crd::rules::between("1h", "99999h"))]
    pub duration: Option<Span>,
    /// Period of scheduled rotations; by default the CA is only rotated before its expiry.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = crate::crd::rules::between("1h", "99999h"))]
    pub rotation_period: Option<Span>,
    /// Bring-your-own CA: a kubernetes.io/tls Secret in the operator's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub existing_secret_ref: Option<SecretRef>,
    /// Raise it to force one rotation.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    #[x_kube(validation = crate::crd::rules::never_decreases())]
    pub rotation_revision: i64,
    /// CA certificates that must no longer be trusted. Permanent: removing an entry has no effect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["fingerprint".into()]))]
    pub distrusted: Vec<DistrustedCa>,
}

impl Default for CaSpec {
    fn default() -> Self {
        Self {
            private_key: None,
            duration: None,
            rotation_period: None,
            existing_secret_ref: None,
            rotation_revision: 1,
            distrusted: vec![],
        }
    }
}

impl CaSpec {
    /// The validity of a new CA certificate.
    #[must_use]
    pub fn duration(&self) -> Span {
        self.duration.clone().unwrap_or_else(|| Span::hours(87_600))
    }
}

/// A CA certificate that must no longer be trusted.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct DistrustedCa {
    /// Lower-case hex SHA-256 of the certificate's DER.
    #[schemars(length(min = 64, max = 64), pattern(rules::SHA256_HEX))]
    pub fingerprint: String,
    /// When it is removed from the trust bundle; default: AfterReissue.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: DistrustMode,
}

/// Time of the removal of distrusted material.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DistrustMode {
    /// After replacements are in place, waiting at most 5 minutes for them.
    #[default]
    AfterReissue,
    /// Now.
    Immediate,
}

/// Defaults for every ServiceCertificate.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[x_kube(validation = crate::crd::rules::not_longer_than("duration", "maxDuration"))]
#[serde(rename_all = "camelCase")]
pub struct CertificateDefaults {
    /// Validity of a leaf; renewed at two thirds, so the default of 3240h (135 days) renews quarterly.
    #[serde(default = "default_leaf_duration")]
    #[x_kube(validation = crate::crd::rules::between("10m", "26280h"))]
    pub duration: Span,
    /// Longest validity of a leaf. A ServiceCertificate that requests more gets this much, with the condition
    /// DurationClamped. Missing: limited only by the CA's expiry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = crate::crd::rules::between("10m", "26280h"))]
    pub max_duration: Option<Span>,
    /// Key of a leaf: ECDSA 256 by default.
    #[serde(default)]
    pub private_key: PrivateKeySpec,
}

impl Default for CertificateDefaults {
    fn default() -> Self {
        Self { duration: default_leaf_duration(), max_duration: None, private_key: PrivateKeySpec::default() }
    }
}

fn default_leaf_duration() -> Span {
    Span::hours(3240)
}

/// Revoked certificates, tokens and subjects.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
#[x_kube(validation = Rule::new("size(self.leaves) + size(self.jtis) + size(self.subjects) <= 1000").message("must have at most 1000 entries in all"))]
pub struct RevokedSpec {
    /// Fingerprints of leaves.
    #[serde(default)]
    #[schemars(length(max = 1000), inner(length(min = 64, max = 64), pattern(rules::SHA256_HEX)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub leaves: Vec<String>,
    /// Token ids.
    #[serde(default)]
    #[schemars(length(max = 1000), inner(length(min = 1, max = 128)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub jtis: Vec<String>,
    /// Subjects whose older tokens are refused.
    #[serde(default)]
    #[schemars(length(max = 1000))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["sub".into()]))]
    pub subjects: Vec<RevokedSubject>,
}

/// A subject whose older tokens are refused.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RevokedSubject {
    /// The `sub` claim.
    #[schemars(length(min = 1, max = 512))]
    pub sub: String,
    /// Tokens issued before this time are refused (RFC 3339).
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub not_before: Timestamp,
}

/// Authentication defaults for services.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct TrustDomainAuth {
    /// The mode of services that set none.
    #[serde(default)]
    pub default_mode: AuthMode,
}

/// Delivery of changes to the running pods.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PropagationSpec {
    /// P: the least time before a written file counts as in use.
    #[serde(default = "default_min_delay")]
    #[x_kube(validation = crate::crd::rules::between("1s", "168h"))]
    pub min_delay: Span,
    /// True if a rotation waits until every instance is current.
    #[serde(default = "yes")]
    pub require_acknowledgement: bool,
    /// D: after this long without acknowledgement the rotation is reported as late.
    #[serde(default = "default_deadline")]
    #[x_kube(validation = crate::crd::rules::between("1s", "168h"))]
    pub deadline: Span,
    /// Policy for instances that still lag after `deadline`. Wait: they hold a rotation, so that one pod of one tenant
    /// can hold the rotation of the whole domain. LeaveBehind: at most one instance, or 10 % of all, is left behind.
    #[serde(default)]
    pub past_deadline: PastDeadline,
    /// S: how far the clocks of two machines may differ.
    #[serde(default = "default_clock_skew")]
    #[x_kube(validation = crate::crd::rules::between("0s", "10m"))]
    pub clock_skew: Span,
}

impl Default for PropagationSpec {
    fn default() -> Self {
        Self {
            min_delay: default_min_delay(),
            require_acknowledgement: true,
            deadline: default_deadline(),
            past_deadline: PastDeadline::default(),
            clock_skew: default_clock_skew(),
        }
    }
}

/// The effect of `propagation.deadline` on instances that lag.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PastDeadline {
    /// They hold the rotation until they are up to date.
    #[default]
    Wait,
    /// At most max(1, 10 %) of the TrustDomain's instances no longer hold the step. Each one is named in
    /// `status.laggards` and in one Event. Instances of the token issuer always hold it.
    LeaveBehind,
}

fn default_min_delay() -> Span {
    Span::minutes(3)
}

fn default_deadline() -> Span {
    Span::hours(1)
}

fn default_clock_skew() -> Span {
    Span::seconds(60)
}

fn yes() -> bool {
    true
}

fn one() -> i64 {
    1
}
