//! `gaia token`.

use clap::Args;

use crate::cli::Context;
use crate::mesh::{self, Platform};
use crate::{Exit, Failure};

/// Arguments of `gaia token`.
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// The service that calls. Its certificate is presented to the token issuer.
    #[arg(long = "as", value_name = "SERVICE")]
    caller: String,
    /// The service to call.
    #[arg(long, value_name = "SERVICE")]
    audience: String,
    /// The scopes, separated by spaces; without it all granted ones.
    #[arg(long)]
    scope: Option<String>,
    /// The URL of the token issuer; without it the first address in its `spec.endpoints`.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

/// Prints a service token, alone on stdout.
pub(crate) async fn run(args: &TokenArgs, context: &mut Context) -> Result<Exit, Failure> {
    let platform = Platform::load(context.source()?).await?;
    platform.service(&args.audience)?;
    let url = args.url.as_deref().map(mesh::parse_uri).transpose()?;
    let caller = platform.caller(&args.caller)?;
    let token = caller.token(&platform, &args.audience, args.scope.as_deref(), url.as_ref()).await?;
    context.console.print(&format!("{}\n", token.access_token))?;
    Ok(Exit::Done)
}
