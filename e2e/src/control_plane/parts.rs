//! The files and flags of each part.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::flags::{apiserver_flags, controller_manager_flags, write_audit_policy};
use super::{ControlPlaneOptions, LOGS, ports};
use crate::assets::{ControlPlaneAssets, Tool};
use crate::authority::{Authority, write_signing_key};
use crate::cluster::kubeconfig;
use crate::dirs;
use crate::process::{Process, ProcessSpec};
use crate::wait::Seen;

/// A prepared control plane: files written, ports chosen, nothing started.
pub(super) struct Plan {
    dir: PathBuf,
    assets: ControlPlaneAssets,
    apiserver_flags: Vec<String>,
    ports: Ports,
}

struct Ports {
    etcd: u16,
    etcd_peer: u16,
    apiserver: u16,
    controller_manager: u16,
}

impl Plan {
    pub(super) fn make(dir: &Path, assets: &ControlPlaneAssets, options: &ControlPlaneOptions) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        // Data of an earlier attempt belongs to keys and ports that are no longer used.
        dirs::remove(&dir.join("etcd"))?;
        let [etcd, etcd_peer, apiserver, controller_manager] = ports::free()?;
        let ports = Ports { etcd, etcd_peer, apiserver, controller_manager };
        let authority = Authority::create(&dir.join("pki"))?;
        authority.write("apiserver", &authority.server("kube-apiserver", &SERVER_NAMES)?)?;
        write_signing_key(&dir.join("pki"), "service-accounts")?;
        write_audit_policy(dir)?;
        let plan = Self {
            dir: dir.to_owned(),
            assets: assets.clone(),
            apiserver_flags: options.apiserver_flags.clone(),
            ports,
        };
        plan.write_kubeconfigs(&authority)?;
        Ok(plan)
    }

    fn write_kubeconfigs(&self, authority: &Authority) -> Result<()> {
        let server = format!("https://127.0.0.1:{}", self.ports.apiserver);
        let write = |path: &Path, user: &str, groups: &[&str]| {
            let credential = authority.client(user, groups)?;
            kubeconfig::write_with_certificate(path, &server, authority.certificate(), &credential)
        };
        write(&self.admin_kubeconfig(), "gaia-e2e-admin", &["system:masters"])?;
        write(&self.controller_manager_kubeconfig(), "system:kube-controller-manager", &[])
    }

    pub(super) fn admin_kubeconfig(&self) -> PathBuf {
        self.dir.join("admin.kubeconfig")
    }

    fn controller_manager_kubeconfig(&self) -> PathBuf {
        self.dir.join("pki/controller-manager.kubeconfig")
    }

    /// The data is not needed after the test, so nothing is synced to disk.
    pub(super) fn etcd(&self) -> ProcessSpec {
        let client = format!("http://127.0.0.1:{}", self.ports.etcd);
        let peer = format!("http://127.0.0.1:{}", self.ports.etcd_peer);
        self.part("etcd", &self.assets.etcd)
            .args(["--log-level=warn", "--unsafe-no-fsync"])
            .arg(format!("--data-dir={}", self.dir.join("etcd").display()))
            .args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")])
            .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
            .arg(format!("--initial-cluster=default={peer}"))
    }

    /// True if etcd accepts connections; fails if etcd has ended.
    pub(super) fn etcd_listens(&self, etcd: &Process) -> Seen<Result<()>> {
        if let Err(ended) = etcd.check_running() {
            return Seen::Yes(Err(ended));
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.etcd));
        match TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
            Ok(_) => Seen::Yes(Ok(())),
            Err(error) => Seen::NotYet(error.to_string()),
        }
    }

    pub(super) fn kube_apiserver(&self) -> ProcessSpec {
        self.part("kube-apiserver", &self.assets.kube_apiserver)
            .args(apiserver_flags(&self.dir))
            .arg(format!("--etcd-servers=http://127.0.0.1:{}", self.ports.etcd))
            .args(["--bind-address=127.0.0.1".to_owned(), format!("--secure-port={}", self.ports.apiserver)])
            // The address of the Service `kubernetes` must not be a loopback one, and no test uses it.
            .args(["--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.0.0.0/16"])
            .args(["--authorization-mode=RBAC", "--shutdown-delay-duration=0s"])
            .args(&self.apiserver_flags)
    }

    pub(super) fn kube_controller_manager(&self) -> Option<ProcessSpec> {
        let tool = self.assets.kube_controller_manager.as_ref()?;
        let kubeconfig = self.controller_manager_kubeconfig();
        let kubeconfig_flags = ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"]
            .map(|flag| format!("--{flag}={}", kubeconfig.display()));
        let spec = self
            .part("kube-controller-manager", tool)
            .args(controller_manager_flags(&self.dir))
            .args(kubeconfig_flags)
            .arg(format!("--secure-port={}", self.ports.controller_manager));
        Some(spec)
    }

    fn part(&self, name: &str, tool: &Tool) -> ProcessSpec {
        ProcessSpec::new(name, &tool.program, &self.dir.join(LOGS)).args(&tool.part)
    }
}

const SERVER_NAMES: [&str; 6] =
    ["127.0.0.1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "10.0.0.1"];
