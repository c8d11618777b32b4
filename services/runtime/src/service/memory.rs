//! The memory limit of the process, and the release of freed memory.

use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::interval;

use crate::server::slots::Slots;

/// Returns the limit of the process's cgroup or of one above it; `None` without a limit.
pub(crate) fn limit() -> Option<u64> {
    limit_in(&fs::read_to_string("/proc/self/cgroup").ok()?, Path::new("/sys/fs/cgroup"))
}

/// Returns `1/divisor` of the memory limit of the process, within bounds: the upper one without a limit.
#[must_use]
pub fn part_of_limit(divisor: u64, bounds: RangeInclusive<usize>) -> usize {
    let part = limit().and_then(|bytes| usize::try_from(bytes / divisor).ok()).unwrap_or(usize::MAX);
    part.clamp(*bounds.start(), *bounds.end())
}

/// Returns freed memory to the system after many connections have closed. glibc keeps it: a service would stay near its
/// limit after one burst.
pub(crate) async fn return_after_bursts(slots: Vec<Slots>) {
    let mut ticks = interval(TRIM_INTERVAL);
    let mut bursts = Bursts::default();
    loop {
        ticks.tick().await;
        if bursts.is_trim_due(slots.iter().map(Slots::open).sum()) {
            // Trimming takes some milliseconds per 100 MiB.
            let _ = tokio::task::spawn_blocking(trim).await;
        }
    }
}

/// Detects the end of bursts of connections.
#[derive(Debug, Default)]
struct Bursts {
    most: usize,
    /// Ticks since the last burst ended.
    since_end: Option<u32>,
}

impl Bursts {
    /// Takes the number of open connections at one tick. Memory is released for some time after a burst too: requests to
    /// other services end later than the connections that they were made for.
    fn is_trim_due(&mut self, open: usize) -> bool {
        self.most = self.most.max(open);
        if self.most >= BURST && open < self.most / 2 {
            self.most = open;
            self.since_end = Some(0);
            return true;
        }
        self.since_end = self.since_end.map(|ticks| ticks + 1).filter(|ticks| *ticks <= TRIMMED_AFTER[1]);
        self.since_end.is_some_and(|ticks| TRIMMED_AFTER.contains(&ticks))
    }
}

#[cfg(target_env = "gnu")]
fn trim() {
    #[expect(unsafe_code, reason = "malloc_trim has no safe form; it takes the allocator's own locks and no pointers")]
    // SAFETY: malloc_trim(3) may be called at any time by any thread (MT-Safe).
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}

/// Returns the limit for the text of `/proc/self/cgroup`. In a container the paths there may be those of the host, and
/// the files of the container's own cgroup are at the root.
fn limit_in(cgroups: &str, root: &Path) -> Option<u64> {
    let files = cgroups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        match controllers {
            "" => Some((root.to_owned(), path, "memory.max")),
            _ if controllers.split(',').any(|name| name == "memory") => {
                Some((root.join(controllers), path, "memory.limit_in_bytes"))
            }
            _ => None,
        }
    });
    let paths = files.flat_map(|(root, path, file)| {
        let above = Path::new(path.trim_start_matches('/')).ancestors();
        above.map(move |path| root.join(path).join(file)).collect::<Vec<PathBuf>>()
    });
    // Without a limit, version 1 has a huge number, and version 2 the word `max`.
    paths.filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok()).min()
}

const TRIM_INTERVAL: Duration = Duration::from_secs(2);
/// Ticks after a burst at which memory is trimmed once more.
const TRIMMED_AFTER: [u32; 2] = [5, 15];
/// Number of open connections above which trimming is worthwhile.
const BURST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    /// Kind: memory that is released after the connections of a burst have closed, and that the allocator keeps.
    #[test]
    fn memory_is_trimmed_after_a_burst_and_twice_later() {
        let mut bursts = Bursts::default();
        let mut due_at = |open: &[usize]| {
            let due = open.iter().enumerate().filter(|(_, open)| bursts.is_trim_due(**open));
            due.map(|(tick, _)| tick).collect::<Vec<_>>()
        };
        assert_eq!(due_at(&[0; 100]), Vec::<usize>::new());
        assert_eq!(due_at(&[1000, 1000, 900]), Vec::<usize>::new());
        assert_eq!(due_at(&[3; 100]), [0, 5, 15]);
    }

    #[test]
    fn the_smallest_limit_on_the_way_to_the_root_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let limit = |cgroups: &str| limit_in(cgroups, root.path());
        assert_eq!(limit("0::/pod/one\n"), None);
        write("pod/one/memory.max", "max\n");
        assert_eq!(limit("0::/pod/one\n"), None);
        write("pod/memory.max", "134217728\n");
        assert_eq!(limit("0::/pod/one\n"), Some(134_217_728));
        assert_eq!(limit("0::/\n"), None);
        write("memory/pod/memory.limit_in_bytes", "1000\n");
        assert_eq!(limit("4:memory:/pod\n0::/\n"), Some(1000));
        // In a container that sees the paths of the host.
        write("memory.max", "5000\n");
        assert_eq!(limit("0::/../../elsewhere\n"), Some(5000));
    }
}
