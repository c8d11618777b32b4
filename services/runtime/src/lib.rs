//! The runtime of a Gaia service: mounted-directory reload, listeners, mTLS client.
//!
//! A service is its configuration, its state and its [`Routes`]; the rest is here. [`Runtime::start`] takes what is
//! mounted, [`Runtime::serve`] serves the routes until it is told to stop, and in between the mounted directory is
//! looked at again and again: a new leaf, bundle, policy or key set is served without a restart, and a bad one is not
//! taken at all.

mod client;
pub mod config;
mod connection;
mod generation;
mod health;
mod linger;
mod listener;
mod material;
mod metrics;
mod mount;
mod peer;
mod reload;
mod routes;
mod runtime;
pub mod telemetry;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use client::{CallError, MeshClient, ServiceToken, TokenRequest};
pub use config::RuntimeConfig;
pub use generation::Generation;
pub use mount::Files;
pub use reload::ServiceFiles;
pub use routes::Routes;
pub use runtime::{Runtime, StartError, stop_signal};
