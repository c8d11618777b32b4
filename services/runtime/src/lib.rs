//! The runtime of a Gaia service: reload of the credential directory, listeners, and mTLS client.
//!
//! A service consists of its configuration, its state and its [`Routes`]; this crate does the rest. [`main`] runs it:
//! [`Runtime::start`] loads the credential directory, and [`Runtime::serve`] serves the routes until shutdown.
//! While it runs, the directory is checked for changes: a new leaf, bundle, policy or key set is used without a restart, and
//! an invalid one is rejected.

mod activity;
mod admin;
mod audit;
mod audit_log;
mod caller;
mod client;
pub mod client_ip;
pub mod config;
mod connection;
mod connections;
mod edge;
pub mod fetch;
mod frames;
mod framing;
mod generation;
mod handshake;
mod heads;
mod health;
mod host;
mod identity;
mod inbound;
mod issuance;
mod key_file;
mod lanes;
mod limits;
mod linger;
mod listener;
mod material;
mod memory;
mod metrics;
mod mount;
mod outside;
mod outside_client;
mod pace;
mod panics;
mod peer;
mod presented;
mod process;
mod protocol;
mod random;
pub mod rate;
mod recent;
mod reload;
mod room;
mod routes;
mod runtime;
mod shares;
pub mod sign_in_audit;
mod slots;
mod target;
pub mod telemetry;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod tokens;
mod verifier;
mod watch;
pub mod wire;

pub use caller::{Caller, CallsConfig, parse_https, parse_upstream};
pub use client::{CallError, Hosts, MeshClient};
pub use config::{RuntimeConfig, positive_span};
pub use edge::{Edge, EdgeConfig};
pub use fetch::is_outside_address;
pub use generation::Generation;
pub use issuance::{OnBehalf, ServiceToken, Subject, TokenRequest};
pub use lanes::AnswerBody;
pub use mount::Files;
pub use outside::issuer_key;
pub use outside_client::{OutsideClientError, outside_client};
pub use panics::essential_thread;
pub use process::{StopSignal, main, stop_signal};
pub use random::random;
pub use recent::Recent;
pub use reload::{InForce, ServiceFiles};
pub use room::{Held, NoRoom, Room};
pub use routes::Routes;
pub use runtime::{Runtime, StartError};
pub use target::Targets;
