//! `gaia local`: the engine on a directory. Each command is a thin shell over `gaia_operator::directory`.

mod adopt;
pub(crate) mod change;
mod init;
mod log;
mod needs_renewal;
mod prune;
mod run;
mod unit;
mod up;

use std::sync::Arc;

use clap::Subcommand;
use gaia_operator::directory::{DirectoryError, EngineSettings};

use crate::cli::Context;
use crate::{Exit, Failure};

/// The commands of `gaia local`.
#[derive(Debug, Subcommand)]
pub(crate) enum LocalCommand {
    /// Create a directory of certificates and keys, or repair one. It is safe to run again.
    Init(init::InitArgs),
    /// Complete the adoption of a tree that the old scripts made.
    Adopt(adopt::AdoptArgs),
    /// Renew and rotate due material: as a daemon, or once.
    Run(run::RunArgs),
    /// Exit with 0 if the certificate of a service is due or missing, 1 if it is not due, 255 if that is not known.
    NeedsRenewal(needs_renewal::NeedsRenewalArgs),
    /// Remove a service that is no longer in gaia.yaml, with its directory.
    Prune(prune::PruneArgs),
    /// Run the whole platform on this machine: engine, services, and stand-ins for login and chat.
    Up(up::UpArgs),
    /// Print or write units of systemd: the engine, its timer, and drop-ins for services that read its directories.
    Unit(unit::UnitArgs),
}

/// Runs a command of `gaia local`.
pub(crate) async fn run(command: LocalCommand, context: &mut Context) -> Result<Exit, Failure> {
    let forbidden = gaia_api::process::forbid_core_dumps();
    forbidden.map_err(|error| Failure::failing(format!("cannot forbid core dumps, which hold keys: {error}")))?;
    match command {
        LocalCommand::Init(args) => init::run(args, context).await,
        LocalCommand::Adopt(args) => adopt::run(&args, context),
        LocalCommand::Run(args) => run::run(args, context).await,
        LocalCommand::NeedsRenewal(args) => Ok(needs_renewal::run(&args, context)),
        LocalCommand::Prune(args) => prune::run(args, context).await,
        LocalCommand::Up(args) => up::run(&args, context).await,
        LocalCommand::Unit(args) => unit::run(&args, context),
    }
}

/// The settings of an engine with the clock of the command.
fn settings(context: &Context) -> EngineSettings {
    EngineSettings::new(Arc::clone(&context.console.clock))
}

/// The failure of a directory: a wrong input is 64, a directory that another process holds 3, anything else 2.
pub(crate) fn failure(error: &DirectoryError) -> Failure {
    let text = error.to_string();
    match error {
        DirectoryError::Manifest { .. } | DirectoryError::Missing { .. } | DirectoryError::OldTree { .. } => {
            Failure::usage(text)
        }
        DirectoryError::Busy { .. } => {
            Failure::unknown(text).next("stop that process, or wait for it, and run the command again")
        }
        DirectoryError::Io { .. } | DirectoryError::Unsafe { .. } | DirectoryError::Unreadable { .. } => {
            Failure::failing(text)
        }
    }
}
