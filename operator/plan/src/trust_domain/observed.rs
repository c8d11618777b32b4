//! The input of a decision about a TrustDomain.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gaia_api::crd::{GaiaService, ServiceCertificate, TrustDomain};
use gaia_api::names::{self, annotation};
use jiff::Timestamp;

use super::kept::KeptGrants;
use crate::instances::instance::{Instances, Target};
use crate::keyring::epoch::EpochMacs;
use crate::keyring::ring::{CaMaterial, CaPath, Ring, RingError, RingKind, SigningMaterial};
use crate::leaf::{LeafFacts, LeafRecord, issued_as_noted};
use crate::object::{ObjectFacts, ObjectKey, Ownership};
use crate::pacing::backoff::{Failures, saturating_add, saturating_sub, since};

/// The input of a decision about one TrustDomain.
#[derive(Debug, Clone)]
pub struct Observed<'a> {
    /// It.
    pub domain: &'a TrustDomain,
    /// The CA's ring.
    pub ca: RingView<'a, CaMaterial>,
    /// The signing keys' ring.
    pub signing: RingView<'a, SigningMaterial>,
    /// The copy of the CA's ring from before its last transition.
    pub ca_copy: RingView<'a, CaMaterial>,
    /// The copy of the signing ring from before its last transition.
    pub signing_copy: RingView<'a, SigningMaterial>,
    /// The MACs over epochs, by the key in each ring, or in its copy if the ring is missing.
    pub macs: EpochMacs<'a>,
    /// True if leaves of this TrustDomain exist.
    pub leaves_exist: bool,
    /// With `spec.ca.existingSecretRef`: the CA in that Secret, or the reason why it is unusable.
    pub external_ca: Option<Result<ExternalCa, String>>,
    /// The oldest of the older TrustDomains with the same `spec.trustDomain`.
    pub older_namesake: Option<&'a str>,
    /// The namespaces of the cluster that it selects and that are not being deleted.
    pub selected: BTreeSet<String>,
    /// Namespaces with objects that refer to this TrustDomain.
    pub consumers: BTreeSet<String>,
    /// Those of them that are selected.
    pub granted: BTreeSet<String>,
    /// ConfigMap `<td>-trust` by namespace, where one is known.
    pub trust: BTreeMap<String, Ownership<ObjectFacts>>,
    /// ConfigMap `<td>-grants` by namespace, where one is known.
    pub grants: BTreeMap<String, Ownership<ObjectFacts>>,
    /// Secret `<td>-token-signer` by namespace, where one is known.
    pub signers: BTreeMap<String, Ownership<SignerSecret>>,
    /// Writes of projections and leaf Secrets that were refused at the last attempt.
    pub refused: BTreeMap<ObjectKey, WriteRefusal>,
    /// Namespaces that it selects and that the operator does not watch, sorted.
    pub unwatched: Vec<String>,
    /// Projections that another writer deleted while the operator watched.
    pub lost: BTreeSet<crate::object::ObjectKey>,
    /// The GaiaServices of this TrustDomain in granted namespaces.
    pub services: Vec<&'a GaiaService>,
    /// Which entries of `grants.json` stay as they were last written.
    pub kept: KeptGrants,
    /// The leaf Secrets of this TrustDomain, and the ServiceCertificates that requested them.
    pub leaves: Vec<LeafView<'a>>,
    /// The instances that use objects of this TrustDomain.
    pub instances: Instances<'a>,
    /// The last restart of each workload, so that each is restarted once.
    pub restarted: BTreeMap<Target, String>,
    /// The operations that are enabled on pods and workloads.
    pub abilities: Abilities,
    /// Attempts that failed.
    pub failures: Option<&'a Failures>,
    /// The ServiceCertificates in granted namespaces, whether they have a Secret or not. They may be left out where no
    /// CA has name constraints.
    pub certificates: Vec<&'a ServiceCertificate>,
    /// The cluster's DNS domain.
    pub cluster_domain: &'a str,
    /// The namespace of the rings.
    pub operator_namespace: &'a str,
}

impl Observed<'_> {
    /// `metadata.name`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.domain.metadata.name.as_deref().unwrap_or_default()
    }

    /// The Secret of a ring.
    #[must_use]
    pub fn ring_key(&self, kind: RingKind) -> ObjectKey {
        let name = match kind {
            RingKind::Ca => names::ca_ring(self.name()),
            RingKind::SigningKeys => names::signing_ring(self.name()),
        };
        ObjectKey::secret(self.operator_namespace, name)
    }

    /// L: the validity of a certificate with which the TrustDomain's own rotations are planned. The `duration` of a
    /// ServiceCertificate does not affect rotations.
    #[must_use]
    pub fn leaf_life(&self) -> Duration {
        self.domain.spec.certificate_defaults.duration.value()
    }

    /// The longest validity that any certificate of this TrustDomain requests; a certificate never expires after its
    /// CA.
    #[must_use]
    pub fn longest_leaf(&self) -> Duration {
        self.leaves.iter().filter_map(|view| view.duration).fold(self.leaf_life(), Duration::max)
    }

    /// Returns the time when the successor of a CA is due, early enough to wait for instances: `end - 2(L + P + D)`,
    /// but never in the first half of the CA's validity.
    #[must_use]
    pub fn successor_due(&self, ca: &CaMaterial) -> Timestamp {
        let lead = crate::rules::limits::ca_lead(self.leaf_life(), &self.domain.spec.propagation);
        let half = since(ca.not_after, ca.not_before) / 2;
        saturating_sub(ca.not_after, lead).max(saturating_add(ca.not_before, half))
    }

    /// Returns true if a CA's validity is so short that its successor is, or would be, due later than `end - 2(L + P +
    /// D)`.
    #[must_use]
    pub fn is_too_tight(&self, ca: &CaMaterial) -> bool {
        let least = crate::rules::limits::least_ca_life(self.leaf_life(), &self.domain.spec.propagation);
        since(ca.not_after, ca.not_before) < least
    }

    /// The time from which a published CA is activated without acknowledgement. Waiting longer would shorten the
    /// certificates that are issued in between; where lifetimes are too tight they are shortened anyway, and the CA's
    /// expiry decides.
    #[must_use]
    pub fn time_floor(&self, active: &CaMaterial) -> Timestamp {
        let times = &self.domain.spec.propagation;
        let before_end = if self.is_too_tight(active) {
            2 * (times.min_delay.value() + times.deadline.value())
        } else {
            self.leaf_life()
        };
        saturating_sub(active.not_after, before_end)
    }
}

