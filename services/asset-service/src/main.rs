//! Entry point of asset-service.

use std::process::ExitCode;

fn main() -> ExitCode {
    gaia_asset_service::main()
}
