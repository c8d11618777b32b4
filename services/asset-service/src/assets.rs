//! Putting, getting, listing and deleting objects of one subject.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures::{StreamExt as _, TryStreamExt as _};
use gaia_auth::Identity;
use http::StatusCode;
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use object_store::{GetResult, MultipartUpload, ObjectStore, ObjectStoreExt as _, WriteMultipart};
use serde::Serialize;
use tokio::time::timeout;

use crate::asset_path::{AssetPath, AssetPathError, asset_path, folder};

/// The largest asset.
pub const MAX_ASSET_BYTES: u64 = 64 * 1024 * 1024;
/// The most assets one list names.
pub const MAX_LISTED: usize = 1000;

/// The assets of all subjects, in one store.
#[derive(Debug, Clone)]
pub struct Assets {
    store: Arc<dyn ObjectStore>,
}

/// One asset in a list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Asset {
    /// Its path.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modified: Option<Timestamp>,
}

/// What became of a PUT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// There was nothing before.
    Created,
    /// It took the place of another.
    Replaced,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum AssetError {
    /// Not the path of an asset.
    #[error(transparent)]
    Path(#[from] AssetPathError),
    /// There is no such asset.
    #[error("no such asset")]
    NotFound,
    /// It would be a folder and an asset at once.
    #[error("a folder and an asset would have one name")]
    FolderInTheWay,
    /// Larger than [`MAX_ASSET_BYTES`].
    #[error("larger than 64 MiB")]
    TooLarge,
    /// The client went away or sent nothing for too long.
    #[error("the body did not arrive")]
    BodyNotArrived,
    /// The store failed.
    #[error("the store failed: {0}")]
    Store(object_store::Error),
}

impl AssetError {
    /// The status and the one message the caller sees.
    #[must_use]
    pub fn answer(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Path(_) => (StatusCode::BAD_REQUEST, "This is not the path of an asset."),
            Self::NotFound => (StatusCode::NOT_FOUND, "There is no such asset."),
            Self::FolderInTheWay => (StatusCode::CONFLICT, "A folder and an asset cannot have the same path."),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "An asset may have at most 64 MiB."),
            Self::BodyNotArrived => (StatusCode::REQUEST_TIMEOUT, "The asset did not arrive."),
            Self::Store(_) => (StatusCode::INTERNAL_SERVER_ERROR, "The asset could not be handled."),
        }
    }
}

impl From<object_store::Error> for AssetError {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { .. } => Self::NotFound,
            error if is_folder_conflict(&error) => Self::FolderInTheWay,
            error => Self::Store(error),
        }
    }
}

impl Assets {
    /// Assets in `store`.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store }
    }

    /// The assets of a subject by path, at most [`MAX_LISTED`], and whether there are more.
    ///
    /// # Errors
    /// [`AssetError::Store`].
    pub async fn list(&self, subject: &Identity) -> Result<(Vec<Asset>, bool), AssetError> {
        let folder = folder(subject);
        let listed = self.store.list(Some(&folder)).try_filter_map(|meta| {
            let asset = asset_path(&meta.location, &folder).map(|path| Asset {
                path,
                size: meta.size,
                modified: Timestamp::from_second(meta.last_modified.timestamp()).ok(),
            });
            std::future::ready(Ok(asset))
        });
        let mut assets: Vec<Asset> = listed.take(MAX_LISTED + 1).try_collect().await?;
        let has_more = assets.len() > MAX_LISTED;
        assets.truncate(MAX_LISTED);
        assets.sort_unstable();
        Ok((assets, has_more))
    }

    /// One asset.
    ///
    /// # Errors
    /// [`AssetError::NotFound`] or [`AssetError::Store`].
    pub async fn get(&self, subject: &Identity, path: &AssetPath) -> Result<GetResult, AssetError> {
        Ok(self.store.get(&path.object(subject)).await?)
    }

    /// Writes an asset as it arrives; it is there when all of it is, and not before.
    ///
    /// # Errors
    /// Any [`AssetError`] but [`AssetError::NotFound`]; what was written is taken back.
    pub async fn put(&self, subject: &Identity, path: &AssetPath, body: Body) -> Result<Written, AssetError> {
        let object = path.object(subject);
        let written = match self.store.head(&object).await {
            Ok(_) => Written::Replaced,
            Err(object_store::Error::NotFound { .. }) => Written::Created,
            Err(error) => return Err(error.into()),
        };
        // A local store would find out only once everything has arrived, and lose the reason on the way.
        if self.store.list(Some(&object)).next().await.transpose()?.is_some() {
            return Err(AssetError::FolderInTheWay);
        }
        let upload = self.store.put_multipart(&object).await?;
        write(upload, body).await?;
        Ok(written)
    }

    /// Deletes an asset.
    ///
    /// # Errors
    /// [`AssetError::NotFound`] or [`AssetError::Store`].
    pub async fn delete(&self, subject: &Identity, path: &AssetPath) -> Result<(), AssetError> {
        Ok(self.store.delete(&path.object(subject)).await?)
    }
}

async fn write(upload: Box<dyn MultipartUpload>, body: Body) -> Result<(), AssetError> {
    let mut writer = WriteMultipart::new(upload);
    match receive(&mut writer, body).await {
        Ok(()) => {
            writer.finish().await?;
            Ok(())
        }
        Err(error) => {
            // The first error is the one to tell of.
            let _ = writer.abort().await;
            Err(error)
        }
    }
}

async fn receive(writer: &mut WriteMultipart, mut body: Body) -> Result<(), AssetError> {
    let mut size = 0u64;
    while let Some(frame) = timeout(CHUNK_TIMEOUT, body.frame()).await.map_err(|_| AssetError::BodyNotArrived)? {
        let Ok(data) = frame.map_err(|_| AssetError::BodyNotArrived)?.into_data() else { continue };
        size = size.saturating_add(data.len() as u64);
        if size > MAX_ASSET_BYTES {
            return Err(AssetError::TooLarge);
        }
        writer.wait_for_capacity(PARTS_IN_FLIGHT).await?;
        writer.put(data);
    }
    Ok(())
}

/// A local store cannot have `a` and `a/b` at once.
fn is_folder_conflict(error: &object_store::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return matches!(
                error.kind(),
                io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory | io::ErrorKind::AlreadyExists
            );
        }
        source = error.source();
    }
    false
}

const CHUNK_TIMEOUT: Duration = Duration::from_secs(30);
const PARTS_IN_FLIGHT: usize = 2;
