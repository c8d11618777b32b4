//! `gaia local`: the engine on a directory.

mod unit;

use clap::Subcommand;

use crate::cli::Context;
use crate::{Exit, Failure};

/// The commands of `gaia local`.
#[derive(Debug, Subcommand)]
pub(crate) enum LocalCommand {
    /// Print or write units of systemd: the engine, its timer, and drop-ins for services that read its directories.
    Unit(unit::UnitArgs),
}

/// Runs a command of `gaia local`.
#[expect(clippy::unused_async, reason = "the commands of this group do I/O")]
pub(crate) async fn run(command: LocalCommand, context: &mut Context) -> Result<Exit, Failure> {
    match command {
        LocalCommand::Unit(args) => unit::run(&args, context),
    }
}
