//! etcd, kube-apiserver and kube-controller-manager on loopback: a real API server without root, in a few seconds.

pub(crate) mod flags;
mod options;
mod parts;
pub mod ports;

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;

use flags::AUDIT_LOG;
pub use options::ControlPlaneOptions;
use parts::Plan;

use crate::assets::ControlPlaneAssets;
use crate::cluster::Cluster;
use crate::process::Process;
use crate::progress::say;
use crate::tier::Turn;
use crate::{AuditLog, dirs, wait};

/// A running control plane. It is a [`Cluster`], with access to the processes it consists of. Dropping it kills them;
/// the directory stays, with the logs.
#[derive(Debug)]
pub struct ControlPlane {
    cluster: Cluster,
    timeout: Duration,
    kube_controller_manager: Option<Process>,
    kube_apiserver: Process,
    etcd: Process,
    turn: Option<Turn>,
}

impl ControlPlane {
    /// Starts a control plane and waits until it is ready.
    ///
    /// # Errors
    /// If a program is missing, or a part does not come up: with the end of that part's log.
    pub async fn start(options: ControlPlaneOptions) -> Result<Self> {
        let assets = match options.assets.clone() {
            Some(assets) => assets,
            None => tokio::task::spawn_blocking(ControlPlaneAssets::locate).await??,
        };
        let dir = match options.dir.clone() {
            Some(dir) => dir,
            None => dirs::scratch()?,
        };
        let mut attempt = 1;
        loop {
            let started = Self::start_once(&dir, &assets, &options).await;
            match started {
                // Another process took a port between the check and the use.
                Err(error) if attempt < ATTEMPTS && format!("{error:#}").contains("address already in use") => {
                    attempt += 1;
                }
                other => return other.with_context(|| format!("no control plane in {}", dir.display())),
            }
        }
    }

    async fn start_once(dir: &Path, assets: &ControlPlaneAssets, options: &ControlPlaneOptions) -> Result<Self> {
        let plan = Plan::make(dir, assets, options)?;
        let etcd = Process::start(plan.etcd())?;
        wait::until("etcd listens", options.timeout, async || plan.etcd_listens(&etcd)).await??;
        let kube_apiserver = Process::start(plan.kube_apiserver())?;
        let cluster = Cluster::new(plan.admin_kubeconfig(), assets.kubectl.clone(), dir);
        let timeout = options.timeout;
        let mut plane = Self { cluster, timeout, kube_controller_manager: None, kube_apiserver, etcd, turn: None };
        plane.wait_ready().await?;
        // Not earlier: it exits at once while the API server is still creating its initial roles.
        plane.kube_controller_manager = plan.kube_controller_manager().map(Process::start).transpose()?;
        plane.wait_for_controllers().await?;
        Ok(plane)
    }

    /// Keeps the turn of its test until it is dropped.
    pub(crate) fn held_with(mut self, turn: Turn) -> Self {
        self.turn = Some(turn);
        self
    }

    /// Waits for the first action of kube-controller-manager in a new cluster.
    async fn wait_for_controllers(&self) -> Result<()> {
        if self.kube_controller_manager.is_none() {
            say("no kube-controller-manager: nothing collects garbage in this control plane");
            return Ok(());
        }
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin().await?, "default");
        wait::until("the default ServiceAccount is there", self.timeout, async || match self.check_running() {
            Ok(()) => accounts.get("default").await.map(|_| Ok(())),
            Err(ended) => Ok(Err(ended)),
        })
        .await?
    }

    /// The audit log of the API server.
    pub fn audit(&self) -> AuditLog {
        AuditLog::at(self.dir().join(AUDIT_LOG))
    }

    /// The logs of the parts.
    pub fn logs(&self) -> PathBuf {
        self.dir().join(LOGS)
    }

    /// etcd.
    pub fn etcd(&self) -> &Process {
        &self.etcd
    }

    /// kube-apiserver.
    pub fn apiserver(&self) -> &Process {
        &self.kube_apiserver
    }

    /// kube-controller-manager, where the assets have one.
    pub fn controller_manager(&self) -> Option<&Process> {
        self.kube_controller_manager.as_ref()
    }

    /// Kills the API server; its stored data stays.
    ///
    /// # Errors
    /// If the signal cannot be sent.
    pub fn kill_apiserver(&self) -> Result<()> {
        self.kube_apiserver.kill9()
    }

    /// Starts the API server again, on the same port, and waits until it is ready. One that still runs is killed.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn restart_apiserver(&self) -> Result<()> {
        self.kube_apiserver.restart()?;
        self.wait_ready().await
    }

    /// Pauses the API server: connections stay open and are not answered.
    ///
    /// # Errors
    /// If the signal cannot be sent.
    pub fn pause_apiserver(&self) -> Result<()> {
        self.kube_apiserver.pause()
    }

    /// The end of [`Self::pause_apiserver`].
    ///
    /// # Errors
    /// If the signal cannot be sent.
    pub fn resume_apiserver(&self) -> Result<()> {
        self.kube_apiserver.resume()
    }

    /// Waits until the API server is ready.
    ///
    /// # Errors
    /// With the end of the log of the part that ended, or of the API server if it takes too long.
    pub async fn wait_ready(&self) -> Result<()> {
        let look = async || match self.check_running() {
            Ok(()) => self.cluster.ready().await.map(Ok),
            Err(ended) => Ok(Err(ended)),
        };
        wait::until("the API server is ready", self.timeout, look)
            .await
            .with_context(|| format!("the end of kube-apiserver's log:\n{}", self.kube_apiserver.log_tail()))?
    }

    /// Fails with the end of the log of a part that has ended.
    ///
    /// # Errors
    /// If a part has ended.
    pub fn check_running(&self) -> Result<()> {
        self.etcd.check_running()?;
        self.kube_apiserver.check_running()?;
        self.kube_controller_manager.as_ref().map_or(Ok(()), Process::check_running)
    }
}

/// All operations on a cluster are available on this one.
impl Deref for ControlPlane {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

const ATTEMPTS: u32 = 3;
const LOGS: &str = "logs";
