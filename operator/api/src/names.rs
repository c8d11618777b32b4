//! Names of the objects, labels, annotations and keys that Gaia writes.

/// The API group of the custom resources.
pub const GROUP: &str = "gaia.dev";
/// The label every object written by the operator carries; the operator watches Secrets and ConfigMaps by it alone.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY_LABEL`].
pub const MANAGED_BY: &str = "gaia-operator";
/// Label: `metadata.name` of the TrustDomain an object belongs to.
pub const TRUST_DOMAIN_LABEL: &str = "gaia.dev/trust-domain";
/// Label: what an object is (`ca-ring`, `signing-ring`, `trust`, `token-signer`, `grants`, `leaf`, `policy`, `ledger`).
pub const COMPONENT_LABEL: &str = "gaia.dev/component";

/// Annotations on objects that the operator writes.
pub mod annotation {
    /// On a leaf Secret: SHA-256 (hex) of the request it was issued for.
    pub const SPEC_HASH: &str = "gaia.dev/spec-hash";
    /// On a leaf Secret: when its certificate was issued (RFC 3339).
    pub const ISSUED_AT: &str = "gaia.dev/issued-at";
    /// On a pod: the publication that its mounts should have. Its change makes the kubelet sync them at once.
    pub const NUDGE: &str = "gaia.dev/nudge";
    /// On a pod template: since when its pods are to run, as `kubectl rollout restart` writes it.
    pub const RESTARTED_AT: &str = "gaia.dev/restarted-at";
    /// On a leaf Secret: how often it was issued, counted from 1.
    pub const REVISION: &str = "gaia.dev/revision";
    /// On a ServiceCertificate: an opaque text; a new value asks for one renewal. On its Secret: the value last handled.
    pub const RENEW_REQUESTED_AT: &str = "gaia.dev/renew-requested-at";
    /// On a projection: the epoch of the CA ring from which it was written.
    pub const CA_EPOCH: &str = "gaia.dev/ca-epoch";
    /// On a projection: the epoch of the signing ring from which it was written.
    pub const SIGNING_EPOCH: &str = "gaia.dev/signing-epoch";
    /// On a projection: the MAC of [`CA_EPOCH`] for this object, by a key that only the CA ring holds.
    pub const CA_EPOCH_MAC: &str = "gaia.dev/ca-epoch-mac";
    /// On a projection: the MAC of [`SIGNING_EPOCH`] for this object, by a key that only the signing ring holds.
    pub const SIGNING_EPOCH_MAC: &str = "gaia.dev/signing-epoch-mac";
    /// On a trust ConfigMap: when its `denylist.json` changed last (RFC 3339).
    pub const DENYLIST_PUBLISHED_AT: &str = "gaia.dev/denylist-published-at";
    /// On a policy ConfigMap: when its `policy.json` changed last (RFC 3339).
    pub const POLICY_PUBLISHED_AT: &str = "gaia.dev/policy-published-at";
    /// On a foreign Secret: `"true"` lets the operator take it over.
    pub const ADOPT: &str = "gaia.dev/adopt";
    /// On a TrustDomain: `<uid>,ca@<epoch>,signing@<epoch>`, its own UID and the newest known epochs of the missing
    /// rings. It lets the operator create new rings in their place, once.
    pub const BOOTSTRAP: &str = "gaia.dev/bootstrap";
    /// On a TrustDomain: the generation whose rotation is to be aborted.
    pub const ABORT: &str = "gaia.dev/abort";
    /// On a TrustDomain: `<ring>@<epoch>` to restore.
    pub const RESTORE: &str = "gaia.dev/restore";
    /// On a TrustDomain: the generation whose rotation may proceed without the laggards.
    pub const ADVANCE_WITHOUT: &str = "gaia.dev/advance-without";
    /// On a GaiaService: `JWTOnly@<generation>` forces JWTOnly with Strict, `Strict@<generation>` forces Strict alone.
    pub const FORCE_MODE: &str = "gaia.dev/force-mode";
    /// On a leaf Secret and other objects: keys of labels and annotations that came from a template, comma-separated.
    pub const TEMPLATE_KEYS: &str = "gaia.dev/template-keys";
}

