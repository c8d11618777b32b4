//! `gaia local prune`.

use std::time::Duration;

use clap::Args;
use gaia_operator::directory::{Directory, Engine, Request, RequestAction, RequestAnswer, RequestOutcome};
use tokio::time::Instant;

use super::{failure, settings};
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
    if !args.yes {
        let what = format!("prune deletes the certificate, key and directory of {}", args.service);
        return Err(Failure::usage(what).next("run it again with --yes"));
    }
    let path = context.dir();
    let directory = Directory::open(&path).map_err(|error| failure(&error))?;
    let actions = vec![RequestAction::Prune { service: args.service.clone() }];
    let request = directory.request(actions, context.console.clock.now()).map_err(|error| failure(&error))?;
    let answer = if directory.is_held().await.map_err(|error| failure(&error))? {
        ask(&directory, &request).await?
    } else {
        let mut settings = settings(context);
        settings.probes = false;
        let mut engine = Engine::start(&path, settings).await.map_err(|error| failure(&error))?;
        let answer = engine.carry_out(&request);
        engine.settle(PATIENCE).await;
        engine.stop().await;
        answer
    };
    match answer.outcome {
        RequestOutcome::Done => {
            context.console.progress(&format!("removed {} and its directory", args.service));
            Ok(Exit::Done)
        }
        RequestOutcome::Refused => Err(Failure::usage(answer.message)),
        RequestOutcome::Expired | RequestOutcome::Stale | RequestOutcome::Failed => {
            Err(Failure::failing(answer.message))
        }
    }
}

/// Leaves the request to the daemon, and waits for the answer.
async fn ask(directory: &Directory, request: &Request) -> Result<RequestAnswer, Failure> {
    directory.submit(request).map_err(|error| failure(&error))?;
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(answer) = directory.answer(&request.id).map_err(|error| failure(&error))? {
            return Ok(answer);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let why = format!("no answer from the daemon within {} s", PATIENCE.as_secs());
    Err(Failure::unknown(why).next("check that `gaia local run` is running, and run the command again"))
}

const PATIENCE: Duration = Duration::from_secs(30);
