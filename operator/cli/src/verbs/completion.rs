//! `gaia completion`.

use clap::Args;
use clap_complete::Shell;

use crate::cli::{self, Context};
use crate::{Exit, Failure};

/// Arguments of `gaia completion`.
#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// The shell.
    shell: Shell,
}

/// Prints the completion script of a shell.
pub(crate) fn run(args: &CompletionArgs, context: &mut Context) -> Result<Exit, Failure> {
    let mut script = vec![];
    clap_complete::generate(args.shell, &mut cli::command("gaia"), "gaia", &mut script);
    context.console.print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
