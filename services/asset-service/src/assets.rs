//! Putting, getting, listing and deleting objects of one subject.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use futures::{StreamExt as _, TryStreamExt as _};
use gaia_auth::Identity;
use gaia_runtime::{NoRoom, Room};
use http::StatusCode;
use jiff::Timestamp;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, UpdateVersion,
};
use serde::Serialize;

use crate::asset_path::{AssetPath, AssetPathError, asset_path, folder};
use crate::upload;

/// The largest asset.
pub const MAX_ASSET_BYTES: u64 = 64 * 1024 * 1024;
/// The most assets one list names.
pub const MAX_LISTED: usize = 1000;

/// The assets of all subjects, in one store.
#[derive(Debug, Clone)]
pub struct Assets {
    store: Arc<dyn ObjectStore>,
    kind: Kind,
    room: Room,
    turns: Arc<[tokio::sync::Mutex<()>; TURNS]>,
}

/// In what stores differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Lists in any order, and cannot compare what it has with what it should have had.
    Folder,
    /// Lists in order, and can.
    Bucket,
}

/// One asset in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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

/// A PUT that is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// What became of it.
    pub written: Written,
    /// What tells the new state from others.
    pub e_tag: Option<String>,
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
    /// A condition of the request does not hold.
    #[error("a condition of the request does not hold")]
    Condition,
    /// A condition of the request cannot be read.
    #[error("a condition of the request cannot be read")]
    BadCondition,
    /// There are no such bytes.
    #[error("the range lies outside of the asset")]
    RangeNotSatisfiable {
        /// How many bytes there are.
        size: u64,
    },
    /// `after` or `limit` of a list is none.
    #[error("{0} of the list cannot be taken")]
    BadPage(&'static str),
    /// The client went away or sent nothing for too long.
    #[error("the body did not arrive")]
    BodyNotArrived,
    /// All uploads together hold as much as they may.
    #[error("too much is on its way in: {0}")]
    Busy(#[from] NoRoom),
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
            Self::Condition => (StatusCode::PRECONDITION_FAILED, "A condition of this request does not hold."),
            Self::BadCondition => (StatusCode::BAD_REQUEST, "A condition of this request cannot be read."),
            Self::RangeNotSatisfiable { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, "The asset has no such bytes."),
            Self::BadPage("limit") => (StatusCode::BAD_REQUEST, "limit must be a number from 1 to 1000."),
            Self::BadPage(_) => (StatusCode::BAD_REQUEST, "after must be the path of an asset."),
            Self::BodyNotArrived => (StatusCode::REQUEST_TIMEOUT, "The asset did not arrive."),
            Self::Busy(_) => (StatusCode::SERVICE_UNAVAILABLE, "Too many assets are on their way in."),
            Self::Store(_) => (StatusCode::INTERNAL_SERVER_ERROR, "The asset could not be handled."),
        }
    }
}

impl From<object_store::Error> for AssetError {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { .. } => Self::NotFound,
            object_store::Error::Precondition { .. } => Self::Condition,
            error if is_folder_conflict(&error) => Self::FolderInTheWay,
            error => Self::Store(error),
        }
    }
}

impl Assets {
    /// Assets in a folder of this machine. Those that arrive are held in `room`.
    #[must_use]
    pub fn in_folder(folder: LocalFileSystem, room: Room) -> Self {
        // A folder left empty would stand in the way of an asset of its name.
        Self::new(Arc::new(folder.with_automatic_cleanup(true)), Kind::Folder, room)
    }

    /// Assets in a bucket, as [`Assets::in_folder`].
    #[must_use]
    pub fn in_bucket(bucket: Arc<dyn ObjectStore>, room: Room) -> Self {
        Self::new(bucket, Kind::Bucket, room)
    }

    fn new(store: Arc<dyn ObjectStore>, kind: Kind, room: Room) -> Self {
        Self { store, kind, room, turns: Arc::new(std::array::from_fn(|_| tokio::sync::Mutex::default())) }
    }

    /// The assets of a subject that come after `after`, at most `limit`, and whether there are more. Their order is
    /// that of the bytes of their paths as the store spells them: always the same, whatever comes and goes.
    ///
    /// # Errors
    /// [`AssetError::Store`].
    pub async fn list(
        &self,
        subject: &Identity,
        after: Option<&AssetPath>,
        limit: usize,
    ) -> Result<(Vec<Asset>, bool), AssetError> {
        let folder = folder(subject);
        let listed = match after {
            Some(after) => self.store.list_with_offset(Some(&folder), &after.object(subject)),
            None => self.store.list(Some(&folder)),
        };
        let listed = listed.try_filter_map(|meta| {
            let found = asset_path(&meta.location, &folder).map(|path| {
                let modified = Timestamp::from_second(meta.last_modified.timestamp()).ok();
                (meta.location, Asset { path, size: meta.size, modified })
            });
            std::future::ready(Ok(found))
        });
        let mut first: BTreeMap<Path, Asset> = BTreeMap::new();
        let mut listed = std::pin::pin!(listed);
        while let Some((location, asset)) = listed.try_next().await? {
            first.insert(location, asset);
            if first.len() > limit {
                if self.kind == Kind::Bucket {
                    // They come in order, so these are the first.
                    break;
                }
                if first.len() > limit + 1 {
                    first.pop_last();
                }
            }
        }
        let has_more = first.len() > limit;
        Ok((first.into_values().take(limit).collect(), has_more))
    }

