//! Services and pages as processes on mounted directories, without a cluster.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod assets;
mod blast_radius;
mod blast_radius_support;
mod chat;
mod fly;
mod gateway;
mod local_up;
mod login;
mod old_certificates;
mod verdicts;
mod web;
