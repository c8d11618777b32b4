//! Scenarios that need a cluster: a control plane on loopback, or a node whose pods run. ../README.md describes
//! where to add a test.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod admission;
mod common;
mod crash;
mod gitops;
mod isolation;
mod load;
mod migration;
mod node;
mod operator;
mod python;
mod rehearsal;
mod rotation;
mod services;
