//! Memory budget shared by requests.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// A budget of bytes, shared by all holders.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    free: Arc<Semaphore>,
    patience: Duration,
}

/// A reservation. Dropping it releases the bytes.
#[derive(Debug)]
pub struct MemoryReservation {
    memory: MemoryBudget,
    permit: Option<OwnedSemaphorePermit>,
    bytes: usize,
}

/// The budget was exhausted for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the memory budget is exhausted")]
pub struct BudgetExhausted;

impl MemoryBudget {
    /// Creates a budget of so many bytes, in whole KiB. A reservation waits at most `patience`.
    #[must_use]
    pub fn new(bytes: usize, patience: Duration) -> Self {
        Self { free: Arc::new(Semaphore::new(bytes / UNIT)), patience }
    }

    /// Creates an empty reservation.
    #[must_use]
    pub fn reservation(&self) -> MemoryReservation {
        MemoryReservation { memory: self.clone(), permit: None, bytes: 0 }
    }
}

impl MemoryReservation {
    /// Reserves more bytes, in the order of requests. On [`BudgetExhausted`] the caller should release its reservation: others
    /// may wait for it.
    ///
    /// # Errors
    /// [`BudgetExhausted`] if the budget stays exhausted for the time limit.
    pub async fn grow(&mut self, bytes: usize) -> Result<(), BudgetExhausted> {
        let wanted = (self.bytes + bytes).div_ceil(UNIT);
        let more = wanted.saturating_sub(self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
        if more > 0 {
            let more = u32::try_from(more).map_err(|_| BudgetExhausted)?;
            let taking = Arc::clone(&self.memory.free).acquire_many_owned(more);
            let taken = timeout(self.memory.patience, taking)
                .await
                .map_err(|_| BudgetExhausted)?
                .map_err(|_| BudgetExhausted)?;
            match &mut self.permit {
                Some(permit) => permit.merge(taken),
                none => *none = Some(taken),
            }
        }
        self.bytes += bytes;
        Ok(())
    }
}

const UNIT: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn all_together_hold_no_more_than_there_is_and_give_it_back() {
        let memory = MemoryBudget::new(4 * UNIT, PATIENCE);
        let (mut one, mut other) = (memory.reservation(), memory.reservation());
        one.grow(1).await.unwrap();
        one.grow(UNIT - 1).await.unwrap();
        assert_eq!(memory.free.available_permits(), 3, "bytes are counted together");
        other.grow(3 * UNIT).await.unwrap();
        assert_eq!(other.grow(1).await, Err(BudgetExhausted));
        drop(one);
        other.grow(1).await.unwrap();
        drop(other);
        assert_eq!(memory.free.available_permits(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_that_hold_some_and_wait_for_more_none_waits_for_ever() {
        let memory = MemoryBudget::new(8 * UNIT, PATIENCE);
        let all = (0..8).map(|_| {
            let mut held = memory.reservation();
            async move {
                held.grow(UNIT).await?;
                tokio::task::yield_now().await;
                held.grow(UNIT).await
            }
        });
        let began = tokio::time::Instant::now();
        let results = futures::future::join_all(all.map(tokio::spawn)).await;
        assert!(results.iter().any(|result| *result.as_ref().unwrap() == Err(BudgetExhausted)));
        assert!(began.elapsed() < PATIENCE * 2);
        assert_eq!(memory.free.available_permits(), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn who_wants_little_does_not_overtake_who_wants_much() {
        let memory = MemoryBudget::new(4 * UNIT, PATIENCE);
        let (mut first, mut much, mut little) = (memory.reservation(), memory.reservation(), memory.reservation());
        first.grow(UNIT).await.unwrap();
        let waiting = tokio::spawn(async move { much.grow(4 * UNIT).await });
        tokio::task::yield_now().await;
        assert_eq!(timeout(PATIENCE / 2, little.grow(UNIT)).await.ok(), None);
        drop(first);
        assert_eq!(waiting.await.unwrap(), Ok(()));
        little.grow(UNIT).await.unwrap();
    }
}
