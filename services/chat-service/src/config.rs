//! Configuration of chat-service.

use std::net::IpAddr;
use std::path::PathBuf;

use gaia_runtime::{RuntimeConfig, is_outside_address};
use reqwest::Url;

use crate::provider::Patience;

/// Streams answers from a provider with OpenAI's chat completions API.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "chat-service", version)]
pub struct Config {
    /// Settings shared by all services.
    #[command(flatten)]
    pub runtime: RuntimeConfig,
    /// Settings of the provider.
    #[command(flatten)]
    pub provider: ProviderConfig,
    /// Maximum number of concurrent answers per subject
    #[arg(long, env = "GAIA_CHAT_STREAMS_PER_SUBJECT", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    pub chat_streams_per_subject: u32,
}

/// The provider of chat completions.
#[derive(Debug, Clone, clap::Args)]
pub struct ProviderConfig {
    /// Base URL of the provider, including its /v1: https, or http on loopback, or http inside the cluster where
    /// GAIA_PROVIDER_PLAIN_HTTP allows it
    #[arg(long, env = "GAIA_PROVIDER_URL", value_parser = base_url)]
    pub provider_url: Url,
    /// File with the provider's key, re-read for each request. Without one, no key is sent
    #[arg(long, env = "GAIA_PROVIDER_KEY_FILE")]
    pub provider_key_file: Option<PathBuf>,
    /// Allow http to a provider inside the cluster: `<name>`, `<name>.<namespace>.svc` or a private address.
    /// Conversations are then sent unencrypted over the cluster's network
    #[arg(long, env = "GAIA_PROVIDER_PLAIN_HTTP", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub provider_plain_http: bool,
    /// Send the key of GAIA_PROVIDER_KEY_FILE over such http too
    #[arg(long, env = "GAIA_PROVIDER_KEY_OVER_PLAIN_HTTP", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub provider_key_over_plain_http: bool,
    /// File with root certificates for the provider, instead of the system's
    #[arg(long, env = "GAIA_PROVIDER_CA_FILE")]
    pub provider_ca_file: Option<PathBuf>,
    /// Default model. Without one, every request must name a model
    #[arg(long, env = "GAIA_PROVIDER_MODEL", value_parser = model)]
    pub provider_model: Option<String>,
    /// Models that a request may name, comma-separated. Empty: any model of the provider
    #[arg(long, env = "GAIA_PROVIDER_MODELS", value_delimiter = ',', value_parser = model)]
    pub provider_models: Vec<String>,
    /// Time limits of the provider.
    #[arg(skip)]
    pub patience: Patience,
}

/// Reason why a provider is not called over plain HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlainHttpError {
    /// Plain HTTP is not enabled.
    #[error(
        "GAIA_PROVIDER_URL is http to a host inside the cluster, which sends each conversation unencrypted: use https, or \
         set GAIA_PROVIDER_PLAIN_HTTP=true"
    )]
    NotAllowed,
    /// The key would be sent unencrypted, which is not enabled.
    #[error(
        "GAIA_PROVIDER_KEY_FILE is set and GAIA_PROVIDER_URL is http, which would send the key unencrypted: use https, \
         remove the key file, or set GAIA_PROVIDER_KEY_OVER_PLAIN_HTTP=true"
    )]
    KeyNotAllowed,
}

impl ProviderConfig {
    /// Checks that plain HTTP to other hosts, and the key over it, are enabled.
    pub(crate) fn check_plain_http(&self) -> Result<(), PlainHttpError> {
        if self.provider_url.as_str().parse().is_ok_and(|uri| is_outside_address(&uri)) {
            return Ok(());
        }
        if !self.provider_plain_http {
            return Err(PlainHttpError::NotAllowed);
        }
        let sends_key = self.provider_key_file.is_some() && !self.provider_key_over_plain_http;
        if sends_key { Err(PlainHttpError::KeyNotAllowed) } else { Ok(()) }
    }
}

impl AsMut<RuntimeConfig> for Config {
    fn as_mut(&mut self) -> &mut RuntimeConfig {
        &mut self.runtime
    }
}

/// Returns true for a valid model name: 1 to 128 characters that never need quoting.
#[must_use]
pub fn is_model(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:/@+".contains(&byte);
    (1..=MAX_MODEL_BYTES).contains(&text.len()) && text.bytes().all(is_plain)
}

fn model(text: &str) -> Result<String, String> {
    if is_model(text) { Ok(text.to_owned()) } else { Err("must be 1 to 128 letters, digits and -._:/@+".to_owned()) }
}

