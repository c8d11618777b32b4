//! The harness itself: control planes, nodes and the demo, and the rules for our dependencies.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod control_plane;
mod dependencies;
mod node_supervisor;