    /// What is known of an asset.
    ///
    /// # Errors
    /// [`AssetError::NotFound`] or [`AssetError::Store`].
    pub async fn head(&self, subject: &Identity, path: &AssetPath) -> Result<ObjectMeta, AssetError> {
        Ok(self.store.head(&path.object(subject)).await?)
    }

    /// One asset, or some of its bytes, in the state that `meta` is of.
    ///
    /// # Errors
    /// [`AssetError::Condition`] if its state is another by now, [`AssetError::NotFound`] or [`AssetError::Store`].
    pub async fn get(&self, meta: &ObjectMeta, range: Option<Range<u64>>) -> Result<GetResult, AssetError> {
        let options =
            GetOptions { if_match: meta.e_tag.clone(), range: range.map(GetRange::Bounded), ..GetOptions::default() };
        Ok(self.store.get_opts(&meta.location, options).await?)
    }

    /// Writes an asset as it arrives; it is there when all of it is, and not before. `check` judges what is there: when
    /// the asset begins to arrive, and again when all of it has.
    ///
    /// # Errors
    /// Any [`AssetError`] but [`AssetError::NotFound`]; what was written is taken back.
    pub async fn put(
        &self,
        subject: &Identity,
        path: &AssetPath,
        body: Body,
        check: Option<&Check<'_>>,
    ) -> Result<Put, AssetError> {
        let object = path.object(subject);
        let mut before = self.find(&object).await?;
        judge(check, before.as_ref())?;
        // A local store would find out only once everything has arrived, and lose the reason on the way.
        if self.store.list(Some(&object)).next().await.transpose()?.is_some() {
            return Err(AssetError::FolderInTheWay);
        }
        let arrived = upload::receive(self.store.as_ref(), &object, body, &self.room).await?;
        let _turn = self.turn(&object).await;
        if check.is_some() {
            let judged = self.find(&object).await.and_then(|now| {
                before = now;
                judge(check, before.as_ref())
            });
            if let Err(error) = judged {
                arrived.take_back().await;
                return Err(error);
            }
        }
        let mode = match &before {
            // Other instances write to the same bucket: it is asked to check once more.
            Some(meta) if check.is_some() && self.kind == Kind::Bucket => {
                PutMode::Update(UpdateVersion { e_tag: meta.e_tag.clone(), version: None })
            }
            None if check.is_some() => PutMode::Create,
            _ => PutMode::Overwrite,
        };
        let written = if before.is_some() { Written::Replaced } else { Written::Created };
        Ok(Put { written, e_tag: arrived.finish(self.store.as_ref(), &object, mode).await? })
    }

    /// Deletes an asset, if `check` has nothing against what is there.
    ///
    /// # Errors
    /// [`AssetError::NotFound`], [`AssetError::Condition`] or [`AssetError::Store`].
    pub async fn delete(
        &self,
        subject: &Identity,
        path: &AssetPath,
        check: Option<&Check<'_>>,
    ) -> Result<(), AssetError> {
        let object = path.object(subject);
        let _turn = self.turn(&object).await;
        let found = self.find(&object).await?;
        judge(check, found.as_ref())?;
        // A bucket does not say whether there was anything.
        found.ok_or(AssetError::NotFound)?;
        Ok(self.store.delete(&object).await?)
    }

    async fn find(&self, object: &Path) -> Result<Option<ObjectMeta>, AssetError> {
        match self.store.head(object).await {
            Ok(meta) => Ok(Some(meta)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Between what is checked and what is done, nobody else in this instance does anything to the object.
    async fn turn(&self, object: &Path) -> tokio::sync::MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        object.hash(&mut hasher);
        let turn = usize::try_from(hasher.finish() % TURNS as u64).unwrap_or_default();
        self.turns[turn].lock().await
    }
}

fn judge(check: Option<&Check<'_>>, found: Option<&ObjectMeta>) -> Result<(), AssetError> {
    check.map_or(Ok(()), |check| check(found))
}

/// What a conditional write demands of what is there.
pub type Check<'a> = dyn Fn(Option<&ObjectMeta>) -> Result<(), AssetError> + Send + Sync + 'a;

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

/// Objects share them, by their hash.
const TURNS: usize = 64;
