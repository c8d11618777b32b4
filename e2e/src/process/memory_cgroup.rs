//! A cgroup with a memory limit, as a container has one: version 1 or 2, whichever has the memory controller.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail};

/// A cgroup of one process and its children. It is removed when it is dropped, after its processes.
#[derive(Debug)]
pub struct MemoryCgroup {
    path: PathBuf,
    is_version_2: bool,
}

impl MemoryCgroup {
    /// Creates one without swap beyond its limit.
    ///
    /// # Errors
    /// If there is no memory controller, or this process may not create cgroups.
    pub fn create(limit_bytes: u64) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("gaia-e2e-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let cgroup = match version_2() {
            Some(root) => Self { path: root.join(name), is_version_2: true },
            None if Path::new(VERSION_1).is_dir() => {
                Self { path: Path::new(VERSION_1).join(name), is_version_2: false }
            }
            None => bail!("no cgroup hierarchy with the memory controller"),
        };
        fs::create_dir(&cgroup.path).with_context(|| format!("cannot create {}", cgroup.path.display()))?;
        let limit = if cgroup.is_version_2 { "memory.max" } else { "memory.limit_in_bytes" };
        cgroup.write(limit, &limit_bytes.to_string())?;
        // The file is missing where swap is not counted.
        let swap =
            if cgroup.is_version_2 { ("memory.swap.max", 0) } else { ("memory.memsw.limit_in_bytes", limit_bytes) };
        let _ = cgroup.write(swap.0, &swap.1.to_string());
        Ok(cgroup)
    }

    /// The arguments of `/bin/sh` that run a program in the cgroup from its first instruction.
    #[must_use]
    pub fn shell_arguments(&self, program: &Path) -> Vec<OsString> {
        let script = format!("echo $$ > '{}' && exec \"$0\"", self.path.join("cgroup.procs").display());
        vec!["-c".into(), script.into(), program.into()]
    }

    /// The number of processes that the kernel has killed at the limit.
    ///
    /// # Errors
    /// If the kernel does not report it.
    pub fn oom_kills(&self) -> Result<u64> {
        let file = if self.is_version_2 { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(self.path.join(file))?;
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")).context("no oom_kill")?;
        Ok(count.trim().parse()?)
    }

    /// Memory of the processes themselves, without the page cache of their files.
    ///
    /// # Errors
    /// If the kernel does not report it.
    pub fn anonymous_bytes(&self) -> Result<u64> {
        let text = fs::read_to_string(self.path.join("memory.stat"))?;
        let name = if self.is_version_2 { "anon " } else { "rss " };
        Ok(text.lines().find_map(|line| line.strip_prefix(name)).context("no anonymous memory")?.trim().parse()?)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.path.join(file);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        for _ in 0..50 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// The root of version 2, with the memory controller enabled for its children.
fn version_2() -> Option<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let has =
        |file: &str| fs::read_to_string(root.join(file)).is_ok_and(|all| all.split_whitespace().any(|c| c == "memory"));
    if has("cgroup.controllers") && !has("cgroup.subtree_control") {
        let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
    }
    has("cgroup.subtree_control").then(|| root.to_owned())
}

const VERSION_1: &str = "/sys/fs/cgroup/memory";
