//! Instances: the running pods and endpoints that use objects that Gaia writes, and the state that was observed of
//! each.
//!
//! A rotation proceeds when every instance is *current* (docs/rotation.md, "What acknowledges"): it reports the loaded
//! version, or presents the leaf in a handshake, or all its containers started long enough after the write. An unknown
//! instance never counts as absent.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use gaia_api::crd::{Acknowledgement, Laggard, RestartKind};
use gaia_api::identity::{ENFORCES_ISSUERS, IdentityReport};
use jiff::Timestamp;
use serde::Serialize;

use crate::instances::endpoint::NO_ANSWER;
use crate::object::ObjectKey;
use crate::pacing::backoff::saturating_add;

/// The instances of a TrustDomain.
#[derive(Debug, Clone)]
pub enum Instances<'a> {
    /// They are unknown, because a watch is not synced or not allowed. Holds the reason.
    Unknown(&'a str),
    /// All of them.
    Known(Vec<&'a Instance>),
}

impl<'a> Instances<'a> {
    /// The known instances.
    pub fn iter(&self) -> impl Iterator<Item = &'a Instance> {
        match self {
            Self::Unknown(_) => [].iter(),
            Self::Known(all) => all.iter(),
        }
        .copied()
    }

    /// Those that use an object.
    pub fn using(&self, object: &ObjectKey) -> impl Iterator<Item = &'a Instance> {
        self.iter().filter(move |instance| instance.uses.contains(object))
    }
}

/// A pod that has not terminated, or an endpoint outside the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its namespace.
    pub namespace: String,
    /// The pod's name, or `host:port` of an endpoint.
    pub name: String,
    /// The pod's UID; of an endpoint, its service and address.
    pub uid: String,
    /// The Secrets and ConfigMaps written by Gaia that its volumes or environment refer to.
    pub uses: BTreeSet<ObjectKey>,
    /// True if it mounts `jwks.json`: not a pod that takes only the bundle, or only a leaf Secret.
    pub has_keys: bool,
    /// True if the mounted content is updated in the running container. It is not for `subPath` mounts and environment
    /// variables.
    pub reloads: bool,
    /// The time when the last of its containers started; none: not all have, or it is an endpoint.
    pub started: Option<Timestamp>,
    /// The `workload.acknowledgement` of its service: whether a rotation waits for it.
    pub acknowledgement: Acknowledgement,
    /// Its service's wave.
    pub wave: i32,
    /// Workloads to restart if it does not reload files.
    pub restart_targets: Vec<Target>,
    /// True if there is a port to probe it on.
    pub can_be_probed: bool,
    /// The value of its annotation `gaia.dev/nudge`.
    pub nudged: Option<String>,
    /// The result of the last probe.
    pub probe: Option<Probe>,
}

/// The result of the last probe of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The time when the probe ended.
    pub at: Timestamp,
    /// The observed state, or a short cause of the failure. The text contains nothing that changes from probe to probe.
    pub seen: Result<Shown, String>,
}

/// The state that a handshake and a report show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Lower-case hex SHA-256 of the leaf that it showed.
    pub fingerprint: String,
    /// True if the presented chain verifies to a CA of the ring and has the SPIFFE ID of the instance.
    pub is_verified: bool,
    /// Its report, counted only from a verified instance; else why there is none.
    pub report: Result<IdentityReport, String>,
}

/// A workload that can be restarted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Target {
    /// Its namespace.
    pub namespace: String,
    /// Its kind: `Deployment`, `StatefulSet` or `DaemonSet`.
    #[serde(serialize_with = "kind_text")]
    pub kind: RestartKind,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// The state that an instance must have.
