//! The steps of a transition, as data.

use std::fmt;

use gaia_api::crd::DistrustMode;
use jiff::Timestamp;
use serde::Serialize;

use crate::keyring::handled::Answer;
use crate::keyring::ring::{Distrust, MaterialRequest};

/// One step of a transition. Generations are named by their short ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Step {
    /// A new generation, to be published.
    Stage(MaterialRequest),
    /// A new generation that signs at once: an emergency.
    StageActive(MaterialRequest),
    /// It was seen in every projection.
    Publish(String),
    /// It is activated; the previously active one retires. `signed_until`: the last expiry of what that one signed.
    Activate {
        /// Which one.
        id: String,
        /// Of the one that retires.
        signed_until: Option<Timestamp>,
    },
    /// Its successor was seen in use everywhere.
    Switched(String),
    /// It is no longer trusted.
    Remove(String),
    /// An administrator aborts the rotation to it before it was activated.
    Abandon(String),
    /// It never signed, and another one is wanted in its place.
    Discard(String),
    /// It signs again; the one that did retires, and its rotation counts as aborted.
    Reactivate {
        /// Which one.
        id: String,
        /// Of the one that retires.
        signed_until: Option<Timestamp>,
    },
    /// The user restored it in the Secret: it is activated again, and the active one retires. No generation counts as
    /// aborted.
    Resume {
        /// Which one.
        id: String,
        /// Of the one that retires.
        signed_until: Option<Timestamp>,
    },
    /// It was compromised; it is removed as soon as its replacement is in use.
    Suspect {
        /// Which one.
        id: String,
        /// The mode of the removal from the trust bundle.
        mode: DistrustMode,
    },
    /// It was compromised and is removed now. Staged generations are removed with [`Step::Discard`].
    Distrust {
        /// Which one.
        id: String,
        /// The mode of the removal from the trust bundle.
        mode: DistrustMode,
    },
    /// Every instance was seen to refuse it.
    Refused {
        /// Which one.
        id: String,
        /// The time when the last one was.
        at: Timestamp,
    },
    /// Of signing keys: the distrust of a CA is answered.
    #[serde(rename = "Heed")]
    HandleDistrust(Distrust),
    /// A `rotationRevision` is carried out.
    HandleRevision(i64),
    /// Tokens may live longer from now on.
    RaiseMaxTtl(u64),
    /// An annotation was handled; without an answer it was removed from the object, and is forgotten.
    Answer {
        /// Its name.
        annotation: String,
        /// The result.
        answer: Option<Answer>,
    },
    /// The ring gets a key for the MACs over epochs. Rings of earlier versions have none.
    AddEpochKey,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stage(material) => write!(f, "stage a new {material}"),
            Self::StageActive(material) => write!(f, "activate a new {material} at once"),
            Self::Publish(id) => write!(f, "mark {id} as Published"),
            Self::Activate { id, .. } => write!(f, "activate {id}"),
            Self::Switched(id) => write!(f, "record that the successor of {id} is in use"),
            Self::Remove(id) => write!(f, "remove {id}"),
            Self::Abandon(id) => write!(f, "abort the rotation to {id}"),
            Self::Discard(id) => write!(f, "discard {id}, which is no longer needed"),
            Self::Reactivate { id, .. } => write!(f, "activate {id} again after an abort"),
            Self::Resume { id, .. } => write!(f, "activate {id} again, which the user restored in the Secret"),
            Self::Suspect { id, mode } => write!(f, "mark {id} as compromised ({mode:?})"),
            Self::Distrust { id, mode } => write!(f, "distrust {id} ({mode:?})"),
            Self::Refused { id, .. } => write!(f, "record that all instances refuse {id}"),
            Self::HandleDistrust(distrust) => write!(f, "record the distrust of a CA at {} as handled", distrust.since),
            Self::HandleRevision(revision) => write!(f, "record rotationRevision {revision}"),
            Self::RaiseMaxTtl(seconds) => write!(f, "record the token validity {seconds}s"),
            Self::Answer { annotation, answer: Some(_) } => write!(f, "record the answer to annotation {annotation}"),
            Self::Answer { annotation, answer: None } => write!(f, "forget annotation {annotation}, which was removed"),
            Self::AddEpochKey => write!(f, "add the key for MACs of epochs"),
        }
    }
}

impl Step {
    /// Returns true if it changes what pods and issuers mount. Only then does the ring get a new epoch.
    #[must_use]
    pub fn changes_projections(&self, active_is_published: bool) -> bool {
        match self {
            Self::Activate { .. } | Self::Reactivate { .. } | Self::Resume { .. } => active_is_published,
            Self::Stage(_)
            | Self::StageActive(_)
            | Self::Remove(_)
            | Self::Abandon(_)
            | Self::Discard(_)
            | Self::Distrust { .. }
            | Self::AddEpochKey => true,
            Self::Publish(_)
            | Self::Switched(_)
            | Self::Suspect { .. }
            | Self::Refused { .. }
            | Self::HandleDistrust(_)
            | Self::HandleRevision(_)
            | Self::RaiseMaxTtl(_)
            | Self::Answer { .. } => false,
        }
    }

    /// Returns true if it only records an answer to an annotation. The generations are unchanged, so the ring is not
    /// copied for it: the copy is the state that a restore returns to.
    #[must_use]
    pub fn only_records(&self) -> bool {
        matches!(self, Self::Answer { .. })
    }

    /// The material that must be generated for this step.
    #[must_use]
    pub fn material(&self) -> Option<&MaterialRequest> {
        match self {
            Self::Stage(material) | Self::StageActive(material) => Some(material),
            _ => None,
        }
    }
}
