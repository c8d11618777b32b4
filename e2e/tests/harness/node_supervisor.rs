//! A killed node leaves nothing behind. In a program of its own: there is one node per machine.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use gaia_e2e::tier::{self, Tier};
use gaia_e2e::{node, process, wait};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_killed_node_leaves_no_process_mount_or_interface_and_after_down_no_cgroup() {
    if std::env::var_os("GAIA_E2E_KUBECONFIG").is_some()
        || tier::available(Tier::C, node::check_requirements()).is_none()
    {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let before = mounts();
    let kubeconfig = gaia_e2e("up", dir.path()).await;
    assert_eq!(gaia_e2e("up", dir.path()).await, kubeconfig);
    assert!(interface().exists() && !cgroups().is_empty());
    assert!(processes(dir.path()) > 8, "{} processes", processes(dir.path()));

    let supervisor = std::fs::read_to_string(dir.path().join("supervisor.lock")).unwrap();
    assert!(Command::new("kill").args(["-9", supervisor.trim()]).status().unwrap().success());
    wait::until("nothing runs", SOON, async || processes(dir.path()) == 0).await.unwrap();
    wait::until("the interface is gone", SOON, async || !interface().exists()).await.unwrap();
    assert_eq!(mounts(), before);

    gaia_e2e("down", dir.path()).await;
    assert_eq!(cgroups(), Vec::<String>::new());
    gaia_e2e("up", dir.path()).await;
    gaia_e2e("down", dir.path()).await;
    assert_eq!((processes(dir.path()), interface().exists(), cgroups()), (0, false, Vec::new()));
    assert_eq!(mounts(), before);
}

async fn gaia_e2e(what: &str, dir: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gaia-e2e"));
    command.args(["cluster", what, "--node", "--dir"]).arg(dir).stdout(Stdio::null());
    let output = process::output(command).await.unwrap();
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn interface() -> &'static Path {
    Path::new("/sys/class/net/gaia-host")
}

/// The mounts, by name: other mounts of this machine may change, ours have our names.
fn mounts() -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().filter(|line| line.contains("gaia") || line.contains("kubelet")).map(str::to_owned).collect()
}

fn cgroups() -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new("/sys/fs/cgroup").to_owned()];
    for depth in 0..2 {
        let entries: Vec<_> =
            folders.iter().flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten()).collect();
        folders = entries.into_iter().flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        found.extend(folders.iter().filter(|path| path.ends_with("gaia-node")).map(|path| format!("{depth} {path:?}")));
    }
    found
}

/// The number of processes with the directory in their command line.
fn processes(dir: &Path) -> usize {
    let name = dir.to_str().unwrap();
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|command| command.contains(name))
        })
        .count()
}
