//! The processes of the demo: a control plane, the operator, two services, and the files of a third.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use gaia_e2e::progress::say;
use gaia_e2e::{
    ControlPlane, ControlPlaneOptions, KeptProjection, OperatorOptions, OperatorProcess, Process, Projection,
    ServiceOptions, ServiceProcess, chart, services, supervisor, wait,
};

use super::users::{self, Users};

/// All running processes. Dropping it stops them.
#[derive(Debug)]
pub(super) struct Platform {
    pub(super) users: Users,
    pub(super) services: Services,
    pub(super) operator: OperatorProcess,
    pub(super) plane: ControlPlane,
}

/// The services, and the mounted directory of the one that curl calls as.
#[derive(Debug)]
pub(super) struct Services {
    pub(super) auth: ServiceProcess,
    pub(super) assets: ServiceProcess,
    _web: KeptProjection,
}

pub(super) async fn start_control_plane(dir: &Path) -> Result<ControlPlane> {
    ControlPlane::start(ControlPlaneOptions::default().in_dir(dir)).await
}

/// The chart without its Deployment, which needs a node, and in its place the operator as a local process.
pub(super) async fn start_operator(plane: &ControlPlane) -> Result<OperatorProcess> {
    let kubeconfig = chart::install_without_deployment(plane, OPERATOR_NAMESPACE, &[]).await?;
    let mut options = OperatorOptions::new(plane, &kubeconfig, OPERATOR_NAMESPACE).named("gaia-operator");
    options.logs = logs(plane.dir());
    let operator = OperatorProcess::start(options)?;
    operator.wait_ready(SOON).await?;
    Ok(operator)
}

pub(super) async fn start_services(plane: &ControlPlane) -> Result<Services> {
    let files = files(plane.dir());
    let sources = services::mount("web", TRUST_DOMAIN);
    let web = Projection::new(plane.admin().await?, NAMESPACE, files.join("web"), sources);
    wait::until("the files of web are there", SOON, || web.sync_once()).await?;
    services::wait_for_grant(&plane.admin().await?, NAMESPACE, TRUST_DOMAIN, "web", SOON).await?;
    let mut auth = ServiceOptions::auth_service(plane, NAMESPACE, TRUST_DOMAIN).in_dir(&files);
    auth.sources.push(users::anon_key());
    let assets = ServiceOptions::asset_service(plane, NAMESPACE, TRUST_DOMAIN).in_dir(&files);
    let (auth, assets) = (ServiceProcess::start(plane, auth).await?, ServiceProcess::start(plane, assets).await?);
    auth.wait_ready(SOON).await?;
    assets.wait_ready(SOON).await?;
    Ok(Services { auth, assets, _web: web.keep() })
}

impl Platform {
    pub(super) fn kubeconfig(&self) -> &Path {
        self.plane.kubeconfig()
    }

    /// Keeps everything running, and restarts processes that have ended, as a kubelet would. Fails once the control plane does.
    pub(super) async fn stay(&self) -> Result<()> {
        let mut interval = tokio::time::interval(Duration::from_secs(1));
        loop {
            interval.tick().await;
            self.plane.check_running()?;
            let Self { users, services, .. } = self;
            let processes: [&Process; 6] =
                [&self.operator, &services.auth, &services.assets, &users.chat, &users.gateway, &users.web];
            for process in processes {
                if !process.is_running() {
                    say(format_args!("{} has ended: starting it again", process.name()));
                    process.restart()?;
                }
            }
        }
    }
}

/// The directory of the logs of a demo in `dir`.
pub(super) fn logs(dir: &Path) -> PathBuf {
    dir.join("logs")
}

/// The directory of the files that a user may want to inspect.
pub(super) fn files(dir: &Path) -> PathBuf {
    dir.join(supervisor::FILES)
}

pub(super) const NAMESPACE: &str = "shop";
pub(super) const TRUST_DOMAIN: &str = "gaia";
pub(super) const OPERATOR_NAMESPACE: &str = "gaia-system";
const SOON: Duration = Duration::from_secs(30);
