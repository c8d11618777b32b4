//! Configuration of auth-service.

use gaia_runtime::RuntimeConfig;

/// Issues service tokens, and serves the keys they are verified with.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "auth-service", version)]
pub struct Config {
    /// What every service is configured by.
    #[command(flatten)]
    pub runtime: RuntimeConfig,
    /// Name the user's address to the login server (Sb-Forwarded-For), which then limits each address by itself. The project must have IP address forwarding switched on, and its mounted key must be a secret key (sb_secret_…): others are ignored there
    #[arg(long, env = "GAIA_LOGIN_FORWARDS_ADDRESS", action = clap::ArgAction::Set, num_args = 0..=1, default_value_t = false, default_missing_value = "true")]
    pub login_forwards_address: bool,
}

impl AsMut<RuntimeConfig> for Config {
    fn as_mut(&mut self) -> &mut RuntimeConfig {
        &mut self.runtime
    }
}
