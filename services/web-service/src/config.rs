//! Configuration of web-service.

use std::path::PathBuf;

use gaia_runtime::client_ip::parse_network;
use gaia_runtime::{CallsConfig, EdgeConfig, RuntimeConfig, parse_https, parse_upstream};
use http::Uri;
use ipnet::IpNet;

use crate::origin::PublicUrl;

/// Pages for people: sign in, chat, files.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "web-service", version)]
pub struct Config {
    /// What every service is configured by.
    #[command(flatten)]
    pub runtime: RuntimeConfig,
    /// Where people reach it.
    #[command(flatten)]
    pub edge: EdgeConfig,
    /// How it calls others.
    #[command(flatten)]
    pub calls: CallsConfig,
    /// Where the mesh listener of gateway is: https and no path. With it every call goes by way of gateway; of the next
    /// three only whether they are set counts
    #[arg(long, env = "GAIA_GATEWAY_URL", value_parser = parse_https)]
    pub gateway_url: Option<Uri>,
    /// Where asset-service is: https (or http, where the API key alone may be used) and no path; without it there are no files
    #[arg(long, env = "GAIA_UPSTREAM_ASSET_SERVICE", value_parser = parse_upstream)]
    pub upstream_asset_service: Option<Uri>,
    /// Where chat-service is: https (or http, where the API key alone may be used) and no path; without it there is no chat
    #[arg(long, env = "GAIA_UPSTREAM_CHAT_SERVICE", value_parser = parse_upstream)]
    pub upstream_chat_service: Option<Uri>,
    /// Where auth-service is, for signing in: https and no path [default: GAIA_AUTH_URL]
    #[arg(long, env = "GAIA_UPSTREAM_AUTH_SERVICE", value_parser = parse_https)]
    pub upstream_auth_service: Option<Uri>,
    /// Proxies, as CIDRs with commas in between, that are believed about whom they speak for (X-Forwarded-For)
    #[arg(long, env = "GAIA_TRUSTED_PROXIES", value_delimiter = ',', value_parser = parse_network)]
    pub trusted_proxies: Vec<IpNet>,
    /// A file with the keys that session cookies are sealed with: one or two lines, each 32 bytes in base64, the newest first
    #[arg(long, env = "GAIA_SESSION_KEYS_FILE")]
    pub session_keys_file: PathBuf,
    /// Where people's browsers find this service, as https://host or https://host:port [default: what the browser asks for]
    #[arg(long, env = "GAIA_PUBLIC_URL", value_parser = PublicUrl::parse)]
    pub public_url: Option<PublicUrl>,
    /// Providers that the issuer of user tokens signs people in with (such as github), for a link each
    #[arg(long, env = "GAIA_SIGN_IN_PROVIDERS", value_delimiter = ',', value_parser = provider)]
    pub sign_in_providers: Vec<String>,
}

impl AsMut<RuntimeConfig> for Config {
    fn as_mut(&mut self) -> &mut RuntimeConfig {
        &mut self.runtime
    }
}

/// A name that goes into a path and a query as it is.
fn provider(text: &str) -> Result<String, String> {
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if (1..=32).contains(&text.len()) && text.bytes().all(is_name) {
        Ok(text.to_owned())
    } else {
        Err("must be the issuer's own name for it: lower-case letters, digits and _".to_owned())
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
