//! Reasons of conditions and events. They are part of the API: scripts and alerts match on them.

/// Everything is as asked for.
pub const READY: &str = "Ready";
/// Nothing is under way.
pub const SETTLED: &str = "Settled";
/// A certificate is being issued.
pub const ISSUING: &str = "Issuing";
/// The Secret holds a certificate that is in force.
pub const ISSUED: &str = "Issued";
/// A field is set whose behaviour this version does not have yet.
pub const NOT_SUPPORTED_YET: &str = "NotSupportedYet";
/// The referenced TrustDomain does not exist.
pub const TRUST_DOMAIN_NOT_FOUND: &str = "TrustDomainNotFound";
/// The referenced TrustDomain has no CA to sign with yet.
pub const TRUST_DOMAIN_NOT_READY: &str = "TrustDomainNotReady";
/// The TrustDomain does not select this namespace.
pub const NAMESPACE_NOT_SELECTED: &str = "NamespaceNotSelected";
/// A requested name was not granted to this namespace.
pub const NAME_NOT_ALLOWED: &str = "NameNotAllowed";
/// A Secret of that name exists and is not Gaia's.
pub const SECRET_NOT_OWNED: &str = "SecretNotOwned";
/// The Secret is immutable.
pub const SECRET_IMMUTABLE: &str = "SecretImmutable";
/// The Secret is not of type kubernetes.io/tls.
pub const SECRET_TYPE_MISMATCH: &str = "SecretTypeMismatch";
/// Another ServiceCertificate, older than this one, names the same Secret.
pub const SECRET_CLAIMED: &str = "SecretClaimed";
/// A duration cannot work; the message has the inequality and both numbers.
pub const DURATION_NOT_POSSIBLE: &str = "DurationNotPossible";
/// A ring is missing although something made from it exists.
pub const RING_MISSING: &str = "RingMissing";
/// A ring cannot be read, or was written by a newer operator.
pub const RING_UNREADABLE: &str = "RingUnreadable";
/// The CA in `existingSecretRef` cannot be used.
pub const CA_INVALID: &str = "CAInvalid";
/// The CA certificate has ended.
pub const CA_EXPIRED: &str = "CAExpired";
/// The ring in force is older than the one a projection was made from.
pub const RING_OUTDATED: &str = "RingOutdated";
/// The CA certificate ends soon.
pub const CA_EXPIRES_SOON: &str = "CAExpiresSoon";
/// Something is being written.
pub const RECONCILING: &str = "Reconciling";
/// The ServiceCertificate is not ready.
pub const CERTIFICATE_NOT_READY: &str = "CertificateNotReady";
/// A ConfigMap or ServiceCertificate of that name exists and is not Gaia's.
pub const OBJECT_NOT_OWNED: &str = "ObjectNotOwned";
/// A ConfigMap or Secret of Gaia's was made immutable and can no longer be kept up to date.
pub const OBJECT_IMMUTABLE: &str = "ObjectImmutable";
/// The certificate has ended.
pub const EXPIRED: &str = "Expired";
/// A write was refused; it is tried again.
pub const WRITE_FAILED: &str = "WriteFailed";
/// Nothing can be probed.
pub const NOT_PROBED: &str = "NotProbed";
/// The policy is published.
pub const PUBLISHED: &str = "Published";
/// Use of API keys is not watched yet.
pub const NOT_WATCHED: &str = "NotWatched";

/// Event: a first certificate was issued.
pub const CERTIFICATE_ISSUED: &str = "CertificateIssued";
/// Event: a certificate was replaced by a new one.
pub const CERTIFICATE_RENEWED: &str = "CertificateRenewed";
/// Event: an object was changed or deleted by someone else and was put right.
pub const REPAIRED: &str = "Repaired";
/// Event: a ring was created.
pub const RING_CREATED: &str = "RingCreated";

/// Every reason.
pub const ALL: &[&str] = &[
    READY,
    SETTLED,
    ISSUING,
    ISSUED,
    NOT_SUPPORTED_YET,
    TRUST_DOMAIN_NOT_FOUND,
    TRUST_DOMAIN_NOT_READY,
    NAMESPACE_NOT_SELECTED,
    NAME_NOT_ALLOWED,
    SECRET_NOT_OWNED,
    SECRET_IMMUTABLE,
    SECRET_TYPE_MISMATCH,
    SECRET_CLAIMED,
    DURATION_NOT_POSSIBLE,
    RING_MISSING,
    RING_UNREADABLE,
    CA_INVALID,
    CA_EXPIRED,
    RING_OUTDATED,
    CA_EXPIRES_SOON,
    RECONCILING,
    CERTIFICATE_NOT_READY,
    OBJECT_NOT_OWNED,
    OBJECT_IMMUTABLE,
    EXPIRED,
    WRITE_FAILED,
    NOT_PROBED,
    PUBLISHED,
    NOT_WATCHED,
    CERTIFICATE_ISSUED,
    CERTIFICATE_RENEWED,
    REPAIRED,
    RING_CREATED,
];
