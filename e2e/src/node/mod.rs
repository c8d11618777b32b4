//! A whole node on this machine: etcd, the control plane, kubelet, kube-proxy, CoreDNS and containerd. Needs root.
//!
//! All of it runs in a PID, mount and network namespace of its own, under an init process that ends with the starter
//! of the node. When an init ends, the kernel kills every process of its PID namespace, and the mounts and interfaces are
//! removed with the last of them: only empty cgroups and files are left, which [`sweep`] removes.

mod cgroups;
mod containerd;
mod init;
mod kubernetes;
mod network;
mod pki;

use std::fs::File;
use std::ops::Deref;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Node as NodeObject, ServiceAccount};
use kube::Api;

pub use init::run as run_init;

use crate::assets::{ControlPlaneAssets, controlplane, on_path};
use crate::cluster::Cluster;
use crate::control_plane::flags::AUDIT_LOG;
use crate::process::{self, Process, ProcessSpec};
use crate::progress::Task;
use crate::wait::{self, Seen};
use crate::{AuditLog, dirs, image, programs};

/// A running node. It is a [`Cluster`]. Dropping it stops it; the directory stays, with the logs.
#[derive(Debug)]
pub struct Node {
    cluster: Cluster,
    /// `unshare`, which waits for the init process and kills it when it ends.
    namespaces: Process,
    /// The init process, as seen from outside.
    init: u32,
    _only_one: File,
}

impl Node {
    /// Starts a node, with its files in `dir`, and waits until it accepts pods.
    ///
    /// # Errors
    /// If this is not root, a program is missing, another node runs on this machine, or the node does not come up.
    pub async fn start(dir: &Path) -> Result<Self> {
        check_requirements()?;
        let only_one = lock()?;
        clean_up()?;
        let binaries = tokio::task::spawn_blocking(controlplane).await??;
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        pki::write(dir)?;
        image::write_pause(&dir.join(PAUSE_IMAGE), &binaries.pause)?;
        cgroups::create()?;

        let task = Task::start("starting the node");
        let namespaces = Process::start(in_namespaces(dir, &binaries.controlplane)?)?;
        let init = wait::until("the init process runs", SOON, async || child_of(namespaces.pid())).await?;
        let kubectl = ControlPlaneAssets::of_one_binary(&binaries.controlplane).kubectl;
        let cluster = Cluster::new(dir.join("admin.kubeconfig"), kubectl, dir);
        let node = Self { cluster, namespaces, init, _only_one: only_one };
        network::connect(init)?;
        node.wait_ready().await?;
        std::fs::write(dir.join(INIT), init.to_string())?;
        task.done();
        Ok(node)
    }

    /// Starts a node in a new directory, for a test.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_for_test() -> Result<Self> {
        Self::start(&dirs::scratch()?).await
    }

    /// The audit log of the API server.
    pub fn audit(&self) -> AuditLog {
        AuditLog::at(self.dir().join(AUDIT_LOG))
    }

    /// Imports the images of a docker-archive or OCI tar into the node.
    ///
    /// # Errors
    /// If containerd refuses it.
    pub async fn load_image(&self, tar: &Path) -> Result<()> {
        load_image(self.init, tar).await
    }

    /// Fails with the end of the log if the node has ended.
    ///
    /// # Errors
    /// If the node, or a part of it, has ended.
    pub fn check_running(&self) -> Result<()> {
        self.namespaces.check_running()
    }

    async fn wait_ready(&self) -> Result<()> {
        let look = async || match self.check_running() {
            Ok(()) => self.takes_pods().await.map(Ok),
            Err(ended) => Ok(Err(ended)),
        };
        let result = wait::until("the node takes pods", UP_TIMEOUT, look).await;
        result.with_context(|| format!("the node in {} does not come up: see its logs", self.dir().display()))?
    }

    async fn takes_pods(&self) -> Result<()> {
        let client = self.admin().await?;
        let node = Api::<NodeObject>::all(client.clone()).get(NODE).await?;
        let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
        let ready = conditions.iter().find(|condition| condition.type_ == "Ready").context("no condition Ready")?;
        ensure!(ready.status == "True", "the node is not ready: {}", ready.message.clone().unwrap_or_default());
        Api::<ServiceAccount>::namespaced(client, "default")
            .get("default")
            .await
            .context("no default ServiceAccount")?;
        Ok(())
    }
}

