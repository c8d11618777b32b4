//! `gaia version`.

use serde::Serialize;

use crate::cli::Context;
use crate::output::{self, Report, Table};
use crate::{Exit, Failure};

/// The versions of the programs involved.
#[derive(Debug, Serialize)]
pub(crate) struct Version {
    /// The version of this program.
    client: &'static str,
}

impl Report for Version {
    const KIND: &'static str = "Version";

    fn text(&self, _is_wide: bool) -> String {
        let mut table = Table::new(&["COMPONENT", "VERSION"]);
        table.row(["client".to_owned(), self.client.to_owned()]);
        table.to_string()
    }

    fn names(&self) -> Vec<String> {
        vec![self.client.to_owned()]
    }
}

/// Prints the versions.
pub(crate) fn run(context: &mut Context) -> Result<Exit, Failure> {
    let format = context.format();
    output::print(&mut context.console, format, &Version { client: env!("CARGO_PKG_VERSION") })?;
    Ok(Exit::Done)
}
