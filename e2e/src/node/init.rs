//! The init process of a node: process 1 of its PID namespace. It starts all parts and reaps orphans, and the node
//! ends with it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, WaitOptions, getpid, waitpid};

use super::{containerd, kubernetes, network};
use crate::process::Process;
use crate::progress::say;
use crate::wait;

/// Runs the node in `dir` until a part of it ends. Must be called as process 1 of namespaces that are the node's own.
///
/// # Errors
/// If a part does not come up, or ends.
pub async fn run(dir: &Path, controlplane: &Path) -> Result<()> {
    ensure!(getpid().as_raw_nonzero().get() == 1, "node-init is for process 1 of a PID namespace");
    mount("--make-rshared", &["/"])?;
    // Sockets and network namespaces of pods are kept here, invisible from outside.
    mount("--types", &["tmpfs", "gaia-node", "/run"])?;
    std::fs::create_dir_all(dir.join("run"))?;
    wait::until("the node is connected", SOON, async || network::is_connected()).await?;
    network::configure()?;

    let mut parts = vec![Process::start(containerd::spec(dir)?)?];
    wait::until("containerd answers", SOON, async || containerd::answers()).await?;
    containerd::import_pause(dir)?;
    kubernetes::start(dir, controlplane, &mut parts).await?;
    say("all parts are started");
    watch_over(&parts).await
}

async fn watch_over(parts: &[Process]) -> Result<()> {
    let mut interval = tokio::time::interval(Duration::from_secs(1));
    loop {
        interval.tick().await;
        parts.iter().try_for_each(Process::check_running)?;
        bury_orphans(parts);
    }
}

/// Process 1 must reap processes without a parent: shims of containers, mostly. The init's own children are left to
/// [`Process::check_running`].
fn bury_orphans(parts: &[Process]) {
    let Ok(entries) = std::fs::read_dir("/proc") else { return };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    for pid in pids.filter(|pid| is_dead_orphan(*pid)) {
        let ours = parts.iter().any(|part| i32::try_from(part.pid()) == Ok(pid));
        if !ours {
            let _ = waitpid(Pid::from_raw(pid), WaitOptions::NOHANG);
        }
    }
}

/// A zombie whose parent is process 1. See proc_pid_stat(5): after the name, in parentheses, come state and parent.
fn is_dead_orphan(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with("Z 1 "))
}

fn mount(option: &str, args: &[&str]) -> Result<()> {
    let output = Command::new("mount").arg(option).args(args).output().context("cannot start mount")?;
    ensure!(output.status.success(), "mount {option} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

const SOON: Duration = Duration::from_secs(30);
