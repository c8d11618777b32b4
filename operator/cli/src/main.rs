//! `gaia`, the command line tool.

use std::process::ExitCode;

fn main() -> ExitCode {
    gaia_cli::main()
}
