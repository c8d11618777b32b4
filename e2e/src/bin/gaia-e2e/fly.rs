//! `gaia-e2e fly`: the program `fly` of the stand-in for Fly.io.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

#[derive(Args)]
pub(crate) struct Arguments {
    /// The address of the stand-in.
    #[arg(long, env = "GAIA_FLY_STAND_IN")]
    stand_in: SocketAddr,
    /// The command of `fly`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let answer = gaia_stand_ins::fly::call(arguments.stand_in, arguments.command).await?;
    std::io::stdout().write_all(answer.stdout.as_bytes())?;
    std::io::stderr().write_all(answer.stderr.as_bytes())?;
    Ok(ExitCode::from(answer.code))
}
