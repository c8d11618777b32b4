//! The engine without a cluster: the operator's own decisions on a directory.
//!
//! `manifests` parses `gaia.yaml`; `engine` applies it to the cluster snapshot and runs the same workers as in a
//! cluster. They write through `store` to the objects, one file each below `.gaia/objects`; from these `projection` writes
//! the service directories. `disk` holds every access below one handle and keeps a second writer out. `view` reads without
//! a lock; `requests` lets commands change a directory that a daemon holds; `adopt` takes over the tree of the old scripts.

mod adopt;
mod changes;
mod daemon;
mod disk;
mod engine;
mod events;
mod init;
mod manifests;
mod projection;
mod renewal;
mod requests;
mod store;
mod view;

pub use self::adopt::{AdoptedKey, Finish};
pub use self::daemon::{Settled, run, run_once};
pub use self::disk::error::DirectoryError;
pub use self::engine::{Engine, EngineSettings};
pub use self::init::{Environment, InitOptions, Initialised, init};
pub use self::manifests::DEFAULT_NAMESPACE;
pub use self::renewal::{Renewal, needs_renewal};
pub use self::requests::{Epochs, Request, RequestAction, RequestAnswer, RequestOutcome};
pub use self::view::{Directory, ServiceDirectory, check_manifests, is_own};

#[cfg(test)]
mod tests;
