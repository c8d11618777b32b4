//! Configuration of auth-service.

use gaia_runtime::RuntimeConfig;

/// Issues service tokens, and serves the keys they are verified with.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "auth-service", version)]
pub struct Config {
    /// What every service is configured by.
    #[command(flatten)]
    pub runtime: RuntimeConfig,
}

impl AsMut<RuntimeConfig> for Config {
    fn as_mut(&mut self) -> &mut RuntimeConfig {
        &mut self.runtime
    }
}
