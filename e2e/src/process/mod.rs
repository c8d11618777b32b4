//! Programs under test and the parts of a cluster: processes that log to a file, can be killed, paused and restarted,
//! and end with the process that started them.

pub mod memory_cgroup;
pub mod programs;
pub mod supervisor;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use gaia_api::process::child;
use rustix::process::{Pid, Signal, kill_process};

use crate::wait;
use gaia_api::sync::lock;

/// A program and its options.
#[derive(Clone, Debug)]
pub struct ProcessSpec {
    /// Its name in messages; also the name of its log file.
    pub name: String,
    /// The program, by path or by its name on `PATH`.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Environment variables on top of the harness's own.
    pub env: BTreeMap<String, OsString>,
    /// The file for standard output and standard error, appended.
    pub log: PathBuf,
}

impl ProcessSpec {
    /// `program` without arguments, which logs to `<logs>/<name>.log`.
    pub fn new(name: &str, program: impl Into<PathBuf>, logs: &Path) -> Self {
        Self {
            name: name.to_owned(),
            program: program.into(),
            args: Vec::new(),
            env: BTreeMap::new(),
            log: logs.join(format!("{name}.log")),
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    fn spawn(&self) -> Result<Child> {
        let mut command = Command::new(&self.program);
        // Variables for the harness are not for the programs under test, which warn of unknown ones.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"GAIA_")) {
            command.env_remove(name);
        }
        command.args(&self.args).envs(&self.env).stdin(Stdio::null());
        let log = open_log(&self.log)?;
        command.stdout(log.try_clone()?).stderr(log);
        child::spawn(command).with_context(|| format!("cannot start {} ({})", self.name, self.program.display()))
    }
}

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    spec: ProcessSpec,
    child: Child,
}

impl Process {
    /// Starts the program.
    ///
    /// # Errors
    /// If it cannot be started or its log file cannot be opened.
    pub fn start(spec: ProcessSpec) -> Result<Self> {
        let child = spec.spawn()?;
        Ok(Self { state: Mutex::new(State { spec, child }) })
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.state().spec.name.clone()
    }

    /// Its process id, also after it has ended.
    pub fn pid(&self) -> u32 {
        self.state().child.id()
    }

    /// Its log file.
    pub fn log(&self) -> PathBuf {
        self.state().spec.log.clone()
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        tail(&self.log(), TAIL_LINES)
    }

    /// Its exit status, or `None` while it runs.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.state().child.try_wait().ok().flatten()
    }

    /// True while it runs (also while paused).
    pub fn is_running(&self) -> bool {
        self.exit_status().is_none()
    }

    /// Fails with the end of the log if the process has ended.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn check_running(&self) -> Result<()> {
        match self.exit_status() {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}; the end of its log:\n{}", self.name(), self.log_tail()),
        }
    }

    /// SIGKILL, as when a node loses power. Returns when the process has ended.
    ///
    /// # Errors
    /// If the signal cannot be sent.
    pub fn kill9(&self) -> Result<()> {
        let mut state = self.state();
        state.child.kill().with_context(|| format!("cannot kill {}", state.spec.name))?;
        state.child.wait()?;
        Ok(())
    }

    /// SIGTERM, as kubelet sends it; waits for the end and returns the exit status.
    ///
    /// # Errors
    /// If the process still runs after `timeout` (it is left running).
    pub async fn sigterm(&self, timeout: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.ended(timeout).await
    }

    /// Waits for the process to end on its own and returns the exit status.
    ///
    /// # Errors
    /// If the process still runs after `timeout`.
    pub async fn ended(&self, timeout: Duration) -> Result<ExitStatus> {
        wait::until(&format!("{} has ended", self.name()), timeout, async || self.exit_status()).await
    }

    /// SIGSTOP: the process is paused with its connections open, as in a virtual machine that is being moved.
    ///
    /// # Errors
    /// If the signal cannot be sent.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT: the end of [`Self::pause`].
    ///
    /// # Errors
    /// If the signal cannot be sent.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Kills the process if it runs and starts it again with the same arguments.
    ///
    /// # Errors
    /// If it cannot be killed or started.
    pub fn restart(&self) -> Result<()> {
        self.restart_with(|_| {})
    }

    /// Kills the process if it runs and starts it again with its arguments as `change` returns them.
    ///
    /// # Errors
    /// If it cannot be killed or started.
    pub fn restart_with(&self, change: impl FnOnce(&mut ProcessSpec)) -> Result<()> {
        self.kill9()?;
        let mut state = self.state();
        change(&mut state.spec);
        state.child = state.spec.spawn()?;
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let mut state = self.state();
        if let Some(status) = state.child.try_wait()? {
            bail!("{} cannot be sent {signal:?}: it ended with {status}", state.spec.name);
        }
        // The process is not reaped yet, so the id is still its own.
        let pid = i32::try_from(state.child.id()).ok().and_then(Pid::from_raw).context("not a process id")?;
        kill_process(pid, signal).with_context(|| format!("cannot send {signal:?} to {}", state.spec.name))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill9();
    }
}

