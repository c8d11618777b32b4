//! Entry point of auth-service.

use std::process::ExitCode;

use gaia_auth_service::AuthService;

#[tokio::main]
async fn main() -> ExitCode {
    gaia_runtime::main(AuthService::start, AuthService::serve).await
}
