//! How fast certificates that replace others are issued.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So many a second, evenly; 0: as fast as it goes.
pub(crate) struct Pacer {
    interval: Option<Duration>,
    next: Mutex<Option<Instant>>,
}

impl Pacer {
    pub(crate) fn new(per_second: u32) -> Self {
        let interval = (per_second > 0).then(|| Duration::from_secs(1) / per_second);
        Self { interval, next: Mutex::new(None) }
    }

    /// Takes a turn.
    ///
    /// # Errors
    /// How long to wait for one.
    pub(crate) fn take(&self, now: Instant) -> Result<(), Duration> {
        let Some(interval) = self.interval else { return Ok(()) };
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        match *next {
            Some(at) if at > now => Err(at - now),
            _ => {
                *next = Some(now + interval);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_come_evenly() {
        let pacer = Pacer::new(50);
        let now = Instant::now();
        assert_eq!(pacer.take(now), Ok(()));
        assert_eq!(pacer.take(now), Err(Duration::from_millis(20)));
        assert_eq!(pacer.take(now + Duration::from_millis(20)), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_without_a_pace() {
        let pacer = Pacer::new(0);
        let now = Instant::now();
        assert!((0..100).all(|_| pacer.take(now).is_ok()));
    }
}
