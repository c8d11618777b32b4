//! Entry point of gateway.

use std::process::ExitCode;

use gaia_gateway::Gateway;

#[tokio::main]
async fn main() -> ExitCode {
    gaia_runtime::main(Gateway::start, Gateway::serve).await
}