fn base_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if !text.parse().is_ok_and(|uri| is_outside_address(&uri)) && !is_plain_inside(&url) {
        let inside = "<name>, <name>.<namespace>.svc or a private address";
        return Err(format!("must be https, or http on loopback, or http to a host inside the cluster: {inside}"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must hold no user name and password: the key is in a file".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must have no query and no fragment".to_owned());
    }
    Ok(url)
}

/// Returns true for an http URL to a host that only a cluster or a private network can have. A name with other dots,
/// such as `vllm.ai`, may be a public one.
fn is_plain_inside(url: &Url) -> bool {
    let Some(host) = url.host_str().filter(|_| url.scheme() == "http") else { return false };
    match host.trim_start_matches('[').trim_end_matches(']').parse() {
        // Not link-local, which is used by metadata services of clouds.
        Ok(IpAddr::V4(ip)) => ip.is_private() || (ip.octets()[0] == 100 && ip.octets()[1] & 0b1100_0000 == 64),
        Ok(IpAddr::V6(ip)) => ip.is_unique_local(),
        Err(_) => {
            let name = host.strip_suffix('.').unwrap_or(host);
            let name = name.strip_suffix(".cluster.local").unwrap_or(name);
            let labels: Vec<&str> = name.split('.').collect();
            matches!(labels[..], [_] | [_, _, "svc"] | [_, _, _, "svc"])
        }
    }
}

const MAX_MODEL_BYTES: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_is_reached_by_https_or_on_this_machine() {
        for url in ["https://api.openai.com/v1", "http://127.0.0.1:11434/v1", "http://localhost/v1", "http://[::1]:1/"]
        {
            assert!(base_url(url).is_ok(), "{url}");
        }
        for (url, error) in [
            ("http://api.openai.com/v1", "must be https"),
            ("http://127.0.0.1.example.com/v1", "must be https"),
            ("http://8.8.8.8/v1", "must be https"),
            ("http://169.254.169.254/v1", "must be https"),
            ("http://[fe80::1]/v1", "must be https"),
            ("http://vllm.ai/v1", "must be https"),
            ("http://ollama.llm.svc.example.com/v1", "must be https"),
            ("ftp://localhost/v1", "must be https"),
            ("api.openai.com", "relative URL"),
            ("https://", "empty host"),
            ("https://me:secret@api.openai.com/v1", "no user name"),
            ("https://api.openai.com/v1?key=1", "no query"),
            ("https://api.openai.com/v1#a", "no fragment"),
        ] {
            assert!(base_url(url).unwrap_err().contains(error), "{url}: {:?}", base_url(url));
        }
    }

    #[test]
    fn plain_http_inside_the_cluster_and_the_key_over_it_are_asked_for() {
        use clap::Parser as _;
        let check = |url: &str, more: &[&str]| {
            let arguments = ["chat-service", "--service-name", "chat-service", "--provider-url", url];
            let config = Config::try_parse_from(arguments.iter().chain(more)).unwrap();
            config.provider.check_plain_http()
        };
        for url in [
            "http://ollama:11434/v1",
            "http://ollama.llm.svc:11434/v1",
            "http://ollama.llm.svc.cluster.local/v1",
            "http://ollama.llm.svc.cluster.local./v1",
            "http://vllm-0.vllm.llm.svc/v1",
            "http://10.0.0.1/v1",
            "http://172.31.0.9/v1",
            "http://192.168.1.5:8000/v1",
            "http://100.64.0.1/v1",
            "http://[fd00::1]:8000/v1",
        ] {
            let key = ["--provider-plain-http", "--provider-key-file", "/etc/key"];
            assert_eq!(check(url, &[]), Err(PlainHttpError::NotAllowed), "{url}");
            assert_eq!(check(url, &key[..1]), Ok(()), "{url}");
            assert_eq!(check(url, &["--provider-plain-http=true"]), Ok(()), "{url}");
            assert_eq!(check(url, &key), Err(PlainHttpError::KeyNotAllowed), "{url}");
            assert_eq!(check(url, &[&key[..], &["--provider-key-over-plain-http"]].concat()), Ok(()), "{url}");
        }
        for url in ["https://api.openai.com/v1", "http://127.0.0.1:1/v1"] {
            assert_eq!(check(url, &["--provider-key-file", "/etc/key"]), Ok(()), "{url}");
        }
    }

    #[test]
    fn a_model_has_a_plain_name() {
        assert!(is_model("meta-llama/Llama-3.1:free"));
        assert!(!is_model("") && !is_model("a b") && !is_model("a\n") && !is_model(&"a".repeat(129)));
    }
}
