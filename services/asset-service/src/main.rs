//! Entry point of asset-service.

use std::process::ExitCode;

use gaia_asset_service::AssetService;

#[tokio::main]
async fn main() -> ExitCode {
    gaia_runtime::main(AssetService::start, AssetService::serve).await
}
