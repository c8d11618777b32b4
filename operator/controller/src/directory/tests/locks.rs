//! Holders on other kernels, whose lock is not visible here: a counter shows them.

use std::path::Path;
use std::time::Duration;

use super::Scratch;
use crate::directory::DirectoryError;
use crate::directory::disk::dir::Dir;
use crate::directory::disk::lock::Lock;

fn beat(folder: &Path, counter: u64, is_released: bool) {
    let text =
        format!(r#"{{"holder":"other","counter":{counter},"boot":"another kernel","isReleased":{is_released}}}"#);
    std::fs::write(folder.join("heartbeat"), text).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_holder_on_another_kernel_is_respected_while_its_counter_rises() {
    let scratch = Scratch::new("lock");
    let folder = scratch.0.clone();
    beat(&folder, 1, false);
    let other = tokio::spawn({
        let folder = folder.clone();
        async move {
            for counter in 2.. {
                tokio::time::sleep(Duration::from_secs(2)).await;
                beat(&folder, counter, false);
            }
        }
    });
    let refused = Lock::take(Dir::open(&folder).unwrap()).await.map(drop).unwrap_err();
    assert!(matches!(refused, DirectoryError::Busy { .. }), "{refused}");
    other.abort();
    let _ = other.await;
    let start = tokio::time::Instant::now();
    let mut lock = Lock::take(Dir::open(&folder).unwrap()).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(10), "its counter must stand still for ten seconds");
    lock.beat().unwrap();
    beat(&folder, 7, false);
    assert!(matches!(lock.beat(), Err(DirectoryError::Busy { .. })), "two holders: this one stops");
    drop(lock);
    beat(&folder, 8, true);
    let start = tokio::time::Instant::now();
    drop(Lock::take(Dir::open(&folder).unwrap()).await.unwrap());
    assert!(start.elapsed() < Duration::from_secs(1), "it was given up");
}
