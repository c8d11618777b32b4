//! The cgroup of all pods of the node, one per hierarchy: the only remainder of a killed node.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

/// Creates the cgroup in each hierarchy: kubelet requires it.
pub(super) fn create() -> Result<()> {
    for hierarchy in hierarchies()? {
        let cgroup = hierarchy.join(NAME);
        fs::create_dir_all(&cgroup).with_context(|| format!("cannot create {}", cgroup.display()))?;
        // A new cpuset is empty, and accepts no process until it has the values of its parent.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(parent) = fs::read_to_string(hierarchy.join(file))
                && fs::read_to_string(cgroup.join(file)).is_ok_and(|own| own.trim().is_empty())
            {
                let _ = fs::write(cgroup.join(file), parent);
            }
        }
    }
    Ok(())
}

/// Removes the cgroup and all below it. They are empty, or become so shortly: their processes were killed.
pub(super) fn remove() -> Result<()> {
    for hierarchy in hierarchies()? {
        remove_tree(&hierarchy.join(NAME))?;
    }
    Ok(())
}

/// kubelet's name for the cgroup.
pub(super) const ROOT: &str = "/gaia-node";

fn remove_tree(cgroup: &Path) -> Result<()> {
    let entries = match fs::read_dir(cgroup) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    remove_one(cgroup).with_context(|| format!("cannot remove the cgroup {}", cgroup.display()))
}

fn remove_one(cgroup: &Path) -> std::io::Result<()> {
    for _ in 0..ATTEMPTS {
        match fs::remove_dir(cgroup) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ResourceBusy => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
    fs::remove_dir(cgroup)
}

/// The mount points of the hierarchies: one of version 2, several of version 1, or both.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the mounts")?;
    let cgroup_mount = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup" || kind == "cgroup2").then(|| PathBuf::from(path))
    };
    Ok(mounts.lines().filter_map(cgroup_mount).collect())
}

const NAME: &str = "gaia-node";
const ATTEMPTS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(50);
