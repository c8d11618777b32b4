//! Reasons of conditions and events. They are part of the API: scripts and alerts match on them.

super::status::strings! {
    /// Every reason.
    ALL

    /// The object is in the requested state.
    READY = "Ready";
    /// No change is in progress.
    SETTLED = "Settled";
    /// A certificate is being issued.
    ISSUING = "Issuing";
    /// The Secret holds a certificate that is in force.
    ISSUED = "Issued";
    /// The referenced TrustDomain does not exist.
    TRUST_DOMAIN_NOT_FOUND = "TrustDomainNotFound";
    /// The referenced TrustDomain has no CA to sign with yet.
    TRUST_DOMAIN_NOT_READY = "TrustDomainNotReady";
    /// The TrustDomain does not select this namespace.
    NAMESPACE_NOT_SELECTED = "NamespaceNotSelected";
    /// A requested name was not granted to this namespace.
    NAME_NOT_ALLOWED = "NameNotAllowed";
    /// A Secret of that name exists and is not Gaia's.
    SECRET_NOT_OWNED = "SecretNotOwned";
    /// The Secret is immutable.
    SECRET_IMMUTABLE = "SecretImmutable";
    /// The Secret is not of type kubernetes.io/tls.
    SECRET_TYPE_MISMATCH = "SecretTypeMismatch";
    /// Another ServiceCertificate, older than this one, names the same Secret.
    SECRET_CLAIMED = "SecretClaimed";
    /// A duration cannot work; the message has the inequality and both numbers.
    DURATION_NOT_POSSIBLE = "DurationNotPossible";
    /// A ring is missing although objects derived from it exist.
    RING_MISSING = "RingMissing";
    /// A ring cannot be read, or was written by a newer operator.
    RING_UNREADABLE = "RingUnreadable";
    /// An object cannot be read because this version does not know the value of a field. No change is made until it can be
    /// read.
    OBJECT_UNREADABLE = "ObjectUnreadable";
    /// The TrustDomain that is referred to cannot be read. No change is made until it can be read.
    TRUST_DOMAIN_UNREADABLE = "TrustDomainUnreadable";
    /// An object that no watch reports could not be read from the API server.
    READ_FAILED = "ReadFailed";
    /// The CA in `existingSecretRef` cannot be used.
    CA_INVALID = "CAInvalid";
    /// The CA certificate has expired.
    CA_EXPIRED = "CAExpired";
    /// The ring in force is older than the one from which a projection was written.
    RING_OUTDATED = "RingOutdated";
    /// The CA certificate expires soon.
    CA_EXPIRES_SOON = "CAExpiresSoon";
    /// Something is being written.
    RECONCILING = "Reconciling";
    /// The ServiceCertificate is not ready.
    CERTIFICATE_NOT_READY = "CertificateNotReady";
    /// A ConfigMap or ServiceCertificate of that name exists and is not Gaia's.
    OBJECT_NOT_OWNED = "ObjectNotOwned";
    /// A ConfigMap or Secret of Gaia was made immutable and can no longer be updated.
    OBJECT_IMMUTABLE = "ObjectImmutable";
    /// The certificate has expired.
    EXPIRED = "Expired";
    /// The certificate's notBefore is in the future.
    NOT_YET_VALID = "NotYetValid";
    /// A write was refused; it is tried again.
    WRITE_FAILED = "WriteFailed";
    /// No instance can be probed.
    NOT_PROBED = "NotProbed";
    /// The policy is published.
    PUBLISHED = "Published";
    /// No API key was used for `auth.legacyFreeFor`.
    KEYS_UNUSED = "KeysUnused";
    /// Uses of API keys may have been missed, so the evidence starts again.
    EVIDENCE_GAP = "EvidenceGap";
    /// JWTOnly needs `tls.mode: Strict`.
    TLS_NOT_STRICT = "TLSNotStrict";
    /// Use of API keys is not watched, or not for long enough yet.
    NOT_WATCHED = "NotWatched";
    /// API keys may still be in use, so JWTOnly is not activated.
    LEGACY_KEYS_IN_USE = "LegacyKeysInUse";
    /// No request with a credential was accepted without a client certificate for `auth.legacyFreeFor`.
    PLAIN_UNUSED = "PlainUnused";
    /// Requests without a client certificate may still be accepted, so Strict is not activated.
    PLAIN_IN_USE = "PlainInUse";
    /// `tls.mode: Strict` runs, or no mode has run yet.
    STRICT = "Strict";
    /// A GaiaService names an issuer of user tokens that its TrustDomain does not have.
    USER_TOKEN_ISSUER_NOT_FOUND = "UserTokenIssuerNotFound";
    /// The declaration of an issuer of user tokens is invalid.
    USER_TOKEN_ISSUER_INVALID = "UserTokenIssuerInvalid";
    /// No API keys are configured.
    NO_KEYS = "NoKeys";

    /// A rotation waits until every instance uses the published generation.
    WAITING_FOR_INSTANCES = "WaitingForInstances";
    /// A rotation waits for instances longer than `propagation.deadline`.
    PAST_DEADLINE = "PastDeadline";
    /// The next step of a rotation is held back; the message names the step and the cause.
    HELD = "Held";
    /// A new generation is being written into every projection, or was written less than `minDelay` ago.
    PUBLISHING = "Publishing";
    /// Certificates are being issued by the new CA.
    REISSUING = "Reissuing";
    /// The old generation is no longer used, and is kept until everything that it signed has expired.
    RETIRING = "Retiring";
    /// The annotation gaia.dev/restore names no ring that can be restored.
    RESTORE_NOT_POSSIBLE = "RestoreNotPossible";
    /// The bring-your-own CA is distrusted: the user must put another one into its Secret.
    CA_DISTRUSTED = "CADistrusted";
    /// Every instance serves the stored certificate.
    ALL_SERVED = "AllServed";
    /// Not every instance serves the stored certificate.
    NOT_SERVED = "NotServed";
    /// No instance that can be probed uses the certificate.
    NO_INSTANCES = "NoInstances";

    /// Event: a first certificate was issued.
    CERTIFICATE_ISSUED = "CertificateIssued";
    /// Event: a certificate was replaced by a new one.
    CERTIFICATE_RENEWED = "CertificateRenewed";
    /// Event: another writer changed or deleted an object, and it was repaired.
    REPAIRED = "Repaired";
    /// Event: a ring was created.
    RING_CREATED = "RingCreated";
    /// Event: a rotation started.
    ROTATION_STARTED = "RotationStarted";
    /// Event: a rotation waits for instances for too long.
    ROTATION_WAITING = "RotationWaiting";
    /// Event: a new generation signs.
    ROTATION_SWITCHED = "RotationSwitched";
    /// Event, critical: a rotation proceeded without waiting for every instance, because the CA is about to expire.
    ROTATION_FORCED = "RotationForced";
    /// Event: an old generation was removed.
    ROTATION_COMPLETED = "RotationCompleted";
    /// Event: a rotation was aborted.
    ROTATION_ABORTED = "RotationAborted";
    /// Event: a generation is no longer trusted because it was compromised.
    DISTRUSTED = "Distrusted";
    /// Event: a ring was restored from its copy.
    RING_RESTORED = "RingRestored";
    /// Event: another authentication or TLS mode of a service runs.
    MODE_CHANGED = "ModeChanged";
    /// Event: the annotation gaia.dev/force-mode activated a mode without the evidence.
    MODE_FORCED = "ModeForced";
    /// Event: a rotation no longer waits for these instances (`propagation.pastDeadline: LeaveBehind`).
    INSTANCES_LEFT_BEHIND = "InstancesLeftBehind";
    /// Event: a workload was restarted so that its pods load published files.
    WORKLOAD_RESTARTED = "WorkloadRestarted";
}
