//! The harness itself: control planes, nodes and the demo, the rules for our dependencies, and the documentation.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod control_plane;
mod dependencies;
mod documentation;
mod node_supervisor;
