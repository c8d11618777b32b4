//! A stand-in for Fly.io and its program `fly`: apps whose machines are processes, each with a loopback address of its own.
//!
//! It behaves as documented for Fly in the points that a rotation depends on:
//! - a staged secret is live on a machine after `fly secrets deploy`, `fly deploy`, or when the machine starts for another reason;
//! - `[[files]]` are written at the boot of a machine only, in base64, and a value that is none fails the machine;
//! - secrets are variables of the process too;
//! - `secrets deploy` restarts one machine after another with the configuration already deployed, skips machines outside the
//!   release, and updates stopped machines without a start;
//! - `secrets import` cuts a value at `#`, and drops a line over 64 KiB and all that follow;
//! - `secrets list --json` has `name`, `digest` and `status`, which may be missing or `Unknown`.
//!
//! It differs in one point: `[::]` in a listening address is the machine's own loopback address, as there is no network
//! namespace.

mod commands;
mod config;
mod machine;
mod secrets;
mod server;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use self::config::Config;
use self::machine::Machine;
use self::secrets::Secrets;
pub use self::server::{Answer, call};

/// The stand-in. Dropping it ends its machines.
#[derive(Debug)]
pub struct Fly {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

/// An app to create.
#[derive(Debug, Clone)]
pub struct AppSpec {
    /// Its name.
    pub name: String,
    /// The program of its machines.
    pub program: PathBuf,
    /// Variables of the image.
    pub env: BTreeMap<String, String>,
    /// The text of its fly.toml: `[env]`, `[[files]]`, `kill_signal`, `kill_timeout` and `[checks]`.
    pub config: String,
    /// The number of its machines.
    pub machines: u8,
}

/// A fault of an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// None.
    #[default]
    None,
    /// `secrets deploy` succeeds and restarts nothing: the secrets stay `Staged`.
    StaysStaged,
    /// `secrets deploy` restarts the first machine only, and fails.
    Partial,
    /// The status of all secrets is `Unknown`.
    UnknownStatus,
    /// The list has no status, as that of old versions.
    NoStatus,
}

/// A machine, as a test sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineView {
    /// Its id.
    pub id: String,
    /// Its address in the private network.
    pub address: IpAddr,
    /// The directory that is `/etc/gaia` for its process; each boot has a new one.
    pub files: PathBuf,
    /// The id of its process; none: it does not run.
    pub pid: Option<u32>,
    /// True if the private network resolves the app's name to it.
    pub is_resolved: bool,
}

#[derive(Debug)]
struct State {
    dir: PathBuf,
    apps: BTreeMap<String, App>,
    machines: u8,
}

#[derive(Debug)]
struct App {
    spec: AppSpec,
    /// The deployed configuration.
    config: Config,
    secrets: Secrets,
    machines: Vec<Machine>,
    fault: Fault,
}

impl Fly {
    /// Starts it with its files in `dir`.
    ///
    /// # Errors
    /// If no port is free.
    pub async fn start(dir: &Path) -> Result<Self> {
        let state = Arc::new(Mutex::new(State { dir: dir.to_owned(), apps: BTreeMap::new(), machines: 0 }));
        let (address, task) = server::start(Arc::clone(&state)).await?;
        Ok(Self { state, address, task })
    }

    /// Writes the program `fly` to `dir`. `client` is a command that calls [`call`] with its arguments.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_program(&self, dir: &Path, client: &str) -> Result<PathBuf> {
        let path = dir.join("fly");
        std::fs::write(&path, format!("#!/bin/sh\nGAIA_FLY_STAND_IN={} exec {client} \"$@\"\n", self.address))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }

    /// Creates an app. Its machines start with the first deployment.
    ///
    /// # Errors
    /// If its configuration cannot be read.
    pub async fn create(&self, spec: AppSpec) -> Result<()> {
        let mut state = self.state.lock().await;
        let config = Config::parse(&spec.config)?;
        let mut machines = vec![];
        for _ in 0..spec.machines {
            state.machines += 1;
            let number = state.machines;
            // Processes of several tests share the loopback network.
            let [_, high, low, _] = std::process::id().to_be_bytes();
            let address = Ipv4Addr::new(127, 64 + (high ^ low) % 128, low, number);
            let dir = state.dir.join(&spec.name).join(format!("machine-{number}"));
            machines.push(Machine::new(format!("{number:014x}"), address.into(), dir));
        }
        let app = App { config, secrets: Secrets::default(), machines, fault: Fault::None, spec: spec.clone() };
        state.apps.insert(spec.name, app);
        Ok(())
    }

    /// Runs a command of `fly` in this process.
    pub async fn run(&self, arguments: &[&str], input: &[u8]) -> Answer {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        commands::run(&self.state, &arguments, input).await
    }

    /// Sets the fault of an app.
    ///
    /// # Errors
    /// If there is no such app.
    pub async fn set_fault(&self, app: &str, fault: Fault) -> Result<()> {
        let mut state = self.state.lock().await;
        state.apps.get_mut(app).context("no such app")?.fault = fault;
        Ok(())
    }

    /// Takes a machine out of the app's release: deployments skip it.
    ///
    /// # Errors
    /// If there is no such app or machine.
    pub async fn exclude(&self, app: &str, index: usize) -> Result<()> {
        let mut state = self.state.lock().await;
        let app = state.apps.get_mut(app).context("no such app")?;
        app.machines.get_mut(index).context("no such machine")?.is_in_release = false;
        Ok(())
    }

    /// The machines of an app. During a deployment too: it holds no lock while a machine stops or starts.
    pub async fn machines(&self, app: &str) -> Vec<MachineView> {
        let state = self.state.lock().await;
        state.apps.get(app).map(|app| app.machines.iter().map(Machine::view).collect()).unwrap_or_default()
    }

    /// The names of the secrets of an app.
    pub async fn secret_names(&self, app: &str) -> Vec<String> {
        let state = self.state.lock().await;
        state.apps.get(app).map(|app| app.secrets.names()).unwrap_or_default()
    }
}

impl Drop for Fly {
    fn drop(&mut self) {
        self.task.abort();
    }
}
