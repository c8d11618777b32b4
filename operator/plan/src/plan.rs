//! Plans and actions.

use std::fmt;
use std::net::IpAddr;

use gaia_api::crd::ServiceCertificate;
use gaia_pki::{KeySpec, Usage};
use jiff::Timestamp;
use serde::Serialize;

use crate::instances::instance::Target;
use crate::keyring::ring::RingRequest;
use crate::keyring::transition::{Restore, Transition};
use crate::object::{ObjectChange, ObjectKey, OwnerRef, Version};
use crate::outcome::event::Event;

/// The actions for one custom resource, its status, and the time of the next check.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan<S> {
    /// In the order in which they must be done; the first failure ends the execution.
    pub actions: Vec<Action>,
    /// The status to report once all actions are done.
    pub status: S,
    /// The time of the next check: in at most an hour, and not after the next threshold.
    pub next_check: Timestamp,
}

/// One write, with its precondition.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Action {
    /// Make a ring's first generation and store it. Never replaces anything.
    CreateRing(RingRequest),
    /// Replace a ring by what follows from it, after it was copied.
    Transition(Box<Transition>),
    /// Restore a ring from its copy.
    Restore(Box<Restore>),
    /// Annotate a pod so that the kubelet syncs its mounts at once.
    Nudge {
        /// The pod's namespace.
        namespace: String,
        /// The pod.
        pod: String,
        /// Its UID: a pod of the same name that came later is left alone.
        uid: String,
        /// The annotation's value.
        value: String,
    },
    /// Annotate a workload's pod template so that its pods are replaced, as `kubectl rollout restart` does.
    RestartWorkload {
        /// Which one.
        target: Target,
        /// The annotation's value.
        value: String,
        /// The event to send once it is done.
        event: Event,
    },
    /// Create or change an object whose content is public.
    Write(Box<ObjectChange>),
    /// Put the active signing key into the issuer's namespace.
    WriteSigner(WriteSigner),
    /// Make a key, sign a certificate and store both in one write.
    IssueLeaf(Box<IssueLeaf>),
    /// Create the ServiceCertificate of a GaiaService.
    CreateCertificate(Box<ServiceCertificate>),
    /// Change the ServiceCertificate of a GaiaService (JSON merge patch).
    PatchCertificate {
        /// Which one.
        key: ObjectKey,
        /// The state it was planned on.
        version: Version,
        /// RFC 7396.
        patch: serde_json::Value,
        /// The event to send once it is done.
        #[serde(skip_serializing_if = "Option::is_none")]
        event: Option<Event>,
    },
    /// Delete an object of the operator that is no longer used.
    Delete {
        /// Which one.
        key: ObjectKey,
        /// The state it was planned on.
        version: Version,
    },
}

/// The content of a leaf. The execution reads the clock once for all times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IssueLeaf {
    /// `metadata.name` of the TrustDomain whose CA ring signs.
    pub trust_domain: String,
    /// Fingerprint of the CA that must be the active one.
    pub ca_fingerprint: String,
    /// The one URI SAN.
    pub spiffe_id: String,
    /// The common name of its subject; none: the subject is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub common_name: Option<String>,
    /// DNS SANs.
    pub dns_names: Vec<String>,
    /// IP SANs.
    pub ip_addresses: Vec<IpAddr>,
    /// Extended key usages.
    #[serde(serialize_with = "debug_text")]
    pub usages: Vec<Usage>,
    /// The key to make.
    #[serde(serialize_with = "debug_text")]
    pub key: KeySpec,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity; not after the CA's.
    pub not_after: Timestamp,
    /// True if the pace of re-issues applies. It does not where no certificate is replaced, nor where the stored one
    /// must not be used any longer: it is broken, revoked, or issued by a distrusted CA.
    pub paced: bool,
    /// Labels, annotations, `ca.crt` and owner; `tls.crt` and `tls.key` are added by the execution.
    pub object: ObjectChange,
}

