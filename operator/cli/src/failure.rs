//! Errors of commands.

use std::fmt;

use crate::Exit;

/// The reason why a command ended without a result: the object or file and the cause, the next step, and the exit code.
///
/// It never contains a private key, an API key or a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    exit: Exit,
    cause: String,
    next: Option<String>,
}

impl Failure {
    /// A fault of the command line or of an input. Nothing was changed.
    #[must_use]
    pub fn usage(cause: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, cause: cause.into(), next: None }
    }

    /// An operation that failed.
    #[must_use]
    pub fn failing(cause: impl Into<String>) -> Self {
        Self { exit: Exit::Failing, cause: cause.into(), next: None }
    }

    /// A state that cannot be determined.
    #[must_use]
    pub fn unknown(cause: impl Into<String>) -> Self {
        Self { exit: Exit::Unknown, cause: cause.into(), next: None }
    }

    /// A fault of this program.
    #[must_use]
    pub fn bug(cause: impl Into<String>) -> Self {
        Self { exit: Exit::Bug, cause: cause.into(), next: None }
    }

    /// Adds the next step: a command, or an edit.
    #[must_use]
    pub fn next(self, step: impl Into<String>) -> Self {
        Self { next: Some(step.into()), ..self }
    }

    /// The cause, without the next step.
    #[must_use]
    pub fn cause(&self) -> &str {
        &self.cause
    }

    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)?;
        match &self.next {
            Some(step) => write!(f, "\nnext: {step}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}
