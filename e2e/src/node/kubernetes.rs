//! The Kubernetes parts of the node.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::pki::kubeconfig_of;
use super::{NODE, NODE_IP, POD_CIDR, SERVICE_CIDR, cgroups, containerd};
use crate::control_plane::flags::{apiserver_flags, controller_manager_flags, write_audit_policy};
use crate::process::{Process, ProcessSpec};
use crate::wait;

/// The user of CoreDNS.
pub(super) const DNS_USER: &str = "gaia:coredns";

/// Starts all parts, and adds them to `parts`.
pub(super) async fn start(dir: &Path, controlplane: &Path, parts: &mut Vec<Process>) -> Result<()> {
    let node = Layout { dir: dir.to_owned(), controlplane: controlplane.to_owned() };
    node.write_configuration()?;
    parts.push(Process::start(node.etcd())?);
    parts.push(Process::start(node.kube_apiserver())?);
    wait::until("the API server is ready", TIMEOUT, async || node.kubectl(&["get", "--raw", "/readyz"])).await?;
    for spec in [node.kube_controller_manager(), node.kube_scheduler(), node.kubelet(), node.kube_proxy()] {
        parts.push(Process::start(spec)?);
    }
    let manifest = node.dir.join("run/dns.yaml");
    node.kubectl(&["apply", "--server-side", "-f", manifest.to_str().context("the path is not UTF-8")?])?;
    parts.push(Process::start(node.coredns())?);
    Ok(())
}

struct Layout {
    dir: PathBuf,
    controlplane: PathBuf,
}

impl Layout {
    fn write_configuration(&self) -> Result<()> {
        let run = self.dir.join("run");
        write_audit_policy(&self.dir)?;
        std::fs::write(run.join("resolv.conf"), format!("nameserver {NODE_IP}\n"))?;
        std::fs::write(run.join("kubelet.yaml"), self.kubelet_configuration().to_string())?;
        std::fs::write(run.join("kube-proxy.yaml"), self.proxy_configuration().to_string())?;
        std::fs::write(run.join("Corefile"), self.corefile())?;
        Ok(std::fs::write(run.join("dns.yaml"), dns_objects().to_string())?)
    }

    fn etcd(&self) -> ProcessSpec {
        self.part("etcd")
            .args(["--log-level=warn", "--unsafe-no-fsync", "--data-dir"])
            .arg(self.dir.join("etcd"))
            .args(["--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379"])
            .arg("--listen-peer-urls=http://127.0.0.1:2380")
    }

    fn kube_apiserver(&self) -> ProcessSpec {
        let pki = |name: &str| self.dir.join("pki").join(name).display().to_string();
        self.part("kube-apiserver")
            .args(apiserver_flags(&self.dir))
            .args(["--etcd-servers=http://127.0.0.1:2379", "--bind-address=0.0.0.0", "--secure-port=6443"])
            .args([format!("--advertise-address={NODE_IP}"), format!("--service-cluster-ip-range={SERVICE_CIDR}")])
            .args(["--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"])
            .arg(format!("--kubelet-client-certificate={}", pki("kubelet-client.crt")))
            .arg(format!("--kubelet-client-key={}", pki("kubelet-client.key")))
            .arg("--kubelet-preferred-address-types=InternalIP")
    }

    fn kube_controller_manager(&self) -> ProcessSpec {
        self.part("kube-controller-manager")
            .args(controller_manager_flags(&self.dir))
            .args(self.kubeconfig_flags("kube-controller-manager"))
    }

    fn kube_scheduler(&self) -> ProcessSpec {
        self.part("kube-scheduler")
            .args(["--leader-elect=false", "--bind-address=127.0.0.1"])
            .args(self.kubeconfig_flags("kube-scheduler"))
    }

    fn kubelet(&self) -> ProcessSpec {
        let kubelet = self.dir.join("kubelet");
        self.part("kubelet")
            .arg(format!("--config={}", self.dir.join("run/kubelet.yaml").display()))
            .arg(format!("--kubeconfig={}", kubeconfig_of(&self.dir, "kubelet").display()))
            .arg(format!("--root-dir={}", kubelet.display()))
            .arg(format!("--cert-dir={}", kubelet.join("pki").display()))
            .args([format!("--hostname-override={NODE}"), format!("--node-ip={NODE_IP}")])
    }

