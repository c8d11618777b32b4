//! `gaia-e2e kubectl …`.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use gaia_e2e::assets::ControlPlaneAssets;

use crate::cluster::SiteArguments;

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    site: SiteArguments,
    /// kubectl's own arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    match become_kubectl(arguments)? {}
}

/// This process becomes kubectl, which then has the terminal, the signals and the exit status.
fn become_kubectl(arguments: Arguments) -> Result<Infallible> {
    let kubeconfig = arguments.site.site()?.kubeconfig().context("no cluster is up: run `gaia-e2e cluster up`")?;
    let mut command = ControlPlaneAssets::locate()?.kubectl.command();
    command.arg("--kubeconfig").arg(kubeconfig).args(arguments.arguments);
    Err(command.exec()).context("cannot run kubectl")
}
