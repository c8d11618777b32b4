//! Reasons of conditions and events. They are part of the API: scripts and alerts match on them.

/// The object is in the requested state.
pub const READY: &str = "Ready";
/// No change is in progress.
pub const SETTLED: &str = "Settled";
/// A certificate is being issued.
pub const ISSUING: &str = "Issuing";
/// The Secret holds a certificate that is in force.
pub const ISSUED: &str = "Issued";
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
/// A ring is missing although objects derived from it exist.
pub const RING_MISSING: &str = "RingMissing";
/// A ring cannot be read, or was written by a newer operator.
pub const RING_UNREADABLE: &str = "RingUnreadable";
/// An object cannot be read because this version does not know the value of a field. No change is made until it can be
/// read.
pub const OBJECT_UNREADABLE: &str = "ObjectUnreadable";
/// The TrustDomain that is referred to cannot be read. No change is made until it can be read.
pub const TRUST_DOMAIN_UNREADABLE: &str = "TrustDomainUnreadable";
/// An object that no watch reports could not be read from the API server.
pub const READ_FAILED: &str = "ReadFailed";
/// The CA in `existingSecretRef` cannot be used.
pub const CA_INVALID: &str = "CAInvalid";
/// The CA certificate has expired.
pub const CA_EXPIRED: &str = "CAExpired";
/// The ring in force is older than the one from which a projection was written.
pub const RING_OUTDATED: &str = "RingOutdated";
/// The CA certificate expires soon.
pub const CA_EXPIRES_SOON: &str = "CAExpiresSoon";
/// Something is being written.
pub const RECONCILING: &str = "Reconciling";
/// The ServiceCertificate is not ready.
pub const CERTIFICATE_NOT_READY: &str = "CertificateNotReady";
/// A ConfigMap or ServiceCertificate of that name exists and is not Gaia's.
pub const OBJECT_NOT_OWNED: &str = "ObjectNotOwned";
/// A ConfigMap or Secret of Gaia was made immutable and can no longer be updated.
pub const OBJECT_IMMUTABLE: &str = "ObjectImmutable";
/// The certificate has expired.
pub const EXPIRED: &str = "Expired";
/// The certificate's notBefore is in the future.
pub const NOT_YET_VALID: &str = "NotYetValid";
/// A write was refused; it is tried again.
pub const WRITE_FAILED: &str = "WriteFailed";
/// No instance can be probed.
pub const NOT_PROBED: &str = "NotProbed";
/// The policy is published.
pub const PUBLISHED: &str = "Published";
/// No API key was used for `auth.legacyFreeFor`.
pub const KEYS_UNUSED: &str = "KeysUnused";
/// Uses of API keys may have been missed, so the evidence starts again.
pub const EVIDENCE_GAP: &str = "EvidenceGap";
/// JWTOnly needs `tls.mode: Strict`.
pub const TLS_NOT_STRICT: &str = "TLSNotStrict";
/// Use of API keys is not watched, or not for long enough yet.
pub const NOT_WATCHED: &str = "NotWatched";
/// API keys may still be in use, so JWTOnly is not activated.
pub const LEGACY_KEYS_IN_USE: &str = "LegacyKeysInUse";
/// No request with a credential was accepted without a client certificate for `auth.legacyFreeFor`.
pub const PLAIN_UNUSED: &str = "PlainUnused";
/// Requests without a client certificate may still be accepted, so Strict is not activated.
pub const PLAIN_IN_USE: &str = "PlainInUse";
/// `tls.mode: Strict` runs, or no mode has run yet.
pub const STRICT: &str = "Strict";
/// A GaiaService names an issuer of user tokens that its TrustDomain does not have.
pub const USER_TOKEN_ISSUER_NOT_FOUND: &str = "UserTokenIssuerNotFound";
/// The declaration of an issuer of user tokens is invalid.
pub const USER_TOKEN_ISSUER_INVALID: &str = "UserTokenIssuerInvalid";
/// No API keys are configured.
pub const NO_KEYS: &str = "NoKeys";

