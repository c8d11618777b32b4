//! The command line.

pub(crate) mod config;
pub(crate) mod crd;
pub(crate) mod plan;
pub(crate) mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::runtime::Runtime;

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
    /// Print the actions that are due now, without writing anything.
    Plan(plan::PlanArgs),
    /// Print the custom resource definitions, or write them to a directory.
    Crd(crd::CrdArgs),
}

/// Runs the command of this process's arguments. A fatal error is printed as one line: in the log if there is one, so
/// that it is found among the JSON lines, and never with a backtrace, whatever `RUST_BACKTRACE` is.
#[expect(clippy::print_stderr, reason = "a command that writes no log")]
#[must_use]
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    let done = match Runtime::new() {
        Ok(runtime) => runtime.block_on(execute(command)),
        Err(error) => Err(anyhow::Error::new(error).context("failed to start threads")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if tracing::dispatcher::has_been_set() {
                tracing::error!(error = format!("{error:#}"), "ended");
            } else {
                eprintln!("error: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn execute(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(args) => run::run(args).await,
        Command::Plan(args) => plan::run(args).await,
        Command::Crd(args) => crd::run(&args),
    }
}
