//! Events of actions that were done.

use serde::Serialize;

/// An event about an action that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// CamelCase, see `gaia_api::crd::reason`.
    pub reason: &'static str,
    /// The text for users, without secrets.
    pub message: String,
    /// True for an event of type Warning.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub warning: bool,
}

impl Event {
    /// That something happened.
    #[must_use]
    pub fn new(reason: &'static str, message: String) -> Self {
        Self { reason, message, warning: false }
    }

    /// An event of type Warning.
    #[must_use]
    pub fn warning(reason: &'static str, message: String) -> Self {
        Self { reason, message, warning: true }
    }
}
