//! Writing, reading, listing and deleting the objects of one subject.

pub(crate) mod etag;
pub(crate) mod moves;
mod moving;
pub mod quota;
pub(crate) mod upload;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use futures::{StreamExt as _, TryStreamExt as _};
use gaia_auth::Identity;
use gaia_runtime::MemoryBudget;
use jiff::Timestamp;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, UpdateVersion,
};
use serde::Serialize;

use crate::api::conditional::Validators;
use crate::asset_path::{AssetPath, AssetPathError, asset_path, folder};
use crate::assets::quota::{Limits, Quotas};
use crate::assets::upload::UploadMemory;
use crate::error::AssetError;

pub(crate) use moving::Moved;

/// Maximum size of an asset.
pub const MAX_ASSET_BYTES: u64 = 64 * 1024 * 1024;
/// The size of a part in a folder: small, so that uploads need little memory.
const FOLDER_PART_BYTES: usize = 256 * 1024;
/// The minimum size of a part in a bucket.
const BUCKET_PART_BYTES: usize = 5 * 1024 * 1024;
/// Maximum number of assets in one list.
pub const MAX_LISTED: usize = 1000;

/// The assets of all subjects, in one store.
#[derive(Debug, Clone)]
pub struct Assets {
    store: Arc<dyn ObjectStore>,
    kind: Kind,
    /// Maximum length of an object key, without the prefix of the bucket.
    max_key_bytes: usize,
    quotas: Quotas,
    memory: MemoryBudget,
    turns: Arc<[tokio::sync::Mutex<()>; TURNS]>,
}

/// Differences between kinds of stores.
#[derive(Debug, Clone)]
enum Kind {
    /// Lists in any order, and has no conditional writes.
    Folder(Arc<LocalFileSystem>),
    /// Lists in order, and supports conditional writes.
    Bucket,
}

/// One asset in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Asset {
    /// The path.
    pub path: String,
    /// The size in bytes.
    pub size: u64,
    /// Time of the last write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modified: Option<Timestamp>,
}

/// Result of a PUT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// There was no asset.
    Created,
    /// An asset was replaced.
    Replaced,
}

/// A completed PUT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// The result.
    pub written: Written,
    /// Entity tag of the new state.
    pub e_tag: Option<String>,
}

impl Assets {
    /// Stores assets in a local folder. Uploads in progress are charged to `memory`.
    #[must_use]
    pub fn in_folder(folder: LocalFileSystem, limits: Limits, memory: MemoryBudget) -> Self {
        // An empty folder would conflict with an asset of its name.
        let folder = Arc::new(folder.with_automatic_cleanup(true));
        Self::new(
            Arc::clone(&folder) as Arc<dyn ObjectStore>,
            Kind::Folder(folder),
            MAX_FILE_PATH_BYTES,
            limits,
            memory,
        )
    }

    /// Stores assets in a bucket, below a prefix of so many bytes; otherwise like [`Assets::in_folder`].
    #[must_use]
    pub fn in_bucket(bucket: Arc<dyn ObjectStore>, prefix_bytes: usize, limits: Limits, memory: MemoryBudget) -> Self {
        let max_key_bytes = MAX_KEY_BYTES.saturating_sub(prefix_bytes + 1);
        Self::new(bucket, Kind::Bucket, max_key_bytes, limits, memory)
    }

    fn new(
        store: Arc<dyn ObjectStore>,
        kind: Kind,
        max_key_bytes: usize,
        limits: Limits,
        memory: MemoryBudget,
    ) -> Self {
        let turns = Arc::new(std::array::from_fn(|_| tokio::sync::Mutex::default()));
        Self { quotas: Quotas::new(Arc::clone(&store), limits), store, kind, max_key_bytes, memory, turns }
    }

    /// Returns the memory for uploads of a subject.
    fn memory_of(&self, subject: &Identity) -> UploadMemory {
        let part_bytes = match self.kind {
            Kind::Folder(_) => FOLDER_PART_BYTES,
            Kind::Bucket => BUCKET_PART_BYTES,
        };
        UploadMemory { memory: self.memory.of(subject), part_bytes }
    }

    /// Returns the object of an asset.
    fn object(&self, subject: &Identity, path: &AssetPath) -> Result<Path, AssetError> {
        let object = path.object(subject);
        if object.as_ref().len() > self.max_key_bytes {
            return Err(AssetPathError::TooLong.into());
        }
        Ok(object)
    }

    /// Returns the validators of an object for clients.
    pub(crate) fn validators(&self, meta: &ObjectMeta) -> Validators {
        let e_tag = match self.kind {
            Kind::Folder(_) => Some(etag::of_file(meta)),
            Kind::Bucket => meta.e_tag.clone(),
        };
        Validators { etag: e_tag.and_then(|e_tag| e_tag.parse().ok()), modified: meta.last_modified.into() }
    }

