//! Configuration of web-service.

use std::path::PathBuf;

use gaia_runtime::client_ip::parse_network;
use gaia_runtime::{CallsConfig, EdgeConfig, RuntimeConfig, parse_https, parse_upstream};
use http::Uri;
use ipnet::IpNet;

use crate::origin::PublicUrl;

/// Web pages for users: sign-in, chat, files.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "web-service", version)]
pub struct Config {
    /// Settings shared by all services.
    #[command(flatten)]
    pub runtime: RuntimeConfig,
    /// Settings of the ingress listener.
    #[command(flatten)]
    pub edge: EdgeConfig,
    /// Settings for calls to other services.
    #[command(flatten)]
    pub calls: CallsConfig,
    /// URL of gateway's mesh listener: https and no path. If set, every call goes through gateway, and the next three
    /// settings only enable the pages
    #[arg(long, env = "GAIA_GATEWAY_URL", value_parser = parse_https)]
    pub gateway_url: Option<Uri>,
    /// URL of asset-service: https (or http for use with the API key only) and no path; without it there is no files
    /// page
    #[arg(long, env = "GAIA_UPSTREAM_ASSET_SERVICE", value_parser = parse_upstream)]
    pub upstream_asset_service: Option<Uri>,
    /// URL of chat-service: https (or http for use with the API key only) and no path; without it there is no chat page
    #[arg(long, env = "GAIA_UPSTREAM_CHAT_SERVICE", value_parser = parse_upstream)]
    pub upstream_chat_service: Option<Uri>,
    /// URL of auth-service for sign-in: https and no path [default: GAIA_AUTH_URL]
    #[arg(long, env = "GAIA_UPSTREAM_AUTH_SERVICE", value_parser = parse_https)]
    pub upstream_auth_service: Option<Uri>,
    /// Trusted proxy CIDRs, comma-separated; X-Forwarded-For is honoured only from these
    #[arg(long, env = "GAIA_TRUSTED_PROXIES", value_delimiter = ',', value_parser = parse_network)]
    pub trusted_proxies: Vec<IpNet>,
    /// File with the keys that encrypt session cookies: one or two lines, each 32 bytes in base64, the newest first
    #[arg(long, env = "GAIA_SESSION_KEYS_FILE")]
    pub session_keys_file: PathBuf,
    /// Public URL of this service, as https://host or https://host:port [default: the host that the browser requests]
    #[arg(long, env = "GAIA_PUBLIC_URL", value_parser = PublicUrl::parse)]
    pub public_url: Option<PublicUrl>,
    /// Sign-in providers of the user-token issuer (such as github) to show links for
    #[arg(long, env = "GAIA_SIGN_IN_PROVIDERS", value_delimiter = ',', value_parser = provider)]
    pub sign_in_providers: Vec<String>,
}

impl AsMut<RuntimeConfig> for Config {
    fn as_mut(&mut self) -> &mut RuntimeConfig {
        &mut self.runtime
    }
}

/// Parses a provider name that needs no escaping in paths and queries.
fn provider(text: &str) -> Result<String, String> {
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if (1..=32).contains(&text.len()) && text.bytes().all(is_name) {
        Ok(text.to_owned())
    } else {
        Err("must be the issuer's name of a provider: lower-case letters, digits and _".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn people_sign_in_over_https_and_services_may_be_called_without() {
        let parse = |flag: &str, value: &str| {
            let fixed = ["web-service", "--service-name", "web-service", "--session-keys-file", "keys"];
            Config::try_parse_from(fixed.into_iter().chain([flag, value])).map(drop).map_err(|error| error.to_string())
        };
        let error = parse("--upstream-auth-service", "http://auth-service:8080").unwrap_err();
        assert!(error.contains("--upstream-auth-service") && error.contains("must be https://host"), "{error}");
        assert_eq!(parse("--upstream-auth-service", "https://auth-service:8443"), Ok(()));
        assert_eq!(parse("--upstream-chat-service", "http://chat-service:8080"), Ok(()));
    }
}
