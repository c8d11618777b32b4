//! Configuration of a service by flags, each with an environment variable of the same name.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Parser;
use clap::error::{ContextKind, ContextValue};
use gaia_api::Span;
use gaia_api::names::key;
use ipnet::IpNet;

use crate::client::mesh_client::Hosts;
use crate::client::target::Targets;
use crate::client_ip::parse_network;
use crate::observability::rate::Rate;

/// Settings shared by all services.
#[derive(Debug, Clone, clap::Args)]
pub struct RuntimeConfig {
    /// Name of this service's GaiaService; the mounted policy must be written for it
    #[arg(long, env = "GAIA_SERVICE_NAME")]
    pub service_name: String,
    /// The credential directory
    #[arg(long, env = "GAIA_DIR", default_value = "/etc/gaia")]
    pub dir: PathBuf,
    /// Address of the mesh listener, with TLS
    #[arg(long, env = "GAIA_MESH_ADDRESS", default_value_t = any(8443))]
    pub mesh_address: SocketAddr,
    /// Address of the admin listener: /livez, /readyz and /metrics, in plain HTTP
    #[arg(long, env = "GAIA_ADMIN_ADDRESS", default_value_t = any(9090))]
    pub admin_address: SocketAddr,
    /// Log filter in the syntax of tracing
    #[arg(long, env = "GAIA_LOG", default_value = "info")]
    pub log: String,
    /// Format of log lines
    #[arg(long, env = "GAIA_LOG_FORMAT", default_value = "json")]
    pub log_format: LogFormat,
    /// Interval for checking the credential directory for changes
    #[arg(long, env = "GAIA_RELOAD_INTERVAL", default_value = "10s", value_parser = positive_span)]
    pub reload_interval: Span,
    /// Time between reporting not ready and closing listeners during shutdown
    #[arg(long, env = "GAIA_SHUTDOWN_DELAY", default_value = "5s", value_parser = Span::parse)]
    pub shutdown_delay: Span,
    /// Time allowed for requests in progress during shutdown, after the listeners are closed
    #[arg(long, env = "GAIA_DRAIN_TIMEOUT", default_value = "25s", value_parser = Span::parse)]
    pub drain_timeout: Span,
    /// TLS handshakes per source address, as rate per second and burst; 0: unlimited. Trusted proxies of the edge are exempt
    #[arg(long, env = "GAIA_HANDSHAKE_RATE", default_value = "200:1000")]
    pub handshake_rate: Rate,
    /// CIDRs of proxies that pass TLS through to the mesh listener: they have no handshake rate
    #[arg(long, env = "GAIA_MESH_PROXIES", value_delimiter = ',', value_parser = parse_network)]
    pub mesh_proxies: Vec<IpNet>,
    /// Paths of individual files outside the credential directory, by their name there
    #[arg(skip)]
    pub overrides: BTreeMap<&'static str, PathBuf>,
    /// Addresses of hosts unknown to the system resolver: name=address:port, comma-separated
    #[arg(long = "resolve", env = "GAIA_RESOLVE", default_value = "", hide_default_value = true, value_parser = Hosts::parse)]
    pub hosts: Hosts,
    /// Services called by a bare name that run in another namespace: name=namespace/name, comma-separated
    #[arg(long = "targets", env = "GAIA_TARGETS", default_value = "", hide_default_value = true, value_parser = Targets::parse)]
    pub targets: Targets,
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Human-readable text.
    Text,
}

/// Reason why the configuration was rejected.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// An invalid flag or variable, named in the message; or `--help` or `--version`.
    #[error("{0}")]
    Arguments(#[from] clap::Error),
    /// Two names of one file are set to different paths.
    #[error("{first} and {second} are set to different files; set only one of them")]
    TwoPaths {
        /// The name.
        first: &'static str,
        /// Its alias.
        second: &'static str,
    },
}

/// Reads the configuration of a service from the flags and the environment. Also returns unknown variables with the
/// prefix `GAIA_`, to be logged as warnings once logging is set up.
///
/// # Errors
/// [`ConfigError`] with the names of the flag and the variable.
pub fn read<C: Parser + AsMut<RuntimeConfig>>() -> Result<(C, Vec<String>), ConfigError> {
    let mut config = C::try_parse().map_err(|error| name_variable(&C::command(), error))?;
    let runtime = config.as_mut();
    runtime.overrides = overrides(&runtime.dir, |name| std::env::var_os(name).map(PathBuf::from))?;
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    Ok((config, unknown(&C::command(), names)))
}

/// Adds the variable's name to an error that names only a flag, because the value may come from the variable.
fn name_variable(command: &clap::Command, mut error: clap::Error) -> clap::Error {
    let named = |usage: &String| {
        let flag = usage.trim_start_matches("--").split([' ', '=']).next().unwrap_or_default();
        let variable = command.get_arguments().find(|arg| arg.get_long() == Some(flag)).and_then(clap::Arg::get_env);
        match variable.and_then(|name| name.to_str()) {
            Some(variable) => format!("--{flag} (or {variable})"),
            None => usage.clone(),
        }
    };
    let value = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(usage)) => ContextValue::String(named(usage)),
        Some(ContextValue::Strings(usages)) => ContextValue::Strings(usages.iter().map(named).collect()),
        _ => return error,
    };
    error.insert(ContextKind::InvalidArg, value);
    error
}

