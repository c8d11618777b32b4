//! Scenarios that need a cluster: a control plane on loopback, or a node whose pods run. ../README.md describes
//! where to add a test.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod admission;
mod admission_support;
mod canary;
mod clock_jump;
mod common;
mod gateway_load;
mod gitops;
mod isolation;
mod isolation_support;
mod load;
mod load_support;
mod migration;
mod node;
mod node_platform;
mod node_rotation;
mod node_support;
mod operator_crash;
mod operator_crash_abort;
mod operator_crash_distrust;
mod operator_crash_rotation;
mod operator_external_ca;
mod operator_instances;
mod operator_issue;
mod operator_leadership;
mod operator_legacy;
mod operator_nudge;
mod operator_plan;
mod operator_refuse;
mod operator_repair;
mod operator_rights;
mod operator_rings;
mod operator_rings_support;
mod operator_rotation;
mod operator_storm;
mod operator_upgrade;
mod operator_upheaval;
mod python;
mod rehearsal;
mod rotation_load;
mod services;