    fn kube_proxy(&self) -> ProcessSpec {
        self.part("kube-proxy").arg(format!("--config={}", self.dir.join("run/kube-proxy.yaml").display()))
    }

    fn coredns(&self) -> ProcessSpec {
        self.part("coredns").arg("-conf").arg(self.dir.join("run/Corefile"))
    }

    fn part(&self, name: &str) -> ProcessSpec {
        ProcessSpec::new(name, &self.controlplane, &self.dir.join("logs")).arg(name)
    }

    fn kubeconfig_flags(&self, part: &str) -> [String; 3] {
        let path = kubeconfig_of(&self.dir, part);
        ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"]
            .map(|flag| format!("--{flag}={}", path.display()))
    }

    fn kubectl(&self, args: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.controlplane);
        command.arg("kubectl").arg("--kubeconfig").arg(self.dir.join("admin.kubeconfig")).args(args);
        let output = command.output().context("cannot start kubectl")?;
        ensure!(output.status.success(), "kubectl {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// A changed Secret reaches a pod's files at the next sync: seconds here, not a minute (`KUBELET_SYNC`).
    fn kubelet_configuration(&self) -> serde_json::Value {
        let pki = self.dir.join("pki");
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": "0.0.0.0",
            "authentication": {
                "anonymous": { "enabled": false },
                "webhook": { "enabled": true },
                "x509": { "clientCAFile": pki.join("ca.crt") },
            },
            "authorization": { "mode": "Webhook" },
            "tlsCertFile": pki.join("kubelet.crt"),
            "tlsPrivateKeyFile": pki.join("kubelet.key"),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroups::ROOT,
            "failCgroupV1": false,
            "failSwapOn": false,
            "containerRuntimeEndpoint": format!("unix://{}", containerd::SOCKET),
            "clusterDNS": [NODE_IP],
            "clusterDomain": "cluster.local",
            "evictionHard": { "memory.available": "100Mi" },
            // Images cannot be pulled again, so none is removed when the disk is almost full.
            "imageGCHighThresholdPercent": 100,
            "syncFrequency": std::env::var("KUBELET_SYNC").unwrap_or_else(|_| "5s".to_owned()),
            "podLogsDir": self.dir.join("logs/pods"),
            "resolvConf": self.dir.join("run/resolv.conf"),
        })
    }

    /// conntrack: the limits are the machine's, and a namespace may not change them.
    fn proxy_configuration(&self) -> serde_json::Value {
        json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clusterCIDR": POD_CIDR,
            "hostnameOverride": NODE,
            "clientConnection": { "kubeconfig": kubeconfig_of(&self.dir, "kube-proxy") },
            "conntrack": { "maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s" },
        })
    }

    fn corefile(&self) -> String {
        let kubeconfig = kubeconfig_of(&self.dir, "coredns");
        format!(
            ".:53 {{\n  bind {NODE_IP}\n  errors\n  kubernetes cluster.local in-addr.arpa {{\n    kubeconfig {}\n    \
             pods insecure\n  }}\n  cache 5\n}}\n",
            kubeconfig.display()
        )
    }
}

/// The rights of CoreDNS.
fn dns_objects() -> serde_json::Value {
    let api = "rbac.authorization.k8s.io";
    let verbs = ["list", "watch"];
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": format!("{api}/v1"),
            "kind": "ClusterRole",
            "metadata": { "name": DNS_USER },
            "rules": [
                { "apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": verbs },
                { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": verbs },
            ],
        },
        {
            "apiVersion": format!("{api}/v1"),
            "kind": "ClusterRoleBinding",
            "metadata": { "name": DNS_USER },
            "roleRef": { "apiGroup": api, "kind": "ClusterRole", "name": DNS_USER },
            "subjects": [{ "apiGroup": api, "kind": "User", "name": DNS_USER }],
        },
    ]})
}

const TIMEOUT: Duration = Duration::from_secs(60);
