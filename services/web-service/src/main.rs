//! Entry point of web-service.

use std::process::ExitCode;

fn main() -> ExitCode {
    gaia_web_service::main()
}
