//! Assets that were stored for an API key whose record names a user since then: they are moved to that user.
//!
//! The assets of a key without a principal belong to `key:<id>`. Once its record names `user:<issuer>:<sub>`, requests with the
//! key and with the user's token have that subject. At the first request of the user the assets of the key are moved to its
//! folder, one by one. Each step can be repeated, so that a crash or another instance at the same time loses nothing, and the
//! key's folder is checked again every minute: an instance with an older `api-keys.json` may still write there.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::TryStreamExt as _;
use gaia_api::sync::lock;
use gaia_auth::{Authenticator, BoundedMap, Identity};
use tokio::time::{Instant, timeout};

use crate::assets::{Assets, Moved};
use crate::error::AssetError;

/// The moves of one instance.
#[derive(Debug)]
pub(crate) struct Moves {
    authenticator: Arc<Authenticator>,
    users: Mutex<BoundedMap<Identity, Arc<Done>>>,
}

/// When the keys of a user were last checked. Locked while their assets are moved.
type Done = tokio::sync::Mutex<Option<Instant>>;

impl Moves {
    pub(crate) fn new(authenticator: Arc<Authenticator>) -> Self {
        Self { authenticator, users: Mutex::new(BoundedMap::newest(MAX_USERS)) }
    }

    /// Moves the assets of the subject's keys to the subject, if there are any.
    ///
    /// # Errors
    /// [`AssetError::Moving`] if that takes long: it continues. [`AssetError::Store`] if the store fails.
    pub(crate) async fn settle(&self, assets: &Assets, subject: &Identity) -> Result<(), AssetError> {
        let keys = self.authenticator.keys_of(subject);
        if keys.is_empty() {
            return Ok(());
        }
        let done = self.done(subject);
        if done.try_lock().is_ok_and(|done| is_recent(*done)) {
            return Ok(());
        }
        let (assets, subject) = (assets.clone(), subject.clone());
        // Not tied to the request, as a handler is dropped when its client disconnects.
        let moving = tokio::spawn(async move {
            let mut done = done.lock().await;
            if !is_recent(*done) {
                for key in keys {
                    move_all(&assets, &key, &subject).await?;
                }
                *done = Some(Instant::now());
            }
            Ok(())
        });
        match timeout(LONGEST_WAIT, moving).await {
            Ok(moved) => moved.map_err(object_store::Error::from)?,
            Err(_) => Err(AssetError::Moving),
        }
    }

    fn done(&self, subject: &Identity) -> Arc<Done> {
        let mut users = lock(&self.users);
        if let Some(done) = users.get(subject) {
            return Arc::clone(done);
        }
        let done = Arc::<Done>::default();
        users.insert((), subject.clone(), Arc::clone(&done));
        done
    }
}

/// Moves every asset of `from` to `to`. An asset of a path that `to` has too, with other content, stays where it is.
async fn move_all(assets: &Assets, from: &Identity, to: &Identity) -> Result<(), AssetError> {
    let found: Vec<_> = assets.objects(from).try_collect().await?;
    if found.is_empty() {
        return Ok(());
    }
    let (mut moved, mut kept) = (0, 0);
    for meta in found {
        match assets.move_object(&meta, from, to).await? {
            Moved::Yes => moved += 1,
            Moved::PathTaken => kept += 1,
        }
    }
    assets.moved(from, to);
    if moved > 0 {
        tracing::info!(%from, %to, moved, "assets of an API key were moved to its user");
    }
    if kept > 0 {
        tracing::warn!(%from, %to, kept, "assets of an API key were not moved: its user has others of the same path");
    }
    Ok(())
}

fn is_recent(done: Option<Instant>) -> bool {
    done.is_some_and(|at| at.elapsed() < CHECKED_EVERY)
}

const CHECKED_EVERY: Duration = Duration::from_secs(60);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
const MAX_USERS: usize = 4096;
