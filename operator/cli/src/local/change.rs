//! A change of a directory: by the daemon that holds it, else by an engine in this process.

use std::path::Path;
use std::time::Duration;

use gaia_operator::directory::{Directory, Engine, Request, RequestAction, RequestAnswer, RequestOutcome};
use tokio::time::Instant;

use super::{failure, settings};
use crate::Failure;
use crate::cli::Context;

/// Carries out actions and returns once they are done. Without a daemon, the work that follows is done too, as far as
/// it needs no instance.
///
/// # Errors
/// 64 where an action is refused, 2 where it failed or a ring has changed since, 3 where the daemon does not answer.
pub(crate) async fn change(path: &Path, actions: Vec<RequestAction>, context: &Context) -> Result<(), Failure> {
    let directory = Directory::open(path).map_err(|error| failure(&error))?;
    let request = directory.request(actions, context.console.clock.now()).map_err(|error| failure(&error))?;
    let answer = if directory.is_held().await.map_err(|error| failure(&error))? {
        ask(&directory, &request).await?
    } else {
        let mut settings = settings(context);
        settings.probes = false;
        let mut engine = Engine::start(path, settings).await.map_err(|error| failure(&error))?;
        let answer = engine.carry_out(&request);
        engine.settle(PATIENCE).await;
        engine.stop().await;
        answer
    };
    match answer.outcome {
        RequestOutcome::Done => Ok(()),
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
        tokio::time::sleep(POLL).await;
    }
    let why = format!("no answer from the daemon within {} s", PATIENCE.as_secs());
    Err(Failure::unknown(why).next("check that `gaia local run` is running, and run the command again"))
}

const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(200);
