//! Entry point of gateway.

use std::process::ExitCode;

fn main() -> ExitCode {
    gaia_gateway::main()
}
