//! `gaia inspect`: decodes certificates, keys, tokens, key sets and records of API keys.

mod certificate;
mod input;
mod items;
mod keys;
mod pem;
mod report;
mod tls;
mod token;
mod trust;

use std::path::PathBuf;

use clap::Args;

use self::report::Inspection;
use self::trust::Trust;
use crate::cli::Context;
use crate::{Exit, Failure, output};

/// Arguments of `gaia inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A Secret or ConfigMap (`secret/NAME`, `configmap/NAME`, with `--dir`), a file, the address of a server
    /// (`tls://HOST:PORT`), or `-` for stdin.
    #[arg(value_name = "secret/NAME|FILE|tls://HOST:PORT|-")]
    input: String,
    /// Trust the CA certificates of this file, in place of those of the platform.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// Prints the decoded input. Exit code 2: a certificate or token in it is not valid or not trusted.
pub(crate) async fn run(args: &InspectArgs, context: &mut Context) -> Result<Exit, Failure> {
    let source = context.source()?;
    let now = context.console.clock.now();
    let trust = match &args.ca {
        Some(file) => Trust::of_file(file)?,
        None => Trust::of_source(source.as_ref()).await?,
    };
    let content = input::read(&args.input, source.as_ref(), &mut context.console).await?;
    let items = items::decode(&args.input, &content, &trust, now)?;
    let inspection = Inspection { input: args.input.clone(), items };
    let format = context.format();
    output::print(&mut context.console, format, &inspection)?;
    Ok(inspection.exit())
}
