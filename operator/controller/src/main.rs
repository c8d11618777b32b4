//! The Gaia operator.

mod crd;

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
    /// Print the custom resource definitions, or write them to a directory.
    Crd(crd::CrdArgs),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Crd(args) => crd::run(&args),
    }
}
