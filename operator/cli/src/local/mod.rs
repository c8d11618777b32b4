//! `gaia local`: the engine on a directory.

use clap::Subcommand;

use crate::cli::Context;
use crate::{Exit, Failure};

/// The commands of `gaia local`.
#[derive(Debug, Subcommand)]
pub(crate) enum LocalCommand {}

/// Runs a command of `gaia local`.
#[expect(clippy::unused_async, reason = "the commands of this group do I/O")]
pub(crate) async fn run(command: LocalCommand, _context: &mut Context) -> Result<Exit, Failure> {
    match command {}
}
