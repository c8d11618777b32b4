//! Configuration of auth-service.

use gaia_runtime::RuntimeConfig;

/// Issues service tokens, and serves the keys that verify them.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "auth-service", version)]
pub struct Config {
    /// Settings shared by all services.
    #[command(flatten)]
    pub runtime: RuntimeConfig,
    /// Send the user's address to the login server (Sb-Forwarded-For), which then limits each address separately. The
    /// project must have IP address forwarding enabled, and its mounted key must be a secret key (sb_secret_…); the
    /// header is ignored with other keys
    #[arg(long, env = "GAIA_LOGIN_FORWARDS_ADDRESS", action = clap::ArgAction::Set, num_args = 0..=1, default_value_t = false, default_missing_value = "true")]
    pub login_forwards_address: bool,
}

impl AsMut<RuntimeConfig> for Config {
    fn as_mut(&mut self) -> &mut RuntimeConfig {
        &mut self.runtime
    }
}
