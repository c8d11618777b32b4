//! The Gaia operator.

mod admin;
mod config;
mod crd;
mod error;
mod events;
mod executor;
mod facts;
mod leader;
mod metrics;
mod mint;
mod pacer;
mod plan_command;
mod queue;
mod reconcile;
mod run;
mod signers;
mod store;
mod watch;
mod world;

use clap::{Parser, Subcommand};

/// Issues and rotates certificates and JWT signing keys for a platform of Kubernetes services.
#[derive(Parser)]
#[command(name = "gaia-operator", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the operator.
    Run(config::RunArgs),
    /// Print what would be done now; writes nothing.
    Plan(plan_command::PlanArgs),
    /// Print the custom resource definitions, or write them to a directory.
    Crd(crd::CrdArgs),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Run(args) => run::run(args).await,
        Command::Plan(args) => plan_command::run(args).await,
        Command::Crd(args) => crd::run(&args),
    }
}
