//! `gaia-e2e migrate`: from one shared API key to mutual TLS and tokens, back, and again.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use gaia_e2e::progress::tell;
use gaia_e2e::{ControlPlane, ControlPlaneOptions, migration};

/// Migrate a platform of five services from a shared API key to mutual TLS and tokens, and back, under load.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Directory for files and logs; a new directory if not given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let options = ControlPlaneOptions { dir: arguments.dir, ..ControlPlaneOptions::default() };
    let walk = migration::walk(ControlPlane::start(options).await?).await?;
    tell(format_args!("The whole way and back took {:.0} s.", walk.took.as_secs_f64()));
    Ok(if walk.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
