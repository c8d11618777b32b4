//! The Gaia operator.

use std::process::ExitCode;

fn main() -> ExitCode {
    gaia_operator::cli::main()
}
