//! The runtime of a Gaia service: reload of the credential directory, listeners, and mTLS client.
//!
//! A service consists of its configuration, its state and its [`Routes`]; this crate does the rest. [`main`] runs it:
//! [`Runtime::start`] loads the credential directory, and [`Runtime::serve`] serves the routes until shutdown.
//! While it runs, the directory is checked for changes: a new leaf, bundle, policy or key set is used without a restart, and
//! an invalid one is rejected.

mod calls;
mod client;
pub mod client_ip;
mod concurrency;
pub mod config;
mod credentials;
mod issuers;
mod limits;
mod observability;
mod panics;
mod random;
mod server;
mod service;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use calls::wire;
pub use client::external;
pub use observability::{rate, sign_in_audit};
pub use service::telemetry;

pub use calls::caller::{Caller, CallsConfig, parse_https, parse_upstream};
pub use calls::exchange::{OnBehalf, ServiceToken, Subject, TokenRequest};
pub use client::external::{OutsideClientError, error_chain, is_outside_address, outside_client};
pub use client::mesh_client::{CallError, Hosts, MeshClient};
pub use client::pool::AnswerBody;
pub use client::target::Targets;
pub use concurrency::fair_queue::FairQueue;
pub use concurrency::memory_budget::{BudgetExhausted, MemoryBudget, MemoryReservation, SubjectMemory};
pub use concurrency::recent::Recent;
pub use concurrency::shares::{Share, ShareExhausted, Shares};
pub use concurrency::single_flight::SingleFlight;
pub use config::{RuntimeConfig, positive_span};
pub use credentials::directory::Files;
pub use credentials::reload::{LoadedFiles, ServiceFiles};
pub use credentials::snapshot::CredentialsSnapshot;
pub use issuers::issuer_key;
pub use panics::essential_thread;
pub use random::random;
pub use server::ingress::{Edge, EdgeConfig};
pub use service::memory::part_of_limit;
pub use service::process::{StopSignal, main, main_on_threads, stop_signal};
pub use service::routes::Routes;
pub use service::runtime::{Runtime, StartError};
