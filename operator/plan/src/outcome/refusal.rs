//! Reasons why something is not done.

use serde::Serialize;

/// The reason why something is not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// CamelCase, see `gaia_api::crd::reason`.
    pub reason: &'static str,
    /// Names the object and the field.
    pub message: String,
    /// True if a user must act. Otherwise the cause is temporary.
    pub stalled: bool,
}

impl Refusal {
    /// A refusal that requires action of a user.
    #[must_use]
    pub fn stalled(reason: &'static str, message: String) -> Self {
        Self { reason, message, stalled: true }
    }

    /// It passes once something else has happened.
    #[must_use]
    pub fn waiting(reason: &'static str, message: String) -> Self {
        Self { reason, message, stalled: false }
    }

    /// The same, with the field it is about in front.
    #[must_use]
    pub fn about(mut self, field: &str) -> Self {
        self.message = format!("{field}: {}", self.message);
        self
    }
}
