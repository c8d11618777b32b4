//! Entry point of auth-service.

use std::process::ExitCode;

fn main() -> ExitCode {
    gaia_auth_service::main()
}
