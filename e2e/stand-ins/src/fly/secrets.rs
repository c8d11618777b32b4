//! The secrets of an app.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use gaia_pki::sha256_hex;
use serde_json::{Value, json};

use super::Fault;
use super::machine::Machine;

/// The secrets of an app: the staged and deployed values by name, each with a version.
#[derive(Debug, Clone, Default)]
pub(super) struct Secrets {
    values: BTreeMap<String, Secret>,
    version: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Secret {
    pub(super) value: String,
    pub(super) version: u64,
}

impl Secrets {
    /// Sets what `fly secrets import` reads from its input.
    pub(super) fn import(&mut self, input: &[u8]) -> Result<()> {
        let mut count = 0;
        for line in input.split(|byte| *byte == b'\n') {
            // The scanner stops here without an error.
            if line.len() > MAX_LINE {
                break;
            }
            let line = String::from_utf8_lossy(line);
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let Some((name, value)) = line.split_once('=') else {
                bail!("Secrets must be provided as NAME=VALUE pairs ({line} is invalid)");
            };
            self.version += 1;
            let secret = Secret { value: value.trim().trim_matches('"').to_owned(), version: self.version };
            self.values.insert(name.trim().to_owned(), secret);
            count += 1;
        }
        if count == 0 {
            bail!("requires at least one SECRET=VALUE pair");
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, name: &str) -> bool {
        self.values.remove(name).is_some()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.values.keys().cloned().collect()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Secret> {
        self.values.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Secret)> {
        self.values.iter()
    }

    /// The list of `fly secrets list --json`.
    pub(super) fn list(&self, machines: &[Machine], fault: Fault) -> Value {
        let row = |(name, secret): (&String, &Secret)| {
            let count = machines.iter().filter(|machine| machine.has(name, secret.version)).count();
            let status = match fault {
                Fault::UnknownStatus => "Unknown",
                _ if count == 0 => "Staged",
                _ if count == machines.len() => "Deployed",
                _ => "Partial",
            };
            let digest = sha256_hex(format!("salt {} {}", secret.version, secret.value).as_bytes());
            let mut row = json!({ "name": name, "digest": digest[..16], "created_at": "2026-01-01T00:00:00Z" });
            if fault != Fault::NoStatus {
                row["status"] = json!(status);
            }
            row
        };
        Value::Array(self.values.iter().map(row).collect())
    }
}

const MAX_LINE: usize = 64 * 1024;
