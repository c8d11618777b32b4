//! The certificates and kubeconfigs of the node's parts.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{API_SERVICE_IP, NODE, NODE_IP};
use crate::authority::{Authority, write_signing_key};
use crate::cluster::kubeconfig;

/// Writes them below `dir`.
pub(super) fn write(dir: &Path) -> Result<()> {
    let pki = dir.join("pki");
    let authority = Authority::create(&pki)?;
    write_signing_key(&pki, "service-accounts")?;
    authority.write("apiserver", &authority.server("kube-apiserver", &API_SERVER_NAMES)?)?;
    authority.write("kubelet", &authority.server(NODE, &[NODE, NODE_IP])?)?;
    authority.write("kubelet-client", &authority.client("kube-apiserver-kubelet-client", &["system:masters"])?)?;
    let write = |path: &Path, user: &str, groups: &[&str]| {
        let credential = authority.client(user, groups)?;
        kubeconfig::write_with_certificate(path, SERVER, authority.certificate(), &credential)
    };
    write(&dir.join("admin.kubeconfig"), "gaia-e2e-admin", &["system:masters"])?;
    write(&kubeconfig_of(dir, "kube-controller-manager"), "system:kube-controller-manager", &[])?;
    write(&kubeconfig_of(dir, "kube-scheduler"), "system:kube-scheduler", &[])?;
    write(&kubeconfig_of(dir, "kubelet"), &format!("system:node:{NODE}"), &["system:nodes"])?;
    write(&kubeconfig_of(dir, "kube-proxy"), "system:kube-proxy", &[])?;
    write(&kubeconfig_of(dir, "coredns"), super::kubernetes::DNS_USER, &[])
}

/// The kubeconfig of a part.
pub(super) fn kubeconfig_of(dir: &Path, part: &str) -> PathBuf {
    dir.join("pki").join(format!("{part}.kubeconfig"))
}

const SERVER: &str = "https://10.200.77.2:6443";
const API_SERVER_NAMES: [&str; 8] = [
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "localhost",
    "127.0.0.1",
    NODE_IP,
    API_SERVICE_IP,
];
