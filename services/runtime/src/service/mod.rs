//! The process of a service: start, listeners, health, shutdown.
//!
//! In: the configuration and the routes of a service. Out: a running process with its mesh, ingress, admin and probe
//! listeners. `process` sets up logging and signals, `runtime` starts the parts in order and stops them, `routes` joins
//! paths with the access they need, `identity` serves what probes read, and `health` and `admin` serve `/livez`, `/readyz` and
//! `/metrics`.

pub(crate) mod admin;
pub(crate) mod health;
pub(crate) mod identity;
pub(crate) mod memory;
pub(crate) mod process;
pub(crate) mod routes;
pub(crate) mod runtime;
pub mod telemetry;
