//! Entry point of asset-service.

use std::sync::Arc;

use anyhow::Context as _;
use gaia_api::SystemClock;
use gaia_asset_service::{AssetService, Config};
use gaia_runtime::config::ConfigError;
use gaia_runtime::{config, stop_signal, telemetry};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (config, unknown) = match config::read::<Config>() {
        Err(ConfigError::Arguments(error)) => error.exit(),
        read => read?,
    };
    telemetry::start(&config.runtime)?;
    for name in unknown {
        tracing::warn!(name, "this variable means nothing to this service");
    }
    let stop = stop_signal().context("installing the signal handlers")?;
    AssetService::start(config, Arc::new(SystemClock)).await?.serve(stop).await;
    Ok(())
}
