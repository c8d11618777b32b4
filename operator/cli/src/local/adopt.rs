//! `gaia local adopt`.

use clap::Args;
use gaia_operator::directory::{Directory, Finish};
use serde::Serialize;

use super::failure;
use crate::cli::Context;
use crate::output::{Report, Table, print};
use crate::{Exit, Failure};

/// Options of `gaia local adopt`.
#[derive(Debug, Args)]
pub(crate) struct AdoptArgs {
    /// Move the old key files to .gaia/adopted. Refused while old services may need them.
    #[arg(long, required = true)]
    finish: bool,
    /// Confirm that all old services are stopped, although services still accept API keys.
    #[arg(long)]
    old_services_stopped: bool,
}

#[derive(Serialize)]
struct Finished {
    dir: String,
    moved: Vec<String>,
}

impl Report for Finished {
    const KIND: &'static str = "LocalAdoption";

    fn text(&self, _: bool) -> String {
        let mut table = Table::new(&["FILE", "MOVED TO"]);
        for file in &self.moved {
            table.row([file.clone(), format!("{}/.gaia/adopted/{file}", self.dir)]);
        }
        table.to_string()
    }

    fn names(&self) -> Vec<String> {
        self.moved.clone()
    }
}

pub(super) fn run(args: &AdoptArgs, context: &mut Context) -> Result<Exit, Failure> {
    let path = context.dir();
    let directory = Directory::open(&path).map_err(|error| failure(&error))?;
    let finish = directory.finish_adoption(args.old_services_stopped).map_err(|error| failure(&error))?;
    let moved = match finish {
        Finish::Moved(moved) => moved,
        Finish::Held(reasons) => {
            let reasons: Vec<String> = reasons.iter().map(|reason| format!("\n  {reason}")).collect();
            let cause = format!("{}: the old key files stay where they are:{}", path.display(), reasons.concat());
            return Err(Failure::failing(cause));
        }
    };
    if moved.is_empty() {
        context.console.progress("the old key files were moved before");
    }
    let format = context.format();
    print(&mut context.console, format, &Finished { dir: path.display().to_string(), moved })?;
    Ok(Exit::Done)
}
