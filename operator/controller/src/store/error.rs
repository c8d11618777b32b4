//! Errors of I/O, and the reaction to each.

use crate::api_server::Fault;

/// Drives backoff, condition, event and metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorClass {
    /// Temporary: retry later.
    Transient,
    /// The observed version is outdated: plan again now.
    Conflict,
    /// Only a changed object or permission helps.
    UserInput,
    /// A fault of the operator.
    Bug,
}

impl ErrorClass {
    /// The metric label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Conflict => "conflict",
            Self::UserInput => "user_input",
            Self::Bug => "bug",
        }
    }
}

/// The reason why a request to the store failed; `key` names the object.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("{key} exists already")]
    AlreadyExists { key: String },
    #[error("{key} was changed by another writer: {message}")]
    Conflict { key: String, message: String },
    #[error("{key} does not exist")]
    NotFound { key: String },
    #[error("may not {verb} {key}: {message}")]
    Forbidden { verb: &'static str, key: String, message: String },
    #[error("cannot {verb} {key}: the API server refuses it: {message}")]
    Invalid { verb: &'static str, key: String, message: String },
    /// For a cause inside the object's namespace, which delays no other work.
    #[error("cannot {verb} {key}: {cause}")]
    InNamespace { verb: &'static str, key: String, cause: String },
    #[error("cannot {verb} {key} now: {message}")]
    Transient { verb: &'static str, key: String, message: String },
    #[error("cannot {verb} {key}: no response within {seconds} s")]
    Timeout { verb: &'static str, key: String, seconds: u64 },
    #[error("{key} cannot be read: {fault}")]
    Unreadable { key: String, fault: Fault },
}

impl StoreError {
    pub(crate) fn class(&self) -> ErrorClass {
        match self {
            Self::AlreadyExists { .. } | Self::Conflict { .. } | Self::NotFound { .. } => ErrorClass::Conflict,
            Self::Forbidden { .. } | Self::Invalid { .. } | Self::InNamespace { .. } | Self::Unreadable { .. } => {
                ErrorClass::UserInput
            }
            Self::Transient { .. } | Self::Timeout { .. } => ErrorClass::Transient,
        }
    }
}

/// The reason why an action was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecuteError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("Secret {namespace}/{name}: {message}")]
    Ring { namespace: String, name: String, message: String },
    #[error("the active {what} of TrustDomain {trust_domain} has changed")]
    SignerChanged { what: &'static str, trust_domain: String },
    #[error("cannot issue the certificate: {0}")]
    Leaf(#[from] gaia_pki::LeafError),
    #[error("cannot generate the key: {0}")]
    Key(#[from] gaia_pki::KeyError),
    #[error("cannot generate the CA: {0}")]
    Ca(#[from] gaia_pki::CaError),
    #[error("cannot publish the key: {0}")]
    Jwk(#[from] gaia_pki::JwkError),
    #[error("no random numbers are available")]
    Entropy,
    #[error("internal error: {0}")]
    Internal(String),
}

impl ExecuteError {
    /// Returns true if the cause is inside the namespace of the object that was to be written.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self, Self::Store(StoreError::InNamespace { .. }))
    }

    pub(crate) fn class(&self) -> ErrorClass {
        match self {
            Self::Store(error) => error.class(),
            Self::SignerChanged { .. } => ErrorClass::Conflict,
            Self::Ring { .. } | Self::Leaf(_) | Self::Ca(_) => ErrorClass::UserInput,
            Self::Entropy => ErrorClass::Transient,
            Self::Key(_) | Self::Jwk(_) | Self::Internal(_) => ErrorClass::Bug,
        }
    }
}
