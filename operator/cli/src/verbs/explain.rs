//! `gaia explain`.

use clap::Args;
use serde::Serialize;

use crate::cli::Context;
use crate::findings::{self, Definition, Severity};
use crate::output::{self, Report};
use crate::{Exit, Failure};

/// Arguments of `gaia explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The id of a finding, as GAIA301.
    id: String,
}

/// The page of a finding.
#[derive(Debug, Serialize)]
struct Explanation {
    id: &'static str,
    title: &'static str,
    severity: Severity,
    meaning: &'static str,
    confirm: &'static str,
    mend: &'static str,
    #[serde(skip)]
    page: String,
}

impl Report for Explanation {
    const KIND: &'static str = "Explanation";

    fn text(&self, _is_wide: bool) -> String {
        format!("{}: {}", self.id, self.page)
    }

    fn names(&self) -> Vec<String> {
        vec![self.id.to_owned()]
    }
}

/// Prints the page of a finding.
pub(crate) fn run(args: &ExplainArgs, context: &mut Context) -> Result<Exit, Failure> {
    let Some(definition) = findings::find(&args.id) else {
        return Err(Failure::usage(format!("there is no finding {:?}", args.id)).next("gaia check --list lists all"));
    };
    let Definition { id, title, severity, meaning, confirm, mend } = *definition;
    let explanation = Explanation { id, title, severity, meaning, confirm, mend, page: definition.page() };
    let format = context.format();
    output::print(&mut context.console, format, &explanation).map(|()| Exit::Done)
}
