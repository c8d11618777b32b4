//! Conditions.

pub(crate) mod lagging;

use jiff::Timestamp;
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Declares constants, each once, and the list of them all, which then cannot lack one.
macro_rules! strings {
    ($(#[$list_doc:meta])+ $list:ident $($(#[$doc:meta])+ $name:ident = $text:literal;)+) => {
        $($(#[$doc])+ pub const $name: &str = $text;)+
        $(#[$list_doc])+
        pub const $list: &[&str] = &[$($name),+];
    };
}
pub(super) use strings;

/// Types of conditions.
pub mod condition {
    /// Valid material is served.
    pub const READY: &str = "Ready";
    /// A change is in progress.
    pub const RECONCILING: &str = "Reconciling";
    /// A user must act.
    pub const STALLED: &str = "Stalled";
    /// The running instances serve the stored certificate.
    pub const SERVED: &str = "Served";
    /// The CA is rotating.
    pub const CA_ROTATING: &str = "CARotating";
    /// The signing keys are rotating.
    pub const SIGNING_KEYS_ROTATING: &str = "SigningKeysRotating";
    /// A CA certificate expires soon.
    pub const EXPIRING_SOON: &str = "ExpiringSoon";
    /// The service's certificate is ready.
    pub const CERTIFICATE_READY: &str = "CertificateReady";
    /// The service's policy is published.
    pub const POLICY_PUBLISHED: &str = "PolicyPublished";
    /// No API key was used for long enough.
    pub const LEGACY_FREE: &str = "LegacyFree";
    /// No request with a credential was accepted without a client certificate for long enough.
    pub const PLAIN_FREE: &str = "PlainFree";

    /// Warnings: conditions that are present only while they are True. Each message names everything that it affects,
    /// and the reason is the type.
    pub mod warning {
        super::super::strings! {
            /// Every warning.
            ALL

            /// TrustDomain: an inequality of `docs/rotation.md` does not hold; rotations start late and leaves are clamped.
            LIFETIMES_TOO_TIGHT = "LifetimesTooTight";
            /// TrustDomain: the clock is behind a time in a ring or a certificate.
            CLOCK_BEHIND = "ClockBehind";
            /// TrustDomain: selected namespaces that this operator does not watch. Blocks the removal of generations.
            NAMESPACES_NOT_WATCHED = "NamespacesNotWatched";
            /// TrustDomain: namespaces that refuse published objects, for which rotations do not wait.
            NAMESPACE_LEFT_BEHIND = "NamespaceLeftBehind";
            /// GaiaService: its entries do not fit in its namespace's share of `grants.json`.
            GRANTS_TOO_LARGE = "GrantsTooLarge";
            /// TrustDomain: an annotation matches nothing.
            ANNOTATION_IGNORED = "AnnotationIgnored";
            /// TrustDomain: an entry of `distrusted` matches no known CA or signing key.
            DISTRUSTED_UNKNOWN = "DistrustedUnknown";
            /// TrustDomain: the CA is accepted, but strict peers refuse it.
            CA_NOT_STRICT = "CANotStrict";
            /// TrustDomain: the active CA cannot sign names of services in selected namespaces.
            CA_CANNOT_SIGN = "CACannotSign";
            /// TrustDomain: the CA in `existingSecretRef`, or the root above it, is not used.
            CA_NOT_USED = "CANotUsed";
            /// ServiceCertificate: a shorter certificate was issued than `duration` asks for.
            DURATION_CLAMPED = "DurationClamped";
            /// ServiceCertificate: `renewal: Disabled`, and the certificate is past its renewal time.
            RENEWAL_DISABLED = "RenewalDisabled";
            /// ServiceCertificate: the certificate has a name that also means something else (`google.com` in namespace `com`).
            AMBIGUOUS_NAMES = "AmbiguousNames";
            /// ServiceCertificate: extra names that the CA's name constraints exclude, and own names with another
            /// meaning; certificates are issued without them.
            NAMES_LEFT_OUT = "NamesLeftOut";
            /// TrustDomain: `tokens.issuedBy` names no GaiaService of this TrustDomain.
            TOKEN_ISSUER_NOT_FOUND = "TokenIssuerNotFound";
            /// TrustDomain: another, older TrustDomain has the same `spec.trustDomain`.
            TRUST_DOMAIN_NAME_TAKEN = "TrustDomainNameTaken";
            /// TrustDomain: `namespaceSelector` is not set or matches no namespace.
            NO_NAMESPACE_SELECTED = "NoNamespaceSelected";
            /// GaiaService: a Secret that the spec names does not exist.
            SECRET_NOT_FOUND = "SecretNotFound";
            /// GaiaService: an instance refused a part of its mounted files.
            FILES_REFUSED = "FilesRefused";
            /// GaiaService: an entry of `callers` names no GaiaService of this TrustDomain.
            CALLER_NOT_FOUND = "CallerNotFound";
            /// GaiaService: `spec.allowedEndpoints` of the TrustDomain does not allow an endpoint. It is not probed.
            ENDPOINT_NOT_ALLOWED = "EndpointNotAllowed";
            /// Several instances answer at one address of `spec.endpoints`: none is known, and they count by time
            /// alone.
            ENDPOINT_IS_BALANCER = "EndpointIsBalancer";
        }
    }
}

/// Status of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It is unknown.
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

/// Creates a condition. Its transition time is kept from `before` unless the status changed (KEP-1623).
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

/// Returns true if the condition of that type is True.
#[must_use]
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    find_condition(conditions, type_).is_some_and(|condition| condition.status == "True")
}

/// Kubernetes times have no fractions.
#[must_use]
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    // A timestamp's whole seconds are always within its range.
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
