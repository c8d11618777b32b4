//! Moving an object of one subject to another.

use axum::body::{Body, Bytes};
use futures::TryStreamExt as _;
use futures::stream::BoxStream;
use gaia_auth::Identity;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore as _, ObjectStoreExt as _, PutMode};
use tokio::sync::MutexGuard;

use super::{Assets, Kind};
use crate::asset_path::folder;
use crate::assets::upload;
use crate::error::AssetError;

/// The result of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moved {
    /// The object is at its new path, and no longer at the old one.
    Yes,
    /// Another object has the new path: nothing was changed.
    PathTaken,
}

impl Assets {
    /// Lists all objects of a subject.
    pub(crate) fn objects(&self, subject: &Identity) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.store.list(Some(&folder(subject)))
    }

    /// Moves an object from one subject to another, under the same path. It is deleted at its old path only once the whole
    /// of it is at the new one, so a move that was interrupted can be repeated.
    ///
    /// # Errors
    /// [`AssetError::Moving`] if it is being written, [`AssetError::Busy`] or [`AssetError::Store`].
    pub(crate) async fn move_object(
        &self,
        meta: &ObjectMeta,
        from: &Identity,
        to: &Identity,
    ) -> Result<Moved, AssetError> {
        let (old, new) = (folder(from), folder(to));
        let Some(rest) = meta.location.prefix_match(&old) else { return Ok(Moved::PathTaken) };
        let target = new.parts().chain(rest).collect::<Path>();
        if target.as_ref().len() > self.max_key_bytes {
            return Ok(Moved::PathTaken);
        }
        let mut meta = meta.clone();
        for _ in 0..MAX_ATTEMPTS {
            match self.try_move(&meta, &target, to).await {
                Ok(Attempt::Done) => return Ok(Moved::Yes),
                Ok(Attempt::Changed(now)) => meta = now,
                // Another instance was faster, or the user deleted the other asset.
                Err(AssetError::NotFound) => {}
                Err(AssetError::Condition | AssetError::FolderInTheWay) => return Ok(Moved::PathTaken),
                Err(error) => return Err(error),
            }
        }
        Err(AssetError::Moving)
    }

    async fn try_move(&self, meta: &ObjectMeta, target: &Path, to: &Identity) -> Result<Attempt, AssetError> {
        let source = &meta.location;
        // A bucket is written to as by an upload, within the memory budget of uploads.
        let arrived = match &self.kind {
            Kind::Folder(_) => None,
            Kind::Bucket => {
                let body = match self.get(meta, None).await {
                    Ok(found) => Body::from_stream(found.into_stream()),
                    Err(AssetError::NotFound | AssetError::Condition) => return self.changed(source).await,
                    Err(error) => return Err(error),
                };
                let mut unlimited = self.quotas.unlimited();
                Some(upload::receive(self.store.as_ref(), target, body, &self.memory_of(to), &mut unlimited).await?)
            }
        };
        let _turns = self.turns(source, target).await;
        let is_unchanged = self.find(source).await?.is_some_and(|now| now.e_tag == meta.e_tag);
        let there = if is_unchanged { self.find(target).await? } else { None };
        match (arrived, there) {
            (arrived, there) if !is_unchanged || there.is_some() => {
                if let Some(arrived) = arrived {
                    arrived.take_back().await;
                }
                let Some(there) = there else { return self.changed(source).await };
                // The same content is what an interrupted move left behind.
                if !self.is_same(meta, &there).await? {
                    return Err(AssetError::Condition);
                }
            }
            (Some(arrived), _) => drop(arrived.finish(self.store.as_ref(), target, PutMode::Create).await?),
            (None, _) => match self.store.copy_if_not_exists(source, target).await {
                Err(object_store::Error::AlreadyExists { .. }) => return Err(AssetError::Condition),
                copied => copied?,
            },
        }
        self.store.delete(source).await?;
        Ok(Attempt::Done)
    }

    async fn changed(&self, source: &Path) -> Result<Attempt, AssetError> {
        Ok(self.find(source).await?.map_or(Attempt::Done, Attempt::Changed))
    }

    async fn is_same(&self, one: &ObjectMeta, other: &ObjectMeta) -> Result<bool, AssetError> {
        if one.size != other.size {
            return Ok(false);
        }
        let (mut left, mut right) =
            (self.get(one, None).await?.into_stream(), self.get(other, None).await?.into_stream());
        let (mut first, mut second) = (Bytes::new(), Bytes::new());
        let mut compared = 0;
        loop {
            if first.is_empty() {
                first = left.try_next().await?.unwrap_or_default();
            }
            if second.is_empty() {
                second = right.try_next().await?.unwrap_or_default();
            }
            let both = first.len().min(second.len());
            if both == 0 {
                // A stream that ends early proves nothing.
                return Ok(compared == one.size);
            }
            if first.split_to(both) != second.split_to(both) {
                return Ok(false);
            }
            compared += both as u64;
        }
    }

    /// Counts both subjects again before their next upload.
    pub(crate) fn moved(&self, from: &Identity, to: &Identity) {
        self.quotas.count_again(from);
        self.quotas.count_again(to);
    }

    /// Locks both objects against other writes of this instance.
    async fn turns(&self, one: &Path, other: &Path) -> (MutexGuard<'_, ()>, Option<MutexGuard<'_, ()>>) {
        let (first, second) = (Self::turn_number(one), Self::turn_number(other));
        let guard = self.turns[first.min(second)].lock().await;
        let other = if first == second { None } else { Some(self.turns[first.max(second)].lock().await) };
        (guard, other)
    }
}

enum Attempt {
    Done,
    /// The object was written meanwhile.
    Changed(ObjectMeta),
}

const MAX_ATTEMPTS: u32 = 3;