/// Single-file path variables, each with its alias.
fn overrides(
    dir: &Path,
    variable: impl Fn(&str) -> Option<PathBuf>,
) -> Result<BTreeMap<&'static str, PathBuf>, ConfigError> {
    let mut overrides = BTreeMap::new();
    for (file, name, alias) in FILE_VARIABLES {
        let path = match (variable(name), variable(alias)) {
            (Some(a), Some(b)) if a != b => return Err(ConfigError::TwoPaths { first: name, second: alias }),
            (a, b) => a.or(b),
        };
        // Setting the default path explicitly must not disable the consistent read of the directory.
        if let Some(path) = path.filter(|path| *path != dir.join(file)) {
            overrides.insert(file, path);
        }
    }
    Ok(overrides)
}

/// Returns unknown variables that start with `GAIA_`. Kubernetes sets `GAIA_…_SERVICE_HOST` and the like for every
/// Service whose name begins with `gaia-`; these are skipped.
fn unknown(command: &clap::Command, names: impl Iterator<Item = String>) -> Vec<String> {
    let known: Vec<&str> =
        command.get_arguments().filter_map(clap::Arg::get_env).filter_map(|name| name.to_str()).collect();
    let is_service_link = |name: &str| {
        name.ends_with("_SERVICE_HOST")
            || name.ends_with("_PORT")
            || name.contains("_PORT_")
            || name.contains("_SERVICE_PORT")
    };
    let mut names: Vec<String> = names
        .filter(|name| name.starts_with("GAIA_") && !known.contains(&name.as_str()) && !is_service_link(name))
        .collect();
    names.sort();
    names
}

/// Parses a duration greater than zero.
///
/// # Errors
/// A description of the problem.
pub fn positive_span(text: &str) -> Result<Span, String> {
    let span = Span::parse(text).map_err(|error| error.to_string())?;
    if span.value().is_zero() { Err("must be longer than zero".to_owned()) } else { Ok(span) }
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
}

const FILE_VARIABLES: [(&str, &str, &str); 4] = [
    (key::TLS_CERT, "TLS_CERT_PATH", "TLS_CLIENT_CERT_PATH"),
    (key::TLS_KEY, "TLS_KEY_PATH", "TLS_CLIENT_KEY_PATH"),
    (key::CA_CERT, "TLS_CA_PATH", "TLS_CA_CERT_PATH"),
    (key::JWT_SIGNING_KEY, "JWT_PRIVATE_KEY_PATH", "JWT_SIGNING_KEY_PATH"),
];

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[derive(Debug, Parser)]
    struct Config {
        #[command(flatten)]
        runtime: RuntimeConfig,
    }

    fn parse(arguments: &[&str]) -> Result<RuntimeConfig, String> {
        let arguments = ["service", "--service-name", "s"].iter().chain(arguments);
        Config::try_parse_from(arguments)
            .map(|config| config.runtime)
            .map_err(|error| name_variable(&Config::command(), error).to_string())
    }

    #[test]
    fn the_defaults_are_those_of_a_pod() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.dir, Path::new("/etc/gaia"));
        assert_eq!(config.mesh_address.to_string(), "0.0.0.0:8443");
        assert_eq!(config.admin_address.to_string(), "0.0.0.0:9090");
        assert_eq!(config.drain_timeout.to_string(), "25s");
    }

    #[test]
    fn a_bad_value_is_an_error_that_names_the_flag_and_the_variable() {
        for (flag, value, variable) in [
            ("--mesh-address", "nowhere", "GAIA_MESH_ADDRESS"),
            ("--log-format", "xml", "GAIA_LOG_FORMAT"),
            ("--reload-interval", "1d", "GAIA_RELOAD_INTERVAL"),
            ("--reload-interval", "0s", "GAIA_RELOAD_INTERVAL"),
            ("--resolve", "assets=nowhere:1", "GAIA_RESOLVE"),
        ] {
            let error = parse(&[flag, value]).unwrap_err();
            assert!(error.contains(flag) && error.contains(variable) && error.contains(value), "{error}");
        }
    }

    #[test]
    fn a_missing_value_is_an_error_that_names_both_too() {
        let error = Config::try_parse_from(["service"]).map(drop).unwrap_err();
        let error = name_variable(&Config::command(), error).to_string();
        assert!(error.contains("--service-name (or GAIA_SERVICE_NAME)"), "{error}");
    }

    #[test]
    fn only_variables_that_look_like_ours_and_mean_nothing_are_reported() {
        let names = ["GAIA_DIR", "GAIA_DRI", "PATH", "GAIA_OPERATOR_SERVICE_HOST", "GAIA_OPERATOR_PORT_9090_TCP_ADDR"];
        assert_eq!(unknown(&Config::command(), names.iter().map(|&n| n.to_owned())), ["GAIA_DRI"]);
    }

    #[test]
    fn files_may_lie_elsewhere_by_either_name_but_not_by_two() {
        let dir = Path::new("/etc/gaia");
        let set = |pairs: &'static [(&str, &str)]| {
            overrides(dir, |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, path)| PathBuf::from(path)))
        };
        let found = set(&[("TLS_CLIENT_CERT_PATH", "/certs/cert.pem"), ("TLS_KEY_PATH", "/etc/gaia/tls.key")]).unwrap();
        assert_eq!(found, BTreeMap::from([("tls.crt", PathBuf::from("/certs/cert.pem"))]));
        let error = set(&[("TLS_CA_PATH", "/a"), ("TLS_CA_CERT_PATH", "/b")]).unwrap_err().to_string();
        assert!(error.contains("TLS_CA_PATH and TLS_CA_CERT_PATH"), "{error}");
    }
}