/// All operations on a cluster are available on this one.
impl Deref for Node {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.namespaces.kill9();
        let _ = clean_up();
    }
}

/// Imports an image into the node that runs in `dir`.
///
/// # Errors
/// If no node runs there, or containerd refuses the image.
pub async fn load_image_into(dir: &Path, tar: &Path) -> Result<()> {
    let init = std::fs::read_to_string(dir.join(INIT)).with_context(|| format!("no node runs in {}", dir.display()))?;
    load_image(init.trim().parse()?, tar).await
}

/// Removes the remainder of a killed node, unless another one runs: empty cgroups, and its files in this directory.
///
/// # Errors
/// If something cannot be removed.
pub fn sweep(dir: &Path) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    if let Ok(_only_one) = lock() {
        clean_up()?;
    }
    for name in ["containerd", "kubelet", "cni", "run", PAUSE_IMAGE, INIT] {
        dirs::remove(&dir.join(name))?;
    }
    Ok(())
}

/// Removes the remainder of a node whose processes have ended.
fn clean_up() -> Result<()> {
    network::disconnect()?;
    cgroups::remove()
}

/// Checks that this machine can run a node.
///
/// # Errors
/// With the missing programs or rights, and how to get them.
pub fn check_requirements() -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "a node needs root");
    let missing: Vec<&str> = PROGRAMS.into_iter().filter(|program| on_path(program).is_none()).collect();
    ensure!(
        missing.is_empty(),
        "a node needs {}: apt-get install containerd runc containernetworking-plugins nftables conntrack iproute2",
        missing.join(", ")
    );
    containerd::plugins().map(drop)
}

/// One node per machine: its addresses and its cgroup are fixed.
fn lock() -> Result<File> {
    let file = File::create(LOCK).with_context(|| format!("cannot create {LOCK}"))?;
    if file.try_lock().is_err() {
        bail!("another node runs on this machine ({LOCK} is locked): take it down first");
    }
    Ok(file)
}

fn in_namespaces(dir: &Path, controlplane: &Path) -> Result<ProcessSpec> {
    let spec = ProcessSpec::new("node", "unshare", &dir.join("logs"))
        .args(["--mount", "--pid", "--net", "--fork", "--kill-child=SIGKILL", "--mount-proc", "--propagation=private"])
        .args([programs::own()?.as_os_str(), "node-init".as_ref(), "--dir".as_ref(), dir.as_os_str()])
        .args(["--controlplane".as_ref(), controlplane.as_os_str()]);
    Ok(spec)
}

fn child_of(pid: u32) -> Seen<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().next().and_then(|child| child.parse().ok()).into()
}

async fn load_image(init: u32, tar: &Path) -> Result<()> {
    let tar = std::path::absolute(tar)?;
    let mut command = Command::new("nsenter");
    command.args(["--target", &init.to_string(), "--mount", "--pid", "--net", "--"]);
    command.args(["ctr", "--address", containerd::SOCKET, "--namespace", "k8s.io", "images", "import"]).arg(&tar);
    let output = process::output(command).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "containerd does not take {}: {said}", tar.display());
    Ok(())
}

/// The node's name.
pub const NODE: &str = "node-1";

/// The node's address, which the host reaches.
pub const NODE_IP: &str = "10.200.77.2";

const HOST_IP: &str = "10.200.77.1";
const POD_CIDR: &str = "10.244.0.0/24";
const SERVICE_CIDR: &str = "10.96.0.0/16";
const API_SERVICE_IP: &str = "10.96.0.1";

const LOCK: &str = "/run/gaia-node.lock";
const PAUSE_IMAGE: &str = "pause.tar";
const INIT: &str = "init.pid";
const PROGRAMS: [&str; 11] = [
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "runc",
    "nft",
    "conntrack",
    "ip",
    "unshare",
    "nsenter",
    "mount",
    "sysctl",
];
const SOON: Duration = Duration::from_secs(10);
const UP_TIMEOUT: Duration = Duration::from_secs(90);
