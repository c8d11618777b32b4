//! `gaia local prune`.

use clap::Args;
use gaia_operator::directory::RequestAction;

use super::change::change;
use crate::cli::Context;
use crate::{Exit, Failure};

/// Options of `gaia local prune`.
#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// The service. It is no longer in gaia.yaml.
    service: String,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

pub(super) async fn run(args: PruneArgs, context: &mut Context) -> Result<Exit, Failure> {
    let service = args.service;
    if !args.yes {
        let what = format!("prune deletes the certificate, key and directory of {service}");
        return Err(Failure::usage(what).next("run it again with --yes"));
    }
    change(&context.dir(), vec![RequestAction::Prune { service: service.clone() }], context).await?;
    context.console.progress(&format!("removed {service} and its directory"));
    Ok(Exit::Done)
}
