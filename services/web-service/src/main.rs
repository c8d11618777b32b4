//! Entry point of web-service.

use std::process::ExitCode;

use gaia_web_service::WebService;

#[tokio::main]
async fn main() -> ExitCode {
    gaia_runtime::main(WebService::start, WebService::serve).await
}
