//! A cluster that stays up after its command: `gaia-e2e cluster up`, `down` and `status`, and `gaia-e2e demo
//! --keep`.
//!
//! A supervisor process owns the cluster. It holds a lock on `supervisor.lock` in the cluster's directory for as long as
//! it runs, with its process id in the file, so its identity and state are always known. All processes that it started
//! end with it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use crate::assets::{ControlPlaneAssets, controlplane};
use crate::progress::{say, tell};
use crate::{ControlPlane, ControlPlaneOptions, Node, dirs, node, wait};

/// A kind of cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A control plane on loopback.
    Loopback,
    /// A whole node. Needs root.
    Node,
    /// The demo: a control plane on loopback with operator and services.
    Demo,
}

/// The directory of one cluster.
#[derive(Clone, Debug)]
pub struct Site {
    kind: Kind,
    dir: PathBuf,
}

impl Site {
    /// The cluster in `dir`, or in the default place: `run/loopback`, `run/node` or `run/demo` in the cache directory.
    ///
    /// # Errors
    /// If there is no home directory.
    pub fn new(kind: Kind, dir: Option<PathBuf>) -> Result<Self> {
        let dir = match dir {
            Some(dir) => std::path::absolute(dir)?,
            None => dirs::cluster(kind.name())?,
        };
        Ok(Self { kind, dir })
    }

    /// The directory of its files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The administrator's kubeconfig, if the cluster is up.
    pub fn kubeconfig(&self) -> Option<PathBuf> {
        self.supervisor()?;
        std::fs::read_to_string(self.dir.join(READY)).ok().map(PathBuf::from)
    }

    /// Starts the cluster, unless it is up, and returns the administrator's kubeconfig. Files of an earlier cluster in
    /// the directory are removed first.
    ///
    /// # Errors
    /// If the cluster does not come up, with the supervisor's error.
    pub async fn up(&self) -> Result<PathBuf> {
        std::fs::create_dir_all(&self.dir).with_context(|| format!("cannot create {}", self.dir.display()))?;
        // Of two concurrent calls the second waits here and then finds the cluster of the first.
        let _one_starter = self.lock_for_starting().await?;
        if let Some(kubeconfig) = self.kubeconfig() {
            return Ok(kubeconfig);
        }
        self.prepare().await?;
        self.clear()?;
        let mut supervisor = self.spawn_supervisor()?;
        let mut output =
            [Follow::new(self.dir.join(OUTPUT), |line| tell(line)), Follow::new(self.dir.join(LOG), |line| say(line))];
        let result = wait::until("the cluster is up", UP_TIMEOUT, async || {
            let seen = self.kubeconfig().map(Ok).or_else(|| ended(&mut supervisor).map(Err));
            output.iter_mut().for_each(Follow::print_new);
            seen
        })
        .await?;
        output.iter_mut().for_each(Follow::print_new);
        result
    }

    /// Builds the parts of the cluster. Not in the supervisor, because a build takes long, and this process shows its
    /// progress on the terminal.
    ///
    /// # Errors
    /// If one cannot be built.
    pub async fn prepare(&self) -> Result<()> {
        match self.kind {
            Kind::Loopback | Kind::Demo => drop(tokio::task::spawn_blocking(ControlPlaneAssets::locate).await??),
            Kind::Node => {
                node::check_requirements()?;
                tokio::task::spawn_blocking(controlplane).await??;
            }
        }
        Ok(())
    }

    /// Stops the cluster, if it is up, and removes all its files except logs.
    ///
    /// # Errors
    /// If the supervisor does not end.
    pub async fn down(&self) -> Result<()> {
        if let Some(pid) = self.supervisor() {
            kill_process(pid, Signal::TERM).context("cannot stop the supervisor")?;
            let gone = async || self.supervisor().is_none();
            if wait::until("the supervisor has ended", DOWN_TIMEOUT, gone).await.is_err() {
                kill_process(pid, Signal::KILL).context("cannot kill the supervisor")?;
                wait::until("the supervisor is gone", DOWN_TIMEOUT, gone).await?;
            }
        }
        self.clean()
    }

    /// Imports the images of a docker-archive tar into the node.
    ///
    /// # Errors
    /// If no node is up here, or it refuses them.
    pub async fn load_image(&self, tar: &Path) -> Result<()> {
        ensure!(self.kind == Kind::Node, "only a node runs images: use --node");
        ensure!(self.kubeconfig().is_some(), "no node is up in {}", self.dir.display());
        node::load_image_into(&self.dir, tar).await
    }

    /// Runs the cluster until SIGTERM: the body of the supervisor process.
    ///
    /// # Errors
    /// If the cluster does not come up, or a part of it ends.
    pub async fn supervise(&self) -> Result<()> {
        self.supervise_with(self.run_cluster()).await
    }

    /// Runs `body`, as the owner of this directory, until SIGTERM.
    ///
    /// # Errors
    /// Errors of `body`, or if the directory has an owner.
    pub async fn supervise_with(&self, body: impl Future<Output = Result<()>>) -> Result<()> {
        // Leaves the terminal and the process group of the command that started it. Fails only for a group leader,
        // such as a supervisor that is run by hand.
        let _ = rustix::process::setsid();
        self.occupy(body).await.map(drop)
    }

