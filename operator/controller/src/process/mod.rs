//! The process: leader election, the loops, and the admin listener.
//!
//! Read `operator` (which loops run, in which order they start), `workers` (those that decide, on any store), `leader` (the Lease), and `admin` (`/healthz`, `/readyz`,
//! `/metrics`).

pub(crate) mod admin;
pub(crate) mod leader;
pub(crate) mod operator;
pub(crate) mod workers;