/// Keys inside Secrets and ConfigMaps, which are the file names under the mounted directory too.
pub mod key {
    /// Leaf Secret: the certificate chain, leaf first (PEM).
    pub const TLS_CERT: &str = "tls.crt";
    /// Leaf Secret: the private key (PEM, PKCS#8).
    pub const TLS_KEY: &str = "tls.key";
    /// Leaf Secret and trust ConfigMap: every trusted root (PEM).
    pub const CA_CERT: &str = "ca.crt";
    /// Trust ConfigMap: the platform's JWK set.
    pub const JWKS: &str = "jwks.json";
    /// Trust ConfigMap: the active public key (PEM), for programs that read one key only.
    pub const JWT_SIGNING_PUB: &str = "jwt-signing.pub";
    /// Trust ConfigMap: revocations.
    pub const DENYLIST: &str = "denylist.json";
    /// Token signer Secret: the active private key (PEM, PKCS#8).
    pub const JWT_SIGNING_KEY: &str = "jwt-signing.key";
    /// Token signer Secret: the kid of the active key.
    pub const KID: &str = "kid";
    /// Grants ConfigMap: who may call whom.
    pub const GRANTS: &str = "grants.json";
    /// Policy ConfigMap: what a service demands of its callers.
    pub const POLICY: &str = "policy.json";
    /// API key Secret: the records of a service's API keys.
    pub const API_KEYS: &str = "api-keys.json";
    /// Secret of an external issuer's `apiKeySecretRef`: its key. It is mounted as [`super::issuer_key`].
    pub const ISSUER_API_KEY: &str = "api-key";
    /// Ledger ConfigMap: who used which API key when.
    pub const LEDGER: &str = "ledger.json";
    /// Ring Secret: the ring document.
    pub const RING: &str = "ring.json";
    /// Ring Secret: the key of the MACs over the epochs in projections. Private; it never leaves the ring and its copy.
    pub const EPOCH_MAC_KEY: &str = "epoch-mac.key";
}

/// Secret `<td>-ca-ring` in the operator's namespace.
#[must_use]
pub fn ca_ring(trust_domain: &str) -> String {
    format!("{trust_domain}-ca-ring")
}

/// Secret `<td>-signing-ring` in the operator's namespace.
#[must_use]
pub fn signing_ring(trust_domain: &str) -> String {
    format!("{trust_domain}-signing-ring")
}

/// The copy of a ring from before its last transition.
#[must_use]
pub fn previous(ring: &str) -> String {
    format!("{ring}-previous")
}

/// ConfigMap `<td>-trust` in each granted namespace.
#[must_use]
pub fn trust(trust_domain: &str) -> String {
    format!("{trust_domain}-trust")
}

/// Secret `<td>-token-signer` in the issuer's namespace.
#[must_use]
pub fn token_signer(trust_domain: &str) -> String {
    format!("{trust_domain}-token-signer")
}

/// ConfigMap `<td>-grants` in the issuer's namespace.
#[must_use]
pub fn grants(trust_domain: &str) -> String {
    format!("{trust_domain}-grants")
}

/// Secret `<name>-tls`, the default leaf Secret of a ServiceCertificate.
#[must_use]
pub fn leaf_secret(service_certificate: &str) -> String {
    format!("{service_certificate}-tls")
}

/// ConfigMap `<service>-auth`.
#[must_use]
pub fn policy(service: &str) -> String {
    format!("{service}-auth")
}

/// ConfigMap `<service>-ledger`.
#[must_use]
pub fn ledger(service: &str) -> String {
    format!("{service}-ledger")
}

/// The mounted file `issuer-<name>.key`: the API key of an external issuer of user tokens.
#[must_use]
pub fn issuer_key(issuer: &str) -> String {
    format!("issuer-{issuer}.key")
}
