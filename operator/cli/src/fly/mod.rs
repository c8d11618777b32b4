//! `gaia fly` and `gaia export fly`: the files of a directory on apps of Fly.io.
//!
//! Fly writes files at the boot of a machine only, from secrets, so a rotation is a rolling restart. [`plan`] decides the next step
//! from the observed state; the other modules observe the apps and take the steps.

mod deploy;
mod export;
mod flyctl;
mod handshake;
mod names;
mod plan;
mod record;
mod site;
mod tree;
mod verify;
mod window;

use clap::Subcommand;

use crate::cli::Context;
use crate::{Exit, Failure};

/// The commands of `gaia fly`.
#[derive(Debug, Subcommand)]
pub(crate) enum FlyCommand {
    /// Bring the files of the directory to the apps: publish first, then switch app by app. Safe to run again.
    Deploy(deploy::DeployArgs),
    /// Compare the apps with the directory by what each started machine presents and accepts.
    Verify(verify::VerifyArgs),
}

/// The commands of `gaia export`.
#[derive(Debug, Subcommand)]
pub(crate) enum ExportCommand {
    /// Print the secrets of an app of Fly.io, or the parts of its fly.toml.
    Fly(export::ExportArgs),
}

/// Runs a command of `gaia fly`.
pub(crate) async fn run(command: FlyCommand, context: &mut Context) -> Result<Exit, Failure> {
    let dir = context.dir();
    match command {
        FlyCommand::Deploy(args) => deploy::run(&args, &dir, context).await,
        FlyCommand::Verify(args) => verify::run(&args, &dir, context).await,
    }
}

/// Runs a command of `gaia export`.
pub(crate) fn export(command: ExportCommand, context: &mut Context) -> Result<Exit, Failure> {
    match command {
        ExportCommand::Fly(args) => export::run(&args, &context.dir(), context),
    }
}