/// The operations that are enabled on pods and workloads; both are off by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Abilities {
    /// Annotate pods.
    pub nudge: bool,
    /// Annotate the pod templates of workloads.
    pub restart: bool,
}

/// A leaf Secret of a TrustDomain, with the request of its ServiceCertificate.
#[derive(Debug, Clone, Copy)]
pub struct LeafView<'a> {
    /// The Secret's namespace.
    pub secret_namespace: &'a str,
    /// The Secret's name.
    pub secret_name: &'a str,
    /// The Secret, if it exists and is the operator's.
    pub secret: Option<&'a dyn LeafRecord>,
    /// The certificate in it; none if it cannot be read.
    pub leaf: Option<&'a LeafFacts>,
    /// True if a ServiceCertificate asks for it.
    pub is_claimed: bool,
    /// The requested validity, if it is not the TrustDomain's default.
    pub duration: Option<Duration>,
    /// True if writes are suspended because its ServiceCertificate cannot be read.
    pub is_held: bool,
    /// True if it is renewed automatically, which `spec.renewal: Disabled` prevents.
    pub renews: bool,
    /// Its service's wave.
    pub wave: i32,
}

impl LeafView<'_> {
    /// Returns true if `deletionPolicy: Retain` left it: no ServiceCertificate requests it, and it has no owner.
    #[must_use]
    pub fn is_retained(&self) -> bool {
        !self.is_claimed && self.secret.is_some_and(|secret| !secret.has_owner())
    }

    /// Returns the time when the stored certificate was issued. Without the operator's annotation, the latest time that
    /// its validity allows.
    #[must_use]
    pub fn issued_at(&self) -> Timestamp {
        match (self.secret, self.leaf) {
            (Some(secret), Some(leaf)) => issued_as_noted(secret.annotation(annotation::ISSUED_AT), leaf),
            _ => Timestamp::MAX,
        }
    }
}

/// The observed state of a ring.
#[derive(Debug, Clone)]
pub enum RingView<'a, M> {
    /// There is none.
    Missing,
    /// It can be worked with.
    Readable {
        /// Its public part.
        ring: &'a Ring<M>,
        /// Its Secret.
        facts: &'a ObjectFacts,
    },
    /// It cannot be worked with.
    Unreadable {
        /// The cause.
        error: &'a RingError,
        /// Its Secret.
        facts: &'a ObjectFacts,
    },
}

impl<'a, M> RingView<'a, M> {
    /// The ring, if it can be worked with.
    #[must_use]
    pub fn ring(&self) -> Option<&'a Ring<M>> {
        match self {
            Self::Readable { ring, .. } => Some(ring),
            Self::Missing | Self::Unreadable { .. } => None,
        }
    }

    /// The reason why it cannot be read.
    #[must_use]
    pub fn error(&self) -> Option<&'a RingError> {
        match self {
            Self::Unreadable { error, .. } => Some(error),
            Self::Missing | Self::Readable { .. } => None,
        }
    }

    /// Its Secret.
    #[must_use]
    pub fn facts(&self) -> Option<&'a ObjectFacts> {
        match self {
            Self::Readable { facts, .. } | Self::Unreadable { facts, .. } => Some(facts),
            Self::Missing => None,
        }
    }
}

/// The CA in `existingSecretRef`: it can be read, and each of its certificates is in force.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExternalCa {
    /// Lower-case hex SHA-256 of its certificate's DER.
    pub fingerprint: String,
    /// The latest notBefore in its chain.
    pub not_before: Timestamp,
    /// The earliest notAfter in its chain.
    pub not_after: Timestamp,
    /// Its certificates.
    pub path: CaPath,
    /// The cause for which peers refuse its certificates, if there is one.
    pub refused: Option<String>,
    /// Faults for which only strict peers refuse it.
    pub not_strict: Vec<String>,
}

/// The Secret `<td>-token-signer`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SignerSecret {
    /// Metadata of the Secret, without the key.
    pub facts: ObjectFacts,
    /// The kid of the key that it really holds; none if it cannot be read.
    pub kid: Option<String>,
}

/// The last attempt to write an object, which was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteRefusal {
    /// The number of attempts, and the cause.
    pub failures: Failures,
    /// True if the cause is inside the object's namespace: a quota, a namespace that is being deleted, an object that
    /// cannot take the change. Time-outs, errors of the API server, webhooks and missing rights are not.
    pub is_local: bool,
}