/// Runs a command to its end and returns its output, whatever its exit status. It ends with the harness, like
/// every process here.
///
/// # Errors
/// If the command cannot be started.
pub async fn output(mut command: Command) -> Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = spawn(command)?;
    Ok(tokio::task::spawn_blocking(move || child.wait_with_output()).await??)
}

/// Starts a command that ends with the harness; the caller handles its streams.
///
/// # Errors
/// If the command cannot be started.
pub fn spawn(command: Command) -> Result<Child> {
    let shown = format!("{command:?}");
    child::spawn(command).with_context(|| format!("cannot start {shown}"))
}

/// Memory of a process as the kernel counts it: `VmRSS` now, `VmHWM` at most.
///
/// # Errors
/// If there is no such process, or it has ended.
pub fn memory_mib(pid: u32, which: &str) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(which)?.strip_prefix(':'));
    let line = line.with_context(|| format!("the kernel does not say {which}"))?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}

/// The last `lines` lines of a file; nothing if it cannot be read.
pub fn tail(file: &Path, lines: usize) -> String {
    let text = std::fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn open_log(path: &Path) -> Result<File> {
    let open = || -> std::io::Result<File> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        OpenOptions::new().create(true).append(true).open(path)
    };
    open().with_context(|| format!("cannot open the log file {}", path.display()))
}

const TAIL_LINES: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn shell(dir: &Path, script: &str) -> Process {
        Process::start(ProcessSpec::new("shell", "/bin/sh", dir).args(["-c", script])).unwrap()
    }

    #[tokio::test]
    async fn sigterm_returns_the_exit_status_that_the_process_chose() {
        let dir = tempfile::tempdir().unwrap();
        let process = shell(dir.path(), "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done");
        wait::until("the trap is set", SOON, async || process.log_tail() == "ready").await.unwrap();
        assert_eq!(process.sigterm(SOON).await.unwrap().code(), Some(7));
    }

    #[tokio::test]
    async fn a_process_outlives_the_thread_that_asked_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let process = std::thread::spawn(move || shell(&path, "exec sleep 60")).join().unwrap();
        wait::throughout("it runs", Duration::from_millis(200), async || process.is_running()).await.unwrap();
    }

    #[tokio::test]
    async fn a_paused_process_does_nothing_until_it_is_resumed() {
        let dir = tempfile::tempdir().unwrap();
        let process = shell(dir.path(), "while :; do echo .; sleep 0.01; done");
        let length = || std::fs::metadata(process.log()).map_or(0, |metadata| metadata.len());
        wait::until("it writes", SOON, async || length() > 0).await.unwrap();
        process.pause().unwrap();
        let stat = format!("/proc/{}/stat", process.pid());
        wait::until("it is stopped", SOON, async || std::fs::read_to_string(&stat).unwrap().contains(") T "))
            .await
            .unwrap();
        let before = length();
        wait::throughout("nothing is written", Duration::from_millis(200), async || length() == before).await.unwrap();
        process.resume().unwrap();
        wait::until("it writes again", SOON, async || length() > before).await.unwrap();
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_reported_with_the_end_of_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let process = shell(dir.path(), "echo it broke; exit 3");
        process.ended(SOON).await.unwrap();
        let message = process.check_running().unwrap_err().to_string();
        assert!(message.contains("exit status: 3") && message.contains("it broke"), "{message}");
    }
}
