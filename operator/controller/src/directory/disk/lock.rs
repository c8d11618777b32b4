//! One writer a directory.
//!
//! `flock` on `.gaia/lock` decides among processes of one kernel, whatever their containers. A lock may not reach from a
//! virtual machine to its host, so the holder also raises a counter in `.gaia/heartbeat`, and another process takes the
//! directory only while that stands still. A process id means nothing in another container.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::dir::{Access, Dir};
use super::error::DirectoryError;

/// The content of `.gaia/heartbeat`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Heartbeat {
    /// Identifies the holder: random.
    holder: String,
    /// Raised every two seconds.
    counter: u64,
    /// The boot of the kernel that the holder runs on.
    #[serde(default)]
    boot: String,
    /// True once the holder has given the directory up.
    #[serde(default)]
    is_released: bool,
}

/// The right to write to a directory.
pub(crate) struct Lock {
    dir: Dir,
    heartbeat: Heartbeat,
    _file: OwnedFd,
}

/// Another process holds the directory, or may hold it.
pub(crate) fn busy(dir: &Dir, why: &str) -> DirectoryError {
    DirectoryError::Busy { path: dir.path().to_owned(), why: why.to_owned() }
}

impl Lock {
    /// Takes the directory `.gaia`. If the last holder ran on another kernel and did not give it up, this waits until
    /// its counter has stood still for ten seconds.
    pub(crate) async fn take(dir: Dir) -> Result<Self, DirectoryError> {
        let file = dir.lock_file(LOCK)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(busy(&dir, "another process of gaia holds the directory")),
            Err(error) => return Err(DirectoryError::io("lock", &dir.path().join(LOCK), error)),
        }
        let boot = boot_id();
        let is_foreign = |found: &Heartbeat| !found.is_released && (found.boot != boot || boot.is_empty());
        if let Some(first) = read(&dir)?.filter(is_foreign) {
            let since = Instant::now();
            while since.elapsed() < STANDS_STILL {
                tokio::time::sleep(STANDS_STILL / 10).await;
                if read(&dir)?.as_ref() != Some(&first) {
                    return Err(busy(
                        &dir,
                        "a process of gaia on another kernel raises the counter in .gaia/heartbeat",
                    ));
                }
            }
        }
        let heartbeat = Heartbeat { holder: random_id(), counter: 0, boot, is_released: false };
        let mut lock = Self { dir, heartbeat, _file: file };
        lock.beat_without_check()?;
        Ok(lock)
    }

    /// Raises the counter.
    ///
    /// # Errors
    /// Another process raises it too: this one must stop.
    pub(crate) fn beat(&mut self) -> Result<(), DirectoryError> {
        if read(&self.dir)?.is_some_and(|found| found.holder != self.heartbeat.holder) {
            return Err(busy(&self.dir, "another process has taken the directory; this one stops"));
        }
        self.beat_without_check()
    }

    fn beat_without_check(&mut self) -> Result<(), DirectoryError> {
        self.heartbeat.counter += 1;
        write(&self.dir, &self.heartbeat)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let is_mine = read(&self.dir).ok().flatten().is_some_and(|found| found.holder == self.heartbeat.holder);
        if is_mine {
            self.heartbeat.is_released = true;
            let _ = write(&self.dir, &self.heartbeat);
        }
    }
}

/// Returns true if a process holds the directory now. It takes up to ten seconds if the holder does not run here.
pub(crate) async fn is_held(dir: &Dir) -> Result<bool, DirectoryError> {
    let file = dir.lock_file(LOCK)?;
    if flock(&file, FlockOperation::NonBlockingLockShared).is_err() {
        return Ok(true);
    }
    drop(file);
    let Some(first) = read(dir)?.filter(|found| !found.is_released && found.boot != boot_id()) else {
        return Ok(false);
    };
    tokio::time::sleep(STANDS_STILL).await;
    Ok(read(dir)?.as_ref() != Some(&first))
}

fn read(dir: &Dir) -> Result<Option<Heartbeat>, DirectoryError> {
    // A heartbeat that cannot be parsed names no holder: the lock decides.
    Ok(dir.read(HEARTBEAT)?.and_then(|text| serde_json::from_slice(&text).ok()))
}

fn write(dir: &Dir, heartbeat: &Heartbeat) -> Result<(), DirectoryError> {
    let text = serde_json::to_vec(heartbeat).unwrap_or_default();
    dir.write_unflushed(HEARTBEAT, &text, Access::PRIVATE)
}

/// The boot of this kernel; empty: not known.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// A random text of 32 hexadecimal digits.
pub(crate) fn random_id() -> String {
    let mut bits = [0; 16];
    #[expect(clippy::disallowed_methods, reason = "an identity is random and nothing is decided by it")]
    let _ = aws_lc_rs::rand::fill(&mut bits);
    bits.iter().map(|byte| format!("{byte:02x}")).collect()
}

const LOCK: &str = "lock";
const HEARTBEAT: &str = "heartbeat";
/// The time for which the counter of a holder on another kernel must stand still.
const STANDS_STILL: Duration = Duration::from_secs(10);
