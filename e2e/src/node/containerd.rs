//! containerd and the network of the pods.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{PAUSE_IMAGE, POD_CIDR};
use crate::image::PAUSE_TAG;
use crate::process::ProcessSpec;

/// The address of containerd, in the node's own /run.
pub(super) const SOCKET: &str = "/run/containerd/containerd.sock";

/// Writes containerd's configuration, and returns its command.
pub(super) fn spec(dir: &Path) -> Result<ProcessSpec> {
    let (root, plugins, networks) = (dir.join("containerd"), plugins()?, dir.join("cni"));
    std::fs::create_dir_all(&networks)?;
    std::fs::write(networks.join("10-gaia.conflist"), pod_network(dir))?;
    let file = dir.join("run/containerd.toml");
    std::fs::write(&file, configuration(&root, plugins, &networks))?;
    Ok(ProcessSpec::new("containerd", "containerd", &dir.join("logs")).arg("--config").arg(file))
}

/// True if containerd answers.
pub(super) fn answers() -> Result<()> {
    ctr(&["version"])
}

/// Imports the pause image.
pub(super) fn import_pause(dir: &Path) -> Result<()> {
    let tar = dir.join(PAUSE_IMAGE);
    ctr(&["--namespace", "k8s.io", "images", "import", tar.to_str().context("the path is not UTF-8")?])
}

/// The directory of the CNI plugins: Debian's, or the usual one.
pub(super) fn plugins() -> Result<&'static Path> {
    let places = ["/usr/lib/cni", "/opt/cni/bin"].map(Path::new);
    let found = places.into_iter().find(|place| place.join("bridge").is_file());
    found.context("a node needs the CNI plugins: apt-get install containernetworking-plugins")
}

fn ctr(args: &[&str]) -> Result<()> {
    let output = Command::new("ctr").args(["--address", SOCKET]).args(args).output().context("cannot start ctr")?;
    ensure!(output.status.success(), "ctr {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// `restrict_oom_score_adj`: without CAP_SYS_RESOURCE it cannot be lowered.
fn configuration(root: &Path, plugins: &Path, networks: &Path) -> String {
    let path = |path: &Path| path.display().to_string();
    let (root, plugins, networks): (String, String, String) = (path(root), path(plugins), path(networks));
    format!(
        r#"version = 2
root = "{root}"
state = "/run/containerd"
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_TAG}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{networks}"
"#
    )
}

fn pod_network(dir: &Path) -> String {
    let addresses: PathBuf = dir.join("run/addresses");
    let network = serde_json::json!({
        "cniVersion": "0.4.0",
        "name": "gaia",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "pods",
                "isGateway": true,
                "hairpinMode": true,
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "dataDir": addresses,
                    "ranges": [[{ "subnet": POD_CIDR }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    });
    network.to_string()
}
