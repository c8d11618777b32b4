//! Machines: processes with files that are written at their boot.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::config::Config;
use super::secrets::Secrets;
use super::{AppSpec, MachineView};

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) id: String,
    pub(super) address: IpAddr,
    /// Deployments skip a machine outside of the release.
    pub(super) is_in_release: bool,
    /// A stopped machine is updated, and starts at the next `fly machine start`.
    pub(super) is_stopped: bool,
    /// True if the private network resolves the app's name to it.
    pub(super) is_resolved: bool,
    dir: PathBuf,
    boot: u32,
    update: u32,
    /// The versions of the secrets it was updated to.
    secrets: BTreeMap<String, u64>,
    process: Option<Child>,
}

/// The inputs of a boot, which runs without a lock.
#[derive(Debug)]
pub(super) struct Boot {
    config: Config,
    secrets: Secrets,
    spec: AppSpec,
    address: IpAddr,
    root: PathBuf,
    log: PathBuf,
}

impl Machine {
    pub(super) fn new(id: String, address: IpAddr, dir: PathBuf) -> Self {
        Self {
            id,
            address,
            is_in_release: true,
            is_stopped: false,
            is_resolved: false,
            dir,
            boot: 0,
            update: 0,
            secrets: BTreeMap::new(),
            process: None,
        }
    }

    pub(super) fn view(&self) -> MachineView {
        MachineView {
            id: self.id.clone(),
            address: self.address,
            files: self.root().join("etc/gaia"),
            pid: self.process.as_ref().and_then(Child::id),
            is_resolved: self.is_resolved,
        }
    }

    pub(super) fn state(&self) -> &'static str {
        if self.process.is_some() { "started" } else { "stopped" }
    }

    /// An id that each update changes.
    pub(super) fn instance_id(&self) -> String {
        format!("{}-{:04}", self.id, self.update)
    }

    pub(super) fn has(&self, secret: &str, version: u64) -> bool {
        self.secrets.get(secret) == Some(&version)
    }

    /// Records an update to these secrets.
    pub(super) fn update(&mut self, secrets: &Secrets) {
        self.update += 1;
        self.secrets = secrets.iter().map(|(name, secret)| (name.clone(), secret.version)).collect();
    }

    pub(super) fn take_process(&mut self) -> Option<Child> {
        self.is_resolved = false;
        self.process.take()
    }

    pub(super) fn set_process(&mut self, process: Child) {
        self.process = Some(process);
        self.is_resolved = true;
    }

    pub(super) fn boot(&mut self, spec: &AppSpec, config: &Config, secrets: &Secrets) -> Boot {
        self.boot += 1;
        Boot {
            config: config.clone(),
            secrets: secrets.clone(),
            spec: spec.clone(),
            address: self.address,
            root: self.root(),
            log: self.dir.join("log"),
        }
    }

    fn root(&self) -> PathBuf {
        self.dir.join(format!("boot-{}", self.boot))
    }
}

impl Boot {
    /// Writes the files and starts the process, and waits until its check passes.
    pub(super) async fn start(self) -> Result<Child> {
        let Self { config, secrets, spec, address, root, log } = self;
        for (path, name) in &config.files {
            let Some(secret) = secrets.get(name) else { continue };
            let content = STANDARD.decode(&secret.value).with_context(|| format!("secret {name} is not base64"))?;
            let file = root.join(path.trim_start_matches('/'));
            fs::create_dir_all(file.parent().context("no parent")?)?;
            fs::write(&file, content)?;
        }
        fs::create_dir_all(&root)?;
        let out = fs::OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = Command::new(&spec.program);
        command.kill_on_drop(true).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).current_dir(&root);
        let in_guest = |value: &String| match value.strip_prefix("[::]") {
            Some(port) => format!("{address}{port}"),
            None if value.starts_with('/') => root.join(value.trim_start_matches('/')).display().to_string(),
            None => value.clone(),
        };
        command.envs(secrets.iter().map(|(name, secret)| (name, &secret.value)));
        command.envs(&spec.env).envs(config.env.iter().map(|(name, value)| (name, in_guest(value))));
        let mut child = command.spawn().with_context(|| spec.program.display().to_string())?;
        let Some((port, path)) = &config.check else { return Ok(child) };
        let deadline = Instant::now() + START;
        while !passes(address, *port, path).await {
            if let Some(status) = child.try_wait()? {
                bail!("the machine ended with {status}");
            }
            if Instant::now() > deadline {
                bail!("the check of the machine does not pass");
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(child)
    }
}

/// Ends a process by the signal of the configuration, and by SIGKILL when its time is over.
pub(super) async fn stop(mut process: Child, config: &Config) -> Result<()> {
    let Some(pid) = process.id() else { return Ok(()) };
    let signal = config.kill_signal.trim_start_matches("SIG");
    Command::new("kill").args(["-s", signal, &pid.to_string()]).status().await?;
    if timeout(Duration::from_secs(config.kill_timeout), process.wait()).await.is_err() {
        process.kill().await?;
    }
    Ok(())
}

async fn passes(address: IpAddr, port: u16, path: &str) -> bool {
    let request = async {
        let mut stream = TcpStream::connect((address, port)).await?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: check\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await?;
        anyhow::Ok(answer.ends_with(b" 200"))
    };
    matches!(timeout(Duration::from_secs(2), request).await, Ok(Ok(true)))
}

const START: Duration = Duration::from_secs(60);
