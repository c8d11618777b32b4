//! Rings: the generations of a CA or of the JWT signing keys, and their states.
//!
//! A ring is one Secret and so one atomic write. `ring.json` holds everything public; the private key of generation `x`
//! is data key `x.key`. The ring is the only source of the state; the status of a custom resource is a report.

mod ca;
mod request;

use std::fmt;

use gaia_api::crd::DistrustMode;
use gaia_pki::Jwk;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::ca::{CaMaterial, CaPath, PathCertificate};
pub use self::request::{MaterialRequest, RingRequest};
use crate::keyring::handled::Handled;

/// The format this build reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// Which ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum RingKind {
    /// The certificate authority.
    Ca,
    /// The JWT signing keys.
    SigningKeys,
}

impl fmt::Display for RingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ca => "CA ring",
            Self::SigningKeys => "signing ring",
        })
    }
}

/// The state of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum State {
    /// Generated; projections are being written.
    Staged,
    /// Seen in every projection; waits to be used.
    Published,
    /// Signs.
    Active,
    /// No longer signs, still trusted.
    Retiring,
    /// No longer trusted after an ordinary rotation.
    Removed,
    /// No longer trusted because it was compromised.
    Distrusted,
}

impl State {
    /// Returns true if what it signed is to be trusted.
    #[must_use]
    pub fn is_trusted(self) -> bool {
        matches!(self, Self::Staged | Self::Published | Self::Active | Self::Retiring)
    }

    /// As status writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Staged => "Staged",
            Self::Published => "Published",
            Self::Active => "Active",
            Self::Retiring => "Retiring",
            Self::Removed => "Removed",
            Self::Distrusted => "Distrusted",
        }
    }
}

/// The public part of a ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ring<M> {
    /// See [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The SPIFFE trust domain for which it was created.
    pub trust_domain: String,
    /// Incremented by each transition that changes the content of projections; every projection carries it.
    pub epoch: u64,
    /// Of signing keys: the longest `maxTTL` ever in force, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ttl_high_water_seconds: Option<u64>,
    /// The `rotationRevision` whose rotation was begun last.
    #[serde(default = "first_revision")]
    pub revision: i64,
    /// In a signing ring: the last distrust of a CA that was handled. The holder of that CA could have obtained tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "heeded")]
    pub handled_distrust: Option<Distrust>,
    /// The epoch of the copy that this ring was restored from last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_from: Option<u64>,
    /// Annotations of the TrustDomain that were carried out or ignored: none is handled twice.
    #[serde(default, skip_serializing_if = "Handled::is_empty")]
    pub handled: Handled,
    /// Oldest first.
    pub generations: Vec<Generation<M>>,
}

/// One generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Generation<M> {
    /// Short id, see [`Material::id`].
    pub id: String,
    /// Its state.
    pub state: State,
    /// The time since which it is in this state.
    pub since: Timestamp,
    /// The time when it was staged; none: it never was, or an earlier version wrote the ring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged_time: Option<Timestamp>,
    /// The time when it was seen in every projection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published_time: Option<Timestamp>,
    /// The time when it was activated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activated_time: Option<Timestamp>,
    /// The time when its successor was seen in use everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switched_time: Option<Timestamp>,
    /// For a retired CA: the expiry of the last certificate that it can have signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_until: Option<Timestamp>,
    /// True if the rotation to it was aborted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub aborted: bool,
    /// Set once it is known to be compromised, and never removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distrust: Option<Distrust>,
    /// The certificate or key.
    #[serde(flatten)]
    pub material: M,
}

/// The record that a generation was compromised. It may stay trusted until its replacement is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Distrust {
    /// The mode of the removal from the trust bundle.
    pub mode: DistrustMode,
    /// The time when the operator saw the request.
    pub since: Timestamp,
    /// The time when the last instance was seen to refuse it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_time: Option<Timestamp>,
}

/// A signing key's public part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SigningMaterial {
    /// The key as published; its `kid` is the RFC 7638 thumbprint.
    pub jwk: Jwk,
    /// The public key (PEM).
    pub public_key: String,
}

/// Properties that both kinds of generations have.
pub trait Material {
    /// True if projections name the active generation.
    const ACTIVE_IS_PUBLISHED: bool;
    /// True if a ring may have no active generation: a bring-your-own CA was distrusted, and only the user can replace
    /// it.
    const MAY_HAVE_NO_SIGNER: bool;
    /// The name in full: a fingerprint or a kid.
    fn name(&self) -> &str;
    /// The short id of a new generation: the first 8 characters of its name, unless the material has its own id.
    fn id(&self) -> String {
        short_id(self.name())
    }
    /// Derives what `ring.json` does not hold.
    fn complete(&mut self) {}
}

impl Material for SigningMaterial {
    const ACTIVE_IS_PUBLISHED: bool = true;
    const MAY_HAVE_NO_SIGNER: bool = false;

    fn name(&self) -> &str {
        self.jwk.kid()
    }
}

/// The CA's ring.
pub type CaRing = Ring<CaMaterial>;
/// The signing keys' ring.
pub type SigningRing = Ring<SigningMaterial>;

