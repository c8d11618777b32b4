//! Conditions.

use jiff::Timestamp;
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Types of conditions.
pub mod condition {
    /// Valid material is served.
    pub const READY: &str = "Ready";
    /// Something is under way.
    pub const RECONCILING: &str = "Reconciling";
    /// Only a person can help.
    pub const STALLED: &str = "Stalled";
    /// The running instances serve the stored certificate.
    pub const SERVED: &str = "Served";
    /// The CA is rotating.
    pub const CA_ROTATING: &str = "CARotating";
    /// The signing keys are rotating.
    pub const SIGNING_KEYS_ROTATING: &str = "SigningKeysRotating";
    /// A CA certificate ends soon.
    pub const EXPIRING_SOON: &str = "ExpiringSoon";
    /// The service's certificate is ready.
    pub const CERTIFICATE_READY: &str = "CertificateReady";
    /// The service's policy is published.
    pub const POLICY_PUBLISHED: &str = "PolicyPublished";
    /// No API key was used for long enough.
    pub const LEGACY_FREE: &str = "LegacyFree";
    /// No request with a credential was accepted without a client certificate for long enough.
    pub const PLAIN_FREE: &str = "PlainFree";

    /// Warnings: conditions that are present only while they are True. Each one stops nothing but what its message says,
    /// and its reason is its type.
    pub mod warning {
        /// TrustDomain: an inequality of `docs/rotation.md` does not hold; rotations start late and leaves are clamped.
        pub const LIFETIMES_TOO_TIGHT: &str = "LifetimesTooTight";
        /// TrustDomain: selected namespaces that this operator does not watch. Blocks the removal of generations.
        pub const NAMESPACES_NOT_WATCHED: &str = "NamespacesNotWatched";
        /// TrustDomain: namespaces that rotations do not wait for, as they refuse what is published.
        pub const NAMESPACE_LEFT_BEHIND: &str = "NamespaceLeftBehind";
        /// TrustDomain: an annotation names nothing known.
        pub const ANNOTATION_IGNORED: &str = "AnnotationIgnored";
        /// TrustDomain: an entry of `distrusted` names no known CA or signing key.
        pub const DISTRUSTED_UNKNOWN: &str = "DistrustedUnknown";
        /// TrustDomain: the CA is accepted, but strict peers refuse it.
        pub const CA_NOT_STRICT: &str = "CANotStrict";
        /// TrustDomain: the CA in `existingSecretRef`, or the root above it, is not used.
        pub const CA_NOT_USED: &str = "CANotUsed";
        /// GaiaService: its entries do not fit in its namespace's share of `grants.json`.
        pub const GRANTS_TOO_LARGE: &str = "GrantsTooLarge";
        /// ServiceCertificate: a shorter certificate was issued than `duration` asks for.
        pub const DURATION_CLAMPED: &str = "DurationClamped";
        /// ServiceCertificate: extra names that the CA's name constraints exclude; certificates are issued without them.
        pub const NAMES_LEFT_OUT: &str = "NamesLeftOut";
        /// ServiceCertificate: `renewal: Disabled`, and the certificate is past its renewal time.
        pub const RENEWAL_DISABLED: &str = "RenewalDisabled";
        /// TrustDomain: `tokens.issuedBy` names no GaiaService of this TrustDomain.
        pub const TOKEN_ISSUER_NOT_FOUND: &str = "TokenIssuerNotFound";
        /// GaiaService: an entry of `callers` names no GaiaService of this TrustDomain.
        pub const CALLER_NOT_FOUND: &str = "CallerNotFound";

        /// Every warning.
        pub const ALL: &[&str] = &[
            LIFETIMES_TOO_TIGHT,
            ANNOTATION_IGNORED,
            DISTRUSTED_UNKNOWN,
            CA_NOT_STRICT,
            CA_NOT_USED,
            NAMES_LEFT_OUT,
            DURATION_CLAMPED,
            RENEWAL_DISABLED,
            TOKEN_ISSUER_NOT_FOUND,
            CALLER_NOT_FOUND,
        ];
    }
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody knows.
    Unknown,
}

impl Truth {
    /// As Kubernetes writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// Makes a condition. Its transition time is kept from `before` unless the status changed (KEP-1623).
#[must_use]
pub fn new_condition(
    before: &[Condition],
    type_: &str,
    status: Truth,
    reason: &str,
    message: String,
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let since = before
        .iter()
        .find(|condition| condition.type_ == type_ && condition.status == status.as_str())
        .map_or_else(|| Time(whole_seconds(now)), |condition| condition.last_transition_time.clone());
    Condition {
        type_: type_.to_owned(),
        status: status.as_str().to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
        last_transition_time: since,
    }
}

/// The condition of that type.
#[must_use]
pub fn find_condition<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether the condition of that type is True.
#[must_use]
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    find_condition(conditions, type_).is_some_and(|condition| condition.status == "True")
}

/// Kubernetes times have no fractions.
#[must_use]
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    // A timestamp's own whole seconds are always within its range.
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
