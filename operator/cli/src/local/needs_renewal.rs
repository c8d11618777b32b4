//! `gaia local needs-renewal`, for `ExecCondition=` of systemd, which skips a unit on 1 to 254.

use clap::Args;
use gaia_operator::directory::{Renewal, needs_renewal};

use crate::Exit;
use crate::cli::Context;

/// Options of `gaia local needs-renewal`.
#[derive(Debug, Args)]
pub(crate) struct NeedsRenewalArgs {
    /// The service.
    service: String,
}

pub(super) fn run(args: &NeedsRenewalArgs, context: &mut Context) -> Exit {
    match needs_renewal(&context.dir(), &args.service, context.console.clock.now()) {
        Ok(Renewal::Due(why)) => {
            context.console.progress(&format!("{}: due: {why}", args.service));
            Exit::Done
        }
        Ok(Renewal::NotDue(at)) => {
            context.console.progress(&format!("{}: not due before {at}", args.service));
            Exit::Warnings
        }
        Err(error) => {
            context.console.progress(&format!("error: {error}"));
            Exit::NotKnown
        }
    }
}
