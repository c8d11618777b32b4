//! The Gaia operator.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    gaia_operator::cli::main().await
}
