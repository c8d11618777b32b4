//! Services and pages as processes on mounted directories, without a cluster.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod assets;
mod blast_radius;
mod blast_radius_support;
mod chat;
mod gateway;
mod gotrue_contract;
mod login;
mod login_limits;
mod login_refusals;
mod login_support;
mod old_certificates;
mod verdicts;
mod warm_users;
mod web;
mod web_by_gateway;
mod web_support;
