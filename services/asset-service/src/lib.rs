//! Gaia's asset-service: stores files per subject.
//!
//! `GET /assets` lists, `PUT`, `GET` and `DELETE /assets/{path}` handle one asset. Reading requires the scope
//! `assets:read`, writing `assets:write`; gaia-auth authenticates the request before.

mod api;
pub mod asset_path;
pub mod assets;
pub mod bucket;
pub mod config;
pub mod error;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use gaia_api::Clock;
use gaia_runtime::{MemoryBudget, Routes, Runtime};
use object_store::local::LocalFileSystem;

pub use assets::quota;
pub use config::Config;

use crate::api::Api;
use crate::assets::Assets;
use crate::assets::moves::Moves;
use crate::bucket::BucketError;
use crate::config::{Place, StoreConfig};

/// Reason why the service did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The folder of GAIA_OBJECT_STORE_URL cannot be used.
    #[error("the folder {folder} (GAIA_OBJECT_STORE_URL) cannot be used: {source}")]
    Store {
        /// The folder.
        folder: PathBuf,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The bucket of GAIA_OBJECT_STORE_URL cannot be used.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The runtime did not start.
    #[error(transparent)]
    Runtime(#[from] gaia_runtime::StartError),
}

/// Runs asset-service as a process, configured by its flags and environment.
#[must_use]
pub fn main() -> ExitCode {
    gaia_runtime::main(AssetService::start, AssetService::serve)
}

/// A started asset-service with bound listeners.
#[derive(Debug)]
pub struct AssetService {
    /// The runtime that serves it.
    pub runtime: Runtime,
    routes: Routes,
}

impl AssetService {
    /// Opens the store, loads the credential directory and binds the listeners.
    ///
    /// # Errors
    /// [`StartError`] if the store is unusable or an address cannot be bound.
    pub async fn start(config: Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let assets = open(&config.store)?;
        let runtime = Runtime::start(config.runtime, clock, Arc::new(()), |_| ()).await?;
        let moves = Moves::new(runtime.authenticator());
        let routes = api::routes(runtime.routes(), &Api::new(assets, moves));
        Ok(Self { runtime, routes })
    }

    /// Serves until `stop` resolves.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        self.runtime.serve(self.routes, stop).await;
    }
}

fn open(config: &StoreConfig) -> Result<Assets, StartError> {
    let memory = MemoryBudget::new(config.bounds.held_bytes, config.bounds.memory_timeout);
    let folder = match &config.object_store_url {
        Place::Bucket(bucket) => {
            let store = bucket::open(bucket, config)?;
            return Ok(Assets::in_bucket(store, bucket.prefix.len(), config.limits(), memory));
        }
        Place::Folder(folder) => folder,
    };
    let failed = |source| StartError::Store { folder: folder.clone(), source };
    std::fs::create_dir_all(folder).map_err(|error| failed(error.into()))?;
    let store = LocalFileSystem::new_with_prefix(folder).map_err(|error| failed(error.into()))?;
    Ok(Assets::in_folder(store, config.limits(), memory))
}