/// A rotation waits until every instance uses the published generation.
pub const WAITING_FOR_INSTANCES: &str = "WaitingForInstances";
/// A rotation waits for instances longer than `propagation.deadline`.
pub const PAST_DEADLINE: &str = "PastDeadline";
/// The next step of a rotation is held back; the message names the step and the cause.
pub const HELD: &str = "Held";
/// A new generation is being written into every projection, or was written less than `minDelay` ago.
pub const PUBLISHING: &str = "Publishing";
/// Certificates are being issued by the new CA.
pub const REISSUING: &str = "Reissuing";
/// The old generation is no longer used, and is kept until everything that it signed has expired.
pub const RETIRING: &str = "Retiring";
/// The annotation gaia.dev/restore names no ring that can be restored.
pub const RESTORE_NOT_POSSIBLE: &str = "RestoreNotPossible";
/// The bring-your-own CA is distrusted: the user must put another one into its Secret.
pub const CA_DISTRUSTED: &str = "CADistrusted";
/// Every instance serves the stored certificate.
pub const ALL_SERVED: &str = "AllServed";
/// Not every instance serves the stored certificate.
pub const NOT_SERVED: &str = "NotServed";
/// No instance that can be probed uses the certificate.
pub const NO_INSTANCES: &str = "NoInstances";

/// Event: a first certificate was issued.
pub const CERTIFICATE_ISSUED: &str = "CertificateIssued";
/// Event: a certificate was replaced by a new one.
pub const CERTIFICATE_RENEWED: &str = "CertificateRenewed";
/// Event: another writer changed or deleted an object, and it was repaired.
pub const REPAIRED: &str = "Repaired";
/// Event: a ring was created.
pub const RING_CREATED: &str = "RingCreated";
/// Event: a rotation started.
pub const ROTATION_STARTED: &str = "RotationStarted";
/// Event: a rotation waits for instances for too long.
pub const ROTATION_WAITING: &str = "RotationWaiting";
/// Event: a new generation signs.
pub const ROTATION_SWITCHED: &str = "RotationSwitched";
/// Event, critical: a rotation proceeded without waiting for every instance, because the CA is about to expire.
pub const ROTATION_FORCED: &str = "RotationForced";
/// Event: an old generation was removed.
pub const ROTATION_COMPLETED: &str = "RotationCompleted";
/// Event: a rotation was aborted.
pub const ROTATION_ABORTED: &str = "RotationAborted";
/// Event: a generation is no longer trusted because it was compromised.
pub const DISTRUSTED: &str = "Distrusted";
/// Event: a ring was restored from its copy.
pub const RING_RESTORED: &str = "RingRestored";
/// Event: another authentication or TLS mode of a service runs.
pub const MODE_CHANGED: &str = "ModeChanged";
/// Event: the annotation gaia.dev/force-mode activated a mode without the evidence.
pub const MODE_FORCED: &str = "ModeForced";
/// Event: a rotation no longer waits for these instances (`propagation.pastDeadline: LeaveBehind`).
pub const INSTANCES_LEFT_BEHIND: &str = "InstancesLeftBehind";
/// Event: a workload was restarted so that its pods load published files.
pub const WORKLOAD_RESTARTED: &str = "WorkloadRestarted";

/// Every reason.
pub const ALL: &[&str] = &[
    READY,
    SETTLED,
    ISSUING,
    ISSUED,
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
    OBJECT_UNREADABLE,
    TRUST_DOMAIN_UNREADABLE,
    READ_FAILED,
    CA_INVALID,
    CA_EXPIRED,
    RING_OUTDATED,
    CA_EXPIRES_SOON,
    RECONCILING,
    CERTIFICATE_NOT_READY,
    OBJECT_NOT_OWNED,
    OBJECT_IMMUTABLE,
    EXPIRED,
    NOT_YET_VALID,
    WRITE_FAILED,
    NOT_PROBED,
    PUBLISHED,
    KEYS_UNUSED,
    EVIDENCE_GAP,
    TLS_NOT_STRICT,
    NOT_WATCHED,
    LEGACY_KEYS_IN_USE,
    PLAIN_UNUSED,
    PLAIN_IN_USE,
    STRICT,
    USER_TOKEN_ISSUER_NOT_FOUND,
    USER_TOKEN_ISSUER_INVALID,
    NO_KEYS,
    CERTIFICATE_ISSUED,
    CERTIFICATE_RENEWED,
    REPAIRED,
    RING_CREATED,
    WAITING_FOR_INSTANCES,
    PAST_DEADLINE,
    HELD,
    PUBLISHING,
    REISSUING,
    RETIRING,
    RESTORE_NOT_POSSIBLE,
    CA_DISTRUSTED,
    ALL_SERVED,
    NOT_SERVED,
    NO_INSTANCES,
    ROTATION_STARTED,
    ROTATION_WAITING,
    ROTATION_SWITCHED,
    ROTATION_FORCED,
    ROTATION_COMPLETED,
    ROTATION_ABORTED,
    DISTRUSTED,
    RING_RESTORED,
    MODE_CHANGED,
    MODE_FORCED,
    INSTANCES_LEFT_BEHIND,
    WORKLOAD_RESTARTED,
];