/// Put the active signing key into the issuer's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WriteSigner {
    /// `metadata.name` of the TrustDomain.
    pub trust_domain: String,
    /// The key that must be the active one.
    pub kid: String,
    /// Labels, annotations and `kid`; the key is added by the execution.
    pub object: ObjectChange,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateRing(request) => write!(f, "create {} with a new {}", request.object.key, request.material),
            Self::Transition(transition) => write!(f, "{transition}"),
            Self::Restore(restore) => {
                write!(f, "restore {} from its copy of epoch {}", restore.object.key, restore.epoch)
            }
            Self::Nudge { namespace, pod, value, .. } => write!(f, "nudge pod {namespace}/{pod} ({value})"),
            Self::RestartWorkload { target, value, .. } => write!(f, "restart {target} ({value})"),
            Self::Write(change) => write!(f, "{change}"),
            Self::WriteSigner(signer) => write!(f, "{} with signing key {}", signer.object, signer.kid),
            Self::IssueLeaf(leaf) => {
                write!(f, "{}: certificate for {} until {}", leaf.object, leaf.spiffe_id, leaf.not_after)
            }
            Self::CreateCertificate(certificate) => {
                let meta = &certificate.metadata;
                let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref());
                write!(f, "create ServiceCertificate {}/{}", namespace.unwrap_or_default(), name.unwrap_or_default())
            }
            Self::PatchCertificate { key, patch, .. } => write!(f, "patch {key}: {patch}"),
            Self::Delete { key, .. } => write!(f, "delete {key}"),
        }
    }
}

impl Action {
    /// The Secret or ConfigMap that it creates, changes or deletes; none: it writes something else, or a ring as a whole.
    #[must_use]
    pub fn object(&self) -> Option<&ObjectKey> {
        match self {
            Self::Write(change) => Some(&change.key),
            Self::WriteSigner(signer) => Some(&signer.object.key),
            Self::IssueLeaf(leaf) => Some(&leaf.object.key),
            Self::Delete { key, .. } => Some(key),
            Self::CreateRing(_)
            | Self::Transition(_)
            | Self::Restore(_)
            | Self::Nudge { .. }
            | Self::RestartWorkload { .. }
            | Self::CreateCertificate(_)
            | Self::PatchCertificate { .. } => None,
        }
    }

    /// The event to send once it is done; of several the first.
    #[must_use]
    pub fn event(&self) -> Option<&Event> {
        self.events().first()
    }

    /// The events to send once it is done.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        match self {
            Self::CreateRing(request) => request.object.event.as_slice(),
            Self::Transition(transition) => &transition.events,
            Self::Restore(restore) => restore.object.event.as_slice(),
            Self::Write(change) => change.event.as_slice(),
            Self::WriteSigner(signer) => signer.object.event.as_slice(),
            Self::IssueLeaf(leaf) => leaf.object.event.as_slice(),
            Self::PatchCertificate { event, .. } => event.as_slice(),
            Self::RestartWorkload { event, .. } => std::slice::from_ref(event),
            Self::Nudge { .. } | Self::CreateCertificate(_) | Self::Delete { .. } => &[],
        }
    }
}

/// The owner reference of a custom resource.
pub(crate) fn owner(kind: &'static str, meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> OwnerRef {
    OwnerRef {
        kind: kind.to_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
    }
}

fn debug_text<S: serde::Serializer>(value: &impl fmt::Debug, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{value:?}"))
}

/// The first of the thresholds that lies ahead; at least a second from now, and at most an hour.
pub(crate) fn earliest(thresholds: impl IntoIterator<Item = Timestamp>, now: Timestamp) -> Timestamp {
    let hour = crate::pacing::backoff::saturating_add(now, std::time::Duration::from_secs(3600));
    let next = thresholds.into_iter().filter(|time| *time > now).fold(hour, Timestamp::min);
    next.max(crate::pacing::backoff::saturating_add(now, std::time::Duration::from_secs(1)))
}
