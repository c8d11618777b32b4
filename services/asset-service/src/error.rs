//! Errors of asset requests, and their responses.

use std::error::Error as _;
use std::io;

use gaia_runtime::BudgetExhausted;
use http::StatusCode;

use crate::asset_path::AssetPathError;

/// Reason why a request fails.
#[derive(Debug, thiserror::Error)]
pub enum AssetError {
    /// The path is invalid.
    #[error(transparent)]
    Path(#[from] AssetPathError),
    /// The asset does not exist.
    #[error("no such asset")]
    NotFound,
    /// The path would be a folder and an asset at once.
    #[error("a folder and an asset would have the same path")]
    FolderInTheWay,
    /// Larger than [`MAX_ASSET_BYTES`](crate::assets::MAX_ASSET_BYTES).
    #[error("larger than 64 MiB")]
    TooLarge,
    /// A condition of the request does not hold.
    #[error("a precondition of the request failed")]
    Condition,
    /// A condition of the request is malformed.
    #[error("a precondition of the request is malformed")]
    BadCondition,
    /// The range is outside of the asset.
    #[error("the range is outside of the asset")]
    RangeNotSatisfiable {
        /// The size of the asset.
        size: u64,
    },
    /// `after` or `limit` of a list is invalid.
    #[error("{0} of the list is invalid")]
    BadPage(&'static str),
    /// The client disconnected or sent nothing for too long.
    #[error("the request body was not received")]
    BodyNotArrived,
    /// The memory budget of uploads is exhausted.
    #[error("too many uploads in progress: {0}")]
    Busy(#[from] BudgetExhausted),
    /// The assets of the subject are being moved to it.
    #[error("the assets of the subject's API key are being moved")]
    Moving,
    /// The subject's quota of bytes or assets is used up.
    #[error("the quota of the subject is exhausted")]
    QuotaExceeded,
    /// The store is full, or the quota of all assets is used up.
    #[error("the store is full: {0}")]
    StoreFull(String),
    /// The store failed.
    #[error("the store failed: {0}")]
    Store(object_store::Error),
}

impl AssetError {
    /// Returns the status and the message for the client.
    #[must_use]
    pub fn answer(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Path(AssetPathError::TooLong) => {
                (StatusCode::BAD_REQUEST, "This path is too long: a name may have 255 letters, a path 1024 bytes.")
            }
            Self::Path(_) => (StatusCode::BAD_REQUEST, "The path of the asset is invalid."),
            Self::NotFound => (StatusCode::NOT_FOUND, "There is no such asset."),
            Self::FolderInTheWay => (StatusCode::CONFLICT, "A folder and an asset cannot have the same path."),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "An asset may have at most 64 MiB."),
            Self::Condition => (StatusCode::PRECONDITION_FAILED, "A precondition of this request failed."),
            Self::BadCondition => (StatusCode::BAD_REQUEST, "A precondition of this request is malformed."),
            Self::RangeNotSatisfiable { .. } => {
                (StatusCode::RANGE_NOT_SATISFIABLE, "The requested range is outside of the asset.")
            }
            Self::BadPage("limit") => (StatusCode::BAD_REQUEST, "limit must be a number from 1 to 1000."),
            Self::BadPage(_) => (StatusCode::BAD_REQUEST, "after must be the path of an asset."),
            Self::BodyNotArrived => (StatusCode::REQUEST_TIMEOUT, "The request body was not received."),
            Self::Busy(_) => (StatusCode::SERVICE_UNAVAILABLE, "Too many uploads are in progress. Try again later."),
            Self::Moving => (
                StatusCode::SERVICE_UNAVAILABLE,
                "The assets of your API key are being moved to your account. Try again later.",
            ),
            Self::QuotaExceeded => {
                (StatusCode::INSUFFICIENT_STORAGE, "Your quota is used up: delete assets before you upload more.")
            }
            Self::StoreFull(_) => (StatusCode::INSUFFICIENT_STORAGE, "The asset store is full."),
            Self::Store(_) => (StatusCode::INTERNAL_SERVER_ERROR, "The asset store failed."),
        }
    }
}

impl From<object_store::Error> for AssetError {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { .. } => Self::NotFound,
            object_store::Error::Precondition { .. } => Self::Condition,
            error if is_full(&error) => Self::StoreFull(error.to_string()),
            error if is_folder_conflict(&error) => Self::FolderInTheWay,
            error => Self::Store(error),
        }
    }
}

/// Returns the kind of the I/O error that caused a store error.
fn io_kind(error: &object_store::Error) -> Option<io::ErrorKind> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        source = error.source();
    }
    None
}

/// Returns true if `a` and `a/b` would both exist in a local store.
fn is_folder_conflict(error: &object_store::Error) -> bool {
    matches!(
        io_kind(error),
        Some(io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory | io::ErrorKind::AlreadyExists)
    )
}

/// Returns true for a full disk or disk quota (ENOSPC, EDQUOT), and for a bucket that reports one.
fn is_full(error: &object_store::Error) -> bool {
    if matches!(io_kind(error), Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) {
        return true;
    }
    // AWS has no code for it; these are of MinIO, Ceph and others, and the status is from RFC 4918.
    let text = error.to_string();
    text.contains("status code: 507") || FULL_CODES.iter().any(|code| text.contains(&format!("<Code>{code}</Code>")))
}

const FULL_CODES: [&str; 7] = [
    "QuotaExceeded",
    "XMinioStorageFull",
    "XMinioAdminBucketQuotaExceeded",
    "StorageFull",
    "InsufficientStorage",
    "InsufficientCapacity",
    "StorageQuotaExceeded",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn full(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> bool {
        let error = object_store::Error::Generic { store: "test", source: source.into() };
        AssetError::from(error).answer().0 == StatusCode::INSUFFICIENT_STORAGE
    }

    #[test]
    fn a_full_disk_or_bucket_is_507_in_each_spelling() {
        const ENOSPC: i32 = 28;
        const EDQUOT: i32 = 122;
        for (number, expected) in [(ENOSPC, true), (EDQUOT, true), (5, false), (13, false)] {
            assert_eq!(full(io::Error::from_raw_os_error(number)), expected, "{number}");
        }
        for code in FULL_CODES {
            assert!(full(format!("Server returned non-2xx status code: 403 Forbidden: <Code>{code}</Code>")), "{code}");
        }
        assert!(full("Server returned non-2xx status code: 507 Insufficient Storage: "));
        assert!(!full("Server returned non-2xx status code: 403 Forbidden: <Code>AccessDenied</Code>"));
    }
}
