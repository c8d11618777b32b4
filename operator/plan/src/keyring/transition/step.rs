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
        /// When it is removed from the trust bundle.
        mode: DistrustMode,
    },
    /// It was compromised and is removed now. Staged generations are removed with [`Step::Discard`].
    Distrust {
        /// Which one.
        id: String,
        /// When it is removed from the trust bundle.
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
    Heed(Distrust),
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
            Self::StageActive(material) => write!(f, "sign at once with a new {material}"),
            Self::Publish(id) => write!(f, "{id} is Published"),
            Self::Activate { id, .. } => write!(f, "{id} is Active"),
            Self::Switched(id) => write!(f, "the successor of {id} is in use"),
            Self::Remove(id) => write!(f, "{id} is Removed"),
            Self::Abandon(id) => write!(f, "{id} is given up"),
            Self::Discard(id) => write!(f, "{id} is not wanted any more"),
            Self::Reactivate { id, .. } => write!(f, "{id} is Active again"),
            Self::Resume { id, .. } => write!(f, "{id} was put back and is Active again"),
            Self::Suspect { id, mode } => write!(f, "{id} is to be Distrusted ({mode:?})"),
            Self::Distrust { id, mode } => write!(f, "{id} is Distrusted ({mode:?})"),
            Self::Refused { id, .. } => write!(f, "{id} is refused everywhere"),
            Self::Heed(distrust) => write!(f, "the CA distrusted at {} is answered", distrust.since),
            Self::HandleRevision(revision) => write!(f, "rotationRevision {revision} is begun"),
            Self::RaiseMaxTtl(seconds) => write!(f, "tokens may live {seconds}s"),
            Self::Answer { annotation, answer: Some(_) } => write!(f, "annotation {annotation} is answered"),
            Self::Answer { annotation, answer: None } => write!(f, "annotation {annotation} was removed"),
            Self::AddEpochKey => write!(f, "epochs get a MAC"),
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
            | Self::Heed(_)
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
