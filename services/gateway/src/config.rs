//! Configuration of gateway.

use gaia_api::Span;
use gaia_runtime::client_ip::parse_network;
use gaia_runtime::rate::Rate;
use gaia_runtime::{CallsConfig, EdgeConfig, RuntimeConfig, parse_upstream, positive_span};
use http::{HeaderName, HeaderValue, Uri};
use ipnet::IpNet;

/// Configuration of gateway: the ingress listener, the upstreams and the limits.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "gateway", version)]
pub struct Config {
    /// Settings shared by all services.
    #[command(flatten)]
    pub runtime: RuntimeConfig,
    /// Settings for calls to other services.
    #[command(flatten)]
    pub calls: CallsConfig,
    /// Settings of the ingress listener.
    #[command(flatten)]
    pub edge: EdgeConfig,
    /// URL of asset-service; without it the /assets routes do not exist
    #[arg(long, env = "GAIA_UPSTREAM_ASSET_SERVICE", value_parser = parse_upstream)]
    pub upstream_asset_service: Option<Uri>,
    /// URL of chat-service; without it the /chat routes do not exist
    #[arg(long, env = "GAIA_UPSTREAM_CHAT_SERVICE", value_parser = parse_upstream)]
    pub upstream_chat_service: Option<Uri>,
    /// URL of auth-service for sign-in [default: GAIA_AUTH_URL]
    #[arg(long, env = "GAIA_UPSTREAM_AUTH_SERVICE", value_parser = parse_upstream)]
    pub upstream_auth_service: Option<Uri>,
    /// Origins allowed by CORS, comma-separated, such as <https://app.example.com>
    #[arg(long, env = "GAIA_CORS_ORIGINS", value_delimiter = ',', value_parser = origin)]
    pub cors_origins: Vec<HeaderValue>,
    /// Whether CORS allows credentials that browsers attach, such as cookies
    #[arg(long, env = "GAIA_CORS_CREDENTIALS")]
    pub cors_credentials: bool,
    /// Request headers allowed by CORS in addition to the built-in list
    #[arg(
        long,
        env = "GAIA_CORS_HEADERS",
        value_delimiter = ',',
        default_value = "traceparent,tracestate,baggage,sentry-trace,apikey,x-client-info"
    )]
    pub cors_headers: Vec<HeaderName>,
    /// Trusted proxy CIDRs, comma-separated; X-Forwarded-For is honoured only from these
    #[arg(long, env = "GAIA_TRUSTED_PROXIES", value_delimiter = ',', value_parser = parse_network)]
    pub trusted_proxies: Vec<IpNet>,
    /// Request rate and burst per client address; 0: no limit
    #[arg(long, env = "GAIA_IP_RATE", default_value = "100:500")]
    pub ip_rate: Rate,
    /// Request rate and burst per user or API key; 0: no limit
    #[arg(long, env = "GAIA_ACCOUNT_RATE", default_value = "50:200")]
    pub account_rate: Rate,
    /// Sign-in request rate and burst per client address; 0: no limit
    #[arg(long, env = "GAIA_SIGN_IN_RATE", default_value = "2:20")]
    pub sign_in_rate: Rate,
    /// Rate and burst of requests that refresh or end a session, per client address; 0: no limit
    #[arg(long, env = "GAIA_REFRESH_RATE", default_value = "20:200")]
    pub refresh_rate: Rate,
    /// Timeout for the response headers of an upstream
    #[arg(long, env = "GAIA_UPSTREAM_TIMEOUT", default_value = "30s", value_parser = positive_span)]
    pub upstream_timeout: Span,
    /// The same for asset-service [default: GAIA_UPSTREAM_TIMEOUT]
    #[arg(long, env = "GAIA_UPSTREAM_ASSET_TIMEOUT", value_parser = positive_span)]
    pub upstream_asset_timeout: Option<Span>,
    /// The same for chat-service: a model can take minutes before the first token
    #[arg(long, env = "GAIA_UPSTREAM_CHAT_TIMEOUT", default_value = "5m", value_parser = positive_span)]
    pub upstream_chat_timeout: Span,
    /// The same for auth-service during sign-in [default: GAIA_UPSTREAM_TIMEOUT]
    #[arg(long, env = "GAIA_UPSTREAM_AUTH_TIMEOUT", value_parser = positive_span)]
    pub upstream_auth_timeout: Option<Span>,
    /// Maximum request body size that is forwarded
    #[arg(long, env = "GAIA_MAX_BODY_BYTES", default_value_t = 64 * 1024 * 1024)]
    pub max_body_bytes: u64,
}

impl AsMut<RuntimeConfig> for Config {
    fn as_mut(&mut self) -> &mut RuntimeConfig {
        &mut self.runtime
    }
}

/// Parses an origin as browsers send it: scheme, host and port, nothing after.
fn origin(text: &str) -> Result<HeaderValue, String> {
    let is_origin = |uri: &Uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.path() == "/"
            && !text.ends_with('/')
            && uri.query().is_none()
    };
    let uri: Option<Uri> = text.parse().ok().filter(is_origin);
    let value = uri.and_then(|_| HeaderValue::from_str(&text.to_ascii_lowercase()).ok());
    value.ok_or_else(|| "must be https://host or https://host:port, listed by name".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn a_service_behind_has_some_time_to_answer() {
        let parse = |timeout: &str| {
            let arguments = ["gateway", "--service-name", "gateway", "--upstream-timeout", timeout];
            Config::try_parse_from(arguments).map(|config| config.upstream_timeout).map_err(|error| error.to_string())
        };
        assert!(parse("0s").unwrap_err().contains("must be longer than zero"));
        assert_eq!(parse("1s").unwrap(), Span::parse("1s").unwrap());
    }

    #[test]
    fn each_upstream_has_a_timeout_of_its_own_and_a_model_has_minutes() {
        let parse = |flags: &[&str]| {
            let config = Config::try_parse_from(["gateway", "--service-name", "g"].iter().chain(flags)).unwrap();
            let span = |own: Option<Span>| own.unwrap_or_else(|| config.upstream_timeout.clone()).to_string();
            [
                span(config.upstream_asset_timeout),
                span(Some(config.upstream_chat_timeout)),
                span(config.upstream_auth_timeout),
            ]
        };
        assert_eq!(parse(&[]), ["30s", "5m", "30s"]);
        assert_eq!(parse(&["--upstream-timeout", "1m"]), ["1m", "5m", "1m"]);
        let each = ["--upstream-asset-timeout=2m", "--upstream-chat-timeout=10m", "--upstream-auth-timeout=5s"];
        assert_eq!(parse(&each), ["2m", "10m", "5s"]);
    }

    #[test]
    fn an_origin_is_named_and_never_everybody() {
        assert_eq!(origin("https://App.example.com:8443").unwrap(), "https://app.example.com:8443");
        for bad in ["*", "null", "https://a/", "https://a/b", "app.example.com", "ftp://a", "https://a?b", ""] {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }
}
