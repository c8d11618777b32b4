//! The Gaia operator: watches, plans, executes.
//!
//! The binary is [`cli::main`]. It runs an [`Operator`], which tests can run in their own process and with their own
//! clock.

pub mod cli;

mod admin;
mod agenda;
mod api_server;
mod config;
mod crd;
mod epoch_key;
mod error;
mod events;
mod executor;
mod facts;
mod fair;
mod leader;
mod metrics;
mod mint;
mod operator;
mod pacer;
mod plan_command;
mod probe;
mod queue;
mod reconcile;
mod run;
mod signers;
mod store;
mod text;
mod watch;
mod world;

pub use gaia_plan::trust_domain::Abilities;
pub use operator::{Operator, OperatorConfig};