/// The reason why a ring cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// Not the JSON it should be.
    #[error("ring.json is not readable: {0}")]
    Corrupt(String),
    /// Written by a newer operator.
    #[error("ring.json has formatVersion {found}, this operator reads up to {FORMAT_VERSION}")]
    TooNew {
        /// The version found.
        found: u32,
    },
    /// The Secret itself cannot be read.
    #[error("the Secret cannot be read: {0}")]
    Secret(String),
    /// The Secret of that name holds no ring.
    #[error("it holds no ring.json")]
    NoRing,
    /// Not exactly one generation signs.
    #[error("ring.json has {0} Active generations, it must have one")]
    NotOneActive(usize),
    /// The key that belongs to a generation is missing or another one.
    #[error("the private key of generation {0} is missing or does not match")]
    KeyMismatch(String),
}

impl<M: serde::de::DeserializeOwned + Material> Ring<M> {
    /// Reads `ring.json`.
    ///
    /// # Errors
    /// [`RingError`] if it is not a ring this build can work with.
    pub fn parse(json: &[u8]) -> Result<Self, RingError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Format {
            format_version: u32,
        }
        // An error of the parser can quote what it found, and a damaged ring can have a key anywhere.
        let corrupt = |error: serde_json::Error| {
            RingError::Corrupt(format!("unexpected content at line {}, column {}", error.line(), error.column()))
        };
        let Format { format_version } = serde_json::from_slice(json).map_err(corrupt)?;
        if format_version != FORMAT_VERSION {
            return Err(RingError::TooNew { found: format_version });
        }
        let mut ring: Self = serde_json::from_slice(json).map_err(corrupt)?;
        ring.generations.iter_mut().for_each(|generation| generation.material.complete());
        ring.check_signers().map_err(RingError::NotOneActive)?;
        Ok(ring)
    }
}

impl<M: Material> Ring<M> {
    /// Checks that one generation signs, or that none does because the one that did is distrusted.
    ///
    /// # Errors
    /// How many do.
    pub(crate) fn check_signers(&self) -> Result<(), usize> {
        let count = |state| self.generations.iter().filter(|generation| generation.state == state).count();
        match count(State::Active) {
            1 => Ok(()),
            0 if M::MAY_HAVE_NO_SIGNER && count(State::Distrusted) > 0 => Ok(()),
            other => Err(other),
        }
    }
}

impl<M> Ring<M> {
    /// The active generation. None only if a bring-your-own CA was distrusted and there is no other one.
    #[must_use]
    pub fn active(&self) -> Option<&Generation<M>> {
        self.generations.iter().find(|generation| generation.state == State::Active)
    }

    /// The generation that was staged to sign next, published or not.
    #[must_use]
    pub fn next(&self) -> Option<&Generation<M>> {
        self.generations.iter().rfind(|generation| matches!(generation.state, State::Staged | State::Published))
    }

    /// The generations that are retiring, oldest first.
    pub fn retiring(&self) -> impl Iterator<Item = &Generation<M>> {
        self.generations.iter().filter(|generation| generation.state == State::Retiring)
    }

    /// The last generation whose rotation was aborted, if none has begun to sign since.
    #[must_use]
    pub fn given_up(&self) -> Option<&Generation<M>> {
        let later = self.generations.iter().skip_while(|generation| generation.state != State::Active);
        later.filter(|generation| generation.aborted).last()
    }

    /// The generation of that short id.
    #[must_use]
    pub fn generation(&self, id: &str) -> Option<&Generation<M>> {
        self.generations.iter().find(|generation| generation.id == id)
    }

    /// The time since which the newest trusted generation must be in every projection.
    #[must_use]
    pub fn projected_since(&self) -> Timestamp {
        self.trusted().map(Generation::projected_since).max().unwrap_or(Timestamp::MIN)
    }

    /// The generations others must trust.
    pub fn trusted(&self) -> impl Iterator<Item = &Generation<M>> {
        self.generations.iter().filter(|generation| generation.state.is_trusted())
    }
}

impl<M> Generation<M> {
    /// A generation that is created now.
    #[must_use]
    pub fn new(id: String, state: State, now: Timestamp, material: M) -> Self {
        let now = gaia_api::crd::whole_seconds(now);
        Self {
            id,
            state,
            since: now,
            staged_time: (state == State::Staged).then_some(now),
            published_time: None,
            activated_time: (state == State::Active).then_some(now),
            switched_time: None,
            signed_until: None,
            aborted: false,
            distrust: None,
            material,
        }
    }

    /// The time since which it must be in every projection.
    #[must_use]
    pub fn projected_since(&self) -> Timestamp {
        self.staged_time.or(self.published_time).or(self.activated_time).unwrap_or(self.since)
    }

    /// The data key of its private key.
    #[must_use]
    pub fn private_key_name(&self) -> String {
        format!("{}.key", self.id)
    }
}

/// The short id of a fingerprint or kid.
#[must_use]
pub fn short_id(name: &str) -> String {
    name.chars().take(8).collect()
}

fn first_revision() -> i64 {
    1
}

#[cfg(test)]
mod tests;