    /// Runs `body` as the one owner of this directory, until it ends, or until SIGTERM or Ctrl-C: then there is no result.
    ///
    /// # Errors
    /// Errors of `body`, or if the directory has an owner.
    pub async fn occupy<T>(&self, body: impl Future<Output = Result<T>>) -> Result<Option<T>> {
        std::fs::create_dir_all(&self.dir).with_context(|| format!("cannot create {}", self.dir.display()))?;
        let _lock = self.become_supervisor()?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            result = body => result.map(Some),
            _ = terminate.recv() => Ok(None),
            _ = interrupt.recv() => Ok(None),
        }
    }

    async fn run_cluster(&self) -> Result<()> {
        match self.kind {
            Kind::Loopback | Kind::Demo => {
                let plane = ControlPlane::start(ControlPlaneOptions::default().in_dir(&self.dir)).await?;
                self.announce(plane.kubeconfig())?;
                forever(|| plane.check_running()).await
            }
            Kind::Node => {
                let node = Node::start(&self.dir).await?;
                self.announce(node.kubeconfig())?;
                forever(|| node.check_running()).await
            }
        }
    }

    /// Marks the cluster as up for [`Self::up`] and [`Self::kubeconfig`].
    ///
    /// # Errors
    /// If the mark cannot be written.
    pub fn announce(&self, kubeconfig: &Path) -> Result<()> {
        let unfinished = self.dir.join("ready.tmp");
        std::fs::write(&unfinished, kubeconfig.to_str().context("the path is not UTF-8")?)?;
        Ok(std::fs::rename(unfinished, self.dir.join(READY))?)
    }

    /// The supervisor's process id, if it runs.
    fn supervisor(&self) -> Option<Pid> {
        let mut file = File::open(self.dir.join(LOCK)).ok()?;
        if file.try_lock_shared().is_ok() {
            return None;
        }
        let mut pid = String::new();
        file.read_to_string(&mut pid).ok()?;
        Pid::from_raw(pid.trim().parse().ok()?)
    }

    fn become_supervisor(&self) -> Result<File> {
        let mut file = File::options().create(true).truncate(false).write(true).open(self.dir.join(LOCK))?;
        let (dir, node) = (self.dir.display(), if self.kind == Kind::Node { " --node" } else { "" });
        let advice = format!("`gaia-e2e cluster down{node} --dir {dir}` stops it");
        ensure!(file.try_lock().is_ok(), "another process runs the cluster in {dir}; {advice}");
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(file)
    }

    async fn lock_for_starting(&self) -> Result<File> {
        let file = File::create(self.dir.join("up.lock"))?;
        wait::until("no other `up` runs", UP_TIMEOUT, async || file.try_lock()).await?;
        Ok(file)
    }

    fn spawn_supervisor(&self) -> Result<Child> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(match self.kind {
            Kind::Loopback => &["cluster", "supervise"][..],
            Kind::Node => &["cluster", "supervise", "--node"],
            Kind::Demo => &["demo", "--supervised"],
        });
        command.arg("--dir").arg(&self.dir).current_dir("/").stdin(Stdio::null());
        command.stdout(File::create(self.dir.join(OUTPUT))?).stderr(File::create(self.dir.join(LOG))?);
        command.spawn().context("cannot start the supervisor")
    }

    /// Removes all files of an earlier cluster here.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn clear(&self) -> Result<()> {
        self.clean()?;
        dirs::remove(&self.dir.join("logs"))
    }

    /// Removes the files of an ended cluster, apart from its logs.
    fn clean(&self) -> Result<()> {
        for name in [READY, "etcd", "pki", FILES, "audit.jsonl"] {
            dirs::remove(&self.dir.join(name))?;
        }
        // The administrator's, and those of ServiceAccounts.
        for entry in self.dir.read_dir().into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "kubeconfig") {
                dirs::remove(&entry.path())?;
            }
        }
        match self.kind {
            Kind::Loopback | Kind::Demo => Ok(()),
            Kind::Node => node::sweep(&self.dir),
        }
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Node => "node",
            Self::Demo => "demo",
        }
    }
}

/// Checks the parts of a cluster once a second, for as long as all of them run.
async fn forever(check: impl Fn() -> Result<()>) -> Result<()> {
    let mut interval = tokio::time::interval(Duration::from_secs(1));
    loop {
        interval.tick().await;
        check()?;
    }
}

fn ended(supervisor: &mut Child) -> Option<anyhow::Error> {
    let status = supervisor.try_wait().ok().flatten()?;
    Some(anyhow::anyhow!("the supervisor ended with {status}"))
}

/// Passes on the lines that are added to a file.
struct Follow {
    path: PathBuf,
    offset: u64,
    print: fn(&str),
}

impl Follow {
    fn new(path: PathBuf, print: fn(&str)) -> Self {
        Self { path, offset: 0, print }
    }

    fn print_new(&mut self) {
        let Ok(mut file) = File::open(&self.path) else { return };
        let mut text = String::new();
        if file.seek(SeekFrom::Start(self.offset)).is_ok() && file.read_to_string(&mut text).is_ok() {
            // An incomplete line is left for the next read.
            let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
            self.offset += whole.len() as u64;
            whole.lines().for_each(self.print);
        }
    }
}

/// The directory for files of the owner that are neither the cluster's own nor logs; removed with the cluster.
pub const FILES: &str = "files";

const LOCK: &str = "supervisor.lock";
const LOG: &str = "supervisor.log";
const OUTPUT: &str = "supervisor.out";
const READY: &str = "ready";
const UP_TIMEOUT: Duration = Duration::from_secs(180);
const DOWN_TIMEOUT: Duration = Duration::from_secs(30);