    /// Lists the assets of a subject after `after`, at most `limit`, and whether there are more. They are in the order
    /// of the bytes of their encoded paths, which does not change when assets are added or deleted.
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
                if matches!(self.kind, Kind::Bucket) {
                    // The store lists in order, so these are the first.
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

    /// Returns the metadata of an asset.
    ///
    /// # Errors
    /// [`AssetError::NotFound`] or [`AssetError::Store`].
    pub async fn head(&self, subject: &Identity, path: &AssetPath) -> Result<ObjectMeta, AssetError> {
        Ok(self.store.head(&self.object(subject, path)?).await?)
    }

    /// Returns an asset, or a range of its bytes, in the state described by `meta`.
    ///
    /// # Errors
    /// [`AssetError::Condition`] if its state has changed, [`AssetError::NotFound`] or [`AssetError::Store`].
    pub async fn get(&self, meta: &ObjectMeta, range: Option<Range<u64>>) -> Result<GetResult, AssetError> {
        let options =
            GetOptions { if_match: meta.e_tag.clone(), range: range.map(GetRange::Bounded), ..GetOptions::default() };
        Ok(self.store.get_opts(&meta.location, options).await?)
    }

    /// Writes an asset from a streamed body; it becomes visible when it is complete. `check` evaluates the conditions
    /// of the request at the start and after the body has arrived. `announced` is the size, if the request has one.
    ///
    /// # Errors
    /// Any [`AssetError`] except [`AssetError::NotFound`]; uploaded data is removed.
    pub(crate) async fn put(
        &self,
        subject: &Identity,
        path: &AssetPath,
        announced: Option<u64>,
        body: Body,
        check: Option<&Check<'_>>,
    ) -> Result<Put, AssetError> {
        let object = self.object(subject, path)?;
        let before = self.find(&object).await?;
        self.judge(check, before.as_ref())?;
        // A local store would report this only after the whole body has arrived, and lose the reason.
        if self.store.list(Some(&object)).next().await.transpose()?.is_some() {
            return Err(AssetError::FolderInTheWay);
        }
        let replaced = before.as_ref().map(|meta| meta.size);
        let mut reservation = self.quotas.reserve(subject, announced, replaced).await?;
        let memory = self.memory_of(subject);
        let arrived = upload::receive(self.store.as_ref(), &object, body, &memory, &mut reservation).await?;
        let _turn = self.turn(&object).await;
        // Another upload of this instance may have completed first.
        let judged = self.find(&object).await.and_then(|now| self.judge(check, now.as_ref()).map(|()| now));
        let before = match judged {
            Ok(before) => before,
            Err(error) => {
                arrived.take_back().await;
                return Err(error);
            }
        };
        let mode = match &before {
            // Other instances may write to the same bucket, so the store checks the condition again.
            Some(meta) if check.is_some() && matches!(self.kind, Kind::Bucket) => {
                PutMode::Update(UpdateVersion { e_tag: meta.e_tag.clone(), version: None })
            }
            None if check.is_some() => PutMode::Create,
            _ => PutMode::Overwrite,
        };
        let mut e_tag = arrived.finish(self.store.as_ref(), &object, mode).await?;
        reservation.commit(before.as_ref().map(|meta| meta.size));
        if let Kind::Folder(folder) = &self.kind {
            let file = folder.path_to_filesystem(&object)?;
            let meta = self.store.head(&object).await?;
            let meta = etag::tell_apart(&file, before.as_ref(), meta).await;
            e_tag = Some(etag::of_file(&meta));
        }
        let written = if before.is_some() { Written::Replaced } else { Written::Created };
        Ok(Put { written, e_tag })
    }

    /// Deletes an asset if `check` accepts its state.
    ///
    /// # Errors
    /// [`AssetError::NotFound`], [`AssetError::Condition`] or [`AssetError::Store`].
    pub(crate) async fn delete(
        &self,
        subject: &Identity,
        path: &AssetPath,
        check: Option<&Check<'_>>,
    ) -> Result<(), AssetError> {
        let object = self.object(subject, path)?;
        let _turn = self.turn(&object).await;
        let found = self.find(&object).await?;
        self.judge(check, found.as_ref())?;
        // A bucket does not report whether the object existed.
        let found = found.ok_or(AssetError::NotFound)?;
        self.store.delete(&object).await?;
        self.quotas.deleted(subject, found.size);
        Ok(())
    }

    fn judge(&self, check: Option<&Check<'_>>, found: Option<&ObjectMeta>) -> Result<(), AssetError> {
        check.map_or(Ok(()), |check| check(found.map(|meta| self.validators(meta)).as_ref()))
    }

    async fn find(&self, object: &Path) -> Result<Option<ObjectMeta>, AssetError> {
        match self.store.head(object).await {
            Ok(meta) => Ok(Some(meta)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Locks the object against other writes of this instance between check and write.
    async fn turn(&self, object: &Path) -> tokio::sync::MutexGuard<'_, ()> {
        self.turns[Self::turn_number(object)].lock().await
    }

    fn turn_number(object: &Path) -> usize {
        let mut hasher = DefaultHasher::new();
        object.hash(&mut hasher);
        usize::try_from(hasher.finish() % TURNS as u64).unwrap_or_default()
    }
}

/// Evaluates the conditions of a write on the current state.
pub(crate) type Check<'a> = dyn Fn(Option<&Validators>) -> Result<(), AssetError> + Send + Sync + 'a;

/// Number of locks, shared by objects by their hash.
const TURNS: usize = 64;
/// Limit of S3.
const MAX_KEY_BYTES: usize = 1024;
/// Limit of Linux, reduced by the folder's own path.
const MAX_FILE_PATH_BYTES: usize = 3072;