#[derive(Debug, Clone)]
pub enum Need<'a> {
    /// This text of `ca.crt`, by its hash.
    Bundle(&'a str),
    /// This kid among those it accepts.
    Kid(&'a str),
    /// This kid not among those it accepts.
    NoKid(&'a str),
    /// This text of `denylist.json`, by its hash.
    Denylist(&'a str),
    /// This text of `policy.json`, by its hash.
    Policy(&'a str),
    /// That it refuses a CA that leaked: by this text of `ca.crt`, where that is enough, or by this text of `denylist.json`,
    /// whose `issuers` it enforces.
    Refusal {
        /// None: the CA's root stays in the bundle.
        bundle: Option<&'a str>,
        /// Of `denylist.json`.
        denylist: &'a str,
    },
    /// Of a token issuer: that it signs with this kid.
    SigningKid(&'a str),
    /// This leaf, by its fingerprint.
    Leaf(&'a str),
    /// No open connection from a peer whose certificate chains to this root, by its fingerprint.
    NoConnection(&'a str),
}

impl Instance {
    /// Checks that the instance has the needed state, which was written at `written`.
    ///
    /// # Errors
    /// The reason why it does not have it, or why that is unknown.
    pub fn check(&self, need: &Need<'_>, written: Timestamp, min_delay: Duration) -> Result<(), String> {
        let shown = self.probe.as_ref().map(|probe| &probe.seen);
        if let Some(Ok(Shown { report: Ok(report), .. })) = shown {
            return check_report(report, need);
        }
        if let (Need::Leaf(fingerprint), Some(Ok(shown))) = (need, shown) {
            return if shown.fingerprint == *fingerprint {
                Ok(())
            } else {
                Err(format!("Stale: serves another certificate than {}", short(fingerprint)))
            };
        }
        let is_about_keys = matches!(need, Need::Kid(_) | Need::NoKid(_) | Need::Denylist(_));
        if is_about_keys && !self.has_keys {
            return Ok(());
        }
        if matches!(need, Need::NoConnection(_)) {
            // An instance that does not report its connections cannot hold a rotation.
            return Ok(());
        }
        if matches!(need, Need::Refusal { bundle: None, .. }) {
            return Err("Unenforced: does not report that it refuses chains by denylist.json (issuers)".to_owned());
        }
        let fresh_from = saturating_add(written, min_delay);
        if self.started.is_some_and(|started| started > fresh_from) {
            return Ok(());
        }
        Err(match shown {
            Some(Err(why)) => format!("Unreachable: {why}"),
            // One text for all failures of endpoints.
            Some(Ok(Shown { report: Err(why), .. })) if why == NO_ANSWER => format!("Unreachable: {why}"),
            Some(Ok(Shown { report: Err(why), .. })) => {
                format!("Stale: no report ({why}) and no restart since the change; restart the pod")
            }
            _ if !self.can_be_probed => {
                "NotProbed: no probe port and no restart since the change; restart the pod".to_owned()
            }
            _ => "NotProbed: not yet".to_owned(),
        })
    }

    /// The newest report.
    #[must_use]
    pub fn report(&self) -> Option<&IdentityReport> {
        self.probe.as_ref()?.seen.as_ref().ok()?.report.as_ref().ok()
    }

    /// As status names it.
    #[must_use]
    pub fn laggard(&self, reason: &str) -> Laggard {
        Laggard {
            namespace: self.namespace.clone(),
            kind: None,
            pod: self.name.clone(),
            reason: reason.chars().take(MAX_REASON).collect(),
        }
    }
}

fn check_report(report: &IdentityReport, need: &Need<'_>) -> Result<(), String> {
    match need {
        Need::Bundle(hash) if report.bundle_hash != **hash => Err("Stale: has not loaded the newest ca.crt".to_owned()),
        Need::Kid(kid) if !report.jwks_kids.iter().any(|known| known == kid) => {
            Err(format!("Stale: has not loaded signing key {}", short(kid)))
        }
        Need::NoKid(kid) if report.jwks_kids.iter().any(|known| known == kid) => {
            Err(format!("Stale: still accepts signing key {}", short(kid)))
        }
        Need::Denylist(hash) if report.denylist_hash.as_deref() != Some(hash) => {
            Err("Stale: has not loaded the newest denylist.json".to_owned())
        }
        Need::Policy(hash) if report.policy_hash != **hash => {
            Err("Stale: has not loaded the newest policy.json".to_owned())
        }
        Need::Refusal { bundle, denylist } => {
            let by_bundle = bundle.is_some_and(|hash| report.bundle_hash == hash);
            let enforces = report.enforces.iter().any(|part| part == ENFORCES_ISSUERS);
            let by_denylist = enforces && report.denylist_hash.as_deref() == Some(denylist);
            match (by_bundle || by_denylist, bundle, enforces) {
                (true, ..) => Ok(()),
                (false, Some(_), _) => Err("Stale: has not loaded the newest ca.crt".to_owned()),
                (false, None, true) => Err("Stale: has not loaded the newest denylist.json".to_owned()),
                (false, None, false) => {
                    Err("Unenforced: does not report that it refuses chains by denylist.json (issuers)".to_owned())
                }
            }
        }
        Need::SigningKid(kid) if report.signing_kid.as_deref() != Some(kid) => {
            Err(format!("Stale: does not sign with key {}", short(kid)))
        }
        Need::Leaf(fingerprint) if report.leaf.fingerprint != **fingerprint => {
            Err(format!("Stale: serves another certificate than {}", short(fingerprint)))
        }
        Need::NoConnection(root) if report.connections.get(*root).is_some_and(|open| *open > 0) => {
            Err(format!("Stale: has open connections of clients with certificates of CA {}", short(root)))
        }
        _ => Ok(()),
    }
}

fn short(name: &str) -> String {
    crate::keyring::ring::short_id(name)
}

fn kind_text<S: serde::Serializer>(kind: &RestartKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{kind:?}"))
}

const MAX_REASON: usize = 512;
