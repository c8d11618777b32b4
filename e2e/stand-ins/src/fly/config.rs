//! The parts of fly.toml that a machine starts with.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};

/// The parts of fly.toml that the stand-in obeys. Unknown parts are ignored, as they are not about files and signals.
#[derive(Debug, Clone, Default)]
pub(super) struct Config {
    pub(super) env: BTreeMap<String, String>,
    /// `guest_path` and `secret_name`.
    pub(super) files: Vec<(String, String)>,
    pub(super) kill_signal: String,
    pub(super) kill_timeout: u64,
    /// The port and path of the check; none: a machine that runs is healthy.
    pub(super) check: Option<(u16, String)>,
}

impl Config {
    /// Reads the subset of TOML that `gaia export fly --files` writes: tables, and strings and numbers on one line.
    pub(super) fn parse(text: &str) -> Result<Self> {
        // Fly's defaults.
        let mut config = Self { kill_signal: "SIGINT".to_owned(), kill_timeout: 5, ..Self::default() };
        let (mut port, mut path) = (None, None);
        let mut table = String::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if line.starts_with('[') {
                table = line.trim_matches(['[', ']']).to_owned();
                if table == "files" {
                    config.files.push(Default::default());
                }
                continue;
            }
            let (name, value) = line.split_once('=').with_context(|| format!("fly.toml: {line}"))?;
            let (name, value) = (name.trim(), value.trim().trim_matches('"').to_owned());
            match (table.as_str(), name) {
                ("", "kill_signal") => config.kill_signal = value,
                ("", "kill_timeout") => config.kill_timeout = value.parse()?,
                ("env", _) => drop(config.env.insert(name.to_owned(), value)),
                ("files", "guest_path") => config.files.last_mut().context("no [[files]]")?.0 = value,
                ("files", "secret_name") => config.files.last_mut().context("no [[files]]")?.1 = value,
                (check, "port") if check.starts_with("checks.") => port = Some(value.parse()?),
                (check, "path") if check.starts_with("checks.") => path = Some(value),
                _ => {}
            }
        }
        ensure!(
            config.files.iter().all(|(path, secret)| !path.is_empty() && !secret.is_empty()),
            "[[files]] lacks a key"
        );
        config.check = port.zip(path);
        Ok(config)
    }
}
