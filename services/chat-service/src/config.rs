//! Configuration of chat-service.

use std::path::PathBuf;

use gaia_runtime::{RuntimeConfig, is_outside_address};
use reqwest::Url;

use crate::provider::Patience;

/// Streams answers from a provider that speaks OpenAI's chat completions protocol.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "chat-service", version)]
pub struct Config {
    /// What every service is configured by.
    #[command(flatten)]
    pub runtime: RuntimeConfig,
    /// Who answers.
    #[command(flatten)]
    pub provider: ProviderConfig,
    /// How many answers one subject may have under way at a time
    #[arg(long, env = "GAIA_CHAT_STREAMS_PER_SUBJECT", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    pub chat_streams_per_subject: u32,
}

/// The provider of chat completions.
#[derive(Debug, Clone, clap::Args)]
pub struct ProviderConfig {
    /// Base URL of the provider, up to and with its /v1: https, or http on loopback
    #[arg(long, env = "GAIA_PROVIDER_URL", value_parser = base_url)]
    pub provider_url: Url,
    /// File with the provider's key; it is read again for each request. Without one, no key is sent
    #[arg(long, env = "GAIA_PROVIDER_KEY_FILE")]
    pub provider_key_file: Option<PathBuf>,
    /// File with the root certificates that a provider is verified by, in place of the system's
    #[arg(long, env = "GAIA_PROVIDER_CA_FILE")]
    pub provider_ca_file: Option<PathBuf>,
    /// The model where a request names none. Without one, every request has to
    #[arg(long, env = "GAIA_PROVIDER_MODEL", value_parser = model)]
    pub provider_model: Option<String>,
    /// The models that a request may name, with commas in between. Without any, whatever the provider has
    #[arg(long, env = "GAIA_PROVIDER_MODELS", value_delimiter = ',', value_parser = model)]
    pub provider_models: Vec<String>,
    /// How long the provider may take.
    #[arg(skip)]
    pub patience: Patience,
}

impl AsMut<RuntimeConfig> for Config {
    fn as_mut(&mut self) -> &mut RuntimeConfig {
        &mut self.runtime
    }
}

/// Whether a text can name a model: 1 to 128 characters that need no quoting anywhere.
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
    if !text.parse().is_ok_and(|uri| is_outside_address(&uri)) {
        return Err("must be https, or http on loopback".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must hold no user name and password: the key is in a file".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must have no query and no fragment".to_owned());
    }
    Ok(url)
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
            ("http://10.0.0.1/v1", "must be https"),
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
    fn a_model_has_a_plain_name() {
        assert!(is_model("meta-llama/Llama-3.1:free"));
        assert!(!is_model("") && !is_model("a b") && !is_model("a\n") && !is_model(&"a".repeat(129)));
    }
}
